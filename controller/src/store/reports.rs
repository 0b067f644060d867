//! Reports of agents, stored: what a task did, how its run moved forward, and which runs start or stop because of it, in
//! one transaction.
//!
//! Many reports are stored together: one flush to disk for all that came while the one before was written. A report that
//! contradicts what is known is refused alone; the others are stored.
//!
//! The commit does not wait for the disk, so that what comes next can begin meanwhile. Who acknowledges a report flushes
//! first ([`Store::flush`]).

use dunlin_shared::failpoint::{armed, hit};
use dunlin_shared::ids::{Epoch, RunId, TargetName};
use futures::future::{try_join, try_join3, try_join5};

use super::advancing::{self, Loaded, read_run, read_step, read_task};
use super::applied;
use super::database::Store;
use super::error::Error;
use super::events;
use super::locks;
use super::log;
use super::session::{Session, Statement};
use super::starting::{Starting, TURN_COME, stop_behind, turn_come};
use super::wake::{self, Wake};
use crate::domain::report::{Applied, Report, Retry};
use crate::domain::run::State;
use crate::domain::step::Step;
use crate::domain::task::Lease;
use crate::domain::{Changes, Run, Task, Verdict, advance};

/// A report and the lease that it is about.
#[derive(Clone, Debug)]
pub struct Filed {
    /// The lease.
    pub lease: Lease,
    /// What is reported.
    pub report: Report,
}

/// What became of reports.
#[derive(Debug, Default)]
pub struct Stored {
    /// For each report in order: whether it had an effect, or why it was refused.
    pub verdicts: Vec<Result<Verdict, String>>,
    /// What this replica should look at; the others are told by the database.
    pub wakes: Vec<Wake>,
}

const LOADING: [&Statement; 4] =
    [&advancing::LOCK_RUNS, &advancing::LOCK_TASKS, &advancing::LOCK_OPEN_TASKS, &advancing::LOCK_STEPS];

const WRITING: [&Statement; 10] = [
    &advancing::WRITE_TASKS,
    &advancing::WRITE_STEPS,
    &advancing::WRITE_RUNS,
    &advancing::ADD_TASKS,
    &advancing::CANCEL_TASKS,
    &locks::LOCK_SCHEDULE,
    &applied::RECORD_APPLIED,
    &events::APPEND_EVENTS,
    &wake::NOTIFY,
    &TURN_COME,
];

impl Store {
    /// Stores reports about tasks of one target, not yet safe from a crash of the database. Repeating it is harmless: a
    /// report has an effect once.
    ///
    /// # Errors
    /// The database is not available, or refuses; nothing is stored then.
    pub async fn store_reports(&self, reports: &[Filed]) -> Result<Stored, Error> {
        self.repeat(|| self.store_once(reports)).await
    }

