//! Working through one range, batch by batch.
//!
//! Each batch is one transaction: `BEGIN`, settings and the change in one message; then the advance of the checkpoint with the
//! `COMMIT` behind it, which commits only if the checkpoint was still this lease's. The first message of the next batch is sent with
//! them, so that the server does not wait for the agent. From the second batch on the advance is a prepared statement. All batches
//! but the last commit without waiting for the disk; the last one waits, and only then is the range reported done.

mod batch;
mod cost;
mod durable;
mod guarded;
mod opening;
mod order;
mod pace;
mod planner;
mod shares;
mod stripes;

use std::time::Duration;

use dunlin_proto::v1::{BatchPlan, EventType, RangeTask, Step};
use dunlin_shared::key::{KeyBound, KeyColumn, KeyRange};
use dunlin_shared::postgres::Failed;
use dunlin_shared::sql::placeholder::BatchSql;
use tokio::time::Instant;

use self::batch::Body;
use self::cost::Then;
use self::durable::{Durable, Sums};
use self::opening::Order;
use self::order::{Cursor, Jobs};
use self::pace::Pace;
use self::stripes::{HotShare, Shown};
use super::context::names;
use super::rows::Count;
use super::subject::Again;
use super::{Context, Ended, Error, given, seal};
use crate::catalog::{self, Guard, Table, Walk};
use crate::failpoint::{self, Points};
use crate::failure::Place;
use crate::frame::{Durability, Frame};
use crate::ledger::{Address, Checkpoint, Claim, Kind, State, Taken};
use crate::target::Connection;

/// What the agent has learnt about a step.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Learnt {
    order: Option<Order>,
    pace: Pace,
    /// True once the planner was asked about a batch.
    asked: bool,
    /// True once its large fixed cost was told.
    told: bool,
}

pub(super) async fn run(context: &Context, task: &RangeTask, again: bool) -> Result<Ended, Error> {
    let (Some(step), Some(planned)) = (&task.step, &task.range) else {
        return Err(malformed(&context.place(""), "a range without its step or its keys"));
    };
    let mut place = context.place(&step.name);
    let names = names(step, &place)?;
    let range = KeyRange::try_from(planned).map_err(|error| malformed(&place, &error.to_string()))?;
    if task.key.is_empty()
        || [range.low.as_ref(), Some(&range.high)].into_iter().flatten().any(|b| b.0.len() != task.key.len())
    {
        return Err(malformed(&place, "a range whose keys do not have the columns of the key"));
    }
    place.rows = in_words(task.key.iter().map(|column| column.name.as_str()), &range);

    let address = context.address(Some(&names.step), planned.ordinal);
    let mut connection = context.lend(&place).await?;
    let claim = Claim { keys: Some(range.clone()), ..context.claim(&address, Kind::Range, &step.checksum, again) };
    let checkpoint = match context.take(&mut connection, &claim, Durability::Later, &place).await?.0 {
        Taken::Mine(checkpoint) => checkpoint,
        Taken::Applied(applied) => return Err(seal::overtaken(&applied)),
        Taken::Stale(stale) if stale.stored.is_none() && stale.applications == context.applications => {
            return Err(Error::Final(place.refuse(
                format!("the target does not know range {}: it was put back to an earlier state", planned.ordinal),
                format!("Run `dunlin run {}`: it goes on where the target stands.", place.migration),
            )));
        }
        Taken::Stale(stale) => return Err(Error::Stale(stale)),
        Taken::OtherText => {
            return Err(Error::Final(place.refuse(
                format!(
                    "the target has range {} for another text of the step, or with other ends: the step was begun again, or the target put back",
                    planned.ordinal
                ),
                format!("Run `dunlin run {}`: it goes on where the target stands.", place.migration),
            )));
        }
    };
    context.lease.taken(checkpoint.rows_walked);
    let of_postgres = |error| Error::of_postgres(&error, &place);
    connection.commit().await.map_err(of_postgres)?;
    failpoint::at(&connection, points(task).taken).await.map_err(of_postgres)?;
    if checkpoint.state == State::Done {
        return Ok(Ended::Done {
            rows: checkpoint.rows,
            rows_walked: checkpoint.rows_walked,
            already_done: !again,
            applied: None,
        });
    }

    let settings = step.batch.clone().unwrap_or_default();
    let plan = BatchPlan::try_from(settings.plan)
        .map_err(|_| malformed(&place, &format!("a batch with the plan {}", settings.plan)))?;
    let Again { table, key, assigned, guard } =
        Again::find(context, &mut connection, step, &address, &task.key, &place).await?;
    let body = match &names.transform {
        None => Body::Sql(BatchSql::parse(&step.sql).map_err(|error| {
            Error::Final(place.refuse(format!("the SQL of the step cannot be read: {error}"), place.mend()))
        })?),
        Some(name) => Body::Code(context.transforms.get(name).ok_or_else(|| {
            Error::Final(place.refuse(
                format!("this agent has no transform `{name}`"),
                format!("Start an agent that has it, then `dunlin run {}`.", place.migration),
            ))
        })?),
    };
    let sums = Sums { rows: checkpoint.rows, rows_walked: checkpoint.rows_walked };
    let mut worker = Worker {
        context,
        step,
        address,
        cursor: checkpoint.position().map_err(|error| Error::of_ledger(error, &place))?,
        sums,
        checkpoint,
        place: &place,
        table,
        assigned,
        guard,
        left_out: 0,
        key: key.columns,
        range,
        body,
        count: Count::of(&step.sql),
        frame: context.frame_of(step, &place)?,
        fixed_rows: given(settings.size),
        batch_rows: pace::FIRST,
        durable: Durable::default(),
        hot: HotShare::default(),
        window_rows: i64::from(stripes::MOST_IN_WINDOW),
        opened: sums,
        probing: false,
        strict: plan == BatchPlan::Strict,
        asked: false,
        proven: false,
        prepared: false,
        witnessed: Vec::new(),
        failed: None,
    };
    worker.batch_rows = worker.fixed_rows.unwrap_or_else(|| worker.learnt(|learnt| learnt.pace).rows());
    let ended = worker.run(&mut connection, given(settings.stripes)).await;
    worker.tell_left_out();
    ended
}

