//! What the stream that is written to can show: colours, a width, a time zone.

use std::io::IsTerminal;

use comfy_table::Color;
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
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A piece of text that stands out, where it can.
    pub(crate) fn bold(&self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// An error as it is printed to standard error.
pub(crate) fn error_line(text: &str) -> String {
    format!("{} {text}", Look::of(&std::io::stderr()).paint("error:", Color::Red))
}