    async fn store_once(&self, reports: &[Filed]) -> Result<Stored, Error> {
        let session = self.session().await?;
        session.prepare(&LOADING).await?;
        session.prepare(&WRITING).await?;
        let mut loaded = self.load(&session, reports).await?;

        let before: Vec<(RunId, Vec<Step>, State)> =
            loaded.runs.values().map(|run| (run.id, run.steps.clone(), run.state)).collect();
        let tasks_before: Vec<Task> = loaded.tasks.values().map(|(_, task)| task.clone()).collect();
        let mut changes = Changes::default();
        let verdicts = decide(&mut loaded, reports, &mut changes);
        // Nobody would ever be granted them.
        changes.added.retain(|(run, _)| !changes.stopped.contains(run));

        let runs: Vec<&Run> =
            before.iter().filter_map(|(id, _, state)| loaded.runs.get(id).filter(|run| run.state != *state)).collect();
        let mut steps: Vec<(RunId, &Step)> = before
            .iter()
            .filter_map(|(id, steps, _)| loaded.runs.get(id).map(|run| (*id, steps, run)))
            .flat_map(|(id, steps, run)| {
                run.steps.iter().zip(steps).filter(|(now, then)| now != then).map(move |(now, _)| (id, now))
            })
            .collect();
        let tasks: Vec<&Task> = tasks_before
            .iter()
            .filter_map(|then| loaded.tasks.get(&then.id).map(|(_, now)| now).filter(|now| *now != then))
            .collect();
        let mut wakes = wakes(&tasks, &changes);

        let ended: Vec<&Run> = runs.iter().copied().filter(|run| run.state.ended()).collect();
        let mut starting = Starting::default();
        for target in unique(ended.iter().map(|run| run.target.clone()).collect()) {
            let ended: Vec<&Run> = ended.iter().copied().filter(|run| run.target == target).collect();
            let mut next = self.turn(&session, &target, &ended, &mut changes).await?;
            starting.runs.append(&mut next.runs);
            starting.tasks.append(&mut next.tasks);
        }
        // What has succeeded is looked at in the target, once for runs that follow one another.
        for run in ended.iter().filter(|run| run.state == State::Succeeded) {
            let goes_on = starting.runs.iter().any(|next| next.target == run.target);
            let look = Wake::Look(run.target.clone());
            if !goes_on && !wakes.contains(&look) {
                wakes.push(look);
            }
        }
        if !starting.runs.is_empty() && !wakes.contains(&Wake::Dispatch) {
            wakes.push(Wake::Dispatch);
        }
        let runs: Vec<&Run> = runs.into_iter().chain(&starting.runs).collect();
        steps.extend(starting.steps());
        changes.added.extend(starting.tasks.iter().cloned());

        let writes = try_join5(
            advancing::write_tasks(&session, &tasks),
            advancing::cancel_tasks(&session, &changes.stopped),
            advancing::write_steps(&session, &steps),
            advancing::write_runs(&session, &runs),
            advancing::add_tasks(&session, &changes.added),
        );
        if armed("report.written") {
            writes.await?;
            hit("report.written").await?;
            finish(&session, self.replica(), changes.events, &mut wakes).await?;
        } else {
            try_join(writes, finish(&session, self.replica(), changes.events, &mut wakes)).await?;
        }
        hit("report.stored").await?;
        Ok(Stored { verdicts, wakes })
    }

    async fn load(&self, session: &Session, reports: &[Filed]) -> Result<Loaded, Error> {
        let mut ids: Vec<i64> = reports.iter().map(|filed| filed.lease.task.0).collect();
        ids.sort_unstable();
        ids.dedup();
        let (fatal, (retried, deadlines)) = failing(reports);
        let lock_open = async {
            if !(fatal.is_empty() && retried.is_empty()) {
                session.execute(&advancing::LOCK_OPEN_TASKS, &[&fatal, &retried, &deadlines]).await?;
            }
            Ok(())
        };
        let (_, run_rows, (), task_rows, step_rows) = try_join5(
            session.begin_lazily(),
            session.query(&advancing::LOCK_RUNS, &[&ids]),
            lock_open,
            session.query(&advancing::LOCK_TASKS, &[&ids]),
            session.query(&advancing::LOCK_STEPS, &[&ids]),
        )
        .await?;
        let mut checksums: Vec<String> = run_rows.iter().map(|row| row.get("checksum")).collect();
        checksums.sort_unstable();
        checksums.dedup();
        let definitions = self.definitions_of(session, &checksums).await?;

        let mut loaded = Loaded::default();
        for row in &run_rows {
            let checksum: &str = row.get("checksum");
            let definition = definitions.get(checksum).ok_or_else(|| advancing::unknown("runs.checksum", checksum))?;
            let run = read_run(row, definition.clone(), Vec::new())?;
            loaded.runs.insert(run.id, run);
        }
        for row in &step_rows {
            if let Some(run) = loaded.runs.get_mut(&RunId(row.get("run_id"))) {
                run.steps.push(read_step(row)?);
            }
        }
        for row in &task_rows {
            let task = read_task(row)?;
            loaded.tasks.insert(task.id, (RunId(row.get("run_id")), task));
        }
        Ok(loaded)
    }

