//! Cutting a table into ranges, while the first of them are already worked on.
//!
//! The walk goes along the key's index, a range at a time; ranges and the plan's cursor are written in one transaction, and
//! reported afterwards. So ranges are contiguous whoever goes on with the plan: each begins where the stored cursor ends. After
//! its first range, and then after some more, a plan gives its lease back so that an agent with one slot gets to work; the
//! controller grants it again behind the ranges.
//!
//! Rows that are inserted above the last key after the walk has passed it are not covered: they were not there when the
//! step was planned.

use std::time::Duration;

use dunlin_proto::v1::work_request::Message;
use dunlin_proto::v1::{PlanTask, PlannedRange, RangesPlanned, StepKind};
use dunlin_shared::key::{KeyBound, KeyRange};
use dunlin_shared::sql::{assigned_columns, quote_ident};
use futures::future::join3;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::context::names;
use super::range::of_catalog;
use super::{Context, Ended, Error, check, given, seal, statement};
use crate::catalog::{self, Key, Table, Walk};
use crate::failpoint::{self, PLAN};
use crate::failure::Place;
use crate::frame::Durability;
use crate::ledger::{self, Address, Advance, Checkpoint, Kind, NewRange, State, StoredRange, Taken};
use crate::target::Connection;

/// Rows in a range where the definition does not say: what is left of the table, shared out over the slots that could work on it,
/// within these limits. Large ranges have large windows and are handed over seldom; small ones at the end let all agents finish
/// at about the same time.
const MOST_IN_RANGE: u32 = 400_000;
const LEAST_IN_RANGE: u32 = 25_000;

/// Rows in a range where it is not known how many are left.
const IN_RANGE: u32 = 50_000;

/// Slots, where the controller does not say.
const SLOTS: i32 = 2;

/// Rows in the first range at most: it is found quickly, so that work begins at once.
const FIRST_RANGE_ROWS: u32 = 10_000;

/// A plan yields after so many ranges with so many rows, or so much time, or so many ranges of any size.
const YIELD_RANGES: usize = 16;
const YIELD_ROWS: i64 = 400_000;
const YIELD_AFTER: Duration = Duration::from_millis(300);
const YIELD_SMALL_RANGES: usize = 1000;

/// Ranges are written and reported when there are so many, or when the first waits for so long.
const WRITE_RANGES: usize = 100;
const WRITE_AFTER: Duration = Duration::from_millis(20);

/// Where a plan stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Cursor {
    /// The number of ranges cut.
    ranges: i32,
    /// The last key of the last of them.
    high: Option<KeyBound>,
}

pub(super) async fn run(context: &Context, task: &PlanTask, again: bool) -> Result<Ended, Error> {
    let Some(step) = &task.step else {
        return Err(Error::Final(context.place("").refuse(
            "the controller sent a plan without its step",
            "Use a controller and agents of the same version.",
        )));
    };
    let place = context.place(&step.name);
    let names = names(step, &place)?;
    let settings = step.batch.clone().unwrap_or_default();
    let mut connection = context.lend(&place).await?;
    let table = catalog::find(&connection, &settings.table).await.map_err(|error| of_catalog(error, &place))?;
    let key = catalog::resolve(&connection, &table, &settings.key).await.map_err(|error| of_catalog(error, &place))?;
    if step.kind() == StepKind::Batch {
        let assigned = assigned_columns(&step.sql, &quote_ident(&table.name));
        if let Some(column) = key.columns.iter().find(|column| assigned.contains(&column.name)) {
            let error = catalog::Error::AssignsKey { table: settings.table.clone(), column: column.name.clone() };
            return Err(of_catalog(error, &place));
        }
    }

    let address = context.address(Some(&names.step), 0);
    let claim = context.claim(&address, Kind::Plan, &step.checksum, again);
    let checkpoint = match context.take(&mut connection, &claim, Durability::AtCommit, &place).await? {
        Taken::Mine(checkpoint) => checkpoint,
        Taken::Applied(applied) => return Err(seal::overtaken(&applied)),
        Taken::Stale(stale) => return Err(Error::Stale(stale)),
    };
    let plan = Plan {
        context,
        task,
        checksum: &step.checksum,
        address,
        place: &place,
        stored_key: stored_key(&table, &key),
        table,
        key,
        fixed_rows: given(settings.range),
    };
    let unfinished = match plan.enter(&mut connection, &checkpoint).await {
        Ok(unfinished) => unfinished,
        Err(error) => {
            connection.rollback().await;
            return Err(error);
        }
    };
    failpoint::at(&connection, PLAN.taken).await.map_err(|error| Error::of_postgres(&error, &place))?;
    let cursor = plan.report_known(&connection, &checkpoint).await?;
    if checkpoint.state == State::Done {
        let already_done = !again && unfinished == 0;
        return Ok(Ended::Done { rows: 0, rows_walked: 0, already_done, applied: None });
    }
    plan.cut(&mut connection, cursor, &checkpoint).await
}

