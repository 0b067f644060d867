//! A step of SQL in one transaction, or a whole atomic migration.
//!
//! The epoch, the checks, the SQL and the checkpoint (or the registry row) are one transaction: a lease that is not current
//! fails at taking, and one that is interrupted leaves nothing. Whether a commit whose answer was lost happened is read from
//! the checkpoint or the registry when the step is run again.

use dunlin_proto::v1::{StatementTask, Step, StepKind};
use dunlin_shared::migration::mending::Fate;
use futures::future::try_join;
use serde_json::Map;
use tokio_postgres::IsolationLevel;

use super::compare::{self, Compared};
use super::context::{isolation, names};
use super::framed::Framed;
use super::locked::Locked;
use super::rows::Count;
use super::written::{self, By};
use super::{Context, Ended, Error, advice, check, existing, located, no_transaction, notices, seal};
use crate::failpoint::{self, Points};
use crate::failure::Place;
use crate::frame::{Durability, Frame};
use crate::ledger::{self, Address, Advance, Checkpoint, Kind, State, Taken};
use crate::target::Connection;

pub(super) async fn run(context: &Context, task: &StatementTask, again: bool) -> Result<Ended, Error> {
    let (address, place, checksum, level) = match (&task.seal, task.steps.as_slice()) {
        (Some(seal), steps) => {
            let checksum = seal.migration.as_ref().map_or("", |migration| migration.checksum.as_str());
            // A migration of one step may say it there.
            let own = steps.iter().map(|step| step.isolation).find(|level| *level != 0).unwrap_or_default();
            let level = seal.migration.as_ref().map(|migration| migration.isolation).filter(|level| *level != 0);
            (context.address(None, 0), context.place(""), checksum, level.unwrap_or(own))
        }
        (None, [step]) => {
            let place = context.place(&step.name);
            if step.kind() == StepKind::SqlNoTransaction {
                return no_transaction::run(context, task, step, again).await;
            }
            (context.address(Some(&names(step, &place)?.step), 0), place, step.checksum.as_str(), step.isolation)
        }
        (None, steps) => {
            return Err(Error::Final(context.place("").refuse(
                format!("the controller sent a task of {} steps that is not an atomic migration", steps.len()),
                "Use a controller and agents of the same version.",
            )));
        }
    };
    let isolation = isolation(level, &place)?;
    let mut connection = context.lend(&place).await?;
    let claim = context.claim(&address, Kind::Statement, checksum, again);
    let (checkpoint, mut compared) = match context.take(&mut connection, &claim, Durability::AtCommit, &place).await? {
        (Taken::Mine(checkpoint), compared) => (checkpoint, compared),
        (Taken::Applied(applied), _) if task.seal.is_some() => {
            return Ok(seal::applied_before(context, *applied, again));
        }
        (Taken::Applied(applied), _) => return Err(seal::overtaken(&applied)),
        (Taken::Stale(stale), _) => return Err(Error::Stale(stale)),
        (Taken::OtherText, _) => return Err(Error::Moved),
    };
    if checkpoint.state == State::Done {
        return done_before(context, &mut connection, &checkpoint, compared, again, &place).await;
    }
    if !matches!(isolation, IsolationLevel::ReadCommitted) {
        // The task was taken with statements that must see what others have committed meanwhile. The SQL must not: it has a transaction
        // of its own, and what happens between the two is found out when the checkpoint is advanced, or erased.
        let of_postgres = |error| Error::of_postgres(&error, &place);
        // Begun, and nothing is left of it as long as it is not done: the SQL may be mended.
        let noted = ledger::note_repaired(&connection, &address, context.epoch.0, checkpoint.batches).await;
        if let Err(error) = noted {
            connection.rollback().await;
            return Err(Error::of_ledger(error, &place));
        }
        connection.commit().await.map_err(of_postgres)?;
        let frame = Frame { isolation, ..context.frame_of_statement() };
        connection.begin(&frame.begin_isolated(Durability::AtCommit)).await.map_err(of_postgres)?;
    }
    let work = Work { context, task, address: &address, place: &place, checkpoint: &checkpoint };
    let ended = work.execute(&mut connection, &mut compared).await.map_err(|error| advice::in_transaction(error, task));
    match ended {
        Ok(Ended::Done { .. }) => compared.tell(context),
        Ok(_) => {}
        Err(_) => connection.rollback().await,
    }
    ended
}

/// The answer for a step that the target has finished already. Its name may be a new one.
pub(super) async fn done_before(
    context: &Context,
    connection: &mut Connection,
    checkpoint: &Checkpoint,
    compared: Compared,
    again: bool,
    place: &Place,
) -> Result<Ended, Error> {
    connection.commit().await.map_err(|error| Error::of_postgres(&error, place))?;
    compared.tell(context);
    Ok(Ended::Done { rows: checkpoint.rows, rows_walked: checkpoint.rows_walked, already_done: !again, applied: None })
}

/// Where work on a task can be made to fail on purpose.
pub(super) fn points(task: &StatementTask) -> &'static Points {
    match (&task.seal, task.steps.as_slice()) {
        (Some(_), _) => failpoint::ATOMIC,
        (None, [step]) if step.kind() == StepKind::SqlNoTransaction => failpoint::OUTSIDE,
        (None, _) => failpoint::STATEMENT,
    }
}

struct Work<'a> {
    context: &'a Context,
    task: &'a StatementTask,
    address: &'a Address,
    place: &'a Place,
    checkpoint: &'a Checkpoint,
}

