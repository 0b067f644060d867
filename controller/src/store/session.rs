//! One connection in use, and the one place through which every statement goes: it gives each a name, a deadline and a
//! trace.
//!
//! Futures of statements that are polled together are sent together, in their order: a `try_join3(session.begin(),
//! session.query(..), session.commit())` costs one round trip, once the statements are [prepared](Session::prepare) on the
//! connection.
//!
//! Futures of the client library are boxed: they would stand in the future of every operation, several times in some, and on the stack.
//!
//! What must stay true: a connection goes back to the pool only outside of a transaction and with no answer outstanding.
//! Whatever else happens to a session, cancellation included, it is closed, and the server rolls back.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use dunlin_shared::postgres::LentClient;
use futures::poll;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::error::Error;

/// How long one statement may take, waiting for locks included.
const DEADLINE: Duration = Duration::from_secs(20);

/// What is worth a line in the log.
const SLOW: Duration = Duration::from_secs(1);

/// What a new connection is told: no replica that is stopped in the middle of a transaction holds up the others for long.
/// Statements are planned once for each connection, and for tables that will be large, however small they are at that time:
/// row by row, each found by an index. Without bitmaps, so that a claim reads as many ready tasks as it takes, in the order
/// of their index: with them, the planner at times prefers to read and sort them all.
pub(super) const SETTINGS: &str = "SET statement_timeout = '20s'; SET lock_timeout = '10s'; \
     SET idle_in_transaction_session_timeout = '5s'; SET synchronous_commit = on; \
     SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
     SET enable_mergejoin = off; SET enable_bitmapscan = off; SET jit = off";

/// A statement with the name under which it is logged and traced.
#[derive(Debug)]
pub(crate) struct Statement {
    name: &'static str,
    sql: &'static str,
}

impl Statement {
    pub(crate) const fn new(name: &'static str, sql: &'static str) -> Self {
        Self { name, sql }
    }

    /// Its text, to ask the database what it makes of it.
    #[cfg(test)]
    pub(super) fn sql(&self) -> &'static str {
        self.sql
    }
}

/// Parameters of a statement.
pub(crate) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection in use.
pub(crate) struct Session {
    /// `None` only while being dropped.
    connection: Option<LentClient>,
    /// Held while a statement is prepared and sent: the order of futures is the order of statements.
    turn: Mutex<()>,
    /// True while a transaction is open, or an answer may be outstanding.
    unsettled: AtomicBool,
}

impl Session {
    pub(super) async fn open(connection: LentClient) -> Result<Self, Error> {
        let fresh = LentClient::metrics(&connection).recycle_count == 0;
        let session = Self { connection: Some(connection), turn: Mutex::default(), unsettled: AtomicBool::new(false) };
        if fresh {
            session.batch("settings", SETTINGS).await?;
        }
        Ok(session)
    }

    /// Makes sure that statements are prepared, so that they can be sent together.
    pub(crate) async fn prepare(&self, statements: &[&Statement]) -> Result<(), Error> {
        for statement in statements {
            self.timed(statement.name, Box::pin(self.client().prepare_cached(statement.sql))).await?;
        }
        Ok(())
    }

    /// Executes a statement and returns its rows.
    pub(crate) async fn query(&self, statement: &Statement, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
        let client = self.client();
        self.timed(statement.name, async {
            let turn = self.turn.lock().await;
            let prepared = Box::pin(client.prepare_cached(statement.sql)).await?;
            sent(Box::pin(client.query(&prepared, parameters)), turn).await
        })
        .await
    }

    /// Executes a statement that returns one row.
    pub(crate) async fn query_one(&self, statement: &Statement, parameters: Parameters<'_>) -> Result<Row, Error> {
        let rows = self.query(statement, parameters).await?;
        rows.into_iter().next().ok_or(Error::NoRow { statement: statement.name })
    }

    /// Executes a statement that returns at most one row.
    pub(crate) async fn query_opt(
        &self,
        statement: &Statement,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, Error> {
        Ok(self.query(statement, parameters).await?.into_iter().next())
    }

    /// Executes a statement and returns the number of rows that it changed.
    pub(crate) async fn execute(&self, statement: &Statement, parameters: Parameters<'_>) -> Result<u64, Error> {
        let client = self.client();
        self.timed(statement.name, async {
            let turn = self.turn.lock().await;
            let prepared = Box::pin(client.prepare_cached(statement.sql)).await?;
            sent(Box::pin(client.execute(&prepared, parameters)), turn).await
        })
        .await
    }

    /// Opens a transaction.
    pub(crate) async fn begin(&self) -> Result<(), Error> {
        self.unsettled.store(true, Ordering::Relaxed);
        self.batch("begin", "BEGIN ISOLATION LEVEL READ COMMITTED").await
    }

    /// Opens a transaction whose commit does not wait for the disk: it is there to see at once, and a crash of the database
    /// may lose it until [`Store::flush`](super::Store::flush).
    pub(crate) async fn begin_lazily(&self) -> Result<(), Error> {
        self.unsettled.store(true, Ordering::Relaxed);
        self.batch("begin", "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off").await
    }

    /// Commits. All futures of the transaction must have been awaited without an error, or be awaited with this one.
    pub(crate) async fn commit(&self) -> Result<(), Error> {
        self.batch("commit", "COMMIT").await
    }

    /// Rolls back, so that the connection can be used again.
    pub(crate) async fn roll_back(&self) -> Result<(), Error> {
        self.batch("rollback", "ROLLBACK").await?;
        self.settle();
        Ok(())
    }

    /// To be called when a commit and all that was sent with it has succeeded.
    pub(crate) fn settle(&self) {
        self.unsettled.store(false, Ordering::Relaxed);
    }

    async fn batch(&self, name: &'static str, sql: &str) -> Result<(), Error> {
        self.timed(name, async {
            let turn = self.turn.lock().await;
            sent(Box::pin(self.client().batch_execute(sql)), turn).await
        })
        .await
    }

    fn client(&self) -> &LentClient {
        match &self.connection {
            Some(connection) => connection,
            None => unreachable!("only drop takes the connection"),
        }
    }

    async fn timed<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        let guard = Unfinished { unsettled: &self.unsettled, before: self.unsettled.swap(true, Ordering::Relaxed) };
        let start = Instant::now();
        let done = timeout(DEADLINE, work).await;
        let elapsed = start.elapsed();
        if elapsed >= SLOW {
            tracing::warn!(statement = name, ?elapsed, "slow statement in the controller's database");
        } else {
            tracing::trace!(statement = name, ?elapsed);
        }
        match done {
            Ok(Ok(value)) => {
                guard.finish();
                Ok(value)
            }
            Ok(Err(source)) => Err(Error::from_statement(name, source)),
            Err(_) => Err(Error::Deadline { statement: name }),
        }
    }
}

/// Sends a statement, lets the next one be sent, and waits for the answer.
async fn sent<T>(work: impl Future<Output = T>, turn: MutexGuard<'_, ()>) -> T {
    let mut work = pin!(work);
    let first = poll!(work.as_mut());
    drop(turn);
    match first {
        Poll::Ready(answer) => answer,
        Poll::Pending => work.await,
    }
}

/// Keeps a session unsettled when a statement fails or its future is dropped.
struct Unfinished<'a> {
    unsettled: &'a AtomicBool,
    before: bool,
}

impl Unfinished<'_> {
    fn finish(self) {
        if !self.before {
            self.unsettled.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.unsettled.load(Ordering::Relaxed)
            && let Some(connection) = self.connection.take()
        {
            drop(LentClient::take(connection));
        }
    }
}
