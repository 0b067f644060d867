//! The settings and the role under which an agent's transactions begin, and the way into the SQL of a definition and out again.
//!
//! SQL of a definition can change everything about its session: the role, `search_path`, how literals are read. Whatever comes behind
//! it (the next step, a check, the checkpoint) must not depend on that. So each transaction begins with everything that matters said
//! explicitly, under a `search_path` that finds nothing but PostgreSQL's own; a step or check is [entered](Frame::enter) with the
//! `search_path` that the agent's role has in this database, and [left](Frame::leave) by putting everything back.
//!
//! Everything is set with `SET LOCAL`: it ends with the transaction, so that a pooler in transaction mode between agent and target
//! never hands a setting to someone else. What SQL of a definition has set for the session is taken back before the commit.
//!
//! In each transaction the server looks every second whether the agent is still there, where it can: what an agent that was killed has begun
//! ends, and so do its locks.
//!
//! What must stay true: the transaction that is left is the one that was entered. SQL that has ended it fails at the way out, before
//! anything else is done: the first statement there divides by zero.

use std::fmt::Write as _;
use std::time::Duration;

use dunlin_shared::sql::quote_literal;
use tokio_postgres::IsolationLevel;

use crate::limits::{IDLE_LIMIT, Limits, stricter};
use crate::target::{Ground, KEEPALIVES, LOOK};

/// When a transaction must be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Before the commit is answered.
    AtCommit,
    /// A little later: a crash of the server loses rows and checkpoint together.
    Later,
}

/// The setting that says which lease a transaction works for. It disappears with the transaction, so one that was ended by itself
/// cannot advance a checkpoint.
pub(crate) const MARK: &str = "dunlin.lease";

/// What the names of an agent's sessions begin with.
pub(crate) const APPLICATION: &str = "dunlin-agent";

/// What `pg_stat_activity` shows as the `application_name` of a session that works for a lease.
pub(crate) fn application_name(mark: &str) -> String {
    format!("{APPLICATION} {mark}")
}

/// The name of the column with a setting that was made.
pub(crate) const SETTING: &str = "dunlin_setting";

/// Where the agent's own statements look names up.
pub(crate) const OWN_PATH: &str = "SET LOCAL search_path = pg_catalog, pg_temp";

/// Where those of definitions do: as the role, the database or the connection has it.
pub(crate) const THEIR_PATH: &str = "SET LOCAL search_path TO DEFAULT";

/// Policies are an error and not a filter, unless a definition says otherwise: rows that nobody sees are not done.
const ALL_ROWS: &str = "SET LOCAL row_security = off";

/// Where a definition says otherwise.
const THEIR_ROWS: &str = "SET LOCAL row_security = on";

/// Ends what else SQL leaves within a transaction: cursors, LISTEN, temporary tables. What it has prepared is named, for there is no
/// statement that would spare what the client library and this agent have prepared.
const END: &str = "CLOSE ALL;UNLISTEN *;DISCARD TEMP";

/// Asks for the statements that SQL has prepared in this session.
pub(crate) const PREPARED_BY_SQL: &str =
    "SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql AND name <> 'dunlin_advance'";

/// Asks which transaction is open.
pub(crate) const WHICH: &str = "SELECT pg_catalog.pg_current_xact_id() AS dunlin_transaction";

/// The name of the column with the answer.
pub(crate) const TRANSACTION: &str = "dunlin_transaction";

/// Removes what SQL of a definition may have left in the session, behind a COMMIT or ROLLBACK.
pub(crate) const DISCARD: &str = "CLOSE ALL;SET SESSION AUTHORIZATION DEFAULT;RESET ALL;UNLISTEN *;\
    SELECT pg_catalog.pg_advisory_unlock_all();DISCARD TEMP;DISCARD SEQUENCES";

/// Frees the names that the client library gives to what it prepares (`s0`, `s1`, ...), and those that SQL has prepared. Behind a pooler
/// in transaction mode, other agents may have left theirs in the server's process. No others are freed: a pooler that keeps prepared
/// statements itself gives them names of its own, and counts on them.
pub(crate) const FREE_NAMES: &str = "DO $free$ DECLARE taken pg_catalog.text; BEGIN
    FOR taken IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql OR name OPERATOR(pg_catalog.~) '^s[0-9]+$' LOOP
        EXECUTE pg_catalog.format('DEALLOCATE %I', taken);
    END LOOP; END $free$";

/// How the transactions of a lease begin.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// What the operator allows.
    pub(crate) limits: Limits,
    /// What the session stands on.
    pub(crate) ground: Ground,
    /// How long a transaction may stand still.
    pub(crate) idle: Duration,
    /// The lease.
    pub(crate) mark: String,
    /// The role that the agent works under, quoted where that is needed; `None` where nobody has looked yet.
    pub(crate) role: Option<String>,
    /// True where SQL of the definition is to see only the rows that policies let the role see.
    pub(crate) row_security: bool,
    /// The isolation of the transactions that SQL of the definition works in.
    pub(crate) isolation: IsolationLevel,
}

