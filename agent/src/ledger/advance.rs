//! Advancing a checkpoint in the transaction that does the work.
//!
//! The statement has its values written into it, because it is sent in one message with the `COMMIT` behind it: the server
//! goes on to the commit only when exactly one row matched. Otherwise it divides by zero, which aborts the transaction and
//! skips the rest of the message.

use std::pin::pin;

use dunlin_shared::ids::Epoch;
use dunlin_shared::sql::quote_literal;
use futures::StreamExt;
use serde_json::{Map, Value};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::{Address, Error, State};
use crate::failpoint::{self, Points};
use crate::limits::MARK;

/// One step forward.
#[derive(Debug)]
pub(crate) struct Advance<'a> {
    /// The checkpoint.
    pub(crate) address: &'a Address,
    /// The epoch of the lease.
    pub(crate) epoch: Epoch,
    /// The mark that the transaction was given when it began.
    pub(crate) mark: &'a str,
    /// The number of advances before this one.
    pub(crate) batches: i64,
    /// Where to go on; `None` leaves it as it is.
    pub(crate) cursor: Option<Value>,
    /// Rows changed by this transaction.
    pub(crate) rows: i64,
    /// Rows walked by this transaction.
    pub(crate) rows_walked: i64,
    /// Rows to walk that this transaction has found; 0 unless it plans.
    pub(crate) rows_total: i64,
    /// Counters of this transaction.
    pub(crate) counters: &'a Map<String, Value>,
    /// Whether work is left.
    pub(crate) state: State,
    /// The table whose updates are counted.
    pub(crate) measured: Option<u32>,
}

/// What the transaction showed when it advanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Advanced {
    /// The position in the log up to which everything is on disk.
    pub(crate) flushed: u64,
    /// The position in the log before this transaction's commit and after all commits before it.
    pub(crate) written: u64,
    /// Updates that this session has not yet handed to the statistics.
    pub(crate) updated: i64,
    /// Those of them that were HOT.
    pub(crate) hot_updated: i64,
}

impl Advance<'_> {
    /// The statement, without a semicolon.
    fn sql(&self) -> String {
        let literal = |value: &Value| quote_literal(&value.to_string());
        let cursor = self.cursor.as_ref().map_or_else(String::new, |cursor| format!("cursor = {}, ", literal(cursor)));
        let counters = if self.counters.is_empty() { String::new() } else { add_counters(self.counters) };
        let measured = self.measured.map_or_else(
            || "0, 0".to_owned(),
            |oid| format!("pg_stat_get_xact_tuples_updated({oid}), pg_stat_get_xact_tuples_hot_updated({oid})"),
        );
        format!(
            "WITH moved AS (UPDATE dunlin.checkpoints SET {cursor}{counters}batches = batches + 1, \
             rows = rows + {rows}, rows_walked = rows_walked + {walked}, rows_total = rows_total + {total}, \
             state = '{state}', updated_at = now() \
             WHERE migration = {migration} AND step = {step} AND range = {range} AND epoch = {epoch} \
             AND batches = {batches} AND state = 'open' AND current_setting('{MARK}', true) = '{mark}' RETURNING 1) \
             SELECT 1 / (SELECT count(*) FROM moved), pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0'), \
             pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0'), {measured}",
            rows = self.rows,
            walked = self.rows_walked,
            total = self.rows_total,
            state = self.state.as_str(),
            migration = quote_literal(self.address.migration.as_str()),
            step = quote_literal(&self.address.step_text()),
            range = self.address.range,
            epoch = self.epoch.0,
            batches = self.batches,
            mark = self.mark,
        )
    }
}

/// `counters = counters || {each: old + new}, `.
fn add_counters(counters: &Map<String, Value>) -> String {
    let sums: Vec<String> = counters
        .iter()
        .map(|(name, value)| {
            let name = quote_literal(name);
            format!("{name}, coalesce((counters->>{name})::bigint, 0) + {value}")
        })
        .collect();
    format!("counters = counters || jsonb_build_object({}), ", sums.join(", "))
}

impl Advance<'_> {
    /// Advances, and does `then` (such as `;COMMIT`) in the same message.
    ///
    /// # Errors
    /// [`Error::Moved`] when the checkpoint did not match, and those of PostgreSQL.
    pub(crate) async fn execute(&self, client: &Client, then: &str) -> Result<Advanced, Error> {
        let stream = client.simple_query_raw(&format!("{}{then}", self.sql())).await?;
        let mut stream = pin!(stream);
        let mut advanced = None;
        while let Some(message) = stream.next().await {
            match message {
                Ok(SimpleQueryMessage::Row(row)) => advanced = Some(read(&row)?),
                Ok(_) => {}
                // Only before the row is it the fence that divides by zero.
                Err(error) if advanced.is_none() && error.code() == Some(&SqlState::DIVISION_BY_ZERO) => {
                    return Err(Error::Moved);
                }
                Err(error) => return Err(error.into()),
            }
        }
        advanced.ok_or_else(|| Error::Damaged("an advance was not answered".to_owned()))
    }
}

impl Advance<'_> {
    /// Advances and commits, in one message: the server goes on to the commit only when the checkpoint has moved.
    ///
    /// # Errors
    /// [`Error::Moved`] when the checkpoint did not match, and those of PostgreSQL.
    pub(crate) async fn commit(&self, client: &Client, points: &Points) -> Result<Advanced, Error> {
        let advanced = if failpoint::armed(points.advanced) {
            let advanced = self.execute(client, "").await?;
            failpoint::at(client, points.advanced).await?;
            client.batch_execute("COMMIT").await?;
            advanced
        } else {
            self.execute(client, ";COMMIT").await?
        };
        failpoint::at(client, points.committed).await?;
        Ok(advanced)
    }
}

fn read(row: &SimpleQueryRow) -> Result<Advanced, Error> {
    let number = |index: usize| row.get(index).and_then(|text| text.parse::<i64>().ok());
    match (number(1), number(2), number(3), number(4)) {
        (Some(flushed), Some(written), Some(updated), Some(hot_updated)) => {
            Ok(Advanced { flushed: flushed.unsigned_abs(), written: written.unsigned_abs(), updated, hot_updated })
        }
        _ => Err(Error::Damaged("the answer to an advance has another shape".to_owned())),
    }
}
