//! What every step needs: the target, the lease, the limits; and how a task is taken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_proto::convert;
use dunlin_proto::v1::{EventType, Mending, Step};
use dunlin_shared::ids::{AgentId, Epoch, MigrationId, RunId, StepName, TargetName, TransformName};
use dunlin_shared::migration::Isolation;
use dunlin_shared::migration::mending::Wanted;
use dunlin_shared::postgres::{Ending, Witness};
use futures::future::join;
use tokio_postgres::IsolationLevel;
use tokio_postgres::error::SqlState;

use super::compare::{self, Compared};
use super::notices::Told;
use super::range::Learnt;
use super::{Error, earlier, written};
use crate::failure::Place;
use crate::frame::{Durability, Frame};
use crate::ledger::{self, Address, Claim, Kind, Taken};
use crate::limits::{IDLE_LIMIT_OF_STATEMENT, Limits};
use crate::session::{Lease, Signal};
use crate::target::{self, Connection, Direct, Target};
use crate::transform::Transforms;
use crate::waits::Seen;
use crate::watchdog::Watch;

/// What the agent has learnt about the order of batches, by migration and step. It lives as long as the process, and all
/// workers on a target share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tuning(Arc<Mutex<HashMap<TunedStep, Learnt>>>);

/// A step of a migration on a target, as it is defined now: a step that is mended is learnt anew.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TunedStep {
    target: TargetName,
    migration: MigrationId,
    step: String,
    checksum: String,
}

impl Tuning {
    /// Reads or changes what is known about a step on a target.
    pub(super) fn with<T>(&self, context: &Context, step: &Step, work: impl FnOnce(&mut Learnt) -> T) -> T {
        let name = TunedStep {
            target: context.target.name().clone(),
            migration: context.migration.clone(),
            step: step.name.clone(),
            checksum: step.checksum.clone(),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(known.entry(name).or_default())
    }
}

/// One grant, as the steps see it.
#[derive(Debug)]
pub(crate) struct Context {
    /// The agent.
    pub(crate) agent: AgentId,
    /// The target.
    pub(crate) target: Arc<Target>,
    /// The lease.
    pub(crate) lease: Lease,
    /// Its epoch.
    pub(crate) epoch: Epoch,
    /// The run.
    pub(crate) run: RunId,
    /// The migration.
    pub(crate) migration: MigrationId,
    /// How often the registry must say that the migration was applied.
    pub(crate) applications: i32,
    /// The steps of the migration, in order; empty for a range.
    pub(crate) steps: Vec<Wanted>,
    /// How the run goes on with a half-done migration.
    pub(crate) mending: Mending,
    /// What the operator allows.
    pub(crate) limits: Limits,
    /// The code transforms.
    pub(crate) transforms: Transforms,
    /// What was learnt about the order of batches.
    pub(crate) tuning: Tuning,
    /// Signs of life of the step, for the watchdog.
    pub(crate) beats: AtomicU64,
    /// How much of what the server says was told.
    pub(crate) told: Told,
    /// How patient the watchdog is.
    pub(crate) watch: Watch,
    /// What was seen of the waits of the attempt.
    pub(crate) waits: Seen,
    /// The sessions of the attempt.
    pub(crate) sessions: Witnesses,
}

/// The sessions that an attempt at a task has had, for whoever asks how they ended; and a time before each was lost, by the server's
/// clock, in microseconds since 1970.
#[derive(Debug, Default)]
pub(crate) struct Witnesses(Mutex<Vec<(Witness, i64)>>);

impl Witnesses {
    fn keep(&self, witness: Witness, time: i64) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that were closed from here say nothing any more.
        kept.retain(|(witness, _)| !witness.alone() || witness.ending().is_some());
        kept.push((witness, time));
    }

    /// How the last session that has ended did so, and forgets all.
    pub(crate) fn take(&self) -> Option<(Ending, i64)> {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        kept.into_iter().rev().find_map(|(witness, time)| Some((witness.ending()?, time)))
    }
}

impl Context {
    /// A place for errors.
    pub(crate) fn place(&self, step: &str) -> Place {
        Place {
            migration: self.migration.to_string(),
            step: step.to_owned(),
            agent: self.agent.to_string(),
            redact: self.limits.redact_rows,
            ..Place::default()
        }
    }

    /// A sign of life.
    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// True when the worker was told to stop.
    pub(crate) fn told(&self) -> bool {
        self.lease.signal() != Signal::Work
    }

    /// True when somebody else may hold the task.
    pub(super) fn lost(&self) -> bool {
        self.lease.signal() == Signal::Lost
    }

