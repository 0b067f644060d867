//! Standard output: the answer as a text for people or as one JSON document, and how it may look.
//!
//! A reader that has enough (`dunlin events | head`) is no error. What is written passes [`shown`], so that no text of others does
//! anything to a terminal.

use std::io::{self, ErrorKind, IsTerminal, Write};

use serde::Serialize;

use crate::args::Format;
use crate::error::Error;
use crate::render::{Look, shown};

/// Where answers go.
#[derive(Debug)]
pub(crate) struct Output {
    /// The format that was asked for.
    format: Format,
    /// How texts look on standard output.
    pub(crate) look: Look,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, look: Look::of(&io::stdout()) }
    }

    pub(crate) fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints the answer: the message as JSON, or what `text` makes of it.
    pub(crate) fn answer<T: Serialize>(&self, message: &T, text: impl FnOnce(&Look) -> String) -> Result<(), Error> {
        match self.format {
            Format::Json => {
                let document = crate::render::json(message).map_err(|error| Error::Output(error.into()))?;
                print(&document)
            }
            Format::Table => print(&text(&self.look)),
        }
    }

    /// Prints something that only people need.
    pub(crate) fn say(&self, text: &str) -> Result<(), Error> {
        match self.format {
            Format::Json => Ok(()),
            Format::Table => print(text),
        }
    }
}

/// Prints a text and ends the line, whatever the format.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    write(&shown(text))
}

/// Prints a text byte for byte where there is no terminal, which could be harmed.
pub(crate) fn print_raw(text: &str) -> Result<(), Error> {
    if io::stdout().is_terminal() { print(text) } else { write(text) }
}

fn write(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.trim_end_matches('\n').as_bytes()).and_then(|()| stdout.write_all(b"\n"));
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Error::NoReader),
        Err(error) => Err(Error::Output(error)),
    }
}

/// Prints a line to standard error. That nobody reads it is no reason to end: `eprintln!` would.
pub(crate) fn tell(text: &str) {
    let _nobody_reads_it = writeln!(io::stderr().lock(), "{}", shown(text));
}

/// Whether colours may be sent to a stream.
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && !set("NO_COLOR") && !dumb
}
