//! How long a statement may wait and run in a target, what of rows may be told, and what walks along a key need.

use std::time::Duration;

use crate::target::Ground;

/// What the operator allows. Where nothing is said the limits that the agent's role, its database or its server has on a target hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a statement of a batch, and of Dunlin itself, may wait for a lock. Zero: without end. `None`: 5 s, or the `lock_timeout`
    /// of the role where that is shorter.
    pub lock_timeout: Option<Duration>,
    /// How long the SQL of a step that is no batch may wait for locks, all waits of an attempt together: the application waits
    /// behind it. Zero: without end. `None`: 500 ms, or the `lock_timeout` of the role where that is shorter.
    pub schema_lock_timeout: Option<Duration>,
    /// How many times longer than the wait the pause is at least until such a step is tried again.
    pub lock_pause_factor: u32,
    /// What pauses between attempts grow to.
    pub longest_pause: Duration,
    /// How long a task is tried again after errors that can pass, without progress.
    pub retry_deadline: Duration,
    /// How long a statement may run. Zero: without end. `None`: the `statement_timeout` of the role, or else without end.
    pub statement_timeout: Option<Duration>,
    /// How long a statement outside a transaction may wait for transactions that began before it, counted from its beginning. Zero:
    /// without end.
    pub build_deadline: Duration,
    /// True where nothing is told that may hold values of rows: what PostgreSQL and transforms in code say, and keys.
    pub redact_rows: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lock_timeout: None,
            schema_lock_timeout: None,
            lock_pause_factor: 10,
            longest_pause: Duration::from_secs(60),
            retry_deadline: Duration::from_secs(30 * 60),
            build_deadline: Duration::ZERO,
            statement_timeout: None,
            redact_rows: false,
        }
    }
}

impl Limits {
    /// How long a statement of a batch, and of Dunlin itself, may wait for a lock in a session. Zero: without end.
    pub(crate) fn of_locks(&self, ground: Ground) -> Duration {
        self.lock_timeout.unwrap_or_else(|| stricter(LOCK_TIMEOUT, ground.lock_timeout))
    }

    /// How long the SQL of another step may. Zero: without end.
    pub(crate) fn of_schema_locks(&self, ground: Ground) -> Duration {
        self.schema_lock_timeout.unwrap_or_else(|| stricter(SCHEMA_LOCK_TIMEOUT, ground.lock_timeout))
    }

    /// What the operator has written down in place of another limit that the role has, in a sentence each.
    pub(crate) fn instead(&self, ground: Ground) -> Vec<String> {
        let told = |option: &str, written: Option<Duration>, setting: &str, of_role: Duration| {
            let written = written.filter(|written| *written != of_role && !of_role.is_zero())?;
            Some(format!(
                "the agent's {option} ({}) holds in place of the {setting} of its role ({})",
                in_words(written),
                in_words(of_role)
            ))
        };
        [
            told("--lock-timeout", self.lock_timeout, "lock_timeout", ground.lock_timeout),
            told("--schema-lock-timeout", self.schema_lock_timeout, "lock_timeout", ground.lock_timeout),
            told("--statement-timeout", self.statement_timeout, "statement_timeout", ground.statement_timeout),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The shorter of two limits, where zero is none.
pub(crate) fn stricter(one: Duration, other: Duration) -> Duration {
    match (one.is_zero(), other.is_zero()) {
        (true, _) => other,
        (_, true) => one,
        _ => one.min(other),
    }
}

/// A limit as an operator says it.
pub(crate) fn in_words(limit: Duration) -> String {
    if limit.is_zero() { "none".to_owned() } else { humantime::format_duration(limit).to_string() }
}

/// How long a statement of a batch waits for a lock where nobody has said it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the SQL of another step does.
const SCHEMA_LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a transaction of an agent that stands still may stay open: its locks would block the next holder of the lease.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// The same for SQL in one transaction, which may hold locks that the whole application waits for.
pub(crate) const IDLE_LIMIT_OF_STATEMENT: Duration = Duration::from_secs(2);

/// The same while the code of a transform has the transaction: it may call other services.
pub(crate) const IDLE_LIMIT_OF_CODE: Duration = Duration::from_secs(60);

/// The statements that make PostgreSQL write values in one way only, so that a key that is read as text means the same
/// wherever it is read again; and that make a walk along a key use the key's index.
pub(crate) const WALK: &str = "SET LOCAL datestyle = 'ISO, MDY';SET LOCAL intervalstyle = 'postgres';\
    SET LOCAL timezone = 'UTC';SET LOCAL extra_float_digits = 1;SET LOCAL bytea_output = 'hex';\
    SET LOCAL enable_seqscan = off;SET LOCAL enable_bitmapscan = off;SET LOCAL enable_sort = off;\
    SET LOCAL enable_incremental_sort = off;SET LOCAL max_parallel_workers_per_gather = 0;SET LOCAL jit = off";