/// Where work on a range can be made to fail on purpose.
pub(super) fn points(task: &RangeTask) -> &'static Points {
    match &task.step {
        Some(step) if !step.transform.is_empty() => failpoint::CODE,
        _ => failpoint::RANGE,
    }
}

/// One lease of one range.
struct Worker<'a> {
    context: &'a Context,
    step: &'a Step,
    address: Address,
    place: &'a Place,
    checkpoint: Checkpoint,
    table: Table,
    /// The columns of the table that the step assigns.
    assigned: Vec<String>,
    /// What batches must show of the keys of their rows.
    guard: Option<Guard>,
    /// Rows that matched and that triggers left out.
    left_out: i64,
    key: Vec<KeyColumn>,
    range: KeyRange,
    body: Body,
    /// How the rows of a batch are counted.
    count: Count,
    /// How its transactions begin.
    frame: Frame,
    /// Rows of a batch, where the definition says.
    fixed_rows: Option<u32>,
    /// Rows of a batch in this window.
    batch_rows: u32,
    cursor: Option<Cursor>,
    sums: Sums,
    durable: Durable,
    hot: HotShare,
    /// Rows of the window, or of what is left of it when it is cut anew.
    window_rows: i64,
    /// What stood there when the window was opened, or the lease taken.
    opened: Sums,
    /// True in a small window that is to show something.
    probing: bool,
    /// True when the step is refused where the server does not use the key.
    strict: bool,
    /// True once the planner was asked, or need not be.
    asked: bool,
    /// True once a batch of this lease was committed.
    proven: bool,
    /// True once the session of this lease has prepared the advance of the checkpoint.
    prepared: bool,
    /// Unlogged tables of which this lease has left a witness.
    witnessed: Vec<u32>,
    /// Where the server has said that something failed.
    failed: Option<Failed>,
}

