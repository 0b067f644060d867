//! What can go wrong in the controller's database.

use dunlin_shared::failpoint::Injected;
use tokio_postgres::error::SqlState;

use crate::domain;

/// Why an operation of the store was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be reached, or went away in the middle: whether a commit happened is not known then.
    #[error("the controller's database is not available: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// A statement took too long.
    #[error("the controller's database did not finish {statement:?} in time")]
    Deadline {
        /// The statement.
        statement: &'static str,
    },
    /// Another transaction was in the way; the whole operation can be repeated at once.
    #[error("{statement:?} met another transaction in the controller's database")]
    Conflict {
        /// The statement.
        statement: &'static str,
    },
    /// The database refused a statement.
    #[error("the controller's database refused {statement:?}: {}", dunlin_shared::postgres::describe(.source))]
    Refused {
        /// The statement.
        statement: &'static str,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// A statement that always returns a row returned none.
    #[error("{statement:?} returned no row")]
    NoRow {
        /// The statement.
        statement: &'static str,
    },
    /// A stored value is none that this version of the controller knows.
    #[error("the controller's database has an unknown value in {place}: {value}")]
    Unknown {
        /// Where.
        place: &'static str,
        /// The value.
        value: String,
    },
    /// The schema of the controller's database cannot be brought up to date.
    #[error("the schema of the controller's database cannot be brought up to date: {0}")]
    Schema(String),
    /// The URL of the database cannot be used.
    #[error(transparent)]
    Url(dunlin_shared::postgres::Error),
    /// What was loaded contradicts itself.
    #[error(transparent)]
    Domain(#[from] domain::Error),
}

/// What goes wrong on purpose in the controller: its database goes away.
impl From<Injected> for Error {
    fn from(error: Injected) -> Self {
        Self::Unavailable { reason: error.to_string() }
    }
}

impl Error {
    pub(super) fn from_statement(statement: &'static str, source: tokio_postgres::Error) -> Self {
        let Some(state) = source.code() else {
            return match source.is_closed()
                || std::error::Error::source(&source).is_some_and(|s| s.is::<std::io::Error>())
            {
                true => Self::Unavailable { reason: dunlin_shared::postgres::describe(&source) },
                false => Self::Refused { statement, source },
            };
        };
        match state {
            // FOREIGN_KEY_VIOLATION: what a row refers to has just been forgotten. The last two: the server has given up an open
            // transaction, and what came behind it on the connection.
            &SqlState::T_R_SERIALIZATION_FAILURE
            | &SqlState::T_R_DEADLOCK_DETECTED
            | &SqlState::UNIQUE_VIOLATION
            | &SqlState::FOREIGN_KEY_VIOLATION
            | &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
            | &SqlState::IN_FAILED_SQL_TRANSACTION => Self::Conflict { statement },
            &SqlState::LOCK_NOT_AVAILABLE | &SqlState::QUERY_CANCELED => Self::Deadline { statement },
            // Shutdown, crash and start-up of the server; connection exceptions; out of resources; a read-only standby.
            state if ["57P", "08", "53", "25006", "58"].iter().any(|class| state.code().starts_with(class)) => {
                Self::Unavailable { reason: dunlin_shared::postgres::describe(&source) }
            }
            _ => Self::Refused { statement, source },
        }
    }

    /// True when the same operation can succeed later, with nothing changed but the database.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Deadline { .. } | Self::Conflict { .. } => true,
            Self::Refused { .. }
            | Self::NoRow { .. }
            | Self::Unknown { .. }
            | Self::Schema(_)
            | Self::Url(_)
            | Self::Domain(_) => false,
        }
    }

    /// True when the operation can be repeated at once.
    #[must_use]
    pub fn conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}
