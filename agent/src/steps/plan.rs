//! Cutting a table into ranges, while the first of them are already worked on.
//!
//! The walk goes along the key's index, a range at a time; ranges and the plan's cursor are written in one transaction, and
//! reported afterwards. So ranges are contiguous whoever goes on with the plan: each begins where the stored cursor ends. After
//! its first range, and then after some more, a plan gives its lease back so that an agent with one slot gets to work; the
//! controller grants it again behind the ranges.
//!
//! The walk ends at an upper bound: the highest key of the table, read once, in the transaction that takes the plan first, and kept in
//! its checkpoint. Transactions that had written to the table by then may still commit rows below the bound, so nothing is cut before
//! they are over: with keys that rise by themselves, every row up to the bound is then there.

use std::time::Duration;

use dunlin_proto::v1::work_request::Message;
use dunlin_proto::v1::{EventType, PlanTask, PlannedRange, RangesPlanned, Step};
use dunlin_shared::key::{KeyBound, KeyRange};
use dunlin_shared::migration::mending;
use dunlin_shared::sql::statement_offset;
use futures::future::join3;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::compare::{self, Compared};
use super::context::names;
use super::subject::{self, Subject};
use super::{Context, Ended, Error, check, earlier, given, located, seal, written};
use crate::catalog::{Key, Table, Walk, Writers};
use crate::failpoint::{self, PLAN};
use crate::failure::Place;
use crate::frame::{Durability, Frame};
use crate::ledger::{self, Address, Advance, Checkpoint, Claim, Kind, NewRange, State, StoredRange, Taken};
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

/// How long transactions are waited for before somebody is told.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// Where a plan stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    /// The number of ranges cut.
    ranges: i32,
    /// The last key of the last of them.
    high: Option<KeyBound>,
    /// The highest key when the step began: nothing above it is walked.
    bound: KeyBound,
    /// The transactions that had written to the table then, as long as they may be open.
    writers: Writers,
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
    let frame = context.frame_of(step, &place)?;
    let settings = step.batch.clone().unwrap_or_default();
    let mut connection = context.lend(&place).await?;
    earlier::end(context, &connection).await;
    let resolved = Subject::resolve(context, &mut connection, step, &place).await;
    // What PostgreSQL says of the statement it says before the first batch.
    let Subject { table, key } =
        resolved.map_err(|error| located::with(error, &step.sql, statement_offset(&step.sql, 0), Some(0)))?;

    let address = context.address(Some(&names.step), 0);
    let claim = context.claim(&address, Kind::Plan, &step.checksum, again);
    let (mut checkpoint, mut compared) =
        match context.take_beside(&mut connection, &claim, Durability::AtCommit, &place).await? {
            (Taken::Mine(checkpoint), compared) => (checkpoint, compared),
            (Taken::Applied(applied), _) => return Err(seal::overtaken(&applied)),
            (Taken::Stale(stale), _) => return Err(Error::Stale(stale)),
            (Taken::OtherText, _) => return Err(Error::Moved),
        };
    let plan = Plan {
        context,
        frame,
        task,
        step,
        checksum: &step.checksum,
        address,
        place: &place,
        stored_key: subject::stored(&table, &key),
        table,
        key,
        fixed_rows: given(settings.range),
    };
    let entered = match plan.enter(&mut connection, &claim, &mut checkpoint, &mut compared).await {
        Ok(entered) => entered,
        Err(error) => {
            connection.rollback().await;
            return Err(error);
        }
    };
    compared.tell(context);
    failpoint::at(&connection, PLAN.taken).await.map_err(|error| Error::of_postgres(&error, &place))?;
    subject::agrees(&plan.key, &task.key, &place)?;
    plan.report_known(&connection, entered.cursor.as_ref()).await?;
    if checkpoint.state == State::Done {
        let already_done = !again && entered.unfinished == 0;
        return Ok(Ended::Done { rows: 0, rows_walked: 0, already_done, applied: None });
    }
    let Some(mut cursor) = entered.cursor else {
        // The table was empty.
        plan.write(&mut connection, &[], None, (checkpoint.batches, checkpoint.fence), State::Done).await?;
        return Ok(Ended::Done { rows: 0, rows_walked: 0, already_done: false, applied: None });
    };
    if !plan.outwait(&connection, &mut cursor).await? {
        return Ok(Ended::Told);
    }
    plan.cut(&mut connection, cursor, &checkpoint).await
}

