//! A target: its pool of connections, whether it answers, and what it says that it has.
//!
//! Nobody but the agent knows a target's connection string, and no message holds it: errors of the client library name hosts
//! and reasons, not passwords.

mod connection;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use deadpool_postgres::{Pool, PoolError};
use dunlin_proto::v1::TargetReport;
use dunlin_shared::ids::TargetName;
use dunlin_shared::postgres::{self, Connector};
use tokio::sync::Notify;
use tokio_postgres::Client;

pub(crate) use connection::Connection;

use crate::failure;
use crate::ledger::{self, Facts};

/// How long a look at a target may take.
pub(crate) const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Why a target could not be worked with just now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// It answers, and refuses.
    #[error(transparent)]
    Refused(#[from] ledger::PrepareError),
}

/// A target.
#[derive(Debug)]
pub(crate) struct Target {
    name: TargetName,
    connector: Arc<Connector>,
    pool: Pool,
    facts: Mutex<Option<Facts>>,
    /// Why it did not answer when it was looked at last.
    away: Mutex<Option<String>>,
    suspected: Notify,
}

impl Target {
    /// A target under a connection string, with at most `size` connections. Nothing is connected yet.
    ///
    /// # Errors
    /// The string is not one.
    pub(crate) fn new(name: TargetName, url: &str, size: usize) -> Result<Self, postgres::Error> {
        let connector = Arc::new(Connector::new(url, "dunlin-agent")?);
        let pool = connector.pool(size)?;
        Ok(Self { name, connector, pool, facts: Mutex::default(), away: Mutex::default(), suspected: Notify::new() })
    }

    /// The name.
    pub(crate) fn name(&self) -> &TargetName {
        &self.name
    }

    /// Lends a connection to a target that has the ledger.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub(crate) async fn lend(&self) -> Result<Connection, Error> {
        let mut connection =
            Connection::lend(&self.pool, &self.connector).await.map_err(|error| unreachable(&error))?;
        if self.facts().is_none() {
            self.prepare(&mut connection).await?;
        }
        Ok(connection)
    }

    /// A connection outside the pool, for work that needs a session of its own.
    ///
    /// # Errors
    /// The target does not answer.
    pub(crate) async fn session(&self) -> Result<Client, Error> {
        let connected = self.connector.connect().await;
        connected.map(|(client, _)| client).map_err(|error| Error::Unreachable(error.to_string()))
    }

    /// What is known about the server, once it was reached.
    pub(crate) fn facts(&self) -> Option<Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ledger was not where it should be: look for it, and make it where it is missing, before the next work.
    pub(crate) fn forget(&self) {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Something about the target is not as expected: look again soon and report what it has.
    pub(crate) fn suspect(&self) {
        self.suspected.notify_one();
    }

    async fn prepare(&self, connection: &mut Connection) -> Result<Facts, Error> {
        // Used up where this is given up half-way: its transaction would hold what the others wait for.
        connection.opening();
        let facts = ledger::prepare(connection).await?;
        connection.closed();
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = Some(facts.clone());
        Ok(facts)
    }

    /// Looks at the target now.
    async fn report(&self, limit: Duration) -> TargetReport {
        let look = async {
            let mut connection =
                Connection::lend(&self.pool, &self.connector).await.map_err(|error| unreachable(&error))?;
            let facts = self.prepare(&mut connection).await?;
            let applied =
                ledger::registry(&connection).await.map_err(|error| Error::Unreachable(failure::chain(&error)))?;
            Ok::<_, Error>((facts, applied))
        };
        let seen = tokio::time::timeout(limit, look).await;
        let seen = seen.unwrap_or_else(|_| Err(Error::Unreachable(format!("no answer within {} s", limit.as_secs()))));
        let seen = seen.map_err(|error| error.to_string());
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = seen.as_ref().err().cloned();
        let name = self.name.to_string();
        match seen {
            Ok((facts, mut applied)) => {
                for row in &mut applied {
                    row.target.clone_from(&name);
                }
                TargetReport {
                    name,
                    reachable: true,
                    server_version: facts.version,
                    applied,
                    ..TargetReport::default()
                }
            }
            Err(error) => TargetReport { name, error, ..TargetReport::default() },
        }
    }

    /// What can be said of the target without waiting for longer than `limit`. Of one that was away at the last look that it
    /// is away, since [`watch`](Self::watch) is looking for it; `None` when the look takes longer.
    pub(crate) async fn report_soon(&self, limit: Duration) -> Option<TargetReport> {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match away {
            Some(error) => Some(TargetReport { name: self.name.to_string(), error, ..TargetReport::default() }),
            None => tokio::time::timeout(limit, self.report(PROBE_LIMIT)).await.ok(),
        }
    }

    /// Looks at the target whenever it is suspected, and while it does not answer again and again with growing pauses; tells
    /// each finding that says something new.
    pub(crate) async fn watch(&self, tell: impl Fn(TargetReport)) {
        loop {
            self.suspected.notified().await;
            let mut pauses = pauses(LONGEST_PAUSE);
            let mut told = None;
            loop {
                let report = self.report(PROBE_LIMIT).await;
                let reachable = report.reachable;
                if told.as_ref() != Some(&report.error) {
                    told = Some(report.error.clone());
                    tell(report);
                }
                if reachable {
                    break;
                }
                tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
            }
        }
    }
}

