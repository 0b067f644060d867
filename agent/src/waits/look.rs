//! What a session waits for, and who is in its way, as another session sees it.
//!
//! PostgreSQL says of a wait only that it was too long, so whoever is to be told who held the lock must look while it lasts. The
//! look is a statement by itself: a session in a transaction would be waited for by concurrent builds, like any other.
//!
//! It looks as the role that the connection has logged in with, whose sessions it is shown, whatever role that is set to. Everything is
//! in one message, and ends with it, so that a pooler may stand between.
//!
//! What must stay true: it is the same session that is looked at, not another one that got the number of its process.

use std::fmt::Write as _;
use std::time::Duration;

use dunlin_shared::sql::quote_literal;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

/// A session of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    /// The number of its process.
    pub(crate) pid: i32,
    /// When it began, in microseconds since 1970; 0 where the role that asked is not shown it.
    pub(crate) since: i64,
}

/// The session that executes it. Without parameters, so that it can go with other statements.
pub(crate) const WHO: &str = "SELECT a.pid, coalesce((extract(epoch FROM a.backend_start) * 1000000)::bigint, 0) \
    FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS a";

/// What a lock is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The end of a transaction: of one that has a row locked, or that a concurrent build must not leave behind.
    Transaction,
    /// A relation, or anything else that can be locked.
    Other,
}

/// A wait for a lock.
#[derive(Debug, Clone)]
pub(crate) struct Wait {
    /// What the lock is about.
    pub(crate) kind: Kind,
    /// The mode, as PostgreSQL writes it.
    pub(crate) mode: String,
    /// The relation, or empty.
    pub(crate) relation: String,
    /// When it began, in microseconds since 1970.
    pub(crate) since: i64,
    /// How long it has lasted.
    pub(crate) lasted: Duration,
    /// Who is in the way.
    pub(crate) holders: Vec<Holder>,
}

/// Who is in the way.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    /// The number of the process; 0 for a prepared transaction.
    pub(crate) pid: i32,
    application: String,
    user: String,
    state: String,
    transaction_since: String,
    /// True for an autovacuum that yields to who waits for long enough.
    pub(crate) yields: bool,
}

/// As whom, and where names are looked up, until the end of the message.
const AS: &str = "SET LOCAL ROLE NONE;SET LOCAL search_path = pg_catalog;SET LOCAL extra_float_digits = 1";

/// The session with a number of a process, unless another one has got it.
fn same(backend: Backend) -> String {
    let Backend { pid, since } = backend;
    format!(
        "pg_stat_get_activity({pid}) AS a WHERE {since} IN (0, (extract(epoch FROM a.backend_start) * 1000000)::bigint)"
    )
}

/// Looks what a session waits for. `None` where it waits for no lock.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn look(client: &Client, backend: Backend) -> Result<Option<Wait>, tokio_postgres::Error> {
    let pid = backend.pid;
    let look = format!(
        "SELECT w.locktype, w.mode, (extract(epoch FROM w.waitstart) * 1000000)::bigint,
             (extract(epoch FROM clock_timestamp() - w.waitstart) * 1000000)::bigint,
             coalesce(w.relation, (SELECT t.relation FROM pg_locks t
                                   WHERE t.pid = w.pid AND t.locktype = 'tuple' AND t.granted LIMIT 1))::regclass::text
         FROM pg_locks w WHERE w.pid = {pid} AND NOT w.granted AND w.waitstart IS NOT NULL
         AND EXISTS (SELECT FROM {} AND a.wait_event_type = 'Lock') LIMIT 1",
        same(backend)
    );
    let Some(mut wait) = rows(client, &look).await?.first().and_then(read) else { return Ok(None) };
    // A role that may not see who others are sees of an autovacuum that it works in a database and is nobody's, and not its text. It
    // works against wraparound where the table is older than it may get.
    let holders = format!(
        "SELECT b.pid, a.application_name, a.usename, a.state,
             to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS\"+00\"'),
             coalesce(a.backend_type = 'autovacuum worker', a.datid IS NOT NULL AND a.usesysid IS NULL, false)
             AND NOT CASE WHEN a.query LIKE 'autovacuum: %' THEN a.query LIKE '%(to prevent wraparound)'
                     ELSE coalesce((SELECT age(c.relfrozenxid) > current_setting('autovacuum_freeze_max_age')::int
                                        OR mxid_age(c.relminmxid) > current_setting('autovacuum_multixact_freeze_max_age')::int
                                    FROM pg_locks w JOIN pg_class c ON c.oid = w.relation
                                    WHERE w.pid = {pid} AND NOT w.granted AND c.relfrozenxid <> '0' LIMIT 1), false) END
         FROM (SELECT DISTINCT unnest(pg_blocking_pids({pid})) AS pid) AS b LEFT JOIN pg_stat_activity AS a USING (pid)
         ORDER BY a.xact_start NULLS LAST, b.pid"
    );
    wait.holders = rows(client, &holders).await?.iter().filter_map(holder).collect();
    Ok(Some(wait))
}