    /// The mark of this lease's transactions.
    pub(crate) fn mark(&self) -> String {
        let id = self.lease.id();
        format!("{}.{}", id.task, id.epoch)
    }

    /// How the transactions of this lease begin.
    pub(crate) fn frame(&self) -> Frame {
        let frame = Frame::new(self.limits, self.mark(), self.target.role());
        frame.on(self.target.ground())
    }

    /// The same for SQL in one transaction, which may hold locks that the whole application waits for.
    pub(super) fn frame_of_statement(&self) -> Frame {
        self.frame().with_idle(IDLE_LIMIT_OF_STATEMENT)
    }

    /// How long a statement of a batch may wait for a lock. Zero: without end.
    pub(crate) fn lock_timeout(&self) -> Duration {
        self.limits.of_locks(self.target.ground())
    }

    /// How long the SQL of another step may. Zero: without end.
    pub(super) fn schema_lock_timeout(&self) -> Duration {
        self.limits.of_schema_locks(self.target.ground())
    }

    /// The same for the transactions of a step.
    pub(super) fn frame_of(&self, step: &Step, place: &Place) -> Result<Frame, Error> {
        let isolation = isolation(step.isolation, place)?;
        Ok(Frame { row_security: step.row_security, isolation, ..self.frame() })
    }

    /// The claim of this lease to a checkpoint.
    pub(super) fn claim(&self, address: &Address, kind: Kind, checksum: &str, again: bool) -> Claim {
        let name = address.step_text();
        let whole = address.range == 0;
        let place = self.steps.iter().position(|step| whole && step.name == name);
        let redo = whole && self.mending.redo_steps.contains(&name);
        Claim {
            address: address.clone(),
            kind,
            epoch: self.epoch,
            run: self.run,
            applications: self.applications,
            checksum: checksum.to_owned(),
            ordinal: place.and_then(|place| i32::try_from(place + 1).ok()),
            redo: redo.then(|| self.mending.request_id.clone()),
            keys: None,
            again,
        }
    }

    /// The checkpoint of a step, a range, or (without a step) of the migration.
    pub(crate) fn address(&self, step: Option<&StepName>, range: i32) -> Address {
        Address { migration: self.migration.clone(), step: step.cloned(), range }
    }

    /// Lends a connection.
    pub(super) async fn lend(&self, place: &Place) -> Result<Connection, Error> {
        let connection = self.target.lend().await.map_err(|error| of_target(error, place))?;
        self.sessions.keep(connection.witness(), self.target.ground().asked);
        for sentence in self.limits.instead(self.target.ground()) {
            if self.target.is_news(self.run, &sentence) {
                self.lease.note(EventType::AgentNote, sentence);
            }
        }
        Ok(connection)
    }

    /// A connection that nobody has used before.
    pub(super) async fn fresh(&self, place: &Place) -> Result<Connection, Error> {
        let connection = self.target.fresh().await.map_err(|error| of_target(error, place))?;
        self.sessions.keep(connection.witness(), self.target.ground().asked);
        Ok(connection)
    }

    /// A session of one's own, to one process of the server.
    pub(super) async fn direct(&self, place: &Place) -> Result<Direct, Error> {
        let direct = self.target.direct().await.map_err(|error| of_target(error, place))?;
        self.sessions.keep(direct.session.witness(), direct.ground.asked);
        Ok(direct)
    }

    /// Ends what earlier holders have open, and takes the task as [`take_beside`](Self::take_beside).
    pub(super) async fn take(
        &self,
        connection: &mut Connection,
        claim: &Claim,
        durability: Durability,
        place: &Place,
    ) -> Result<(Taken, Compared), Error> {
        earlier::end(self, connection).await;
        self.take_beside(connection, claim, durability, place).await
    }

