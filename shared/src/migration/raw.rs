//! The text of a file that a TOML text stands for.
//!
//! The reader of TOML turns CR LF into LF and resolves escapes. SQL is to be sent as it stands in the file, and problems in it are to be
//! told where they stand; so the file is walked along what was read of it.

use std::borrow::Cow;

/// A text as it stands in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Raw<'s> {
    /// The text with the line ends of the file.
    pub(super) text: Cow<'s, str>,
    /// True when the file has the same bytes, so that there are no escapes.
    pub(super) exact: bool,
}

/// Finds what `text` was read from, at the start of `rest`, which begins behind the quotation marks.
pub(super) fn raw<'s>(rest: &'s str, text: &str) -> Raw<'s> {
    if let Some(text) = without_escapes(rest, text) {
        return Raw { text: Cow::Borrowed(text), exact: true };
    }
    Raw { text: Cow::Owned(with_escapes(rest, text).unwrap_or_else(|| text.to_owned())), exact: false }
}

fn without_escapes<'s>(rest: &'s str, text: &str) -> Option<&'s str> {
    let (mut length, bytes) = (0, rest.as_bytes());
    for byte in text.bytes() {
        if byte == b'\n' && bytes.get(length..length + 2) == Some(b"\r\n") {
            length += 1;
        }
        if bytes.get(length) != Some(&byte) {
            return None;
        }
        length += 1;
    }
    rest.get(..length)
}

/// The text with CR LF where the file has it, and not an escape.
fn with_escapes(rest: &str, text: &str) -> Option<String> {
    let mut kept = String::with_capacity(text.len());
    let mut file = rest;
    let mut read = text.chars();
    while !read.as_str().is_empty() {
        if let Some(behind) = file.strip_prefix('\\') {
            let Some(length) = escape(behind) else {
                // The end of a line and the blanks behind it stand for nothing.
                file = behind.trim_start_matches([' ', '\t', '\r', '\n']);
                continue;
            };
            kept.push(read.next()?);
            file = behind.get(length..)?;
            continue;
        }
        let next = read.next()?;
        if let Some(behind) = file.strip_prefix("\r\n").filter(|_| next == '\n') {
            kept.push_str("\r\n");
            file = behind;
        } else {
            kept.push(next);
            file = file.strip_prefix(next)?;
        }
    }
    Some(kept)
}

/// How many bytes of an escape stand behind its backslash; `None` for the end of a line.
fn escape(behind: &str) -> Option<usize> {
    match behind.chars().next()? {
        'x' => Some(3),
        'u' => Some(5),
        'U' => Some(9),
        ' ' | '\t' | '\r' | '\n' => None,
        other => Some(other.len_utf8()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_the_line_ends_of_its_file_and_no_others() {
        for (file, read, kept, exact) in [
            ("a\r\nb'''", "a\nb", "a\r\nb", true),
            ("a\nb'''", "a\nb", "a\nb", true),
            ("\\ta\r\nb\\n\\u00e9\\\\\"\"\"", "\ta\nb\né\\", "\ta\r\nb\né\\", false),
            ("a \\\r\n   b\r\nc\"\"\"", "a b\nc", "a b\r\nc", false),
            ("\\r\\n\"", "\r\n", "\r\n", false),
            ("nothing of it", "else", "else", false),
            ("é\\", "é\n", "é\n", false),
        ] {
            assert_eq!(raw(file, read), Raw { text: Cow::Borrowed(kept), exact }, "{file:?}");
        }
    }
}
