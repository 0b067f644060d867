//! Characters that do something to whoever looks at a text instead of being seen, and how they are shown all the same.
//!
//! A terminal takes control characters as orders: to clear the screen, to write over what stands there, to fill the clipboard. Those that
//! set the direction of writing make a text look like another. Texts come from everywhere: messages of PostgreSQL carry values of
//! applications. So whoever shows a text of somebody else escapes it, and ids and names do not have such characters at all.

use std::borrow::Cow;
use std::fmt::Write;

/// True for a character that is not seen and does something: controls (C0, DEL, C1), marks and controls of the direction of writing,
/// separators of lines and paragraphs, and the byte order mark.
#[must_use]
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
        )
}

/// The text with escapes in place of what is not seen: `\x1b`, `\u{202e}`. Line feeds and tabs stay, and so does the end of a line that
/// has a carriage return before it, without that.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    let stays = |c: char| matches!(c, '\n' | '\t') || !is_unseen(c);
    if text.chars().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut letters = text.chars().peekable();
    while let Some(c) = letters.next() {
        let _infallible = match u32::from(c) {
            _ if stays(c) => shown.write_char(c),
            _ if c == '\r' && letters.peek() == Some(&'\n') => Ok(()),
            code @ 0..0x80 => write!(shown, "\\x{code:02x}"),
            code => write!(shown, "\\u{{{code:x}}}"),
        };
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_that_does_something_is_escaped_and_no_other() {
        let unseen = (0..0x20_u32)
            .chain(0x7f..0xa0)
            .chain([0x61c, 0x200e, 0x200f, 0x2028, 0x2029])
            .chain(0x202a..0x202f)
            .chain(0x2066..0x206a)
            .chain([0xfeff])
            .collect::<Vec<_>>();
        for code in 0..=u32::from(char::MAX) {
            let Some(c) = char::from_u32(code) else { continue };
            assert_eq!(is_unseen(c), unseen.contains(&code), "U+{code:04X}");
            let text = format!("a{c}b");
            assert_eq!(escaped(&text) != text, unseen.contains(&code) && !matches!(c, '\n' | '\t'), "U+{code:04X}");
        }
    }

    #[test]
    fn an_escape_says_which_character_it_was() {
        for (text, shown) in [
            ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            ("a\u{202e}b\u{9b}2J\u{7f}", "a\\u{202e}b\\u{9b}2J\\x7f"),
            ("50%\r100%", "50%\\x0d100%"),
            ("one\r\n\ttwo\r\n", "one\n\ttwo\n"),
            ("ends with\r", "ends with\\x0d"),
            ("名前 é 👩\u{200d}🚀", "名前 é 👩\u{200d}🚀"),
        ] {
            assert_eq!(escaped(text), shown);
        }
    }
}
