//! A step outside a transaction, such as CREATE INDEX CONCURRENTLY.
//!
//! Its effect and its checkpoint cannot be committed together, so it is the one kind of step that can be carried out more than
//! once. The checkpoint says *begun* before the statement starts; whoever finds it begun repairs what an interrupted attempt
//! left, and repeats the statement. Two attempts never run at the same time: a session holds an advisory lock, on a
//! connection of its own. The lock is tried and polled, never waited for, because a concurrent build waits for all
//! transactions that are older than itself, and a session that waits for a lock is in one.
//!
//! The session of an agent that is dead or stands still must not keep the lock: the server looks while it builds whether the
//! agent is still there, and ends a session that has nothing to do.

use std::time::Duration;

use dunlin_proto::v1::{EventType, StatementTask, Step};
use dunlin_shared::postgres::{Heard, Session};
use dunlin_shared::sql::{concurrent_index, concurrent_reindex};
use serde_json::Map;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::context::{names, needs_direct};
use super::repair::Repair;
use super::rows::Count;
use super::watched::{self, Patience};
use super::{Context, Ended, Error, advice, answer, check, existing, located, notices, seal, statement};
use crate::failpoint::{self, OUTSIDE};
use crate::failure::Place;
use crate::frame::{self, Durability, Frame};
use crate::ledger::{self, Address, Advance, Checkpoint, Kind, State, Taken};
use crate::limits::in_words;
use crate::target::{Direct, Ground, NO_TRANSACTION_TIMEOUT};

/// How long the lock is polled before the lease is given back.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);

/// How often the server looks whether the agent is still there while it builds, where it can.
const CONNECTION_CHECK: &str = "SET client_connection_check_interval = '1s';";

/// How long the session may idle: many times longer than between two statements of an agent that lives.
const IDLE_CHECK: &str = "SET idle_session_timeout = '10s'";

const TRY_LOCK: &str = "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended($1, 0))";

pub(super) async fn run(context: &Context, task: &StatementTask, step: &Step, again: bool) -> Result<Ended, Error> {
    let place = context.place(&step.name);
    let address = context.address(Some(&names(step, &place)?.step), 0);
    let of_postgres = |error| Error::of_postgres(&error, &place);

    let mut connection = context.lend(&place).await?;
    if !context.target.can_be_direct() {
        return Err(needs_direct(&step.name, &place));
    }
    let claim = context.claim(&address, Kind::Statement, &step.checksum, again);
    let (checkpoint, compared) =
        match context.take_beside(&mut connection, &claim, Durability::AtCommit, &place).await? {
            (Taken::Mine(checkpoint), compared) => (checkpoint, compared),
            (Taken::Applied(applied), _) => return Err(seal::overtaken(&applied)),
            (Taken::Stale(stale), _) => return Err(Error::Stale(stale)),
            (Taken::OtherText, _) => return Err(Error::Moved),
        };
    if checkpoint.state == State::Done {
        return statement::done_before(context, &mut connection, &checkpoint, compared, again, &place).await;
    }
    if checkpoint.fresh {
        let begun = ledger::anything_begun(&connection, &address).await;
        let checked = match begun {
            Ok(true) => Ok(()),
            Ok(false) => check::all(context, &mut connection, &task.before, Durability::AtCommit, &place).await,
            Err(error) => Err(Error::of_ledger(error, &place)),
        };
        if let Err(error) = checked {
            connection.rollback().await;
            return Err(error);
        }
    } else {
        let kept = ledger::describe(&connection, &address, None).await;
        if let Err(error) = kept {
            connection.rollback().await;
            return Err(Error::of_ledger(error, &place));
        }
    }
    connection.commit().await.map_err(of_postgres)?;
    compared.tell(context);
    failpoint::at(&connection, OUTSIDE.taken).await.map_err(of_postgres)?;
    drop(connection);

    let Direct { session, role, ground } = context.direct(&place).await?;
    let name = frame::application_name(&context.mark());
    let look = if ground.looks { CONNECTION_CHECK } else { "" };
    let settings = format!("{look}{IDLE_CHECK};SET application_name = '{name}';{NO_TRANSACTION_TIMEOUT}");
    session.batch_execute(&settings).await.map_err(of_postgres)?;
    let attempt = Attempt { context, step, address, place: &place, checkpoint, session, role, ground };
    if !attempt.lock().await? {
        return Ok(Ended::Told);
    }
    attempt.execute().await
}

/// Statements that leave nothing once they have failed and were repaired. Others may have committed some of their work.
fn repairable(sql: &str) -> bool {
    concurrent_index(sql).is_some() || concurrent_reindex(sql).is_some()
}

struct Attempt<'a> {
    context: &'a Context,
    step: &'a Step,
    address: Address,
    place: &'a Place,
    checkpoint: Checkpoint,
    session: Session,
    /// The role of the session, which can have another one than the agent has elsewhere.
    role: String,
    /// What the session stands on.
    ground: Ground,
}

