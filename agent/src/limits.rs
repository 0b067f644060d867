//! How long a statement may wait and run in a target, what of rows may be told, and what walks along a key need.

use std::time::Duration;

/// What the operator allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a statement of a batch, and of Dunlin itself, may wait for a lock. Zero: without end.
    pub lock_timeout: Duration,
    /// How long the SQL of a step that is no batch may wait for locks, all waits of an attempt together: the application waits
    /// behind it. Zero: without end.
    pub schema_lock_timeout: Duration,
    /// How many times longer than the wait the pause is at least until such a step is tried again.
    pub lock_pause_factor: u32,
    /// What pauses between attempts grow to.
    pub longest_pause: Duration,
    /// How long a task is tried again after errors that can pass, without progress.
    pub retry_deadline: Duration,
    /// How long a statement may run. Zero: without end.
    pub statement_timeout: Duration,
    /// How long a statement outside a transaction may wait for transactions that began before it, counted from its beginning. Zero:
    /// without end.
    pub build_deadline: Duration,
    /// True where nothing is told that may hold values of rows: what PostgreSQL and transforms in code say, and keys.
    pub redact_rows: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lock_timeout: Duration::from_secs(5),
            schema_lock_timeout: Duration::from_millis(500),
            lock_pause_factor: 10,
            longest_pause: Duration::from_secs(60),
            retry_deadline: Duration::from_secs(30 * 60),
            build_deadline: Duration::ZERO,
            statement_timeout: Duration::ZERO,
            redact_rows: false,
        }
    }
}

/// How long a transaction of an agent that stands still may stay open: its locks would block the next holder of the lease.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// The same while the code of a transform has the transaction: it may call other services.
pub(crate) const IDLE_LIMIT_OF_CODE: Duration = Duration::from_secs(60);

/// The statements that make PostgreSQL write values in one way only, so that a key that is read as text means the same
/// wherever it is read again; and that make a walk along a key use the key's index.
pub(crate) const WALK: &str = "SET LOCAL datestyle = 'ISO, MDY';SET LOCAL intervalstyle = 'postgres';\
    SET LOCAL timezone = 'UTC';SET LOCAL extra_float_digits = 1;SET LOCAL bytea_output = 'hex';\
    SET LOCAL enable_seqscan = off;SET LOCAL enable_bitmapscan = off;SET LOCAL enable_sort = off;\
    SET LOCAL enable_incremental_sort = off;SET LOCAL max_parallel_workers_per_gather = 0;SET LOCAL jit = off";
