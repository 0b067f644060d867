//! Why the connection of a task was lost, and what comes of it.
//!
//! Most losses cost nothing: the network, a server that stops, the crash of *another* process of the server. Two kinds are counted by
//! the controller, across agents, and end the run when they come again and again. A connection that ended without a word while it executed
//! something, on a server that has recovered from a crash since, was that of the process that crashed. And a transaction that the server
//! ended because it stood still is one of an agent that gets no CPU.
//!
//! Whether a server has recovered is read from its statistics, which a recovery resets: a server that was stopped in order keeps them.
//!
//! A pooler says nothing of all that. Behind one a suspect counts only once it has run alone on this agent: else it may have been the
//! statement of a neighbour.
//!
//! What must stay true: what cannot be found out is not counted.

use std::time::Duration;

use dunlin_proto::v1::{self, EventType, RunError};
use dunlin_shared::postgres::{Ending, describe};
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::failure;
use crate::limits::{self, IDLE_LIMIT};
use crate::own;
use crate::steps::Context;
use crate::target;

/// How long a server is waited for that may have crashed.
const RECOVERY: Duration = Duration::from_secs(60);

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Why a connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// For a reason that has nothing to do with the task.
    Elsewhere,
    /// The server said nothing, in the middle of a statement.
    Silent,
    /// The server ended the transaction, which stood still.
    StoodStill,
    /// Somebody, or the server as it stops, has ended the session.
    Terminated,
}

/// What comes of a lost connection.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing: the task goes on.
    Nothing,
    /// The task goes on, alone.
    Suspect,
    /// The same would come again.
    Final(Box<RunError>),
    /// The controller counts it.
    Counted(Box<RunError>, v1::Ending),
}

/// Finds out what comes of the connection that an attempt has lost. `alone`: no other task of this agent was at work in the target.
pub(super) async fn find(context: &Context, error: &RunError, alone: bool) -> Found {
    let Some((ending, time)) = context.sessions.take() else { return Found::Nothing };
    let final_error = ending.word.as_deref().and_then(|word| failure::ended_with(word, error, &context.place("")));
    if let Some(error) = final_error {
        return Found::Final(error);
    }
    let pooled = context.target.pooled();
    match why(&ending, pooled) {
        Why::Elsewhere => Found::Nothing,
        Why::StoodStill => Found::Counted(stood_still(context, error), v1::Ending::StoodStill),
        Why::Terminated => {
            tell_terminated(context, time, &error.step).await;
            Found::Nothing
        }
        Why::Silent if !recovered(context, time).await => Found::Nothing,
        Why::Silent if pooled && !alone => Found::Suspect,
        Why::Silent => Found::Counted(crashed(context, error), v1::Ending::ServerCrashed),
    }
}

/// What the server says of the time since a session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Since {
    /// It has recovered from a crash.
    recovered: bool,
    /// It was started anew.
    restarted: bool,
}

/// Why the connection of an attempt was lost.
fn why(ending: &Ending, pooled: bool) -> Why {
    match ending {
        Ending { word: None, busy: true } => Why::Silent,
        Ending { word: None, busy: false } => Why::Elsewhere,
        Ending { word: Some(word), busy } => match SqlState::from_code(word) {
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => Why::StoodStill,
            SqlState::ADMIN_SHUTDOWN => Why::Terminated,
            // The pooler's word for a server that has gone.
            _ if pooled && *busy && word.starts_with("08") => Why::Silent,
            _ => Why::Elsewhere,
        },
    }
}

const SINCE: &str = "
SELECT coalesce((SELECT (extract(epoch FROM stats_reset) * 1000000)::bigint > $1 FROM pg_stat_bgwriter), false),
       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint > $1";

