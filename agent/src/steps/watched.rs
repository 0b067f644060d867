//! A statement outside a transaction, watched from another session while it runs.
//!
//! Such a statement waits for two kinds of things, and the server's `lock_timeout` does not tell them apart. For a *lock* on a relation
//! it stands in the queue, and whoever comes behind it stands there, too: the application. For the end of older *transactions* (what
//! `CREATE INDEX CONCURRENTLY` does three times) it blocks nobody, and giving up throws the whole build away. So the session has no
//! `lock_timeout`; a watcher looks at what it waits for, and cancels the statement where it stands in a queue for too long.
//!
//! The lock that concurrent builds begin with (`ShareUpdateExclusiveLock`) blocks no reader and no writer either, and autovacuum yields
//! to it, but only to who waits for longer than the server's `deadlock_timeout`: it may be waited for a little longer than that.
//!
//! What must stay true: the watcher is never in a transaction for longer than one look, for a concurrent build would wait for it. It
//! cancels one process only while that waits for a lock.

use std::time::Duration;

use dunlin_proto::v1::{EventType, RunError};
use dunlin_shared::postgres::Session;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::{Context, Error};
use crate::failure::Place;

/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// How long transactions are waited for before somebody is told.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// What is added to `deadlock_timeout`, after which autovacuum yields.
const YIELDING: Duration = Duration::from_millis(300);

/// How long a statement may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a lock. Zero: without end.
    pub(super) locks: Duration,
    /// For transactions, counted from the beginning of the statement. Zero: without end.
    pub(super) transactions: Duration,
}

/// Why the watcher cancelled a statement.
#[derive(Debug)]
pub(super) enum Cancelled {
    /// It waited for a lock for too long.
    Lock(String),
    /// It waited for transactions for too long.
    Transactions(String),
}

/// What a process waits for.
struct Wait {
    /// True for the end of a transaction.
    transaction: bool,
    mode: String,
    lasted: Duration,
    deadlock_timeout: Duration,
    relation: String,
    holders: String,
}

const LOOK: &str = "
    SELECT l.locktype IN ('virtualxid', 'transactionid'), l.mode,
           coalesce(date_part('epoch', clock_timestamp() - l.waitstart), 0),
           (SELECT setting::float8 / 1000 FROM pg_settings WHERE name = 'deadlock_timeout'),
           coalesce(l.relation::regclass::text, ''),
           coalesce((SELECT string_agg(concat('pid ', b.pid,
                        CASE WHEN a.application_name <> '' THEN concat(' (', a.application_name, ')') END,
                        ', in its transaction since ' || to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
                        ), '; ' ORDER BY a.xact_start, b.pid)
                     FROM unnest(pg_blocking_pids($1)) AS b(pid) LEFT JOIN pg_stat_activity a USING (pid)), '')
    FROM pg_locks l WHERE l.pid = $1 AND NOT l.granted LIMIT 1";

/// Why a statement that was watched has no answer.
pub(super) enum Failed {
    /// The server's error.
    Postgres(tokio_postgres::Error),
    /// The watcher cancelled it.
    Cancelled(Cancelled),
}

/// Waits for `work`, a statement of `session`, and watches it meanwhile. `what` is the statement, in words.
///
/// # Errors
/// See [`Failed`].
pub(super) async fn execute<T>(
    context: &Context,
    session: &Client,
    what: &str,
    patience: Patience,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Failed> {
    let pid = process(session).await.map_err(Failed::Postgres)?;
    match watch(context, pid, what, patience, work).await {
        (Err(error), Some(cancelled)) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
            Err(Failed::Cancelled(cancelled))
        }
        (answer, cancelled) => {
            if cancelled.is_some() {
                // It ended before it was cancelled. The next statement must not be cancelled in its place.
                let _cancelled = session.batch_execute("SELECT 1").await;
            }
            answer.map_err(Failed::Postgres)
        }
    }
}

/// The process of the server that a session has.
async fn process(session: &Client) -> Result<i32, tokio_postgres::Error> {
    session.query_typed_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)
}

