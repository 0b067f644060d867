//! Answers as JSON: compact, whole numbers without a fraction, as protobuf JSON writes those that are doubles, and what is not seen as
//! an escape, which is the same text.

use std::io::{self, Write};

use dunlin_shared::visible::is_unseen;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter};

/// The document of an answer.
pub(crate) fn json<T: Serialize>(message: &T) -> Result<String, serde_json::Error> {
    let mut document = Vec::new();
    message.serialize(&mut Serializer::with_formatter(&mut document, Whole(CompactFormatter)))?;
    Ok(String::from_utf8_lossy(&document).into_owned())
}

/// Leaves the `.0` of whole numbers out.
struct Whole(CompactFormatter);

impl Formatter for Whole {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unseen(*c)) {
            // All of them have four digits at most.
            write!(writer, "{}\\u{:04x}", &rest[..at], u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        // Up to this magnitude every whole number has a double of its own.
        if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
            return write!(writer, "{value:.0}");
        }
        self.0.write_f64(writer, value)
    }
}

#[cfg(test)]
mod tests {
    use dunlin_proto::v1::{GetSchemaVersionResponse, Run};

    use super::*;

    #[test]
    fn the_version_is_exactly_this_document() {
        let answer = GetSchemaVersionResponse { target: "main".to_owned(), version: 5, ..Default::default() };
        assert_eq!(json(&answer).unwrap(), r#"{"target":"main","version":"5"}"#);
        let none = GetSchemaVersionResponse { target: "main".to_owned(), version: 0, ..Default::default() };
        assert_eq!(json(&none).unwrap(), r#"{"target":"main","version":"0"}"#);
    }

    #[test]
    fn what_is_not_seen_is_an_escape_and_the_same_text() {
        let text = "a\u{1b}]52;c;\u{7}\r\n\u{7f}\u{9b}2J \u{202e}é\u{2028}\u{feff}\"";
        let document = json(&Run { target: text.to_owned(), ..Run::default() }).unwrap();
        assert!(!document.chars().any(is_unseen), "{document:?}");
        let read: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(read["target"], text);
    }

    #[test]
    fn whole_numbers_have_no_fraction() {
        let run = |rate| json(&Run { rows_per_second: rate, ..Run::default() }).unwrap();
        assert!(run(0.0).contains(r#""rowsPerSecond":0,"#));
        assert!(run(1_250.0).contains(r#""rowsPerSecond":1250,"#));
        assert!(run(0.5).contains(r#""rowsPerSecond":0.5,"#));
    }
}
