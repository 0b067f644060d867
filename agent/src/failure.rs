//! What went wrong in a target, and what that means for the lease.
//!
//! PostgreSQL's errors fall into four classes. *Lost*: the connection is gone, and perhaps a commit with it; the only answer
//! is to connect again and look at the checkpoint. *Passing*: the server rolled the transaction back for a reason that goes
//! away by itself, soon. *Short*: rolled back since the server lacks something that comes back without the task, later:
//! the lease is given back, and that costs no try. *Final*: the same would happen again. The class comes from the
//! SQLSTATE, never from a text.

use std::borrow::Cow;

use dunlin_proto::v1::RunError;
use dunlin_shared::ids::TargetName;
use dunlin_shared::postgres::OVERSIZED;
use dunlin_shared::sql::line_of;
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};

/// What an error means for the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The connection is gone, and the outcome of the statement that was open is not known.
    Lost,
    /// Rolled back; the same can succeed a little later.
    Passing,
    /// Rolled back; the same can succeed once the server has what it lacks.
    Short,
    /// Rolled back; the same would fail again.
    Final,
}

/// Tells the class of an error.
pub(crate) fn classify(error: &tokio_postgres::Error) -> Class {
    let Some(state) = error.code() else {
        // Errors that the server did not send: a connection that is cut (`closed` or an I/O error underneath), or an
        // answer that does not have the expected shape.
        let io = std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>());
        return if error.is_closed() || io { Class::Lost } else { Class::Final };
    };
    classify_state(state)
}

fn classify_state(state: &SqlState) -> Class {
    let code = state.code();
    if code.starts_with("08") {
        return Class::Lost;
    }
    match *state {
        // The server stops, crashed or starts, dropped the database, or ended an idle session: the connection is gone in each
        // case. Without a free connection there is none either, and what became of a commit is not known when the server says so.
        SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::DATABASE_DROPPED
        | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        | SqlState::IDLE_SESSION_TIMEOUT
        | SqlState::TOO_MANY_CONNECTIONS
        | SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN => Class::Lost,
        SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::LOCK_NOT_AVAILABLE
        | SqlState::SNAPSHOT_TOO_OLD => Class::Passing,
        // Not 53400, which is a limit of the configuration: the same would hit it again.
        SqlState::INSUFFICIENT_RESOURCES | SqlState::DISK_FULL | SqlState::OUT_OF_MEMORY | SqlState::IO_ERROR => {
            Class::Short
        }
        _ => Class::Final,
    }
}

/// What stands in place of a text that may hold values of rows.
pub(crate) const NOT_TOLD: &str = "what it says is not told (--redact-rows)";

fn remedy(state: &SqlState) -> &'static str {
    match *state {
        SqlState::DISK_FULL => "make room on the target's disk",
        SqlState::OUT_OF_MEMORY => "the target's server needs more memory, or smaller batches (`batch.size`)",
        SqlState::IO_ERROR => "look at the target's disk and at its server's log",
        _ => "the target's server lacks resources: its log says which",
    }
}

/// The SQLSTATE with which a server ends a session whose transaction lasts too long, from PostgreSQL 17 on.
const TRANSACTION_TIMEOUT: &str = "25P04";

/// What the failure is where the server ends a session with an SQLSTATE that would come again, and nobody waits for an answer: the client
/// library then says no more than that the connection is closed.
pub(crate) fn ended_with(word: &str, error: &RunError, place: &Place) -> Option<Box<RunError>> {
    (word == TRANSACTION_TIMEOUT).then(|| {
        Box::new(RunError {
            message: "terminating connection due to transaction timeout".to_owned(),
            sqlstate: word.to_owned(),
            next: place.next(&SqlState::from_code(word)),
            ..error.clone()
        })
    })
}

/// Where in a migration something went wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// The migration.
    pub(crate) migration: String,
    /// The step, or empty.
    pub(crate) step: String,
    /// The check, or empty.
    pub(crate) check: String,
    /// The key range, or empty.
    pub(crate) rows: String,
    /// The agent.
    pub(crate) agent: String,
    /// True where nothing is told that may hold values of rows.
    pub(crate) redact: bool,
}

impl Place {
    /// What a server says, in a sentence; or that it has said something.
    pub(crate) fn words(&self, error: &tokio_postgres::Error) -> String {
        match error.code().filter(|_| self.redact) {
            Some(state) => format!("PostgreSQL gives the error {}; {NOT_TOLD}", state.code()),
            None => dunlin_shared::postgres::describe(error),
        }
    }

