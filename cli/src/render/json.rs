//! Answers as JSON: compact, whole numbers without a fraction, as protobuf JSON writes those that are doubles, schema versions as numbers,
//! since none is too high for a reader of JSON, and what is not seen as an escape, which is the same text.

use std::io::{self, Write};

use dunlin_shared::visible::is_unseen;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

/// The document of an answer.
pub(crate) fn json<T: Serialize>(message: &T) -> Result<String, serde_json::Error> {
    let mut document = Vec::new();
    message.serialize(&mut Serializer::with_formatter(&mut document, Plain::default()))?;
    Ok(String::from_utf8_lossy(&document).into_owned())
}

/// Where the writer is, as far as versions go.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Elsewhere,
    /// In the name of a field.
    Name,
    /// Behind the name of a version.
    Version,
    /// At the beginning of a text that is a version, before its quotation mark.
    Beginning,
    /// In a version that is a number, and has no quotation marks.
    Number,
}

/// Leaves the `.0` of whole numbers out, and the quotation marks of versions.
#[derive(Default)]
struct Plain {
    compact: CompactFormatter,
    at: At,
}

impl Formatter for Plain {
    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.at = At::Name;
        self.compact.begin_object_key(writer, first)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.at = At::Elsewhere;
        self.compact.end_object_value(writer)
    }

    fn begin_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.at == At::Version {
            self.at = At::Beginning;
            return Ok(());
        }
        self.compact.begin_string(writer)
    }

    fn end_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        match self.at {
            At::Number => return Ok(()),
            At::Beginning => self.compact.begin_string(writer)?,
            At::Elsewhere | At::Name | At::Version => {}
        }
        self.compact.end_string(writer)
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        if self.at == At::Beginning {
            self.at = At::Elsewhere;
            self.compact.begin_string(writer)?;
        }
        self.compact.write_char_escape(writer, escape)
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        match self.at {
            At::Name => self.at = if fragment == "version" { At::Version } else { At::Elsewhere },
            At::Beginning if fragment.bytes().all(|byte| byte.is_ascii_digit()) => self.at = At::Number,
            At::Beginning => {
                self.at = At::Elsewhere;
                self.compact.begin_string(writer)?;
            }
            At::Elsewhere | At::Version | At::Number => {}
        }
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
        self.compact.write_f64(writer, value)
    }
}

#[cfg(test)]
mod tests {
    use dunlin_proto::v1::{GetSchemaVersionResponse, Run};

    use super::*;

    #[test]
    fn the_version_is_exactly_this_document() {
        let answer = GetSchemaVersionResponse { target: "main".to_owned(), version: 5, ..Default::default() };
        assert_eq!(json(&answer).unwrap(), r#"{"target":"main","version":5}"#);
        let none = GetSchemaVersionResponse { target: "main".to_owned(), version: 0, ..Default::default() };
        assert_eq!(json(&none).unwrap(), r#"{"target":"main","version":0}"#);
    }

    #[test]
    fn versions_of_schemas_are_numbers_and_those_of_programs_texts() {
        for (version, written) in
            [("20240101123456", "20240101123456"), ("0.1.0", r#""0.1.0""#), ("", r#""""#), ("\n1", r#""\n1""#)]
        {
            let value = serde_json::json!({"version": version, "x": [{"version": version}, "7"], "rows": "7"});
            let expected = format!(r#"{{"version":{written},"x":[{{"version":{written}}},"7"],"rows":"7"}}"#);
            let read: serde_json::Value = serde_json::from_str(&json(&value).unwrap()).unwrap();
            assert_eq!(read, serde_json::from_str::<serde_json::Value>(&expected).unwrap(), "{version}");
        }
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
