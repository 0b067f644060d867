//! Which queued runs of a target start now, and which never will.
//!
//! Called inside a transaction that holds the [schedule](super::locks::schedule) of the target and has written what has
//! changed: two transactions that each bring one of two missing dependencies do this one after the other, so the second
//! sees both.

use futures::future::try_join3;
use std::collections::HashSet;
use std::sync::Arc;

use dunlin_shared::ids::{MigrationId, RunId, TargetName};
use dunlin_shared::migration::Definition;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::advancing::{self, migration};
use super::database::Store;
use super::error::Error;
use super::session::{Session, Statement};
use crate::domain::step::Step;
use crate::domain::{self, Cancelled, Changes, Event, EventType, NewTask, Queued, Run, Severity};

pub(super) const FREE_BEHIND: Statement = Statement::new(
    "free_behind",
    "UPDATE dunlin_controller.runs SET after_run_id = NULL WHERE after_run_id = ANY ($1) AND state = 'queued'",
);

/// The queued runs of a target that come behind nothing, or behind runs that have just succeeded.
pub(super) const TURN_COME: Statement = Statement::new(
    "turn_come",
    "SELECT r.id, r.target, r.migration_id, r.checksum, r.state, r.rerun, r.run_after, r.after_run_id,
            (SELECT d.definition FROM dunlin_controller.definitions d
             WHERE d.migration_id = r.migration_id AND d.checksum = r.checksum) AS definition,
            coalesce((SELECT g.applications FROM dunlin_controller.target_registry g
                      WHERE g.target = r.target AND g.migration_id = r.migration_id), 0) AS applications,
            ARRAY (SELECT a.migration_id FROM dunlin_controller.target_registry a
                   WHERE a.target = r.target AND a.migration_id = ANY (r.run_after)) AS applied
     FROM dunlin_controller.runs r
     WHERE r.target = $1 AND r.state = 'queued' AND r.id = ANY (ARRAY (
         SELECT id FROM dunlin_controller.runs WHERE target = $1 AND state = 'queued' AND after_run_id IS NULL
         UNION ALL
         SELECT id FROM dunlin_controller.runs WHERE after_run_id = ANY ($2)))
     ORDER BY r.id FOR NO KEY UPDATE",
);

/// Looks up the runs of a target whose turn has come, `succeeded` being the runs that have just done so.
pub(super) async fn turn_come(session: &Session, target: &TargetName, succeeded: &[i64]) -> Result<Vec<Row>, Error> {
    session.query(&TURN_COME, &[&target.as_str(), &succeeded]).await
}

/// Runs that start, for the caller to write.
#[derive(Debug, Default)]
pub(super) struct Starting {
    /// The runs.
    pub(super) runs: Vec<Run>,
    /// Their first tasks.
    pub(super) tasks: Vec<(RunId, NewTask)>,
}

impl Starting {
    /// The steps that start with the runs.
    pub(super) fn steps(&self) -> impl Iterator<Item = (RunId, &Step)> {
        let steps = self.runs.iter().flat_map(|run| run.steps.iter().map(|step| (run.id, step)));
        steps.filter(|(_, step)| step.state != domain::step::State::Pending)
    }

    /// Writes the runs, for callers that write nothing else of their kind.
    pub(super) async fn write(&self, session: &Session) -> Result<(), Error> {
        let runs: Vec<&Run> = self.runs.iter().collect();
        let steps: Vec<(RunId, &Step)> = self.steps().collect();
        try_join3(
            advancing::write_runs(session, &runs),
            advancing::write_steps(session, &steps),
            advancing::add_tasks(session, &self.tasks),
        )
        .await?;
        Ok(())
    }
}

impl Store {
    /// Decides which runs of a target start: those whose turn has come and whose dependencies are applied. `rows` are what
    /// [`turn_come`] has found.
    pub(super) async fn start_runs(
        &self,
        session: &Session,
        target: &TargetName,
        mut rows: Vec<Row>,
        events: &mut Vec<Event>,
    ) -> Result<Starting, Error> {
        let mut starting = Starting::default();
        loop {
            let mut skipped = Vec::new();
            let mut waiting = Vec::new();
            for row in &rows {
                let run_after: Vec<String> = row.get("run_after");
                let applied: HashSet<String> = row.get::<_, Vec<String>>("applied").into_iter().collect();
                if !run_after.iter().all(|id| applied.contains(id)) {
                    waiting.extend(row.get::<_, Option<i64>>("after_run_id"));
                    continue;
                }
                let mut run = self.queued(row)?;
                if run.applications > 0 && !run.rerun {
                    skipped.push(run);
                } else if starting.runs.iter().all(|other| other.id != run.id) {
                    let mut changes = Changes::default();
                    domain::begin(&mut run, &mut changes)?;
                    events.append(&mut changes.events);
                    starting.tasks.append(&mut changes.added);
                    starting.runs.push(run);
                }
            }
            if !waiting.is_empty() {
                // It is their turn, but a dependency is missing: what they came behind does not hold them any more.
                session.execute(&FREE_BEHIND, &[&waiting]).await?;
            }
            if skipped.is_empty() {
                return Ok(starting);
            }
            let gone: Vec<i64> = skipped.iter().map(|run| run.id.0).collect();
            cancel_applied(session, &mut skipped, events).await?;
            rows = turn_come(session, target, &gone).await?;
        }
    }