    /// What the server lacks and what an operator can do about it, in a sentence.
    pub(crate) fn short(&self, error: &tokio_postgres::Error) -> String {
        let remedy = error.code().map_or("", remedy);
        format!("{}: {remedy}; it goes on by itself", self.words(error))
    }

    /// That there is no connection any more, and why.
    pub(crate) fn lost(&self, error: &tokio_postgres::Error) -> String {
        if self.redact && error.code().is_some() { self.words(error) } else { chain(error) }
    }

    /// An error in this place that is not PostgreSQL's.
    pub(crate) fn refuse(&self, message: impl Into<String>, next: impl Into<String>) -> Box<RunError> {
        Box::new(RunError {
            migration_id: self.migration.clone(),
            step: self.step.clone(),
            check: self.check.clone(),
            message: message.into(),
            rows: if self.redact { String::new() } else { self.rows.clone() },
            next: next.into(),
            agent_id: self.agent.clone(),
            ..RunError::default()
        })
    }

    /// An error of PostgreSQL in this place.
    pub(crate) fn blame(&self, error: &tokio_postgres::Error) -> Box<RunError> {
        let Some(db) = error.as_db_error() else {
            return self.refuse(chain(error), self.mend());
        };
        if db.code().code() == OVERSIZED {
            return self.refuse(
                db.message(),
                format!(
                    "Write the step so that it returns no such value (rows that it returns are thrown away), `dunlin register DIR`; \
                     then `dunlin run {}`.",
                    self.migration
                ),
            );
        }
        // Values cannot be cut out of a text of PostgreSQL: it is told whole, or not at all.
        let told = |text: Option<&str>| text.filter(|_| !self.redact).unwrap_or_default().to_owned();
        Box::new(RunError {
            message: if self.redact { self.words(error) } else { db.message().to_owned() },
            sqlstate: db.code().code().to_owned(),
            detail: told(db.detail()),
            hint: told(db.hint()),
            context: told(Some(&context(db))),
            table: match (db.schema(), db.table()) {
                (Some(schema), Some(table)) => format!("{schema}.{table}"),
                (_, table) => table.unwrap_or_default().to_owned(),
            },
            column: db.column().unwrap_or_default().to_owned(),
            constraint: db.constraint().unwrap_or_default().to_owned(),
            ..*self.refuse("", self.next(db.code()))
        })
    }

    /// Waits for locks that were too long together. PostgreSQL has no word for it but that of each wait.
    pub(crate) fn locked(&self, limit: std::time::Duration) -> Box<RunError> {
        Box::new(RunError {
            sqlstate: SqlState::LOCK_NOT_AVAILABLE.code().to_owned(),
            ..*self.refuse(
                format!("the locks were not free within {} ms", limit.as_millis()),
                self.next(&SqlState::LOCK_NOT_AVAILABLE),
            )
        })
    }

    /// What helps against the usual error: mend and run again.
    pub(crate) fn mend(&self) -> String {
        format!(
            "Mend the data or the definition; after a change of the definition `dunlin register DIR`; then `dunlin run {}`: \
             it goes on where the target stands.",
            self.migration
        )
    }

    /// Something of that name is there. Whether it may be removed, nobody can say from here.
    fn exists_already(&self) -> String {
        format!(
            "Something of that name is in the target already: made by hand, by another tool, or by another migration. First look at \
             what it is and what it holds (psql: \\d NAME, \\df NAME). Where it is what this step is to make, write IF NOT EXISTS or \
             OR REPLACE, as far as the statement has it, or leave the statement out; where it is not, give the new one another \
             name. Then `dunlin register DIR` and `dunlin run {}`.",
            self.migration
        )
    }

