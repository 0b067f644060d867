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
//! cancels one process only while that waits for a lock. Where it cannot look, the statement goes on, and that is said.

use std::time::Duration;

use dunlin_proto::v1::{EventType, RunError};
use dunlin_shared::postgres::Session;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;

use super::{Context, Error};
use crate::failure::Place;
use crate::own;
use crate::waits::{Backend, Kind, WHO, Wait, cancel, look};

/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// After how many times the usual patience with a look it is said that none has succeeded.
const UNSEEN_LOOKS: u32 = 6;

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
    /// It waited for a lock for too long; what for.
    Lock(String, String),
    /// It waited for transactions for too long.
    Transactions(String),
}

/// The session to be watched, and the `deadlock_timeout` that it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    backend: Backend,
    deadlock_timeout: Duration,
}

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
    session: &Session,
    what: &str,
    patience: Patience,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Failed> {
    let process = process(session).await.map_err(Failed::Postgres)?;
    match watch(context, process, what, patience, work).await {
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
async fn process(session: &Session) -> Result<Process, tokio_postgres::Error> {
    let sql = format!(
        "SELECT w.*, extract(epoch FROM current_setting('deadlock_timeout')::interval)::float8 FROM ({WHO}) AS w"
    );
    let row = own::query_one(session, &sql, &[]).await?;
    let deadlock_timeout = Duration::try_from_secs_f64(row.try_get(2)?).unwrap_or_default();
    Ok(Process { backend: Backend { pid: row.try_get(0)?, since: row.try_get(1)? }, deadlock_timeout })
}

async fn watch<T>(
    context: &Context,
    session: Process,
    what: &str,
    patience: Patience,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> (Result<T, tokio_postgres::Error>, Option<Cancelled>) {
    let began = Instant::now();
    tokio::pin!(work);
    let mut watcher: Option<Session> = None;
    let mut told = Vec::new();
    let mut cancelled = None;
    let mut unseen = Unseen { since: began, told: false };
    loop {
        tokio::select! {
            done = &mut work => return (done, cancelled),
            () = sleep(LOOK_EVERY) => {}
        }
        let client = match watcher.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            // Without a watcher the statement goes on: it may be the only connection that is left.
            None => match timeout(LOOK_LIMIT, context.target.beside_direct()).await {
                Ok(Ok(client)) => client,
                Ok(Err(error)) => {
                    unseen.tell(context, what, &error.to_string());
                    continue;
                }
                Err(_) => {
                    unseen.tell(context, what, "no answer to the attempt to connect");
                    continue;
                }
            },
        };
        let found = match timeout(LOOK_LIMIT, look(&client, session.backend)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                unseen.tell(context, what, &context.place("").words(&error));
                continue;
            }
            Err(_) => {
                unseen.tell(context, what, "no answer");
                continue;
            }
        };
        unseen.since = Instant::now();
        if let Some(wait) = found.filter(|_| cancelled.is_none()) {
            if wait.kind == Kind::Other {
                context.waits.see(&wait);
            }
            if let Some((reason, limit)) = verdict(&wait, session, began.elapsed(), what, patience) {
                if timeout(LOOK_LIMIT, cancel(&client, session.backend)).await.is_ok_and(|sent| sent.unwrap_or(false)) {
                    context.waits.allow(limit);
                    cancelled = Some(reason);
                }
            } else if wait.kind == Kind::Transaction && wait.lasted >= TELL_AFTER && told != wait.pids() {
                told = wait.pids();
                context.lease.note(
                    EventType::AgentNote,
                    format!(
                        "{what} waits for transactions that began before it, and blocks nobody; it waits {}",
                        wait.describe()
                    ),
                );
            }
        }
        watcher = Some(client);
    }
}

/// Since when nobody has seen what the statement waits for.
struct Unseen {
    since: Instant,
    told: bool,
}

impl Unseen {
    /// Tells once that a statement goes on unseen, when it has for long.
    fn tell(&mut self, context: &Context, what: &str, why: &str) {
        let long = context.watch.look * UNSEEN_LOOKS;
        if self.told || self.since.elapsed() < long {
            return;
        }
        self.told = true;
        let sentence = format!(
            "{what} goes on unwatched: for {} no other session could see what it waits for ({why}); until one can, it is not cancelled, \
             however long it stands in the queue of a lock or waits for transactions",
            humantime::format_duration(long)
        );
        context.lease.note(EventType::AgentNote, sentence);
    }
}

/// Why a statement is to be cancelled, and for how long it was allowed to wait.
fn verdict(
    wait: &Wait,
    session: Process,
    elapsed: Duration,
    what: &str,
    patience: Patience,
) -> Option<(Cancelled, Duration)> {
    if wait.kind == Kind::Transaction {
        let limit = patience.transactions;
        let over = !limit.is_zero() && elapsed >= limit;
        return over.then(|| {
            let message = format!(
                "{what} waited for transactions that began before it for longer than {}; it waited {}",
                humantime::format_duration(limit),
                wait.describe()
            );
            (Cancelled::Transactions(message), limit)
        });
    }
    let limit = if wait.mode == "ShareUpdateExclusiveLock" {
        patience.locks.max(session.deadlock_timeout + YIELDING)
    } else {
        patience.locks
    };
    let over = !patience.locks.is_zero() && wait.lasted >= limit;
    over.then(|| {
        let message = format!("{what} did not get a lock within {}", humantime::format_duration(limit));
        (Cancelled::Lock(message, format!("It waited {}.", wait.describe())), limit)
    })
}

impl Cancelled {
    /// The same as an error that passes, for work that can as well be done later.
    pub(super) fn passing(self, place: &Place) -> Error {
        match self {
            Self::Lock(..) => self.error(place),
            Self::Transactions(message) => Self::Lock(message, String::new()).error(place),
        }
    }

    /// The error of the statement that was cancelled.
    pub(super) fn error(self, place: &Place) -> Error {
        match self {
            Self::Lock(message, detail) => Error::Passing(Box::new(RunError {
                detail,
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