pub(super) async fn rows(client: &Client, sql: &str) -> Result<Vec<SimpleQueryRow>, tokio_postgres::Error> {
    let answers = client.simple_query(&format!("{AS};{sql}")).await?;
    let rows = answers.into_iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}

fn read(row: &SimpleQueryRow) -> Option<Wait> {
    Some(Wait {
        kind: match row.get(0)? {
            "virtualxid" | "transactionid" => Kind::Transaction,
            _ => Kind::Other,
        },
        mode: row.get(1)?.to_owned(),
        since: row.get(2)?.parse().ok()?,
        lasted: Duration::from_micros(row.get(3)?.parse().unwrap_or_default()),
        relation: row.get(4).unwrap_or_default().to_owned(),
        holders: Vec::new(),
    })
}

fn holder(row: &SimpleQueryRow) -> Option<Holder> {
    let text = |index: usize| row.get(index).unwrap_or_default().to_owned();
    Some(Holder {
        pid: row.get(0)?.parse().ok()?,
        application: text(1),
        user: text(2),
        state: text(3),
        transaction_since: text(4),
        yields: row.get(5) == Some("t"),
    })
}

/// Cancels what a session executes, if it still waits for a lock.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn cancel(client: &Client, backend: Backend) -> Result<bool, tokio_postgres::Error> {
    let sql = format!("SELECT pg_cancel_backend(a.pid) FROM {} AND a.wait_event_type = 'Lock'", same(backend));
    Ok(rows(client, &sql).await?.first().and_then(|row| row.get(0)) == Some("t"))
}

/// What a session that works for a lease waits for.
pub(super) enum Waiting {
    /// A lock.
    Lock(Backend),
    /// The word of a standby.
    Standby,
}

/// The session that works for a lease and waits for somebody else, by its `application_name`.
///
/// # Errors
/// Those of PostgreSQL.
pub(super) async fn waiting(client: &Client, application: &str) -> Result<Option<Waiting>, tokio_postgres::Error> {
    let sql = format!(
        "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint, wait_event = 'SyncRep' FROM pg_stat_activity
         WHERE application_name = {} AND (wait_event_type = 'Lock' OR wait_event = 'SyncRep') LIMIT 1",
        quote_literal(application)
    );
    Ok(rows(client, &sql).await?.first().and_then(|row| match row.get(2) {
        Some("t") => Some(Waiting::Standby),
        _ => backend(row).map(Waiting::Lock),
    }))
}

/// Reads the answer to [`WHO`].
pub(crate) fn backend(row: &SimpleQueryRow) -> Option<Backend> {
    Some(Backend { pid: row.get(0)?.parse().ok()?, since: row.get(1)?.parse().ok()? })
}

impl Wait {
    /// True where nobody is in the way but autovacuum, and it will yield.
    pub(crate) fn of_autovacuum_alone(&self) -> bool {
        !self.holders.is_empty() && self.holders.iter().all(|holder| holder.yields)
    }

    /// The processes that are in the way.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.holders.iter().map(|holder| holder.pid).collect()
    }

    /// What is waited for and who is in the way, as the end of a sentence: "for ... that ... holds".
    pub(crate) fn describe(&self) -> String {
        let mut text = match self.kind {
            Kind::Transaction if self.relation.is_empty() => "for the end of a transaction".to_owned(),
            Kind::Transaction => format!("for a row of {}", self.relation),
            Kind::Other if self.relation.is_empty() => format!("for a lock ({})", self.mode),
            Kind::Other => format!("for a lock on {} ({})", self.relation, self.mode),
        };
        for (index, holder) in self.holders.iter().enumerate() {
            text.push_str(if index == 0 { "; in the way: " } else { ", " });
            holder.describe(&mut text);
        }
        text
    }
}

impl Holder {
    fn describe(&self, text: &mut String) {
        if self.pid == 0 {
            text.push_str("a prepared transaction (see pg_prepared_xacts)");
            return;
        }
        let _infallible = write!(text, "pid {}", self.pid);
        let mut more = Vec::new();
        if self.yields {
            more.push("autovacuum".to_owned());
        }
        if !self.application.is_empty() {
            more.push(format!("application {:?}", self.application));
        }
        if !self.user.is_empty() {
            more.push(format!("role {:?}", self.user));
        }
        if !self.state.is_empty() {
            more.push(self.state.clone());
        }
        if !self.transaction_since.is_empty() {
            more.push(format!("in its transaction since {}", self.transaction_since));
        } else if !self.state.is_empty() {
            more.push("without an open transaction".to_owned());
        } else if !self.yields {
            // Nothing but the name is shown of the sessions of others.
            more.push("since when is shown to members of pg_read_all_stats".to_owned());
        }
        if !more.is_empty() {
            let _infallible = write!(text, " ({})", more.join(", "));
        }
    }
}
