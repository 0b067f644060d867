//! Watches a session from another one while it executes the SQL of a step, and cancels it once all its waits for locks together
//! are longer than is allowed.
//!
//! `lock_timeout` is for each wait alone, so a step of many locks could keep the application waiting for many times as long: behind
//! the lock that it waits for, and behind all that it has got.
//!
//! What must stay true: what is cancelled waits for a lock at that moment, so a statement that goes on is not lost. Once
//! [`Watcher::over`] has returned, no more is cancelled. Where the session cannot be watched, `lock_timeout` ends each wait all the
//! same.

use std::pin::pin;
use std::time::Duration;

use dunlin_shared::postgres::Session;
use tokio::time::{sleep, timeout};

use super::Wait;
use super::look::{self, Backend};
use crate::steps::Context;

/// When a session is looked at first, or sooner where it may wait for less: most statements have ended by then, and cost nothing.
const FIRST: Duration = Duration::from_millis(100);

/// The time between two looks at a session that waits for a lock, and at one that does not.
const CLOSE: Duration = Duration::from_millis(50);
const CALM: Duration = Duration::from_millis(200);

/// How long a look may take.
const LIMIT: Duration = Duration::from_secs(5);

/// A session that watches another one.
pub(crate) struct Watcher<'a> {
    context: &'a Context,
    backend: Backend,
    client: Option<Session>,
}

impl<'a> Watcher<'a> {
    /// A watcher, which connects when there is something to look at.
    pub(crate) fn new(context: &'a Context, backend: Backend) -> Self {
        Self { context, backend, client: None }
    }

    /// Lets the session work, and watches it. `limit` is for all waits of the attempt together; `None`: without end. True when what
    /// it executed was cancelled; it may have ended well all the same.
    pub(crate) async fn over<T>(&mut self, limit: Option<Duration>, work: impl Future<Output = T>) -> (T, bool) {
        let mut work = pin!(work);
        let mut cancelled = false;
        let mut tick = limit.map_or(FIRST, |limit| FIRST.min(limit / 4));
        loop {
            let seen = tokio::select! {
                biased;
                ended = &mut work => return (ended, cancelled),
                seen = async { sleep(tick).await; self.look().await } => seen,
            };
            tick = if seen.is_some() { CLOSE } else { CALM };
            let Some(wait) = seen else { continue };
            let waited = self.context.waits.see(&wait);
            if limit.is_some_and(|limit| waited > limit) {
                // To its end: what comes behind the statement must not be met.
                cancelled |= timeout(LIMIT, self.cancel()).await.unwrap_or_default();
            }
        }
    }

    async fn look(&mut self) -> Option<Wait> {
        let looking = async {
            let client = match &mut self.client {
                Some(client) => client,
                none => none.insert(self.context.target.session().await.ok()?),
            };
            look::look(client, self.backend).await.map_err(drop).ok()
        };
        let seen = timeout(LIMIT, looking).await.ok().flatten();
        if seen.is_none() {
            // It is no use any more; the next look makes another one.
            self.client = None;
        }
        seen.flatten()
    }

    async fn cancel(&self) -> bool {
        let Some(client) = &self.client else { return false };
        look::cancel(client, self.backend).await.unwrap_or_default()
    }
}