impl Worker<'_> {
    async fn run(&mut self, connection: &mut Connection, stripes: Option<u32>) -> Result<Ended, Error> {
        loop {
            let cursor = match self.cursor.take() {
                Some(cursor) if !cursor.window_done() => cursor,
                Some(cursor) if cursor.window.high == self.range.high => {
                    return Err(malformed(self.place, "a range that is finished"));
                }
                finished => self.open(connection, finished.map(|cursor| cursor.window), stripes).await?,
            };
            if let Some(ended) = self.window(connection, cursor).await? {
                return Ok(ended);
            }
        }
    }

    /// Reads or changes what is known about the step.
    fn learnt<T>(&self, work: impl FnOnce(&mut Learnt) -> T) -> T {
        self.context.tuning.with(self.context, self.step, work)
    }

    /// Works through a window from the cursor on. `None` when it is finished and the range is not.
    async fn window(&mut self, connection: &mut Connection, cursor: Cursor) -> Result<Option<Ended>, Error> {
        let last_window = cursor.window.high == self.range.high;
        let rows = if last_window { self.rows_left() } else { self.rows_left().min(self.window_rows) };
        self.hot.reset();
        let (before, mut spent) = (self.sums, Duration::ZERO);
        let rest = self.bounds(connection, &cursor, rows).await?;
        let next_stripe = cursor.after(&cursor.window.high);
        let whole = if next_stripe.window_done() {
            Vec::new()
        } else if cursor.at == cursor.window.low {
            order::every_nth(&rest, self.split(&cursor))
        } else {
            // In the middle of a stripe `rest` are the bounds of its rest only, since keys cannot be compared here.
            self.bounds(connection, &next_stripe, rows).await?
        };
        let mut jobs = Jobs::new(cursor, &rest, &whole, rows, last_window).peekable();
        if let Some(first) = jobs.peek() {
            self.ask(connection, first).await?;
            let pace = self.learnt(|learnt| learnt.pace);
            let untouched = first.cursor.at == self.range.low && self.sums == self.opened;
            if untouched && self.fixed_rows.is_none() && pace.avoids_batches() && pace.rows() > self.batch_rows {
                // Nothing of the range was changed: it begins anew, with batches of the size that the plan asks for.
                self.batch_rows = pace.rows();
                return Ok(None);
            }
        }
        let (mut ahead, mut then) = (None, Then::GoOn);
        while let Some(job) = jobs.next() {
            self.context.beat();
            let next = if then != Then::GoOn || self.context.told() { None } else { jobs.peek() };
            let begun = Instant::now();
            let changes_now = ahead.is_none().then_some(job.walked);
            ahead = self.batch(connection, &job, ahead, next).await?;
            let took = begun.elapsed();
            spent += took;
            let changed_ahead = ahead.as_ref().and(next).map(|next| next.walked);
            if let Some(now) = self.saw(&job, &[changes_now, changed_ahead], took) {
                then = now;
            }
            if job.after.window_done() {
                self.learn(&job.after, before, spent);
            }
            if ahead.is_none() && then == Then::Tell {
                self.tell_cost(connection, &job).await?;
                then = Then::GoOn;
            }
            if job.last {
                return Ok(Some(Ended::Done {
                    rows: self.sums.rows,
                    rows_walked: self.sums.rows_walked,
                    already_done: false,
                    applied: None,
                }));
            }
            if ahead.is_none() && self.context.told() {
                return Ok(Some(Ended::Told));
            }
            let done = job.after.window_done();
            self.cursor = Some(job.after);
            if ahead.is_none() && then == Then::CutAnew && !done {
                self.window_rows = rows - (self.sums.rows_walked - before.rows_walked);
                self.batch_rows = self.learnt(|learnt| learnt.pace).rows();
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Takes in what a window has shown.
    fn learn(&self, cursor: &Cursor, before: Sums, spent: Duration) {
        let shown = Shown {
            stripes: cursor.window.stripes.count(),
            walked: self.sums.rows_walked - self.opened.rows_walked,
            changed: self.sums.rows - self.opened.rows,
            hot: self.hot,
        };
        let given_up = self.learnt(|learnt| {
            if shown.stripes > 1 {
                learnt.pace.learn(self.sums.rows_walked - before.rows_walked, spent);
            } else if learnt.pace.large_fixed_cost().is_some() {
                return None;
            }
            learnt.order.as_mut().and_then(|order| order.stripes.learn(&shown))
        });
        if let Some(sentence) = given_up {
            self.context.lease.detail(EventType::AgentNote, sentence);
        }
    }

    /// Rows of the window that a batch spans, in all stripes but the first.
    fn span(&self, cursor: &Cursor) -> u32 {
        cursor.window.stripes.span(self.batch_rows, self.fixed_rows.is_some())
    }

    /// Into how many each batch of this stripe is split.
    fn split(&self, cursor: &Cursor) -> u32 {
        let stripes = &cursor.window.stripes;
        let first = cursor.stripe == 0 && stripes.count() > 1;
        if first && self.fixed_rows.is_none() {
            stripes::split_in_first(stripes.in_first(self.span(cursor)))
        } else {
            1
        }
    }

    /// The ends of the batches of the cursor's stripe, from there on; the last is the end of the window.
    async fn bounds(&self, connection: &mut Connection, cursor: &Cursor, rows: i64) -> Result<Vec<KeyBound>, Error> {
        let of_postgres = |error| Error::of_postgres(&error, self.place);
        let (low, high) = (cursor.at.as_ref(), &cursor.window.high);
        let span = (self.span(cursor) / self.split(cursor)).max(1);
        if rows <= i64::from(span) {
            return Ok(vec![high.clone()]);
        }
        if let Some(low) = low
            && let Some(bounds) = order::dense_bounds(&self.key, low, high, rows, span)
        {
            return Ok(bounds);
        }
        let mut bounds = self.walk().grid(connection, low, high, span).await.map_err(of_postgres)?;
        if bounds.last() != Some(high) {
            bounds.push(high.clone());
        }
        Ok(bounds)
    }

    fn walk(&self) -> Walk<'_> {
        Walk { table: &self.table, key: &self.key, frame: &self.frame }
    }

    fn rows_left(&self) -> i64 {
        (self.checkpoint.rows_total - self.sums.rows_walked).max(0)
    }
}

/// A key range in words, such as `(id) > (1000) and <= (2000)`.
fn in_words<'a>(names: impl Iterator<Item = &'a str>, range: &KeyRange) -> String {
    let names: Vec<&str> = names.collect();
    let low = range.low.as_ref().map_or_else(String::new, |low| format!("> {low} and "));
    format!("({}) {low}<= {}", names.join(", "), range.high)
}

fn malformed(place: &Place, what: &str) -> Error {
    Error::Final(
        place.refuse(format!("the controller sent {what}"), "Use a controller and agents of the same version."),
    )
}

pub(super) fn of_catalog(error: catalog::Error, place: &Place) -> Error {
    match error {
        catalog::Error::Postgres(error) => Error::of_postgres(&error, place),
        error => Error::Final(place.refuse(error.to_string(), place.mend())),
    }
}