/// Asks the server what has happened since a time of its own clock, in microseconds since 1970.
async fn ask(context: &Context, time: i64) -> Result<Since, String> {
    let asking = async {
        let session = context.target.session().await.map_err(|error| error.to_string())?;
        let row = own::query_one(&session, SINCE, &[(&time, Type::INT8)]).await;
        let row = row.map_err(|error| describe(&error))?;
        let read = |index: usize| row.try_get(index).map_err(|error| describe(&error));
        Ok(Since { recovered: read(0)?, restarted: read(1)? })
    };
    timeout(LIMIT, asking).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

/// Whether the server has recovered from a crash since a time. False as well where it does not come back soon, or the worker is told to
/// stop meanwhile.
async fn recovered(context: &Context, time: i64) -> bool {
    let deadline = Instant::now() + RECOVERY;
    let mut pauses = target::pauses(Duration::from_secs(1));
    loop {
        match ask(context, time).await {
            Ok(since) => return since.recovered,
            Err(error) => {
                tracing::debug!(target = %context.target.name(), error, "a server that may have crashed is waited for")
            }
        }
        let pause = pauses.next().unwrap_or(Duration::from_secs(1));
        if Instant::now() + pause >= deadline || !context.pause(pause).await {
            return false;
        }
    }
}

/// Tells of a session that was ended from outside, unless the server was stopping.
async fn tell_terminated(context: &Context, time: i64, step: &str) {
    if context.told() || !matches!(ask(context, time).await, Ok(Since { restarted: false, .. })) {
        return;
    }
    let what = if step.is_empty() { String::new() } else { format!(" of the step {step:?}") };
    context.lease.note(
        EventType::TaskRetried,
        format!(
            "the session{what} was ended from outside (57P01, pg_terminate_backend). That does not stop the run: its work was rolled back and \
             is begun again. What stops it is to stop the agents of the target {}",
            context.target.name()
        ),
    );
}

/// What the failure is when a server has crashed.
fn crashed(context: &Context, error: &RunError) -> Box<RunError> {
    Box::new(RunError {
        message:
            "the server crashed while this was executed: the connection ended without a word, and the server recovered"
                .to_owned(),
        next: format!(
            "Look into the server's log for the process that was ended by a signal, and why (a fault of an extension, no memory left). Mend \
             that or the step, with `dunlin register DIR` after a change; then `dunlin run {}`.",
            context.migration
        ),
        sqlstate: String::new(),
        ..error.clone()
    })
}

/// What it is when an agent stands still.
fn stood_still(context: &Context, error: &RunError) -> Box<RunError> {
    let ground = context.target.ground();
    let limited = if ground.idle.is_zero() {
        format!("for seconds ({} for a batch)", limits::in_words(IDLE_LIMIT))
    } else {
        format!("for long (idle_in_transaction_session_timeout of its role is {})", limits::in_words(ground.idle))
    };
    Box::new(RunError {
        message: format!("the agent gets no CPU: the server ended its transaction, which stood still {limited}"),
        next: format!(
            "Give the agent's host more CPU, or the agent fewer --slots. A transform in code must not leave its transaction alone for a \
             minute. Then `dunlin run {}`.",
            context.migration
        ),
        sqlstate: SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT.code().to_owned(),
        ..error.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_cut_off_without_a_word_in_the_middle_of_a_statement_is_suspect() {
        let ending = |word: Option<&str>, busy| Ending { word: word.map(str::to_owned), busy };
        for (ended, direct, pooled) in [
            (ending(None, true), Why::Silent, Why::Silent),
            (ending(None, false), Why::Elsewhere, Why::Elsewhere),
            (ending(Some("57P01"), true), Why::Terminated, Why::Terminated),
            (ending(Some("57P02"), true), Why::Elsewhere, Why::Elsewhere),
            (ending(Some("57P03"), true), Why::Elsewhere, Why::Elsewhere),
            (ending(Some("25P03"), false), Why::StoodStill, Why::StoodStill),
            (ending(Some("08P01"), true), Why::Elsewhere, Why::Silent),
            (ending(Some("08P01"), false), Why::Elsewhere, Why::Elsewhere),
            (ending(Some("57P05"), false), Why::Elsewhere, Why::Elsewhere),
        ] {
            assert_eq!((why(&ended, false), why(&ended, true)), (direct, pooled), "{ended:?}");
        }
    }
}
