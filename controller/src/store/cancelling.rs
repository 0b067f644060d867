//! Runs that have not begun are cancelled: on demand, or since their definition has changed.
//!
//! A run has begun once a task of it was granted to an agent: only then can a target have anything of it. One that is
//! `running` although nobody has ever taken its first task, such as a run on a target that nobody serves, has not. What must
//! stay true: no agent gets a task of a run that is cancelled here, so the tasks are locked before it is decided; and nothing
//! waits for what never comes, so what waits for a cancelled run is cancelled with it.

use std::collections::BTreeSet;

use dunlin_shared::ids::{MigrationId, RunId, TargetName};

use super::advancing::{cancel_tasks, migration, target, unknown};
use super::database::Store;
use super::error::Error;
use super::locks;
use super::reports::finish;
use super::session::{Session, Statement};
use super::starting::stop_behind;
use super::wake::Wake;
use crate::domain::run::State;
use crate::domain::{Event, EventType, Severity};

/// A run that is to be cancelled before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unbegun {
    /// The run.
    pub(super) id: RunId,
    /// Its migration.
    pub(super) migration: MigrationId,
    /// Its target.
    pub(super) target: TargetName,
}

/// What became of a request to cancel a run.
#[derive(Debug)]
pub enum Cancel {
    /// It is cancelled.
    Cancelled {
        /// What waited for it and is cancelled with it, in the order of the numbers.
        behind: Vec<i64>,
        /// What to look at.
        wakes: Vec<Wake>,
    },
    /// There is no such run.
    NoRun,
    /// A task of it was granted.
    Begun(State),
    /// It has ended already.
    Ended(State),
}

const RUN_TO_CANCEL: Statement =
    Statement::new("run_to_cancel", "SELECT id, migration_id, target, state FROM dunlin_controller.runs WHERE id = $1");

const LOCK_RUNNING: Statement = Statement::new(
    "lock_running",
    "SELECT id FROM dunlin_controller.runs WHERE id = ANY ($1) AND state <> 'queued' ORDER BY id FOR NO KEY UPDATE",
);

const LOCK_TASKS_OF: Statement = Statement::new(
    "lock_tasks_of",
    "SELECT run_id, granted_at IS NOT NULL AS granted FROM dunlin_controller.tasks WHERE run_id = ANY ($1)
     ORDER BY id FOR NO KEY UPDATE",
);

const LOCK_QUEUED: Statement = Statement::new(
    "lock_queued",
    "SELECT id, state FROM dunlin_controller.runs WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE",
);

/// The first step of a run that was to begin is `running`.
const STEPS_BACK: Statement = Statement::new(
    "steps_back",
    "UPDATE dunlin_controller.run_steps SET state = 'pending' WHERE run_id = ANY ($1) AND state = 'running'",
);

const CANCEL_UNBEGUN: Statement = Statement::new(
    "cancel_unbegun",
    "UPDATE dunlin_controller.runs SET state = 'cancelled', ended_at = clock_timestamp()
     WHERE id = ANY ($1) AND state IN ('queued', 'running')",
);

impl Store {
    /// Cancels a run that has not begun, and what waits for it. `by` is who asks, as it was stated.
    ///
    /// # Errors
    /// The database is not available, or refuses.
    pub async fn cancel_run(&self, run: i64, by: &str) -> Result<Cancel, Error> {
        self.repeat(|| self.cancel_run_once(run, by)).await
    }

    async fn cancel_run_once(&self, id: i64, by: &str) -> Result<Cancel, Error> {
        let session = self.session().await?;
        session.begin().await?;
        let Some(row) = session.query_opt(&RUN_TO_CANCEL, &[&id]).await? else {
            session.roll_back().await?;
            return Ok(Cancel::NoRun);
        };
        let state: &str = row.get("state");
        let state = State::parse(state).ok_or_else(|| unknown("runs.state", state))?;
        if state.ended() {
            session.roll_back().await?;
            return Ok(Cancel::Ended(state));
        }
        let run = Unbegun {
            id: RunId(id),
            migration: migration(row.get("migration_id"))?,
            target: target(row.get("target"))?,
        };
        let mut events = Vec::new();
        let why = if by.is_empty() { "on demand".to_owned() } else { format!("on demand of {by}") };
        let behind = match cancel(&session, std::slice::from_ref(&run), &|_| why.clone(), &mut events).await? {
            Ok(behind) => behind,
            Err(_begun) => {
                session.roll_back().await?;
                return Ok(Cancel::Begun(state));
            }
        };
        let mut wakes = Vec::new();
        finish(&session, self.replica(), events, &mut wakes).await?;
        let mut behind: Vec<i64> = behind.into_iter().map(|run| run.0).collect();
        behind.sort_unstable();
        Ok(Cancel::Cancelled { behind, wakes })
    }
}

/// Cancels runs that have not begun, and what waits for them; returns the latter. `why` says the reason of each, for its
/// event.
///
/// A run that turns out to have begun is returned as the inner error, and nothing is cancelled then.
pub(super) async fn cancel(
    session: &Session,
    runs: &[Unbegun],
    why: &(dyn Fn(&Unbegun) -> String + Sync),
    events: &mut Vec<Event>,
) -> Result<Result<Vec<RunId>, RunId>, Error> {
    let ids: Vec<i64> = runs.iter().map(|run| run.id.0).collect();
    if ids.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let running: BTreeSet<i64> = session.query(&LOCK_RUNNING, &[&ids]).await?.iter().map(|row| row.get("id")).collect();
    let tasks = session.query(&LOCK_TASKS_OF, &[&ids]).await?;
    if let Some(begun) = tasks.iter().find(|row| row.get("granted")) {
        return Ok(Err(RunId(begun.get("run_id"))));
    }
    for target in runs.iter().map(|run| &run.target).collect::<BTreeSet<_>>() {
        locks::schedule(session, target).await?;
    }
    for row in session.query(&LOCK_QUEUED, &[&ids]).await? {
        let (id, state): (i64, &str) = (row.get("id"), row.get("state"));
        if state != if running.contains(&id) { "running" } else { "queued" } {
            // It has moved on while the schedule was waited for: look at it from the beginning.
            return Err(Error::Conflict { statement: "lock_queued" });
        }
    }
    let numbers: Vec<RunId> = runs.iter().map(|run| run.id).collect();
    cancel_tasks(session, &numbers).await?;
    session.execute(&STEPS_BACK, &[&ids]).await?;
    session.execute(&CANCEL_UNBEGUN, &[&ids]).await?;
    let told = |run: &Unbegun| {
        let message = format!("run {} of {} was cancelled: {}", run.id, run.migration, why(run));
        Event::new(EventType::RunCancelled, Severity::Warning, message)
            .of_target(&run.target)
            .of_migration(&run.migration)
            .of_run(run.id)
    };
    events.extend(runs.iter().map(told));
    let mut behind = Vec::new();
    for run in runs {
        let stopped = stop_behind(session, &run.target, run.id, &run.migration, events).await?;
        behind.extend(stopped.into_iter().map(|run| run.id));
    }
    Ok(Ok(behind))
}
