//! Why there is no connection. No text of it holds a password.

use std::path::PathBuf;
use std::time::Duration;

use super::insecure::Insecurity;
use super::url::Mode;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no URL of PostgreSQL.
    #[error("a database URL begins with postgres:// or postgresql://")]
    Scheme,
    /// The URL cannot be used.
    #[error("the database URL cannot be used: {0}")]
    Url(&'static str),
    /// The URL cannot be read.
    #[error("the database URL cannot be read: {0}")]
    Config(String),
    /// The URL has a parameter that cannot be honoured.
    #[error(
        "the database URL has a parameter that is not supported{}; write @, ? and / in a password as %40, %3F and %2F",
        .0.as_ref().map(|name| format!(": {name}")).unwrap_or_default()
    )]
    Parameter(Option<String>),
    /// The URL asks for an unknown `sslmode`.
    #[error("sslmode in the database URL must be disable, allow, prefer, require, verify-ca or verify-full")]
    SslMode,
    /// The URL in a file cannot be used.
    #[error("in the file {path:?}: {source}")]
    InFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<Error>,
    },
    /// A file that the URL names, or that holds it, cannot be used.
    #[error("the file {path:?} of {parameter} cannot be used: {reason}")]
    File {
        /// What it is for.
        parameter: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The server cannot be reached or refuses the connection.
    #[error("cannot connect to {place}: {}", describe(.source))]
    Connect {
        /// The database, as "user@host:port/database".
        place: String,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// The connection would not be as safe as the URL asks for.
    #[error("cannot connect to {place}, for sslmode is {mode}: {why}")]
    Insecure {
        /// The database, as "user@host:port/database".
        place: String,
        /// What was asked for.
        mode: Mode,
        /// Why.
        why: Insecurity,
    },
    /// No server is there, or none of the kind that the URL asks for.
    #[error("cannot connect to {place}: {source}")]
    Unreached {
        /// The database, as "user@host:port/database".
        place: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server did not let the connection in within the time limit.
    #[error("cannot connect to {place}: no answer within {} s", .limit.as_secs())]
    Timeout {
        /// The database, as "user@host:port/database".
        place: String,
        /// The time limit.
        limit: Duration,
    },
    /// The pool cannot be made.
    #[error("cannot make a pool of connections: {0}")]
    Pool(String),
}

impl Error {
    /// True when the same URL can work later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Unreached { .. } | Self::Timeout { .. } => true,
            Self::Scheme
            | Self::Url(_)
            | Self::Config(_)
            | Self::Parameter(_)
            | Self::SslMode
            | Self::InFile { .. }
            | Self::File { .. }
            | Self::Insecure { .. }
            | Self::Tls(_)
            | Self::Pool(_) => false,
        }
    }
}

impl Error {
    /// True where a server has answered by a message of its own.
    pub(super) fn answered(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.as_db_error().is_some())
    }

    /// True where the server does not let the role in: a wrong password, or a rule of `pg_hba.conf`. Trying again at once is of no use.
    #[must_use]
    pub fn denied(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        source.code().is_some_and(|code| code.code().starts_with("28"))
    }
}

/// What went wrong, in one sentence: the server's message with its SQLSTATE, or the error and its causes.
#[must_use]
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", error.message(), error.code().code());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