    fn queued(&self, row: &Row) -> Result<Run, Error> {
        let checksum: String = row.get("checksum");
        let definition = match self.remembered(&checksum) {
            Some(definition) => definition,
            None => self.remember(checksum, row.get::<_, Json<Definition>>("definition").0),
        };
        let steps = pending_steps(&definition);
        advancing::read_run(row, definition, steps)
    }
}

fn pending_steps(definition: &Arc<Definition>) -> Vec<Step> {
    let ordinals = 1..;
    ordinals.zip(&definition.steps).map(|(ordinal, step)| Step::pending(ordinal, step.name.clone())).collect()
}

/// Ends runs of migrations that the target turned out to have already; what comes behind them goes on.
async fn cancel_applied(session: &Session, runs: &mut [Run], events: &mut Vec<Event>) -> Result<(), Error> {
    for run in runs.iter_mut() {
        run.state = run.state.next(domain::run::Event::Cancel).map_err(domain::Error::from)?;
        let message = format!(
            "run {} of {} was cancelled before it began: target {} has the migration applied already",
            run.id, run.migration, run.target
        );
        events.push(
            Event::new(EventType::RunCancelled, Severity::Warning, message)
                .of_target(&run.target)
                .of_migration(&run.migration)
                .of_run(run.id),
        );
    }
    let cancelled: Vec<&Run> = runs.iter().collect();
    advancing::write_runs(session, &cancelled).await
}

const QUEUED: Statement = Statement::new(
    "queued",
    "SELECT id, migration_id, after_run_id, run_after FROM dunlin_controller.runs
     WHERE target = $1 AND state = 'queued' ORDER BY id FOR NO KEY UPDATE",
);

const LACKS: Statement = Statement::new(
    "lacks",
    "SELECT NOT EXISTS (SELECT FROM dunlin_controller.target_registry WHERE target = $1 AND migration_id = $2) AS lacks",
);

const CANCEL_RUNS: Statement = Statement::new(
    "cancel_runs",
    "UPDATE dunlin_controller.runs SET state = 'cancelled', ended_at = clock_timestamp()
     WHERE id = ANY ($1) AND state = 'queued'",
);

/// Cancels the queued runs that waited for a run that has failed or was cancelled, and says for whom each waited.
pub(super) async fn stop_behind(
    session: &Session,
    on: &TargetName,
    stopped: RunId,
    of: &MigrationId,
    events: &mut Vec<Event>,
) -> Result<Vec<Cancelled>, Error> {
    let target = on.as_str();
    let queued = session.query(&QUEUED, &[&target]).await?;
    if queued.is_empty() {
        return Ok(Vec::new());
    }
    let lacks: bool = session.query_one(&LACKS, &[&target, &of.as_str()]).await?.get("lacks");
    let queued: Vec<Queued> = queued
        .iter()
        .map(|row| {
            let run_after: Vec<String> = row.get("run_after");
            Ok(Queued {
                id: RunId(row.get("id")),
                migration: migration(row.get("migration_id"))?,
                after: row.get::<_, Option<i64>>("after_run_id").map(RunId),
                run_after: run_after.into_iter().map(migration).collect::<Result<Vec<MigrationId>, Error>>()?,
            })
        })
        .collect::<Result<_, Error>>()?;
    let cancelled = domain::cascade(stopped, of, lacks, &queued);
    if cancelled.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = cancelled.iter().map(|run| run.id.0).collect();
    session.execute(&CANCEL_RUNS, &[&ids]).await?;
    events.extend(cancelled.iter().map(|run| cancelled_event(on, run)));
    Ok(cancelled)
}

fn cancelled_event(target: &TargetName, run: &Cancelled) -> Event {
    let message = format!(
        "run {} of {} was cancelled: it waited for run {} of {}, which has not succeeded",
        run.id, run.migration, run.waited_for, run.waited_for_migration
    );
    Event::new(EventType::RunCancelled, Severity::Warning, message)
        .of_target(target)
        .of_migration(&run.migration)
        .of_run(run.id)
        .with("waited_for_run", run.waited_for.0)
        .with("waited_for_migration", run.waited_for_migration.as_str())
}
