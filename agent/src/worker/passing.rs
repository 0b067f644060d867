//! What comes of an error that passes by itself: when the task is tried again, and for how long.
//!
//! A lock that is not free is given up at once, since the application waits behind whoever waits. The pause is many times longer
//! than the wait was, so that the application is kept waiting for a small part of the time only; the controller lets pauses grow and
//! ends the run once nothing but such errors was met for long. It is told who was in the way.
//!
//! Autovacuum alone is another matter: it yields, but only to who waits longer than an attempt usually does. Then the next attempt
//! waits for as long as that, and the worker makes it itself, for it alone knows why.
//!
//! Whatever else passes (a deadlock, a serialization failure) is mostly over at once: it is tried here a few times first.

use std::time::Duration;

use dunlin_proto::v1::{Ending, EventType, RunError, grant};
use tokio_postgres::error::SqlState;

use crate::limits::Limits;
use crate::steps::Context;

/// How often another error that passes is met here before the controller is told.
const TRIES: u32 = 3;

/// The shortest pause.
const SHORTEST: Duration = Duration::from_millis(200);

/// The shortest after a crash of the server.
const AFTER_CRASH: Duration = Duration::from_secs(2);

/// How a task is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retry {
    /// The shortest pause.
    pub(super) pause: Duration,
    /// What pauses grow to.
    pub(super) longest_pause: Duration,
    /// How long it is tried again without progress.
    pub(super) deadline: Duration,
    /// What the controller counts beside.
    pub(super) ending: Ending,
}

impl Retry {
    /// After a connection that came to an end which is counted.
    pub(super) fn after(ending: Ending, limits: Limits) -> Self {
        let pause = match ending {
            // The application needs the server, too.
            Ending::ServerCrashed => AFTER_CRASH,
            Ending::StoodStill | Ending::Unspecified => SHORTEST,
        };
        Self { pause, longest_pause: limits.longest_pause, deadline: limits.retry_deadline, ending }
    }
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// The same worker tries again in a moment.
    Soon,
    /// The same worker tries again after a pause.
    After(Duration),
    /// The lease goes back to the controller.
    Back(Box<RunError>, Retry),
}

/// Decides. `tries` is how often such an error was met in this lease without progress.
pub(super) fn next(context: &Context, task: &grant::Task, mut error: Box<RunError>, tries: u32) -> Next {
    let sight = context.waits.take();
    let was_patient = context.waits.patient();
    context.waits.be_patient(false);
    let limits = context.limits;
    let mut retry = Retry::after(Ending::Unspecified, limits);
    if error.sqlstate != SqlState::LOCK_NOT_AVAILABLE.code() {
        if tries >= TRIES {
            return Next::Back(error, retry);
        }
        let state = if error.sqlstate.is_empty() { String::new() } else { format!(" ({})", error.sqlstate) };
        context.lease.note(EventType::TaskRetried, format!("{}{state}; the agent tries again", error.message));
        return Next::Soon;
    }
    let schema = matches!(task, grant::Task::Statement(_));
    // Each look sees less than there was.
    let (waited, factor) = match &sight.last {
        _ if schema => (sight.waited.max(sight.limit), limits.lock_pause_factor),
        Some(wait) => (wait.lasted.max(context.lock_timeout()), 1),
        None => (context.lock_timeout(), 1),
    };
    retry.pause = waited.saturating_mul(factor).max(SHORTEST);
    let Some(wait) = sight.last else { return Next::Back(error, retry) };
    if schema && !was_patient && wait.of_autovacuum_alone() {
        context.waits.be_patient(true);
        let pause = retry.pause + retry.pause.mul_f64(rand::random::<f64>() / 2.0);
        let message = format!(
            "{}: it waited {}. The next attempt, in {:.1} s, waits a little longer than deadlock_timeout, for then PostgreSQL \
             ends the autovacuum",
            error.message,
            wait.describe(),
            pause.as_secs_f64()
        );
        context.lease.note(EventType::TaskRetried, message);
        return Next::After(pause);
    }
    if error.detail.is_empty() {
        error.detail = format!("It waited {}.", wait.describe());
    }
    Next::Back(error, retry)
}
