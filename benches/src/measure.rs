//! What is measured of one contender on one copy of a database: time, write-ahead log, growth, the longest transaction.
//!
//! The longest transaction is sampled from `pg_stat_activity` every 100 ms, so it is exact to about that.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use crate::Error;

/// The figures of one contender in one round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    pub(crate) wal_mib: f64,
    pub(crate) growth_mib: f64,
    pub(crate) longest_transaction: f64,
    /// Seconds from the call to the first committed batch, where there are batches.
    pub(crate) first_batch: Option<f64>,
}

/// Connects, and lets the connection run by itself.
pub(crate) async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("bench: connection: {error}");
        }
    });
    Ok(client)
}

/// The state of the write-ahead log and of the table before a contender starts.
pub(crate) struct Before {
    url: String,
    table: &'static str,
    lsn: String,
    bytes: i64,
    start: Instant,
    stop: oneshot::Sender<()>,
    longest: tokio::task::JoinHandle<Result<f64, Error>>,
}

impl Before {
    /// Notes where things stand and starts the clock. `elsewhere` is another database on the same server: looked at from there,
    /// transactions are not held back by those who look.
    pub(crate) async fn note(url: &str, elsewhere: &str, table: &'static str) -> Result<Self, Error> {
        let client = connect(url).await?;
        let row = client
            .query_one(
                "SELECT pg_current_wal_insert_lsn()::text, pg_total_relation_size($1::text::regclass), current_database()::text",
                &[&table],
            )
            .await?;
        let (stop, stopped) = oneshot::channel();
        let longest = tokio::spawn(longest_transaction(connect(elsewhere).await?, row.get(2), stopped));
        Ok(Self {
            url: url.to_owned(),
            table,
            lsn: row.get(0),
            bytes: row.get(1),
            start: Instant::now(),
            stop,
            longest,
        })
    }

    /// Stops the clock and reads what has become of things.
    pub(crate) async fn figures(self, first_batch: Option<Duration>) -> Result<Figures, Error> {
        let seconds = self.start.elapsed().as_secs_f64();
        let _ended = self.stop.send(());
        let longest = self.longest.await.map_err(|e| Error::Unexpected(e.to_string()))??;
        let row = connect(&self.url)
            .await?
            .query_one(
                "SELECT (pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn) / 1048576)::float8,
                        (pg_total_relation_size($2::text::regclass) - $3)::float8 / 1048576",
                &[&self.lsn, &self.table, &self.bytes],
            )
            .await?;
        Ok(Figures {
            seconds,
            wal_mib: row.get(0),
            growth_mib: row.get(1),
            longest_transaction: longest,
            first_batch: first_batch.map(|time| time.as_secs_f64()),
        })
    }
}

async fn longest_transaction(
    client: Client,
    database: String,
    mut stopped: oneshot::Receiver<()>,
) -> Result<f64, Error> {
    let statement = client
        .prepare(
            "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8
             FROM pg_stat_activity
             WHERE datname = $1::text AND backend_type = 'client backend' AND backend_xid IS NOT NULL",
        )
        .await?;
    let mut longest = 0.0_f64;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            _ = &mut stopped => return Ok(longest),
            _ = tick.tick() => longest = longest.max(client.query_one(&statement, &[&database]).await?.get(0)),
        }
    }
}

/// The median of some figures. Empty: not a number.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The figure that so many percent of some figures stay below. Empty: not a number.
pub(crate) fn percentile(values: impl IntoIterator<Item = f64>, percent: usize) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get((values.len() * percent / 100).min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