    /// Begins a transaction and takes the task in it, after the steps of the definition were compared with those that the target
    /// holds. The transaction stays open when the task is mine, and is rolled back otherwise.
    pub(super) async fn take_beside(
        &self,
        connection: &mut Connection,
        claim: &Claim,
        durability: Durability,
        place: &Place,
    ) -> Result<(Taken, Compared), Error> {
        let taken = match claim.kind {
            Kind::Range => self.try_take(connection, claim, durability).await.map(|taken| (taken, Compared::default())),
            Kind::Statement | Kind::Plan | Kind::Seal => {
                match compare::take(self, connection, claim, durability, place).await {
                    Ok(taken) => Ok(taken),
                    Err(compare::Error::Ledger(error)) => Err(error),
                    Err(compare::Error::Refused(error)) => {
                        connection.rollback().await;
                        return Err(error);
                    }
                }
            }
        };
        if matches!(&taken, Ok((Taken::Mine(_), _))) {
            self.nothing_lost(connection, place).await?;
        } else {
            connection.rollback().await;
        }
        let missing = matches!(&taken, Err(ledger::Error::Postgres(error))
            if matches!(error.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME)));
        if missing {
            // The database was put back to a state before Dunlin's first visit: make the ledger, and take the task there.
            self.target.forget();
            self.target.suspect();
            return Err(Error::Moved);
        }
        taken.map_err(|error| Error::of_ledger(error, place))
    }

    /// A crash of the server has emptied nothing that steps of the migration had filled.
    async fn nothing_lost(&self, connection: &mut Connection, place: &Place) -> Result<(), Error> {
        let error = match written::lost(connection, &self.migration).await {
            Ok(None) => return Ok(()),
            Ok(Some(lost)) => lost.failure(place),
            Err(error) => Error::of_ledger(error, place),
        };
        connection.rollback().await;
        Err(error)
    }

    async fn try_take(
        &self,
        connection: &mut Connection,
        claim: &Claim,
        durability: Durability,
    ) -> Result<Taken, ledger::Error> {
        let begin = self.frame().begin(durability);
        connection.opening();
        let (begun, taken) = join(connection.simple_query(&begin), ledger::take(connection, claim)).await;
        begun?;
        taken
    }

    /// Waits, but not longer than the worker is told to go on. False when it was told to stop.
    pub(crate) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            _told = self.lease.told() => false,
            () = tokio::time::sleep(time) => true,
        }
    }
}

fn of_target(error: target::Error, place: &Place) -> Error {
    match error {
        target::Error::Unreachable(message) | target::Error::Unfit(message) => Error::Unreachable(message),
        target::Error::Refused(ledger::PrepareError::Postgres(error)) => Error::of_postgres(&error, place),
        // As when it does not answer: the agent has no use for the target, and tells so, until somebody changes that.
        target::Error::Refused(error) => Error::Unreachable(error.to_string()),
        target::Error::Pooled => needs_direct(&place.step, place),
    }
}

/// A step outside a transaction that would have to go through a pooler.
pub(super) fn needs_direct(step: &str, place: &Place) -> Error {
    Error::Final(place.refuse(
        format!(
            "the step {step} runs outside a transaction and needs a direct connection to the target, and a pooler stands \
             between the agent and the target"
        ),
        format!(
            "Start the agent with --direct TARGET=URL, the URL of the same database past the pooler; then `dunlin run {}`.",
            place.migration
        ),
    ))
}

/// The target has less than this run has seen there.
pub(super) fn put_back(unfinished: &[String], place: &Place) -> Error {
    Error::Final(place.refuse(
        format!(
            "the target does not say that these steps are finished: {}; it may have been put back to an earlier state",
            unfinished.join(", ")
        ),
        format!("Run `dunlin run {}`: it goes on where the target stands.", place.migration),
    ))
}

/// Reads an isolation level.
pub(super) fn isolation(level: i32, place: &Place) -> Result<IsolationLevel, Error> {
    match convert::isolation("isolation", level) {
        Ok(None) => Ok(IsolationLevel::ReadCommitted),
        Ok(Some(Isolation::RepeatableRead)) => Ok(IsolationLevel::RepeatableRead),
        Ok(Some(Isolation::Serializable)) => Ok(IsolationLevel::Serializable),
        Err(error) => Err(Error::Final(place.refuse(
            format!("the controller sent a step that this agent cannot read: {error}"),
            "Use a controller and agents of the same version.",
        ))),
    }
}

/// The parts of a step that are ids.
pub(super) struct Names {
    pub(super) step: StepName,
    pub(super) transform: Option<TransformName>,
}

/// Reads the ids of a step. They were validated when the migration was registered.
pub(super) fn names(step: &Step, place: &Place) -> Result<Names, Error> {
    let invalid = |error: dunlin_shared::ids::Error| {
        Error::Final(place.refuse(
            format!("the controller sent a step that this agent cannot read: {error}"),
            "Use a controller and agents of the same version.",
        ))
    };
    Ok(Names {
        step: StepName::parse(step.name.as_str()).map_err(invalid)?,
        transform: match step.transform.as_str() {
            "" => None,
            name => Some(TransformName::parse(name).map_err(invalid)?),
        },
    })
}
