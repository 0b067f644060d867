//! Where something stands in a file.

use memchr::{memchr_iter, memrchr};

use super::set::{Problem, Severity};

/// A file that problems are told about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'s> {
    pub(super) path: &'s str,
    /// The text without the byte order mark that some editors put before it.
    pub(super) text: &'s str,
}

impl<'s> Source<'s> {
    pub(super) fn new(path: &'s str, content: &'s str) -> Self {
        Self { path, text: content.strip_prefix('\u{feff}').unwrap_or(content) }
    }

    /// A problem at an offset in bytes.
    pub(super) fn problem(&self, at: usize, message: impl Into<String>, help: Option<String>) -> Problem {
        let (line, column) = self.line_and_column(at);
        Problem { file: self.path.to_owned(), line, column, message: message.into(), help, severity: Severity::Error }
    }

    /// A warning at an offset in bytes.
    pub(super) fn warning(&self, at: usize, message: impl Into<String>, help: Option<String>) -> Problem {
        Problem { severity: Severity::Warning, ..self.problem(at, message, help) }
    }

    /// "file:line:column" of an offset in bytes.
    pub(super) fn place(&self, at: usize) -> String {
        let (line, column) = self.line_and_column(at);
        format!("{}:{line}:{column}", self.path)
    }

    pub(super) fn line_and_column(&self, at: usize) -> (u32, u32) {
        let mut end = at.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = memrchr(b'\n', before.as_bytes()).map_or(0, |newline| newline + 1);
        let count = |number: usize| u32::try_from(number + 1).unwrap_or(u32::MAX);
        (count(memchr_iter(b'\n', before.as_bytes()).count()), count(before[line_start..].chars().count()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let source = Source::new("a", "\u{feff}é = 1\r\nbé = 2");
        let place = |needle| source.place(source.text.find(needle).unwrap());
        assert_eq!(place("="), "a:1:3");
        assert_eq!(place("2"), "a:2:6");
        assert_eq!(source.place(1000), "a:2:7");
        assert_eq!(source.place(1), "a:1:1", "inside a character");
    }
}