async fn watch<T>(
    context: &Context,
    pid: i32,
    what: &str,
    patience: Patience,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> (Result<T, tokio_postgres::Error>, Option<Cancelled>) {
    let began = Instant::now();
    tokio::pin!(work);
    let mut watcher: Option<Session> = None;
    let mut told = String::new();
    let mut cancelled = None;
    loop {
        tokio::select! {
            done = &mut work => return (done, cancelled),
            () = sleep(LOOK_EVERY) => {}
        }
        let client = match watcher.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            // Without a watcher the statement goes on: it may be the only connection that is left.
            None => match timeout(LOOK_LIMIT, context.target.session()).await {
                Ok(Ok(client)) => client,
                Ok(Err(_)) | Err(_) => continue,
            },
        };
        let looked = timeout(LOOK_LIMIT, look(&client, pid)).await;
        let Ok(Ok(found)) = looked else { continue };
        if let Some(wait) = found.filter(|_| cancelled.is_none()) {
            if let Some(reason) = verdict(&wait, began.elapsed(), what, patience) {
                if timeout(LOOK_LIMIT, cancel(&client, pid)).await.is_ok_and(|sent| sent.unwrap_or(false)) {
                    cancelled = Some(reason);
                }
            } else if wait.transaction && wait.lasted >= TELL_AFTER && told != wait.holders {
                told.clone_from(&wait.holders);
                context.lease.note(
                    EventType::AgentNote,
                    format!("{what} waits for transactions that began before it, and blocks nobody: {told}"),
                );
            }
        }
        watcher = Some(client);
    }
}

fn verdict(wait: &Wait, elapsed: Duration, what: &str, patience: Patience) -> Option<Cancelled> {
    let holders = if wait.holders.is_empty() { "" } else { "; in the way: " };
    if wait.transaction {
        let over = !patience.transactions.is_zero() && elapsed >= patience.transactions;
        return over.then(|| {
            Cancelled::Transactions(format!(
                "{what} waited for transactions that began before it for longer than {}{holders}{}",
                humantime::format_duration(patience.transactions),
                wait.holders
            ))
        });
    }
    let limit = if wait.mode == "ShareUpdateExclusiveLock" {
        patience.locks.max(wait.deadlock_timeout + YIELDING)
    } else {
        patience.locks
    };
    let over = !patience.locks.is_zero() && wait.lasted >= limit;
    over.then(|| {
        let relation = if wait.relation.is_empty() { String::new() } else { format!(" on {}", wait.relation) };
        Cancelled::Lock(format!(
            "{what} waited for a lock{relation} ({}) for longer than {}{holders}{}",
            wait.mode,
            humantime::format_duration(limit),
            wait.holders
        ))
    })
}

async fn look(client: &Client, pid: i32) -> Result<Option<Wait>, tokio_postgres::Error> {
    let Some(row) = client.query_typed_opt(LOOK, &[(&pid, Type::INT4)]).await? else { return Ok(None) };
    let seconds = |index: usize| -> Result<Duration, tokio_postgres::Error> {
        Ok(Duration::try_from_secs_f64(row.try_get::<_, f64>(index)?).unwrap_or_default())
    };
    Ok(Some(Wait {
        transaction: row.try_get(0)?,
        mode: row.try_get(1)?,
        lasted: seconds(2)?,
        deadlock_timeout: seconds(3)?,
        relation: row.try_get(4)?,
        holders: row.try_get(5)?,
    }))
}

/// Cancels what the process executes, if it still waits.
async fn cancel(client: &Client, pid: i32) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT pg_cancel_backend(l.pid) FROM pg_locks l WHERE l.pid = $1 AND NOT l.granted LIMIT 1";
    let row = client.query_typed_opt(sql, &[(&pid, Type::INT4)]).await?;
    row.map_or(Ok(false), |row| row.try_get(0))
}

impl Cancelled {
    /// The same as an error that passes, for work that can as well be done later.
    pub(super) fn passing(self, place: &Place) -> Error {
        match self {
            Self::Lock(message) | Self::Transactions(message) => Self::Lock(message).error(place),
        }
    }

    /// The error of the statement that was cancelled.
    pub(super) fn error(self, place: &Place) -> Error {
        match self {
            Self::Lock(message) => Error::Passing(Box::new(RunError {
                sqlstate: SqlState::LOCK_NOT_AVAILABLE.code().to_owned(),
                ..*place.refuse(
                    message,
                    format!(
                        "Run it at a quieter time, or end what is in the way; then `dunlin run {}`.",
                        place.migration
                    ),
                )
            })),
            Self::Transactions(message) => Error::Final(place.refuse(
                message,
                format!(
                    "End what is in the way, or give the agent a longer --build-deadline; then `dunlin run {}`.",
                    place.migration
                ),
            )),
        }
    }
}
