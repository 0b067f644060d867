//! Notices that an answer will never come.
//!
//! A network can lose a connection without telling either end. The server then ends the transaction by itself, since it idles
//! (`idle_in_transaction_session_timeout`), and the agent would wait for ever. So when a step has given no sign of life for a
//! while, the watchdog looks through another connection whether the server still works for the lease: all its transactions
//! carry the lease in their `application_name`. If it does not, or cannot be reached either, twice in a row, the step is dropped and
//! begun again, which looks at the checkpoint first.
//!
//! A whole target can stop to answer as well: then the slot is needed for others, so what was waited counts as time in which the
//! target was not reached.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::Type;

use crate::frame;
use crate::own;
use crate::steps::Context;

/// How patient the watchdog is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    /// How long a step may give no sign of life before the watchdog looks.
    pub(crate) quiet: Duration,
    /// The time between two looks, and the most that a look may take.
    pub(crate) look: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Self { quiet: Duration::from_secs(5), look: Duration::from_secs(5) }
    }
}

/// What a watchdog has found.
#[derive(Debug)]
pub(crate) struct Silence {
    /// In a sentence.
    pub(crate) message: String,
    /// Since when the target has not answered; `None` where it answers, and a connection alone is dead.
    pub(crate) away_since: Option<Instant>,
}

/// Ends when the answer that the step waits for will not come.
pub(crate) async fn silence(context: &Context) -> Silence {
    let Watch { quiet, look } = context.watch;
    loop {
        let beats = context.beats.load(Ordering::Relaxed);
        let since = Instant::now();
        let unchanged = || context.beats.load(Ordering::Relaxed) == beats;
        sleep(quiet).await;
        let mut missed = 0;
        while unchanged() {
            let found = timeout(look, works_for(context)).await;
            missed = if matches!(found, Ok(Ok(true))) { 0 } else { missed + 1 };
            if missed == 2 && unchanged() {
                let (message, away_since) = match found {
                    Ok(Ok(_)) => ("the connection is dead: the server works for this lease no more".to_owned(), None),
                    Ok(Err(error)) => (error, Some(since)),
                    Err(_) => (format!("no answer within {} s", look.as_secs_f32()), Some(since)),
                };
                return Silence { message, away_since };
            }
            // Where the look itself has lasted that long there is no need to wait more.
            if found.is_ok() {
                sleep(look).await;
            }
        }
    }
}

async fn works_for(context: &Context) -> Result<bool, String> {
    let session = context.target.session().await.map_err(|error| error.to_string())?;
    let row = own::query_one(
        &session,
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND state <> 'idle')",
        &[(&frame::application_name(&context.mark()), Type::TEXT)],
    )
    .await
    .map_err(|error| dunlin_shared::postgres::describe(&error))?;
    row.try_get(0).map_err(|error| error.to_string())
}
