//! How long a statement may wait and run in a target, and how a transaction there begins.
//!
//! Everything is set with `SET LOCAL`: it ends with the transaction, so that a pooler in transaction mode between agent and
//! target never hands a setting to someone else.

use std::fmt::Write as _;
use std::time::Duration;

/// What the operator allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a statement may wait for a lock. Zero: without end.
    pub lock_timeout: Duration,
    /// How long a statement may run. Zero: without end.
    pub statement_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { lock_timeout: Duration::from_secs(5), statement_timeout: Duration::ZERO }
    }
}

/// How long a transaction of an agent that stands still may stay open: its locks would block the next holder of the lease.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// The same while the code of a transform has the transaction: it may call other services.
pub(crate) const IDLE_LIMIT_OF_CODE: Duration = Duration::from_secs(60);

/// When a transaction must be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Before the commit is answered.
    AtCommit,
    /// A little later: a crash of the server loses rows and checkpoint together.
    Later,
}

/// The setting that says which lease a transaction works for. It disappears with the transaction, so SQL that ended the
/// transaction by itself is found out.
pub(crate) const MARK: &str = "dunlin.lease";

/// What `pg_stat_activity` shows as the `application_name` of a session that works for a lease.
pub(crate) fn application_name(mark: &str) -> String {
    format!("dunlin-agent {mark}")
}

/// The statements after `BEGIN`.
pub(crate) fn begin(limits: Limits, durability: Durability, idle: Duration, mark: &str) -> String {
    format!("BEGIN ISOLATION LEVEL READ COMMITTED;{}", settings(limits, durability, idle, mark))
}

/// The statements behind `BEGIN`.
pub(crate) fn settings(limits: Limits, durability: Durability, idle: Duration, mark: &str) -> String {
    let durable = match durability {
        // `on` where the role or the database has `off`; stricter settings stay.
        Durability::AtCommit => {
            "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
        }
        Durability::Later => "SET LOCAL synchronous_commit = off",
    };
    let mut sql = String::with_capacity(320);
    let _infallible = write!(
        sql,
        "{durable};SET LOCAL lock_timeout = {};SET LOCAL statement_timeout = {};\
         SET LOCAL idle_in_transaction_session_timeout = {};SET LOCAL {MARK} = '{mark}';\
         SET LOCAL application_name = '{}'",
        limits.lock_timeout.as_millis(),
        limits.statement_timeout.as_millis(),
        idle.as_millis(),
        application_name(mark),
    );
    sql
}

/// Frees the names that the client library gives to what it prepares (`s0`, `s1`, ...). Behind a pooler in transaction mode,
/// other agents may have left theirs in the server's process. No others are freed: a pooler that keeps prepared statements
/// itself gives them names of its own, and counts on them.
pub(crate) const FREE_NAMES: &str = "DO $free$ DECLARE taken text; BEGIN
    FOR taken IN SELECT name FROM pg_prepared_statements WHERE name ~ '^s[0-9]+$' LOOP
        EXECUTE format('DEALLOCATE %I', taken);
    END LOOP; END $free$";

/// The statements that make PostgreSQL write values in one way only, so that a key that is read as text means the same
/// wherever it is read again; and that make a walk along a key use the key's index.
pub(crate) const WALK: &str = "SET LOCAL datestyle = 'ISO, MDY';SET LOCAL intervalstyle = 'postgres';\
    SET LOCAL timezone = 'UTC';SET LOCAL extra_float_digits = 1;SET LOCAL bytea_output = 'hex';\
    SET LOCAL enable_seqscan = off;SET LOCAL enable_bitmapscan = off;SET LOCAL enable_sort = off;\
    SET LOCAL enable_incremental_sort = off;SET LOCAL max_parallel_workers_per_gather = 0;SET LOCAL jit = off";