impl Attempt<'_> {
    fn failed(&self, error: &tokio_postgres::Error) -> Error {
        Error::of_postgres(error, self.place)
    }

    /// Polls the advisory lock of the step. False when the worker was told to stop meanwhile.
    async fn lock(&self) -> Result<bool, Error> {
        // Of the migration and not of the step: a step that was renamed is the same one.
        let name = format!("dunlin {}", self.place.migration);
        let deadline = Instant::now() + BUSY_LIMIT;
        loop {
            self.context.beat();
            let row = self.session.query_typed_one(TRY_LOCK, &[(&name, Type::TEXT)]).await;
            if row.and_then(|row| row.try_get(0)).map_err(|error| self.failed(&error))? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Err(Error::Busy(format!(
                    "another session still works on the step {}: pg_locks shows it with the locktype advisory",
                    self.place.step
                )));
            }
            if !self.context.pause(POLL).await {
                return Ok(false);
            }
        }
    }

    async fn execute(&self) -> Result<Ended, Error> {
        // While the lock was held elsewhere the task can have gone on without this lease.
        let seen = match ledger::look(&self.session, &self.address).await {
            // A database without a ledger.
            Err(ledger::Error::Postgres(error)) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => None,
            seen => seen.map_err(|error| Error::of_ledger(error, self.place))?,
        };
        if seen.is_none() && self.elsewhere().await? {
            return Err(Error::Final(self.place.refuse(
                "the direct connection leads to another database than the agent's target",
                format!(
                    "Give --direct the URL of the same database as --target, past the pooler; then `dunlin run {}`.",
                    self.place.migration
                ),
            )));
        }
        if seen.is_none_or(|seen| seen.epoch != self.context.epoch.0 || seen.batches != self.checkpoint.batches) {
            return Err(Error::Moved);
        }
        let repair = Repair {
            session: &self.session,
            context: self.context,
            place: self.place,
            role: &self.role,
            ground: self.ground,
        };
        let built = !self.checkpoint.fresh && repair.begun(&self.step.sql, self.checkpoint.again).await?;
        if !self.checkpoint.fresh {
            repair.repeated(&self.step.sql);
        }
        let done = match if built { Ok((0, Heard::default())) } else { self.carry_out().await } {
            Err(error) => Err(advice::outside(error, self.step, &self.session).await),
            done => done,
        };
        let (rows, heard) = match done {
            Ok(carried_out) => carried_out,
            Err(error) => return Err(self.cleaned(error, &repair).await),
        };
        // What was there before is somebody else's, whatever it is: it is not removed.
        self.compare(&heard).await?;
        repair.assert_whole(&self.step.sql).await?;
        failpoint::at(&self.session, OUTSIDE.changed).await.map_err(|error| self.failed(&error))?;
        self.finish(rows).await
    }

    /// The same error, once what the failed attempt has left half-built is removed: nobody may ever come back to this step. What could
    /// not be removed is named, and the next attempt removes it first.
    async fn cleaned(&self, mut error: Error, repair: &Repair<'_>) -> Error {
        let last = match &error {
            // What exists already is somebody else's.
            Error::Final(failed) if failed.sqlstate == SqlState::DUPLICATE_TABLE.code() => return error,
            Error::Final(_) | Error::Hidden(_) => true,
            Error::Passing(_) | Error::Short(_) => false,
            // Without a session nothing is removed; the others have not come to the statement.
            Error::Unreachable(_) | Error::Lost(_) | Error::Stale(_) | Error::Moved | Error::Busy(_) => return error,
        };
        match repair.remove_left(&self.step.sql).await {
            Ok(None) if last && repairable(&self.step.sql) => self.note_repaired().await,
            Ok(None) => {}
            Ok(Some(left)) => error.add(&left),
            Err(left) => tracing::warn!(error = ?left, "it was not seen what the failed step has left"),
        }
        error
    }

    /// Another text may take the place of this one. Where that cannot be noted, it is asked for.
    async fn note_repaired(&self) {
        let (epoch, batches) = (self.context.epoch.0, self.checkpoint.batches);
        let frame = self.frame();
        let noting = async {
            self.session.batch_execute(&frame.begin(Durability::AtCommit)).await?;
            ledger::note_repaired(&self.session, &self.address, epoch, batches).await?;
            Ok::<_, ledger::Error>(self.session.batch_execute("COMMIT").await?)
        };
        if let Err(error) = noting.await {
            tracing::warn!(?error, "it was not noted that the failed step has left nothing");
        }
    }

    /// How transactions of this session begin.
    fn frame(&self) -> Frame {
        Frame::new(self.context.limits, self.context.mark(), Some(self.role.clone())).on(self.ground)
    }

    /// True when the target has the checkpoint that this session does not see.
    async fn elsewhere(&self) -> Result<bool, Error> {
        let connection = self.context.lend(self.place).await?;
        let seen = ledger::look(&connection, &self.address).await;
        Ok(seen.map_err(|error| Error::of_ledger(error, self.place))?.is_some())
    }

    async fn carry_out(&self) -> Result<(i64, Heard), Error> {
        // The settings of the session, since there is no transaction; the session ends with the step.
        let settings = format!(
            "SET client_min_messages = notice;SET row_security = {};SET lock_timeout = 0;SET statement_timeout = {}",
            if self.step.row_security { "on" } else { "off" },
            self.context.limits.statement_timeout.unwrap_or_default().as_millis()
        );
        self.tell_set_aside();
        self.session.batch_execute(&settings).await.map_err(|error| self.failed(&error))?;
        drop(self.session.heard());
        let watched = self.watched(answer::without_rows(&self.session, &self.step.sql)).await;
        let heard = self.session.heard();
        notices::tell(self.context, &self.step.name, &heard);
        let answer = watched?;
        let messages = answer.map_err(|error| {
            let exists = matches!(
                error.code(),
                Some(&SqlState::DUPLICATE_TABLE | &SqlState::DUPLICATE_OBJECT | &SqlState::UNDEFINED_OBJECT)
            );
            match located::in_sql(self.failed(&error), &self.step.sql, heard.failed) {
                Error::Final(mut failed) if exists && !self.checkpoint.fresh => {
                    failed.next = format!(
                        "An earlier attempt at this step may have carried it out already. Write it so that it can be \
                         repeated (IF EXISTS, IF NOT EXISTS), then `dunlin register DIR` and `dunlin run {}`.",
                        self.place.migration
                    );
                    Error::Final(failed)
                }
                error => error,
            }
        })?;
        self.session.batch_execute("RESET lock_timeout;RESET statement_timeout").await.map_err(|e| self.failed(&e))?;
        let count = Count::of(&self.step.sql);
        let rows = count.rows(&messages);
        if rows == 0 && count.by_the_server() {
            self.context.lease.note(
                EventType::AgentNote,
                format!(
                    "how many rows the step {:?} has changed is not known, since it works outside a transaction: none are counted",
                    self.step.name
                ),
            );
        }
        Ok((rows, heard))
    }

    /// Says which limits of the role do not hold for the statement: what it has built would be thrown away.
    fn tell_set_aside(&self) {
        let limits = [
            ("statement_timeout", self.ground.statement_timeout, self.context.limits.statement_timeout.is_none()),
            ("transaction_timeout", self.ground.transaction_timeout, true),
        ];
        let set_aside: Vec<String> = limits
            .into_iter()
            .filter(|(_, limit, unwritten)| *unwritten && !limit.is_zero())
            .map(|(setting, limit, _)| format!("{setting} ({})", in_words(limit)))
            .collect();
        if !set_aside.is_empty() {
            self.context.lease.note(
                EventType::AgentNote,
                format!(
                    "the {} of the agent's role is set aside for the step {:?}, which works outside a transaction: what it builds would \
                     be thrown away. The agent's --statement-timeout limits it",
                    set_aside.join(" and the "),
                    self.step.name
                ),
            );
        }
    }

    /// Compares what the statement has met with what it says, in a transaction that is rolled back.
    async fn compare(&self, heard: &Heard) -> Result<(), Error> {
        if heard.skips.is_empty() {
            return Ok(());
        }
        let frame = self.frame();
        self.session
            .batch_execute(&frame.begin_entered(Durability::Later))
            .await
            .map_err(|error| self.failed(&error))?;
        let compared = existing::compare(self.context, &self.session, &self.step.sql, heard, self.place).await;
        self.session.batch_execute("ROLLBACK").await.map_err(|error| self.failed(&error))?;
        compared
    }

    /// Waits for the statement of the step, and cancels it where it stands in a queue for too long.
    async fn watched<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<Result<T, tokio_postgres::Error>, Error> {
        let patience =
            Patience { locks: self.context.schema_lock_timeout(), transactions: self.context.limits.build_deadline };
        let what = format!("the step {}", self.place.step);
        match watched::execute(self.context, &self.session, &what, patience, work).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(watched::Failed::Postgres(error)) => Ok(Err(error)),
            Err(watched::Failed::Cancelled(cancelled)) => Err(cancelled.error(self.place)),
        }
    }

    async fn finish(&self, rows: i64) -> Result<Ended, Error> {
        let mark = self.context.mark();
        let counters = Map::new();
        let advance = Advance {
            address: &self.address,
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
        let frame = self.frame();
        self.session.batch_execute(&frame.begin(Durability::AtCommit)).await.map_err(|error| self.failed(&error))?;
        let advanced = advance.commit(&self.session, OUTSIDE, "", "").await;
        advanced.map_err(|error| Error::of_ledger(error, self.place))?;
        Ok(Ended::Done { rows, rows_walked: 0, already_done: false, applied: None })
    }
}
