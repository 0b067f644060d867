//! Logging to standard error.
//!
//! `DUNLIN_LOG` filters what is logged, as `tracing`'s `EnvFilter` reads it (`debug`, `info,dunlin_agent=debug`; default
//! `info`). `DUNLIN_LOG_FORMAT=json` writes one JSON object a line, each key once; anything else is text for people.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// Crates that log more at `info` than an operator wants to read. What refinery calls an error is none while two versions of
/// the controller work side by side, and errors it returns as well.
const QUIET: &str = "info,h2=warn,hyper=warn,refinery_core=off,tokio_postgres=warn,tonic=warn";

/// Sets logging up for this process. A second call changes nothing.
pub fn init(service: &str) {
    let asked = std::env::var("DUNLIN_LOG").unwrap_or_default();
    let (filter, refused) = match asked.trim() {
        "" => (EnvFilter::new(QUIET), None),
        text => match EnvFilter::try_new(text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(QUIET), Some(error)),
        },
    };
    let json = std::env::var("DUNLIN_LOG_FORMAT").is_ok_and(|format| format.eq_ignore_ascii_case("json"));
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A line that cannot be written is dropped: saying so on the same closed stream would end the program.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(colours)
        .log_internal_errors(false);
    // Without the module that logs, which would stand beside the database of an event under the same key, `target`.
    let first =
        if json { builder.json().flatten_event(true).with_target(false).try_init() } else { builder.try_init() };
    if first.is_ok() {
        if let Some(error) = refused {
            tracing::warn!(%error, "DUNLIN_LOG is not a filter; logging at info");
        }
        tracing::debug!(service, version = env!("CARGO_PKG_VERSION"), "logging is set up");
    }
}