fn stored_key(table: &Table, key: &Key) -> Value {
    let columns: Vec<Value> =
        key.columns.iter().map(|column| json!({"name": column.name, "type": column.type_name})).collect();
    json!({"table": table.quoted(), "columns": columns})
}

struct Plan<'a> {
    context: &'a Context,
    task: &'a PlanTask,
    checksum: &'a str,
    address: Address,
    place: &'a Place,
    stored_key: Value,
    table: Table,
    key: Key,
    /// Rows in a range, where the definition says.
    fixed_rows: Option<u32>,
}

/// Rows in the next range of a table that has so many rows, as far as is known, of which some are in ranges already.
fn range_rows(rows: Option<i64>, cut: i64, slots: i32) -> u32 {
    let slots = if slots > 0 { slots } else { SLOTS };
    let left = rows.map(|rows| rows - cut).filter(|left| *left > 0);
    let Some(left) = left else { return IN_RANGE };
    let part = left / i64::from(slots);
    u32::try_from(part).unwrap_or(u32::MAX).clamp(LEAST_IN_RANGE, MOST_IN_RANGE)
}

impl Plan<'_> {
    /// Ends the transaction that has taken the task: with the checks before where nothing was begun, with a look at what was
    /// begun otherwise. Returns how many ranges are unfinished.
    async fn enter(&self, connection: &mut Connection, checkpoint: &Checkpoint) -> Result<i64, Error> {
        let of_ledger = |error| Error::of_ledger(error, self.place);
        let mut unfinished = 0;
        if checkpoint.fresh {
            if !self.task.before.is_empty()
                && !ledger::anything_begun(connection, &self.address).await.map_err(of_ledger)?
            {
                check::all(self.context, connection, &self.task.before, Durability::AtCommit, self.place).await?;
            }
        } else {
            unfinished = ledger::unfinished_ranges(connection, &self.address).await.map_err(of_ledger)?;
            let begun = checkpoint.state == State::Done || checkpoint.cursor.is_some();
            if checkpoint.state == State::Done && unfinished == 0 && checkpoint.checksum != self.checksum {
                return Err(statement::changed(self.place));
            }
            if begun && checkpoint.key.as_ref().is_some_and(|key| *key != self.stored_key) {
                return Err(Error::Final(self.place.refuse(
                    format!(
                        "the step {} is half done along another table or key: {}",
                        self.place.step,
                        checkpoint.key.as_ref().map_or_else(String::new, Value::to_string)
                    ),
                    format!(
                        "Restore the step's table and key, then `dunlin register DIR` and `dunlin run {}`.",
                        self.place.migration
                    ),
                )));
            }
        }
        ledger::describe(connection, &self.address, self.checksum, Some(&self.stored_key)).await.map_err(of_ledger)?;
        connection.commit().await.map_err(|error| Error::of_postgres(&error, self.place))?;
        Ok(unfinished)
    }

    /// Reports the ranges that the target has and the controller does not know.
    async fn report_known(&self, connection: &Connection, checkpoint: &Checkpoint) -> Result<Cursor, Error> {
        let position = checkpoint.position().map_err(|error| Error::of_ledger(error, self.place))?;
        let cursor: Cursor = position.unwrap_or_default();
        let mut known = self.task.known_ranges;
        if known > cursor.ranges {
            return Err(Error::Final(self.place.refuse(
                format!(
                    "the target knows {} ranges of the step and the controller {known}: it was put back to an earlier state",
                    cursor.ranges
                ),
                format!("Run `dunlin run {}`: it goes on where the target stands.", self.place.migration),
            )));
        }
        while known < cursor.ranges {
            let ranges = ledger::ranges_after(connection, &self.address, known).await;
            let ranges = ranges.map_err(|error| Error::of_ledger(error, self.place))?;
            let Some(last) = ranges.last() else { break };
            known = last.planned.ordinal;
            self.report(&ranges);
        }
        Ok(cursor)
    }

    async fn cut(
        &self,
        connection: &mut Connection,
        mut cursor: Cursor,
        checkpoint: &Checkpoint,
    ) -> Result<Ended, Error> {
        let mut batches = checkpoint.batches;
        let frame = self.context.frame();
        let walk = Walk { table: &self.table, key: &self.key.columns, frame: &frame };
        let of_postgres = |error| Error::of_postgres(&error, self.place);
        let began = Instant::now();
        let first = cursor.ranges == 0;
        let slots = self.task.slots;
        let (mut cut, mut rows_cut) = (0_usize, 0_i64);
        let mut waiting: Vec<NewRange> = Vec::new();
        let mut written = Instant::now();
        loop {
            let low = cursor.high.clone();
            self.context.beat();
            let known = checkpoint.rows_total + rows_cut;
            let rows = self.fixed_rows.unwrap_or_else(|| range_rows(self.table.rows, known, slots));
            let wanted = if low.is_none() { rows.min(FIRST_RANGE_ROWS) } else { rows };
            let full = walk.nth(connection, low.as_ref(), None, wanted).await.map_err(of_postgres)?;
            let (range, more) = match full {
                Some(high) => (Some((high, i64::from(wanted))), true),
                None => (walk.rest(connection, low.as_ref()).await.map_err(of_postgres)?, false),
            };
            if let Some((high, rows_total)) = range {
                cursor = Cursor { ranges: cursor.ranges + 1, high: Some(high.clone()) };
                waiting.push(NewRange { ordinal: cursor.ranges, keys: KeyRange { low, high }, rows_total });
                cut += 1;
                rows_cut += rows_total;
            }
            let stop = !more
                || self.context.told()
                || first
                || began.elapsed() >= YIELD_AFTER
                || (cut >= YIELD_RANGES && rows_cut >= YIELD_ROWS)
                || cut >= YIELD_SMALL_RANGES;
            if stop || waiting.len() >= WRITE_RANGES || written.elapsed() >= WRITE_AFTER {
                let state = if more { State::Open } else { State::Done };
                self.write(connection, &waiting, &cursor, batches, state).await?;
                batches += 1;
                let report: Vec<StoredRange> = std::mem::take(&mut waiting)
                    .into_iter()
                    .map(|planned| StoredRange { planned, done: false, rows: 0 })
                    .collect();
                self.report(&report);
                written = Instant::now();
            }
            if !more {
                return Ok(Ended::Done { rows: 0, rows_walked: 0, already_done: false, applied: None });
            }
            if self.context.told() {
                return Ok(Ended::Told);
            }
            if stop {
                return Ok(Ended::Yielded);
            }
        }
    }

    /// Writes ranges and the cursor behind them, in one transaction and one flight.
    async fn write(
        &self,
        connection: &mut Connection,
        ranges: &[NewRange],
        cursor: &Cursor,
        batches: i64,
        state: State,
    ) -> Result<(), Error> {
        let counters = Map::new();
        let mark = self.context.mark();
        let advance = Advance {
            address: &self.address,
            epoch: self.context.epoch,
            mark: &mark,
            batches,
            cursor: serde_json::to_value(cursor).ok(),
            rows: 0,
            rows_walked: 0,
            rows_total: ranges.iter().map(|range| range.rows_total).sum(),
            counters: &counters,
            state,
            measured: None,
            prepared: false,
        };
        connection.opening();
        let begin = self.context.frame().begin(Durability::AtCommit);
        let insert = async {
            ledger::insert_ranges(connection, &self.address, self.checksum, self.context.run.0, ranges).await?;
            failpoint::at(connection, PLAN.changed).await.map_err(ledger::Error::from)
        };
        let advance = advance.commit(connection, PLAN, "", "");
        let begun = connection.simple_query(&begin);
        let (begun, inserted, advanced) = if failpoint::armed(PLAN.changed) {
            (begun.await, insert.await, advance.await)
        } else {
            join3(begun, insert, advance).await
        };
        let written = begun.map_err(ledger::Error::from).and(inserted).and(advanced.map(|_| ()));
        match written {
            Ok(()) => {
                connection.closed();
                Ok(())
            }
            Err(error) => {
                connection.rollback().await;
                Err(Error::of_ledger(error, self.place))
            }
        }
    }

    fn report(&self, ranges: &[StoredRange]) {
        if ranges.is_empty() {
            return;
        }
        self.context.lease.report(Message::RangesPlanned(RangesPlanned {
            lease: Some(self.context.lease.id().into()),
            ranges: ranges
                .iter()
                .map(|range| PlannedRange {
                    ordinal: range.planned.ordinal,
                    low: range.planned.keys.low.as_ref().map(Into::into),
                    high: Some((&range.planned.keys.high).into()),
                    rows_total: range.planned.rows_total,
                    done: range.done,
                    rows: range.rows,
                })
                .collect(),
            key: self.key.columns.iter().map(dunlin_proto::v1::KeyColumn::from).collect(),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_an_equal_part_of_what_is_left_within_limits() {
        assert_eq!(range_rows(Some(40_000_000), 10_000, 8), MOST_IN_RANGE);
        assert_eq!(range_rows(Some(2_000_000), 1_800_000, 2), 100_000);
        assert_eq!(range_rows(Some(2_000_000), 1_800_000, 1), 200_000);
        assert_eq!(range_rows(Some(2_000_000), 1_800_000, 0), 100_000, "as with 2 slots");
        assert_eq!(range_rows(Some(2_000_000), 1_999_000, 2), LEAST_IN_RANGE);
        assert_eq!(range_rows(Some(1000), 1_900_000, 1), IN_RANGE, "more than the catalog knows");
        assert_eq!(range_rows(None, 0, 1), IN_RANGE);
    }
}
