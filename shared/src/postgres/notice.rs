//! The notices of a server: what it says beside its answers.
//!
//! Some come from `RAISE`, some from the server itself, such as "relation exists already, skipping". Of each statement of a message
//! it is known which it was that spoke, by the number of statements that were answered before. What is kept is bounded: a function
//! that says something about each of a million rows must not fill the memory of whoever listens.

/// The texts of notices that are kept between two calls of [`take`](Heard::take); more are counted.
const MOST: usize = 100;

/// The skips that are kept; each is short.
const MOST_SKIPS: usize = 10_000;

/// The longest text that is kept, in bytes.
const LONGEST: usize = 4000;

/// How much a notice matters, as the server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// INFO or NOTICE.
    Notice,
    /// WARNING.
    Warning,
}

/// A notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub level: Level,
    /// The SQLSTATE: five characters.
    pub code: String,
    /// What was said. Long texts are cut.
    pub message: String,
    /// More about it, or empty.
    pub detail: String,
    /// What could be done, or empty.
    pub hint: String,
    /// The functions and statements that it came from; empty when it came from the statement that was sent.
    pub context: String,
    /// How many statements of the same message were answered before.
    pub command: usize,
}

/// An error of the server, as far as the client library does not tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// How many statements of the same message were answered before.
    pub command: usize,
    /// The character of the message at which PostgreSQL points, from 1.
    pub position: Option<usize>,
}

/// What was heard on a connection.
#[derive(Debug, Default)]
pub struct Heard {
    /// The first of the others.
    pub notices: Vec<Notice>,
    /// The notices that say that something exists already and was skipped. Not more than 10,000.
    pub skips: Vec<Notice>,
    /// The first error.
    pub failed: Option<Failed>,
    /// How many notices there were beyond those that were kept.
    pub left_out: u64,
    /// How many skips there were beyond those that were kept.
    pub skips_left_out: u64,
    /// Statements of the message that is executed which were answered.
    pub(super) command: usize,
}

impl Heard {
    pub(super) fn hear(&mut self, notice: Notice) {
        if notice.existed() {
            if self.skips.len() < MOST_SKIPS {
                self.skips.push(notice);
            } else {
                self.skips_left_out += 1;
            }
        } else if self.notices.len() < MOST {
            self.notices.push(notice);
        } else {
            self.left_out += 1;
        }
    }

    pub(super) fn fail(&mut self, body: &[u8]) {
        let command = self.command;
        self.failed.get_or_insert_with(|| Failed { command, position: position(body) });
    }

    pub(super) fn take(&mut self) -> Self {
        let command = self.command;
        std::mem::replace(self, Self { command, ..Self::default() })
    }
}

impl Notice {
    /// True when something of that name exists already, and a statement with IF NOT EXISTS was skipped: a relation, an object, a
    /// column, a schema.
    #[must_use]
    pub fn existed(&self) -> bool {
        matches!(self.code.as_str(), "42P07" | "42710" | "42701" | "42P06")
    }
}

/// Each field of a notice or an error. A text without an end was cut.
fn fields(mut body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (field, rest) = body.split_first().filter(|(field, _)| **field != 0)?;
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        let (text, behind) = rest.split_at(end);
        body = behind.get(1..).unwrap_or_default();
        Some((*field, text))
    })
}

/// The character that an error points at in what was sent.
fn position(body: &[u8]) -> Option<usize> {
    let (_, text) = fields(body).find(|(field, _)| *field == b'P')?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The SQLSTATE of an error that ends the session.
pub(super) fn fatal(body: &[u8]) -> Option<String> {
    let of = |wanted: u8| fields(body).find(|(field, _)| *field == wanted).map(|(_, text)| text);
    matches!(of(b'V'), Some(b"FATAL" | b"PANIC")).then(|| of(b'C').map(read)).flatten()
}

/// Reads the fields of a notice that a statement has sent behind so many others. `None` for what is below a notice.
pub(super) fn parse(body: &[u8], command: usize) -> Option<Notice> {
    let mut level = None;
    let mut notice = Notice {
        level: Level::Notice,
        code: String::new(),
        message: String::new(),
        detail: String::new(),
        hint: String::new(),
        context: String::new(),
        command,
    };
    for (field, text) in fields(body) {
        match field {
            // The level in English; servers before 9.6 have it in their language alone.
            b'V' => level = Some(text),
            b'C' => notice.code = read(text),
            b'M' => notice.message = read(text),
            b'D' => notice.detail = read(text),
            b'H' => notice.hint = read(text),
            b'W' => notice.context = read(text),
            _ => {}
        }
    }
    notice.level = match level {
        Some(b"NOTICE" | b"INFO") => Level::Notice,
        Some(b"WARNING") => Level::Warning,
        _ => return None,
    };
    Some(notice)
}

fn read(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let cut = if end < text.len() { "…" } else { "" };
    format!("{}{cut}", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_read_and_what_is_below_one_is_not() {
        let read = |text: &[u8]| parse(text, 3);
        let notice = read(b"SHINWEIS\0VNOTICE\0C42P07\0Mrelation exists\0Ddetail\0Hhint\0Winside\0Ffile\0\0").unwrap();
        assert_eq!((notice.level, notice.command), (Level::Notice, 3));
        assert_eq!((notice.message.as_str(), notice.context.as_str()), ("relation exists", "inside"));
        assert!(notice.existed());
        assert_eq!(read(b"VWARNING\0C01000\0Mcut").unwrap().message, "cut");
        assert_eq!(read(b"VDEBUG\0C00000\0Mdetails\0\0"), None);
        assert_eq!(read(b"VLOG\0C00000\0Mdetails\0\0"), None);
    }

    #[test]
    fn what_is_said_too_often_is_counted() {
        let mut heard = Heard::default();
        for _ in 0..MOST + 7 {
            heard.hear(parse(b"VNOTICE\0C00000\0Magain\0\0", 0).unwrap());
        }
        heard.hear(parse(b"VNOTICE\0C42P07\0Mexists\0\0", 0).unwrap());
        let taken = heard.take();
        assert_eq!((taken.notices.len(), taken.left_out, taken.skips.len()), (MOST, 7, 1));
        assert!(heard.take().notices.is_empty());
    }
}