impl Frame {
    /// The frame of a lease.
    pub(crate) fn new(limits: Limits, mark: String, role: Option<String>) -> Self {
        let isolation = IsolationLevel::ReadCommitted;
        Self { limits, ground: Ground::default(), idle: IDLE_LIMIT, mark, role, row_security: false, isolation }
    }

    /// The same in a session that stands on `ground`.
    pub(crate) fn on(self, ground: Ground) -> Self {
        Self { ground, ..self }
    }

    /// The same for transactions that may stand still for another time: code may take its time between statements.
    pub(crate) fn with_idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// The statements that begin a transaction for statements of the agent.
    pub(crate) fn begin(&self, durability: Durability) -> String {
        format!("BEGIN ISOLATION LEVEL READ COMMITTED;{}", self.settings(durability))
    }

    /// Those behind `BEGIN`.
    pub(crate) fn settings(&self, durability: Durability) -> String {
        let Self { limits, ground, mark, .. } = self;
        let durable = match durability {
            // `on` where the role or the database has `off`; stricter settings stay.
            Durability::AtCommit => {
                "SELECT set_config('synchronous_commit', 'on', true) AS dunlin_setting \
                 WHERE current_setting('synchronous_commit') = 'off'"
            }
            Durability::Later => "SET LOCAL synchronous_commit = off",
        };
        let mut sql = String::with_capacity(640);
        let _infallible = write!(
            sql,
            "{};{OWN_PATH};{ALL_ROWS};SET LOCAL client_encoding = 'UTF8';SET LOCAL standard_conforming_strings = on;{durable};\
             SET LOCAL lock_timeout = {};SET LOCAL statement_timeout {};\
             SET LOCAL idle_in_transaction_session_timeout = {};{}SET LOCAL {MARK} = '{mark}';SET LOCAL client_min_messages = notice;\
             SET LOCAL application_name = '{}'",
            self.identity(),
            limits.of_locks(*ground).as_millis(),
            // Where nobody has said it, what the role has: that is the default.
            limits
                .statement_timeout
                .map_or_else(|| "TO DEFAULT".to_owned(), |limit| format!("= {}", limit.as_millis())),
            stricter(self.idle, ground.idle).as_millis(),
            if ground.looks { format!("{LOOK};") } else { String::new() },
            application_name(mark),
        );
        sql
    }

    /// The agent's role again. Not `RESET ROLE`, nor DEFAULT for the role: the role that the connection came with would be lost
    /// with the session's authorization.
    fn identity(&self) -> String {
        let role = self.role.as_deref().unwrap_or("NONE");
        format!("SET LOCAL SESSION AUTHORIZATION DEFAULT;SET LOCAL ROLE {role}")
    }

    /// The statements that lead from those of the agent to the SQL of a step or check.
    pub(crate) fn enter(&self) -> String {
        if self.row_security { format!("{THEIR_PATH};{THEIR_ROWS}") } else { THEIR_PATH.to_owned() }
    }

    /// The statements that lead to the rows that the SQL of a step sees, with the names of the agent.
    pub(crate) fn see(&self) -> &'static str {
        if self.row_security { THEIR_ROWS } else { ALL_ROWS }
    }

    /// The statements that begin a transaction for the SQL of a batch. The first row of the answer has the number of the transaction.
    pub(crate) fn begin_entered(&self, durability: Durability) -> String {
        format!("{};{}", self.begin_isolated(durability), self.enter())
    }

    /// The statements that begin a transaction in which statements of the agent and SQL of a definition take turns, under the isolation
    /// that the definition says. The first row of the answer has the number of the transaction.
    pub(crate) fn begin_isolated(&self, durability: Durability) -> String {
        let level = match self.isolation {
            IsolationLevel::RepeatableRead => "REPEATABLE READ",
            IsolationLevel::Serializable => "SERIALIZABLE",
            _ => "READ COMMITTED",
        };
        format!("BEGIN ISOLATION LEVEL {level};{WHICH};{}", self.settings(durability))
    }

    /// The statements that lead back, in the transaction with the number `transaction`.
    pub(crate) fn leave(&self, transaction: &str, durability: Durability) -> String {
        // Every name is qualified: it is the last to be read under what the SQL has set.
        format!(
            "SELECT 1 OPERATOR(pg_catalog./) (coalesce(pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text \
             OPERATOR(pg_catalog.=) {}, false))::pg_catalog.int4;{};RESET ALL;{END};{}{}",
            quote_literal(transaction),
            self.identity(),
            self.settings(durability),
            if self.ground.direct { format!(";{KEEPALIVES}") } else { String::new() },
        )
    }
}