/// The longest pause between two looks at a target that is away.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Pauses between attempts to reach something: about 0.1 s, doubled each time until `longest` is near. All have jitter, the
/// last ones too, so that those who lost something together do not come back together.
pub(crate) fn pauses(longest: Duration) -> impl Iterator<Item = Duration> + Send {
    const FIRST: Duration = Duration::from_millis(100);
    // The jitter adds up to as much again.
    ExponentialBuilder::default()
        .with_min_delay(FIRST.min(longest / 2))
        .with_max_delay(longest / 2)
        .with_jitter()
        .without_max_times()
        .build()
}

fn unreachable(error: &PoolError) -> Error {
    Error::Unreachable(match error {
        PoolError::Backend(error) => postgres::describe(error),
        error => failure::chain(error),
    })
}

#[cfg(test)]
mod tests {
    use dunlin_shared::postgres::throwaway;
    use tokio_postgres::NoTls;

    use super::*;

    async fn connect(url: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    #[tokio::test]
    async fn a_look_that_is_given_up_while_the_ledger_is_made_holds_up_nobody() {
        let url = throwaway::shared().await.database("target").await.unwrap();
        let slow = connect(&url).await;
        slow.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({})", ledger::PREPARE_LOCK)).await.unwrap();
        let hasty = Target::new(TargetName::default(), &url, 2).unwrap();
        let report = hasty.report(Duration::from_millis(500)).await;
        assert!(!report.reachable, "it waits for whoever makes the ledger");
        // Its session waits no more, long before a time limit of PostgreSQL would end it.
        let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                       WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted";
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while slow.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            assert!(tokio::time::Instant::now() < deadline, "a session that nobody holds still waits");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        slow.batch_execute("ROLLBACK").await.unwrap();
        let report = hasty.report(Duration::from_secs(60)).await;
        assert!(report.reachable, "{}", report.error);
    }

    #[test]
    fn pauses_grow_to_their_limit_and_are_never_all_the_same() {
        let longest = Duration::from_secs(5);
        let many: Vec<Vec<Duration>> = (0..200).map(|_| pauses(longest).take(12).collect()).collect();
        for place in 0..12 {
            let mut at: Vec<Duration> = many.iter().map(|one| one[place]).collect();
            at.sort();
            assert!(at[0] >= Duration::from_millis(100) && at[199] <= longest, "{at:?}");
            assert!(at[199] > at[0].mul_f32(1.5), "the pauses of place {place} lie too close together: {at:?}");
        }
        assert!(many.iter().all(|one| one[0] <= Duration::from_millis(200)), "the first comes soon");
        assert!(many.iter().all(|one| one[11] >= longest / 2), "the last are long");
    }
}