/// What a plan finds when it enters.
struct Entered {
    /// Where it stands; `None` when the table was empty.
    cursor: Option<Cursor>,
    /// How many ranges are unfinished.
    unfinished: i64,
}

struct Plan<'a> {
    context: &'a Context,
    /// How the transactions of its walk begin.
    frame: Frame,
    task: &'a PlanTask,
    step: &'a Step,
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
    /// begun otherwise. The first reads the upper bound.
    async fn enter(
        &self,
        connection: &mut Connection,
        claim: &Claim,
        checkpoint: &mut Checkpoint,
        compared: &mut Compared,
    ) -> Result<Entered, Error> {
        let mut cursor: Option<Cursor> = checkpoint.position().map_err(|error| Error::of_ledger(error, self.place))?;
        let of_ledger = |error| Error::of_ledger(error, self.place);
        let mut unfinished = 0;
        if checkpoint.fresh {
            if !self.task.before.is_empty()
                && !ledger::anything_begun(connection, &self.address).await.map_err(of_ledger)?
            {
                check::all(self.context, connection, &self.task.before, Durability::AtCommit, self.place).await?;
            }
        } else {
            let begun = checkpoint.state == State::Done || cursor.as_ref().is_some_and(|cursor| cursor.ranges > 0);
            let moved = checkpoint.key.as_ref().is_some_and(|key| !subject::same(key, &self.stored_key));
            if moved && !begun {
                cursor = None;
            } else if moved {
                let place = claim.ordinal.and_then(|ordinal| usize::try_from(ordinal - 1).ok());
                match place.and_then(|place| compared.holding(place).cloned()).filter(|_| checkpoint.untouched) {
                    // Nothing was changed along it: it is cut anew.
                    Some(holding) => {
                        let again = compare::again(self.context, connection, claim, &holding, compared.notes()).await;
                        checkpoint.fence = again.map_err(of_ledger)?;
                        checkpoint.state = State::Open;
                        (checkpoint.cursor, checkpoint.rows_total) = (None, 0);
                        cursor = None;
                    }
                    None => return Err(self.elsewhere(checkpoint)),
                }
            }
            unfinished = ledger::unfinished_ranges(connection, &self.address).await.map_err(of_ledger)?;
        }
        ledger::describe(connection, &self.address, Some(&self.stored_key)).await.map_err(of_ledger)?;
        let of_postgres = |error| Error::of_postgres(&error, self.place);
        if cursor.is_none() && checkpoint.state == State::Open {
            let bound = self.walk().last(connection).await.map_err(of_postgres)?;
            if let Some(bound) = bound {
                // Behind the bound: whoever had a lower key by then, and has not committed, has written to the table.
                let writers = Writers::of(connection, &self.table).await.map_err(of_postgres)?;
                let begun = Cursor { ranges: 0, high: None, bound, writers };
                ledger::begin_walk(connection, &self.address, &begun).await.map_err(of_ledger)?;
                cursor = Some(begun);
            }
        }
        let unlogged = written::walked(connection, self.step, self.table.oid, self.place).await?;
        let witness = written::witness(&self.address, &unlogged);
        connection.batch_execute(&witness).await.map_err(of_postgres)?;
        connection.commit().await.map_err(of_postgres)?;
        Ok(Entered { cursor, unfinished })
    }

    /// Waits for the transactions that may still commit rows below the bound. False when the worker was told to stop.
    async fn outwait(&self, connection: &Connection, cursor: &mut Cursor) -> Result<bool, Error> {
        let mut pause = Duration::from_millis(5);
        let mut note_after = TELL_AFTER;
        let since = Instant::now();
        loop {
            self.context.beat();
            let open =
                cursor.writers.still_open(connection).await.map_err(|error| Error::of_postgres(&error, self.place))?;
            let Some(first) = open.first() else {
                self.context.waits.say(None);
                cursor.writers = Writers::default();
                return Ok(true);
            };
            let others = if open.len() > 1 { format!(", and {} more", open.len() - 1) } else { String::new() };
            if since.elapsed() >= TELL_AFTER {
                let table = self.table.quoted();
                let what = format!("for transactions that wrote to {table} before the step began: {first}{others}");
                self.context.waits.say(Some(what));
            }
            if since.elapsed() >= note_after {
                note_after = since.elapsed() * 4;
                let sentence = format!(
                    "{} waits for transactions that wrote to it before the step began and are still open, since they may commit \
                     rows that the step has to walk: {first}{others}",
                    self.table.quoted()
                );
                self.context.lease.note(EventType::AgentNote, sentence);
            }
            if !self.context.pause(pause).await {
                return Ok(false);
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn walk(&self) -> Walk<'_> {
        Walk { table: &self.table, key: &self.key.columns, frame: &self.frame }
    }

    /// The table or the key is another one now, by the definition, by the catalog or by the search path.
    fn elsewhere(&self, checkpoint: &Checkpoint) -> Error {
        let (migration, step) = (&self.place.migration, &self.place.step);
        Error::Final(self.place.refuse(
            format!(
                "the step {step} is half done along another table or key: {}",
                checkpoint.key.as_ref().map_or_else(String::new, Value::to_string)
            ),
            format!(
                "Restore the step's table and key, then `dunlin register DIR` and `dunlin run {migration}`; or carry the step out again \
                 over all rows, with `dunlin run {migration} --redo {}`.",
                mending::quoted(step)
            ),
        ))
    }

    /// Reports the ranges that the target has and the controller does not know.
    async fn report_known(&self, connection: &Connection, cursor: Option<&Cursor>) -> Result<(), Error> {
        let there = cursor.map_or(0, |cursor| cursor.ranges);
        let mut known = self.task.known_ranges;
        if known > there {
            return Err(Error::Final(self.place.refuse(
                format!(
                    "the target knows {there} ranges of the step and the controller {known}: it was put back to an earlier state"
                ),
                format!("Run `dunlin run {}`: it goes on where the target stands.", self.place.migration),
            )));
        }
        while known < there {
            let ranges = ledger::ranges_after(connection, &self.address, known).await;
            let ranges = ranges.map_err(|error| Error::of_ledger(error, self.place))?;
            let Some(last) = ranges.last() else { break };
            known = last.planned.ordinal;
            self.report(&ranges);
        }
        Ok(())
    }

    async fn cut(
        &self,
        connection: &mut Connection,
        mut cursor: Cursor,
        checkpoint: &Checkpoint,
    ) -> Result<Ended, Error> {
        let mut batches = checkpoint.batches;
        let fence = checkpoint.fence;
        let walk = self.walk();
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
            let full = walk.nth(connection, low.as_ref(), Some(&cursor.bound), wanted).await.map_err(of_postgres)?;
            let (range, more) = match full {
                Some(high) => (Some((high, i64::from(wanted))), true),
                None => (walk.rest(connection, low.as_ref(), &cursor.bound).await.map_err(of_postgres)?, false),
            };
            if let Some((high, rows_total)) = range {
                cursor.ranges += 1;
                cursor.high = Some(high.clone());
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
                self.write(connection, &waiting, Some(&cursor), (batches, fence), state).await?;
                batches += 1;
                let report: Vec<StoredRange> = std::mem::take(&mut waiting)
                    .into_iter()
                    .map(|planned| StoredRange { planned, done: false, rows: 0, rows_walked: 0 })
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
        cursor: Option<&Cursor>,
        (batches, fence): (i64, i64),
        state: State,
    ) -> Result<(), Error> {
        let counters = Map::new();
        let mark = self.context.mark();
        let advance = Advance {
            address: &self.address,
            epoch: self.context.epoch,
            mark: &mark,
            batches,
            cursor: cursor.and_then(|cursor| serde_json::to_value(cursor).ok()),
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
            ledger::insert_ranges(connection, &self.address, self.checksum, self.context.run.0, fence, ranges).await?;
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
                    rows_walked: range.rows_walked,
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
