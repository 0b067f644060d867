//! How things look on a terminal: texts and tables, problems in definitions, failures, and progress.
//!
//! Everything here is a function from messages to text, without reading or writing, except [`progress`].

pub(crate) mod failure;
mod format;
mod json;
mod look;
pub(crate) mod problem;
pub(crate) mod progress;
pub(crate) mod runs;
mod status;
mod table;
pub(crate) mod waits;
pub(crate) mod words;

pub(crate) use dunlin_shared::figures::count;
pub(crate) use format::{duration, moment, seconds, time_or};
pub(crate) use json::json;
pub(crate) use look::{Look, error_line, shown};
pub(crate) use status::status;
pub(crate) use table::{Align, Cell, Columns};
