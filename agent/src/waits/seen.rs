//! What was seen of the waits of one attempt at a task, for the worker that decides what comes of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Wait;

/// What was seen of an attempt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// How long it has waited for locks in all, as far as was seen.
    pub(crate) waited: Duration,
    /// The wait that was seen last.
    pub(crate) last: Option<Wait>,
    /// How long it was allowed to wait.
    pub(crate) limit: Duration,
    /// When that wait was seen.
    seen: Option<Instant>,
}

/// Shorter waits are not worth telling.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// How old the last look at a wait that goes on may be.
const FRESH: Duration = Duration::from_millis(1500);

/// Where whoever looks writes it down.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    sight: Mutex<Sight>,
    patient: AtomicBool,
    said: Mutex<Option<String>>,
}

impl Seen {
    /// Writes a wait down, as it is now. Returns how long the attempt has waited in all.
    pub(crate) fn see(&self, wait: &Wait) -> Duration {
        let mut sight = self.sight.lock().unwrap_or_else(PoisonError::into_inner);
        // The same wait, seen again, has become longer; another one comes on top.
        let before = match &sight.last {
            Some(last) if last.since == wait.since => last.lasted,
            _ => Duration::ZERO,
        };
        sight.waited += wait.lasted.saturating_sub(before);
        sight.last = Some(wait.clone());
        sight.seen = Some(Instant::now());
        sight.waited
    }

    /// Writes down what the agent itself waits for, as the end of a sentence, without a statement that waits.
    pub(crate) fn say(&self, what: Option<String>) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// What the agent itself waits for.
    pub(crate) fn said(&self) -> Option<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is waited for at this moment, as the end of a sentence.
    pub(crate) fn now(&self) -> Option<String> {
        if let Some(said) = self.said() {
            return Some(said);
        }
        let sight = self.sight.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = sight.seen.is_some_and(|seen| seen.elapsed() < FRESH);
        sight.last.as_ref().filter(|wait| fresh && wait.lasted >= WORTH_TELLING).map(Wait::describe)
    }

    /// Writes down that nothing is waited for at this moment.
    pub(crate) fn over(&self) {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner).seen = None;
    }

    /// Writes down how long the attempt is allowed to wait.
    pub(crate) fn allow(&self, limit: Duration) {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner).limit = limit;
    }

    /// What was seen since the last call.
    pub(crate) fn take(&self) -> Sight {
        std::mem::take(&mut *self.sight.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the next attempt waits for long enough that autovacuum yields.
    pub(crate) fn be_patient(&self, patient: bool) {
        self.patient.store(patient, Ordering::Relaxed);
    }

    /// True in an attempt that waits for long enough that autovacuum yields.
    pub(crate) fn patient(&self) -> bool {
        self.patient.load(Ordering::Relaxed)
    }
}