impl Work<'_> {
    async fn execute(&self, connection: &mut Connection, compared: &mut Compared) -> Result<Ended, Error> {
        let of_ledger = |error| Error::of_ledger(error, self.place);
        let of_postgres = |error| Error::of_postgres(&error, self.place);
        let points = points(self.task);
        failpoint::at(connection, points.taken).await.map_err(of_postgres)?;
        // Whoever has taken this task before has left nothing of it, or else it is done.
        if !self.task.before.is_empty() && !ledger::anything_begun(connection, self.address).await.map_err(of_ledger)? {
            check::all(self.context, connection, &self.task.before, Durability::AtCommit, self.place).await?;
        }
        let frame = self.context.frame_of_statement();
        let framed = Framed::within(connection, frame, Durability::AtCommit).await.map_err(of_postgres)?;
        let locked = Locked::within(self.context, connection, self.place).await?;
        let mut rows = 0;
        for (place, step) in self.task.steps.iter().enumerate() {
            if self.task.seal.is_some() && !self.begin(connection, compared, place, step).await? {
                continue;
            }
            rows += self.step(connection, (&framed, &locked), step).await?;
        }
        failpoint::at(connection, points.changed).await.map_err(of_postgres)?;
        let applied = match &self.task.seal {
            Some(task) => {
                let (sums, stories) = match compared.anything_held() {
                    // What was done of it step by step, by an earlier definition.
                    true => try_join(
                        ledger::sums(connection, &self.context.migration),
                        ledger::stories(connection, &self.context.migration),
                    )
                    .await
                    .map_err(of_ledger)?,
                    false => (ledger::Sums::default(), Vec::new()),
                };
                rows = rows.saturating_add(sums.rows);
                let sums = ledger::Sums { rows, ..sums };
                Some(seal::write(self.context, connection, task, self.address, &sums, stories, self.place).await?)
            }
            None => {
                self.advance(connection, rows).await?;
                None
            }
        };
        failpoint::at(connection, points.advanced).await.map_err(of_postgres)?;
        if self.context.lost() {
            connection.rollback().await;
            return Ok(Ended::Told);
        }
        connection.commit().await.map_err(of_postgres)?;
        failpoint::at(connection, points.committed).await.map_err(of_postgres)?;
        Ok(Ended::Done { rows, rows_walked: 0, already_done: false, applied })
    }

    /// Whether a step of an atomic migration is to be carried out: an earlier definition may not have been atomic, and what was done
    /// of it then is not done again.
    async fn begin(
        &self,
        connection: &Connection,
        compared: &mut Compared,
        place: usize,
        step: &Step,
    ) -> Result<bool, Error> {
        match (compared.fate(place), compared.holding(place).cloned()) {
            (Fate::Skip, _) => {
                compared.note(format!("the step {:?} was skipped: the target has it done already", step.name));
                return Ok(false);
            }
            (Fate::Again, Some(holding)) => {
                let address = self.context.address(Some(&names(step, self.place)?.step), 0);
                let claim = self.context.claim(&address, Kind::Statement, &step.checksum, false);
                let again = compare::again(self.context, connection, &claim, &holding, compared.notes()).await;
                again.map_err(|error| Error::of_ledger(error, self.place))?;
            }
            (Fate::Work | Fate::Again | Fate::Adopt, _) => {}
        }
        Ok(true)
    }

    async fn step(
        &self,
        connection: &Connection,
        (framed, locked): (&Framed, &Locked<'_>),
        step: &Step,
    ) -> Result<i64, Error> {
        let place = self.context.place(&step.name);
        // What was said before is Dunlin's own.
        drop(connection.heard());
        let count = Count::of(&step.sql);
        let counting = count.execute(connection, &step.sql);
        let settings = locked.settings();
        let work = framed.execute(connection, step.row_security, &settings, counting, &place);
        let changed = locked.over(&step.sql, work, &place).await;
        let heard = connection.heard();
        notices::tell(self.context, &step.name, &heard);
        let rows = changed.map_err(|error| located::in_sql(error, &step.sql, heard.failed))?;
        existing::compare_within(self.context, connection, framed, &step.sql, &heard, &place).await?;
        self.keep_written(connection, step, &place).await?;
        Ok(rows)
    }

    /// Refuses what the step may not write, and leaves a witness of what a crash would empty.
    async fn keep_written(&self, connection: &Connection, step: &Step, place: &Place) -> Result<(), Error> {
        let of_postgres = |error| Error::of_postgres(&error, place);
        let written = written::ask(connection).await.map_err(of_postgres)?;
        let unlogged = written::permitted(step, By::Statement, &written, place)?;
        // With an atomic migration the checkpoint goes, and nothing comes behind it that could find a loss.
        if self.task.seal.is_none() && !unlogged.is_empty() {
            connection.batch_execute(&written::witness(self.address, &unlogged)).await.map_err(of_postgres)?;
        }
        Ok(())
    }

    async fn advance(&self, connection: &mut Connection, rows: i64) -> Result<(), Error> {
        let mark = self.context.mark();
        let counters = Map::new();
        let advance = Advance {
            address: self.address,
            epoch: self.context.epoch,
            mark: &mark,
            batches: self.checkpoint.batches,
            cursor: None,
            rows,
            rows_walked: 0,
            rows_total: 0,
            counters: &counters,
            state: State::Done,
            measured: None,
            prepared: false,
        };
        match advance.execute(connection, "", "").await {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::of_ledger(error, self.place)),
        }
    }
}

/// SQL of a step has ended the transaction that it ran in.
pub(super) fn ended_transaction(place: &Place) -> Error {
    Error::Final(place.refuse(
        "the SQL ended the transaction that it ran in; what it committed by itself is not undone",
        format!(
            "Take COMMIT and ROLLBACK out of it, look at what it has changed, then `dunlin register DIR` and `dunlin run {}`.",
            place.migration
        ),
    ))
}
