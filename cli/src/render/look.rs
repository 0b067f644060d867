//! What the stream that is written to can show: colours, a width, a time zone.
//!
//! Colours are orders to a terminal, and the texts of others must not have any. Those of this program have a mark that nobody else can
//! know, until [`shown`] writes them out; whatever else a terminal would take for an order is escaped there.

use std::io::IsTerminal;
use std::sync::LazyLock;

use comfy_table::Color;
use dunlin_shared::visible::escaped;
use jiff::tz::TimeZone;
use terminal_size::terminal_size_of;

use crate::output::colours;

/// What a stream can show.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Colours may be used.
    pub(crate) colour: bool,
    /// The width of the terminal. None where there is none: then nothing is wrapped.
    pub(crate) width: Option<usize>,
    /// The zone in which times are shown.
    pub(crate) zone: TimeZone,
}

impl Look {
    /// How texts look on a stream of this process.
    pub(crate) fn of(stream: &(impl IsTerminal + std::os::fd::AsFd)) -> Self {
        let width = terminal_size_of(stream).map(|(width, _)| usize::from(width.0));
        Self { colour: colours(stream), width: width.filter(|_| stream.is_terminal()), zone: TimeZone::system() }
    }

    /// Without colours, at a width, in UTC.
    #[cfg(test)]
    pub(crate) fn plain(width: Option<usize>) -> Self {
        Self { colour: false, width, zone: TimeZone::UTC }
    }

    /// A piece of text in a colour, where there are any.
    pub(crate) fn paint(&self, text: &str, colour: Color) -> String {
        let code = match colour {
            Color::Red => "31",
            Color::Green => "32",
            Color::Yellow => "33",
            Color::Cyan => "36",
            Color::DarkGrey => "90",
            _ => "0",
        };
        if self.colour { format!("{0}{code}m{text}{0}0m", *MARKED) } else { text.to_owned() }
    }

    /// A piece of text that stands out, where it can.
    pub(crate) fn bold(&self, text: &str) -> String {
        if self.colour { format!("{0}1m{text}{0}0m", *MARKED) } else { text.to_owned() }
    }
}

/// How the colours of this process begin, on their way to a stream.
static MARKED: LazyLock<String> = LazyLock::new(|| format!("\x1b[{};", rand::random::<u64>()));

/// Marks the colours in what a library has drawn of texts that were escaped before.
pub(crate) fn drawn(text: &str) -> String {
    text.replace("\x1b[", &MARKED)
}

/// A text as a stream may show it: all that goes to standard output or standard error passes here.
pub(crate) fn shown(text: &str) -> String {
    text.split(MARKED.as_str()).map(escaped).collect::<Vec<_>>().join("\x1b[")
}

/// An error as it is printed to standard error.
pub(crate) fn error_line(text: &str) -> String {
    format!("{} {text}", Look::of(&std::io::stderr()).paint("error:", Color::Red))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_colours_of_this_program_reach_a_terminal() {
        let look = Look { colour: true, ..Look::plain(None) };
        let text = format!("{} {}", look.paint("\x1b[8mred\u{202e}", Color::Red), look.bold("\x1b[0mbold\r"));
        let expected = "\x1b[31m\\x1b[8mred\\u{202e}\x1b[0m \x1b[1m\\x1b[0mbold\\x0d\x1b[0m";
        assert_eq!(shown(&text), expected);
        assert_eq!(shown("plain \x1b[31m"), "plain \\x1b[31m");
        assert_eq!(shown(&drawn("\x1b[38;5;10mx\x1b[0m")), "\x1b[38;5;10mx\x1b[0m");
    }
}
