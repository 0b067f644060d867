//! SQL of a step in a transaction, under the limit for its waits for locks.
//!
//! Whoever wants the lock that the SQL waits for waits behind it, and so does whoever wants one that it holds. So an attempt has
//! little time for all its waits together: the server ends each wait that is longer, and a watcher those that are longer in all.
//! Dunlin's own statements before and behind it wait for nobody but Dunlin, and have a limit of their own.
//!
//! A step whose SQL speaks of `lock_timeout` is taken at its word.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Context, Error};
use crate::failure::Place;
use crate::waits::{Backend, WHO, Watcher, backend};

/// How long an attempt waits that autovacuum is to yield to, in milliseconds: PostgreSQL ends an autovacuum that is in the way of
/// somebody who has waited for as long as `deadlock_timeout`.
const YIELDING: &str =
    "SELECT (extract(epoch FROM current_setting('deadlock_timeout')::interval) * 1000)::bigint + 300";

/// A transaction whose SQL waits for locks for so long only.
pub(super) struct Locked<'a> {
    context: &'a Context,
    backend: Backend,
    limit: Duration,
}

impl<'a> Locked<'a> {
    /// The transaction that is open on a connection.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub(super) async fn within(context: &'a Context, connection: &Client, place: &Place) -> Result<Self, Error> {
        let usual = context.schema_lock_timeout();
        let answers = connection.simple_query(&format!("{WHO};{YIELDING}")).await;
        let answers = answers.map_err(|error| Error::of_postgres(&error, place))?;
        let (backend, yielding) = read(&answers).ok_or_else(|| nobody(place))?;
        let limit = if context.waits.patient() && !usual.is_zero() { usual.max(yielding) } else { usual };
        context.waits.allow(limit);
        Ok(Self { context, backend, limit })
    }

    /// The setting for the SQL alone.
    pub(super) fn settings(&self) -> String {
        format!(";SET LOCAL lock_timeout = {}", self.limit.as_millis())
    }

    /// Watches SQL while it is executed.
    ///
    /// # Errors
    /// Those of the SQL. Waits that were too long are an error that passes.
    pub(super) async fn over<T>(
        &self,
        sql: &str,
        work: impl Future<Output = Result<T, Error>>,
        place: &Place,
    ) -> Result<T, Error> {
        let own = sql.to_ascii_lowercase().contains("lock_timeout");
        let limit = (!self.limit.is_zero() && !own).then_some(self.limit);
        let watched = Watcher::new(self.context, self.backend).over(limit, work).await;
        match watched {
            (Err(Error::Final(error)), true) if error.sqlstate == SqlState::QUERY_CANCELED.code() => {
                Err(Error::Passing(place.locked(self.limit)))
            }
            (done, _) => done,
        }
    }
}

/// The session, and how long autovacuum is waited for.
fn read(answers: &[SimpleQueryMessage]) -> Option<(Backend, Duration)> {
    let mut rows = answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let (who, yielding) = (rows.next()?, rows.next()?);
    Some((backend(who)?, Duration::from_millis(yielding.get(0)?.parse().ok()?)))
}

fn nobody(place: &Place) -> Error {
    Error::Final(place.refuse(
        "the server does not say which of its processes works for the agent",
        "Look at pg_stat_get_activity in the target: something has changed it.",
    ))
}