    /// Records what ended runs have applied to a target, stops what waited for those that failed, and decides what starts.
    async fn turn(
        &self,
        session: &Session,
        target: &TargetName,
        ended: &[&Run],
        changes: &mut Changes,
    ) -> Result<Starting, Error> {
        let applied: Vec<&Applied> =
            changes.applied.iter().filter(|(of, _)| of == target).map(|(_, row)| row).collect();
        let succeeded: Vec<i64> =
            ended.iter().filter(|run| run.state == State::Succeeded).map(|run| run.id.0).collect();
        let (_, (), mut rows) = try_join3(
            locks::schedule(session, target),
            applied::record(session, target, &applied),
            turn_come(session, target, &succeeded),
        )
        .await?;
        for failed in ended.iter().filter(|run| run.state == State::Failed) {
            stop_behind(session, target, failed.id, &failed.migration, &mut changes.events).await?;
            // What was cancelled must not start: ask again.
            rows = turn_come(session, target, &succeeded).await?;
        }
        self.start_runs(session, target, rows, &mut changes.events).await
    }
}

/// The tasks whose reports may end their run, and those whose reports may do so after a time without progress, with the time in
/// seconds.
fn failing(reports: &[Filed]) -> (Vec<i64>, (Vec<i64>, Vec<f64>)) {
    let (mut fatal, mut retried) = (Vec::new(), (Vec::new(), Vec::new()));
    for Filed { lease, report } in reports {
        match report {
            Report::Failed { retry: None | Some(Retry { ending: Some(_), .. }), .. }
            | Report::Stale { stored: Epoch(0), .. } => fatal.push(lease.task.0),
            Report::Failed { retry: Some(retry), .. } => {
                retried.0.push(lease.task.0);
                retried.1.push(retry.deadline.as_secs_f64());
            }
            Report::Stale { .. }
            | Report::Note { .. }
            | Report::Ranges { .. }
            | Report::Done { .. }
            | Report::Released { .. } => {}
        }
    }
    (fatal, retried)
}

/// Appends the events, notifies and commits, in one round trip; then the events are logged.
pub(super) async fn finish(
    session: &Session,
    replica: &str,
    mut events: Vec<crate::domain::Event>,
    wakes: &mut Vec<Wake>,
) -> Result<(), Error> {
    events.sort_by(|a, b| a.target.cmp(&b.target));
    for target in unique(events.iter().filter_map(|event| event.target.clone()).collect()) {
        wakes.push(Wake::Events(target));
    }
    try_join3(events::append(session, &events), wake::notify(session, replica, wakes), session.commit()).await?;
    session.settle();
    events.iter().for_each(log::line);
    Ok(())
}

fn unique<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort_unstable();
    values.dedup();
    values
}

fn decide(loaded: &mut Loaded, reports: &[Filed], changes: &mut Changes) -> Vec<Result<Verdict, String>> {
    let mut verdicts = Vec::with_capacity(reports.len());
    for Filed { lease, report } in reports {
        let Some((run_id, task)) = loaded.tasks.get_mut(&lease.task) else {
            verdicts.push(Ok(Verdict::Late));
            continue;
        };
        let Some(run) = loaded.runs.get_mut(run_id) else {
            verdicts.push(Ok(Verdict::Late));
            continue;
        };
        let mut run_after = run.clone();
        let mut task_after = task.clone();
        let mark = (changes.added.len(), changes.events.len(), changes.applied.len(), changes.stopped.len());
        match advance(&mut run_after, &mut task_after, *lease, report.clone(), rand::random(), changes) {
            Ok(verdict) => {
                *run = run_after;
                *task = task_after;
                verdicts.push(Ok(verdict));
            }
            Err(error) => {
                changes.added.truncate(mark.0);
                changes.events.truncate(mark.1);
                changes.applied.truncate(mark.2);
                changes.stopped.truncate(mark.3);
                verdicts.push(Err(error.to_string()));
            }
        }
    }
    verdicts
}

fn wakes(tasks: &[&Task], changes: &Changes) -> Vec<Wake> {
    use crate::domain::task;
    let mut wakes = Vec::new();
    let ready = |task: &&&Task| task.standing.state == task::State::Ready;
    if !changes.added.is_empty() || tasks.iter().filter(ready).any(|task| task.rest.is_none()) {
        wakes.push(Wake::Dispatch);
    }
    if tasks.iter().filter(ready).any(|task| task.rest.is_some()) {
        wakes.push(Wake::Timer);
    }
    wakes.extend(changes.stopped.iter().map(|run| Wake::Revoke(*run)));
    wakes
}