    fn next(&self, state: &SqlState) -> String {
        let advice: Cow<'static, str> = match *state {
            SqlState::LOCK_NOT_AVAILABLE => {
                "Other sessions held a lock for all of the agent's --retry-deadline. Find them with pg_blocking_pids and \
                 pg_stat_activity, or run at a quieter time"
                    .into()
            }
            SqlState::QUERY_CANCELED => {
                "The statement ran into statement_timeout (the agent's --statement-timeout or, where that is not given, what the \
                 agent's role, its database or the server has), or was cancelled. Use smaller batches (`batch.size`) or allow more time"
                    .into()
            }
            SqlState::CONFIGURATION_LIMIT_EXCEEDED => {
                "The statement ran into a limit of the server's configuration (such as temp_file_limit). Raise it, or use \
                 smaller batches (`batch.size`)"
                    .into()
            }
            SqlState::INSUFFICIENT_PRIVILEGE => "Grant the missing privilege to the agent's role on the target".into(),
            SqlState::READ_ONLY_SQL_TRANSACTION => {
                "The target is read-only. Give the agent the URL of the primary server, or, where \
                 default_transaction_read_only is on, set it off for the agent's role"
                    .into()
            }
            SqlState::IN_FAILED_SQL_TRANSACTION => {
                "A statement before it failed and the error was not passed on: pass each error on".into()
            }
            SqlState::DUPLICATE_TABLE
            | SqlState::DUPLICATE_OBJECT
            | SqlState::DUPLICATE_COLUMN
            | SqlState::DUPLICATE_SCHEMA
            | SqlState::DUPLICATE_FUNCTION => return self.exists_already(),
            SqlState::INVALID_TRANSACTION_TERMINATION => {
                "The code commits or rolls back by itself, which PostgreSQL allows to a CALL or DO outside a transaction only. \
                 Put it alone into a step with `transaction = false`, and write it so that it can be begun again"
                    .into()
            }
            SqlState::ACTIVE_SQL_TRANSACTION => {
                "PostgreSQL executes this outside a transaction only. Put the statement alone into a step with \
                 `transaction = false`"
                    .into()
            }
            _ if state.code() == TRANSACTION_TIMEOUT => {
                "The transaction ran into the transaction_timeout that the agent's role, its database or the server has. Use smaller \
                 batches (`batch.size`), raise it there, or let the SQL of the step begin with SET LOCAL transaction_timeout = 0"
                    .into()
            }
            _ => return self.mend(),
        };
        format!("{advice}; then `dunlin run {}`.", self.migration)
    }
}

/// The ways out of a failure, for a target: their commands are written for the one that needs no name.
pub(crate) fn on_target(next: &str, migration: &str, target: &TargetName) -> String {
    let run = format!("`dunlin run {migration}");
    next.replace(&run, &format!("{run}{}", target.option()))
}

/// The functions and statements that an error comes from, and the line of the statement that it is in.
fn context(error: &DbError) -> String {
    let mut context = error.where_().unwrap_or_default().to_owned();
    if let Some(ErrorPosition::Internal { position, query }) = error.position() {
        let before = usize::try_from(*position).unwrap_or(0).saturating_sub(1);
        let at = query.char_indices().nth(before).map_or(query.len(), |(at, _)| at);
        let (line, _, text) = line_of(query, at);
        let and = if context.is_empty() { "" } else { "\n" };
        context.push_str(&format!("{and}line {line} of that statement: {}", text.trim()));
    }
    context
}

/// An error with all its causes, in one line. Errors of the client library do not carry connection strings.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_comes_from_the_sqlstate() {
        for (code, class) in [
            ("40001", Class::Passing),
            ("40P01", Class::Passing),
            ("55P03", Class::Passing),
            ("57P01", Class::Lost),
            ("57P02", Class::Lost),
            ("57P03", Class::Lost),
            ("53300", Class::Lost),
            ("08006", Class::Lost),
            ("25P03", Class::Lost),
            ("57P04", Class::Lost),
            ("57P05", Class::Lost),
            ("40003", Class::Lost),
            ("53000", Class::Short),
            ("53100", Class::Short),
            ("53200", Class::Short),
            ("58030", Class::Short),
            ("53400", Class::Final),
            ("25006", Class::Final),
            ("42501", Class::Final),
            ("23505", Class::Final),
            ("57014", Class::Final),
            ("25P04", Class::Final),
        ] {
            assert_eq!(classify_state(&SqlState::from_code(code)), class, "{code}");
        }
    }

    #[test]
    fn the_way_out_leads_to_the_target_of_the_failure() {
        let next = Place { migration: "roles".to_owned(), ..Place::default() }.mend();
        let on = |target: &str| on_target(&next, "roles", &TargetName::parse(target).unwrap());
        assert!(on("main").contains("`dunlin run roles`: it goes on"), "{}", on("main"));
        assert!(on("staging").contains("`dunlin run roles -t staging`: it goes on"), "{}", on("staging"));
    }

    #[test]
    fn an_error_says_what_to_do_next() {
        let place = Place { migration: "add-index".to_owned(), ..Place::default() };
        assert!(place.next(&SqlState::UNIQUE_VIOLATION).contains("`dunlin run add-index`"));
        assert!(place.next(&SqlState::LOCK_NOT_AVAILABLE).contains("--retry-deadline"));
    }
}
