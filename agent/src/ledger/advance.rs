//! Advancing a checkpoint in the transaction that does the work.
//!
//! The `COMMIT` is sent right behind the statement. The server commits only when exactly one row matched: otherwise the
//! statement divides by zero, which aborts the transaction. Both are one message, whose rest the server skips after an error.

use std::pin::pin;

use dunlin_shared::ids::Epoch;
use dunlin_shared::sql::quote_literal;
use futures::StreamExt;
use serde_json::{Map, Value};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::{Address, Error, State};
use crate::failpoint::{self, Points};
use crate::frame::MARK;

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
    /// True when the session has prepared the statement. It serves advances without counters.
    pub(crate) prepared: bool,
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

/// What stands in the statement where a value belongs: the value itself, or a parameter.
struct Values<T> {
    cursor: T,
    rows: T,
    walked: T,
    total: T,
    state: T,
    migration: T,
    step: T,
    range: T,
    epoch: T,
    batches: T,
    mark: T,
    measured: T,
}

/// The types of the values.
const TYPES: Values<&str> = Values {
    cursor: "jsonb",
    rows: "bigint",
    walked: "bigint",
    total: "bigint",
    state: "text",
    migration: "text",
    step: "text",
    range: "integer",
    epoch: "bigint",
    batches: "bigint",
    mark: "text",
    measured: "oid",
};

/// What an advance answers.
const COLUMNS: usize = 5;

/// The name of the statement of [`to_prepare`].
pub(crate) const PREPARED: &str = "dunlin_advance";

/// What prepares the statement for an advance that is [`prepared`](Advance::prepared): the server then reads and plans it once
/// for each session.
pub(crate) fn to_prepare() -> String {
    let [cursor, rows, walked, total, state, migration, step, range, epoch, batches, mark, measured] =
        std::array::from_fn(|index| format!("${}", index + 1));
    let parameters =
        Values { cursor, rows, walked, total, state, migration, step, range, epoch, batches, mark, measured };
    let types = TYPES.in_order().map(|name| *name).join(", ");
    format!("PREPARE {PREPARED} ({types}) AS {}", parameters.statement(""))
}

impl<T> Values<T> {
    /// In the order of the parameters.
    fn in_order(&self) -> [&T; 12] {
        let Self { cursor, rows, walked, total, state, migration, step, range, epoch, batches, mark, measured } = self;
        [cursor, rows, walked, total, state, migration, step, range, epoch, batches, mark, measured]
    }
}

impl Values<String> {
    /// The statement, without a semicolon. `counters` is an assignment with its comma, or nothing.
    fn statement(&self, counters: &str) -> String {
        let Self { cursor, rows, walked, total, state, migration, step, range, epoch, batches, mark, measured } = self;
        format!(
            "WITH moved AS (UPDATE dunlin.checkpoints SET cursor = coalesce({cursor}::jsonb, cursor), {counters}\
             batches = batches + 1, rows = rows + {rows}, rows_walked = rows_walked + {walked}, \
             rows_total = rows_total + {total}, state = {state}, updated_at = now() \
             WHERE migration = {migration} AND step = {step} AND range = {range} AND epoch = {epoch} \
             AND batches = {batches} AND state = 'open' AND current_setting('{MARK}', true) = {mark} RETURNING 1) \
             SELECT 1 / (SELECT count(*) FROM moved), pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint, \
             pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, \
             pg_stat_get_xact_tuples_updated({measured}), pg_stat_get_xact_tuples_hot_updated({measured})"
        )
    }
}

impl Advance<'_> {
    /// The statement with its values in it, without a semicolon.
    fn sql(&self) -> String {
        let cursor =
            self.cursor.as_ref().map_or_else(|| "NULL".to_owned(), |cursor| quote_literal(&cursor.to_string()));
        let values = Values {
            cursor,
            rows: self.rows.to_string(),
            walked: self.rows_walked.to_string(),
            total: self.rows_total.to_string(),
            state: quote_literal(self.state.as_str()),
            migration: quote_literal(self.address.migration.as_str()),
            step: quote_literal(&self.address.step_text()),
            range: self.address.range.to_string(),
            epoch: self.epoch.0.to_string(),
            batches: self.batches.to_string(),
            mark: quote_literal(self.mark),
            measured: self.measured.unwrap_or_default().to_string(),
        };
        if self.prepared && self.counters.is_empty() {
            return format!("EXECUTE {PREPARED} ({})", values.in_order().map(String::as_str).join(", "));
        }
        values.statement(&if self.counters.is_empty() { String::new() } else { add_counters(self.counters) })
    }

    /// Advances, and does `before` (such as the way out of the SQL of a step) and `then` (such as `;COMMIT`) in the same message.
    ///
    /// # Errors
    /// [`Error::Moved`] when the checkpoint did not match or `before` divides by zero, and those of PostgreSQL.
    pub(crate) async fn execute(&self, client: &Client, before: &str, then: &str) -> Result<Advanced, Error> {
        let stream = client.simple_query_raw(&format!("{before}{}{then}", self.sql())).await?;
        let mut stream = pin!(stream);
        let mut advanced = None;
        while let Some(message) = stream.next().await {
            match message {
                Ok(SimpleQueryMessage::Row(row)) if row.len() == COLUMNS => advanced = Some(read(&row)?),
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

    /// Advances and commits, in one message: the server goes on to the commit, and to `then` behind it, only when the checkpoint has
    /// moved.
    ///
    /// # Errors
    /// [`Error::Moved`] when the checkpoint did not match or `before` divides by zero, and those of PostgreSQL.
    pub(crate) async fn commit(
        &self,
        client: &Client,
        points: &Points,
        before: &str,
        then: &str,
    ) -> Result<Advanced, Error> {
        let advanced = if failpoint::armed(points.advanced) {
            let advanced = self.execute(client, before, "").await?;
            failpoint::at(client, points.advanced).await?;
            client.batch_execute(&format!("COMMIT{then}")).await?;
            advanced
        } else {
            self.execute(client, before, &format!(";COMMIT{then}")).await?
        };
        failpoint::at(client, points.committed).await?;
        Ok(advanced)
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

fn read(row: &SimpleQueryRow) -> Result<Advanced, Error> {
    let number = |index: usize| row.get(index).and_then(|text| text.parse::<i64>().ok());
    match (number(1), number(2), number(3), number(4)) {
        (Some(flushed), Some(written), Some(updated), Some(hot_updated)) => {
            Ok(Advanced { flushed: flushed.unsigned_abs(), written: written.unsigned_abs(), updated, hot_updated })
        }
        _ => Err(Error::Damaged("the answer to an advance has another shape".to_owned())),
    }
}
