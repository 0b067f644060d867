//! Runs loaded under their locks, and what became of them written back.
//!
//! Everything here happens inside the transaction of a caller, in the order of [`locks`](super::locks). Writes take lists,
//! so a transaction costs the same number of round trips for one report and for a hundred.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dunlin_shared::ids::{AgentId, Epoch, MigrationId, RunId, StepName, TargetName, TaskId, TransformName};
use dunlin_shared::key::KeyColumn;
use dunlin_shared::migration::Definition;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::database::Store;
use super::error::Error;
use super::leases::OTHERS_FIRST;
use super::session::{Session, Statement};
use crate::domain::ending::Endings;
use crate::domain::report::Counted;
use crate::domain::run::{self, Failure};
use crate::domain::step::{self, Step};
use crate::domain::{NewTask, Passing, Run, Task, task};

/// Runs and tasks that reports are about.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) runs: BTreeMap<RunId, Run>,
    pub(super) tasks: HashMap<TaskId, (RunId, Task)>,
}

pub(super) const LOCK_RUNS: Statement = Statement::new(
    "lock_runs",
    "SELECT r.id, r.target, r.migration_id, r.checksum, r.state, r.rerun, coalesce(r.applications, 0) AS applications
     FROM dunlin_controller.runs r
     WHERE r.id = ANY (ARRAY (SELECT run_id FROM dunlin_controller.tasks WHERE id = ANY ($1)))
     ORDER BY r.id FOR NO KEY UPDATE",
);

pub(super) const LOCK_TASKS: Statement = Statement::new(
    "lock_tasks",
    "SELECT id, run_id, kind, step, state, agent_id, epoch, attempts, postponed, priority, rows, rows_walked, rows_total,
         passing_rows_walked, extract(epoch FROM now() - passing_since)::float8 AS passing, crashes, standstills,
         endings_rows_walked
     FROM dunlin_controller.tasks WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE",
);

/// All that the end of a run can cancel, locked before the steps are: there may be very many. `$1` are tasks whose reports
/// may end their run, `$2` those whose reports do so once nothing but errors that pass was met for as many seconds as stand
/// in `$3`. The time is that of the transaction here and where it is judged; a second more is harmless.
pub(super) const LOCK_OPEN_TASKS: Statement = Statement::new(
    "lock_open_tasks",
    "SELECT t.id FROM dunlin_controller.tasks t
     WHERE t.run_id = ANY (ARRAY (
           SELECT run_id FROM dunlin_controller.tasks
           WHERE id = ANY ($1::bigint[])
           UNION
           SELECT p.run_id FROM unnest($2::bigint[], $3::float8[]) AS n (id, deadline)
           JOIN dunlin_controller.tasks p USING (id)
           WHERE n.deadline <= 1 OR extract(epoch FROM now() - p.passing_since) + 1 >= n.deadline))
       AND t.state IN ('ready', 'leased')
     ORDER BY t.id FOR NO KEY UPDATE",
);

pub(super) const LOCK_STEPS: Statement = Statement::new(
    "lock_steps",
    "SELECT run_id, ordinal, name, state, rows, rows_walked, rows_walked_before, rows_total, ranges_done, ranges_total, planned,
         key, messages
     FROM dunlin_controller.run_steps
     WHERE run_id = ANY (ARRAY (SELECT run_id FROM dunlin_controller.tasks WHERE id = ANY ($1)))
     ORDER BY run_id, ordinal FOR NO KEY UPDATE",
);

/// By the primary key, which is the one index that has checksums.
pub(super) const DEFINITIONS: Statement = Statement::new(
    "definitions",
    "SELECT checksum, definition FROM dunlin_controller.definitions WHERE checksum = ANY ($1)",
);

impl Store {
    /// Finds definitions by their checksums, those in memory without asking.
    pub(super) async fn definitions_of(
        &self,
        session: &Session,
        checksums: &[String],
    ) -> Result<HashMap<String, Arc<Definition>>, Error> {
        let mut found = HashMap::new();
        let mut missing: Vec<&str> = Vec::new();
        for checksum in checksums {
            match self.remembered(checksum) {
                Some(definition) => drop(found.insert(checksum.clone(), definition)),
                None => missing.push(checksum),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        for row in session.query(&DEFINITIONS, &[&missing]).await? {
            let checksum: String = row.get("checksum");
            let definition = self.remember(checksum.clone(), row.get::<_, Json<Definition>>("definition").0);
            found.insert(checksum, definition);
        }
        Ok(found)
    }
}

pub(super) fn read_run(row: &Row, definition: Arc<Definition>, steps: Vec<Step>) -> Result<Run, Error> {
    let state: &str = row.get("state");
    Ok(Run {
        id: RunId(row.get("id")),
        target: target(row.get("target"))?,
        migration: migration(row.get("migration_id"))?,
        state: run::State::parse(state).ok_or_else(|| unknown("runs.state", state))?,
        rerun: row.get("rerun"),
        applications: row.get("applications"),
        definition,
        steps,
        failure: None,
        result: None,
    })
}

pub(super) fn read_step(row: &Row) -> Result<Step, Error> {
    let state: &str = row.get("state");
    Ok(Step {
        ordinal: row.get("ordinal"),
        name: StepName::parse(row.get::<_, String>("name"))
            .map_err(|error| unknown("run_steps.name", &error.to_string()))?,
        state: step::State::parse(state).ok_or_else(|| unknown("run_steps.state", state))?,
        rows: row.get("rows"),
        rows_walked: row.get("rows_walked"),
        rows_walked_before: row.get("rows_walked_before"),
        rows_total: row.get("rows_total"),
        ranges_done: row.get("ranges_done"),
        ranges_total: row.get("ranges_total"),
        planned: row.get("planned"),
        key: row.get::<_, Json<Vec<KeyColumn>>>("key").0,
        messages: row.get("messages"),
    })
}

pub(super) fn read_task(row: &Row) -> Result<Task, Error> {
    let kind: &str = row.get("kind");
    let state: &str = row.get("state");
    let state = match (state, row.get::<_, Option<String>>("agent_id")) {
        ("ready", _) => task::State::Ready,
        ("leased", Some(agent)) => task::State::Leased {
            agent: AgentId::parse(agent).map_err(|error| unknown("tasks.agent_id", &error.to_string()))?,
        },
        ("done", _) => task::State::Done,
        ("failed", _) => task::State::Failed,
        ("cancelled", _) => task::State::Cancelled,
        (state, _) => return Err(unknown("tasks.state", state)),
    };
    Ok(Task {
        id: TaskId(row.get("id")),
        kind: task::Kind::parse(kind).ok_or_else(|| unknown("tasks.kind", kind))?,
        step: row.get("step"),
        standing: task::Standing { state, epoch: Epoch(row.get("epoch")) },
        attempts: row.get("attempts"),
        passing: row.get::<_, Option<f64>>("passing").map(|seconds| Passing {
            ago: Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX),
            rows_walked: row.get("passing_rows_walked"),
        }),
        endings: Endings {
            crashes: row.get("crashes"),
            standstills: row.get("standstills"),
            rows_walked: row.get("endings_rows_walked"),
        },
        postponed: row.get("postponed"),
        priority: row.get("priority"),
        counted: Counted { rows: row.get("rows"), rows_walked: row.get("rows_walked"), rows_walked_before: 0 },
        rest: None,
        rests: String::new(),
        passed_over: false,
        rows_total: row.get("rows_total"),
    })
}

pub(super) fn target(name: String) -> Result<TargetName, Error> {
    TargetName::parse(name).map_err(|error| unknown("a target", &error.to_string()))
}

pub(super) fn migration(id: String) -> Result<MigrationId, Error> {
    MigrationId::parse(id).map_err(|error| unknown("a migration", &error.to_string()))
}

pub(super) fn unknown(place: &'static str, value: &str) -> Error {
    Error::Unknown { place, value: value.to_owned() }
}

#[derive(Debug, Serialize)]
struct TaskRow<'a> {
    id: i64,
    state: &'a str,
    epoch: i64,
    attempts: i32,
    passing: Option<i64>,
    crashes: i32,
    standstills: i32,
    endings: i64,
    postponed: i32,
    priority: i16,
    rows: i64,
    rows_walked: i64,
    rest: f64,
    rests: &'a str,
    passed_over: bool,
}

pub(super) const WRITE_TASKS: Statement = Statement::new(
    "write_tasks",
    "UPDATE dunlin_controller.tasks t
     SET state = n.state, epoch = n.epoch, attempts = n.attempts,
         passing_since = CASE WHEN n.passing IS NOT NULL THEN
             CASE WHEN t.passing_rows_walked = n.passing THEN t.passing_since ELSE now() END END,
         passing_rows_walked = n.passing, crashes = n.crashes, standstills = n.standstills, endings_rows_walked = n.endings,
         postponed = n.postponed, priority = n.priority,
         rows = n.rows, rows_walked = n.rows_walked,
         agent_id = CASE WHEN n.state = 'leased' THEN t.agent_id END,
         expires_at = CASE WHEN n.state = 'leased' THEN t.expires_at END,
         run_at = clock_timestamp() + make_interval(secs => n.rest), delayed = n.rest > 0, rests = n.rests,
         passed_over = CASE WHEN n.passed_over THEN t.agent_id ELSE t.passed_over END,
         passed_over_until = CASE WHEN n.passed_over THEN clock_timestamp() + make_interval(secs => n.rest + $2) ELSE t.passed_over_until END,
         ended_at = CASE WHEN n.state IN ('done', 'failed', 'cancelled') THEN clock_timestamp() END
     FROM jsonb_to_recordset($1) AS n (id bigint, state text, epoch bigint, attempts int, passing bigint, crashes int,
         standstills int, endings bigint, postponed int,
         priority smallint, rows bigint, rows_walked bigint, rest float8, rests text, passed_over boolean)
     WHERE t.id = n.id",
);

pub(super) async fn write_tasks(session: &Session, tasks: &[&Task]) -> Result<(), Error> {
    if tasks.is_empty() {
        return Ok(());
    }
    let rows: Vec<TaskRow<'_>> = tasks
        .iter()
        .map(|task| TaskRow {
            id: task.id.0,
            state: task.standing.state.as_str(),
            epoch: task.standing.epoch.0,
            attempts: task.attempts,
            passing: task.passing.map(|passing| passing.rows_walked),
            crashes: task.endings.crashes,
            standstills: task.endings.standstills,
            endings: task.endings.rows_walked,
            postponed: task.postponed,
            priority: task.priority,
            rows: task.counted.rows,
            rows_walked: task.counted.rows_walked,
            rest: task.rest.unwrap_or(Duration::ZERO).as_secs_f64(),
            rests: if task.rest.is_some() { &task.rests } else { "" },
            passed_over: task.passed_over,
        })
        .collect();
    session.execute(&WRITE_TASKS, &[&Json(rows), &OTHERS_FIRST]).await.map(drop)
}

#[derive(Debug, Serialize)]
struct NewTaskRow<'a> {
    run_id: i64,
    kind: &'static str,
    step: i32,
    range: i32,
    low: Option<&'a [String]>,
    high: Option<&'a [String]>,
    rows_total: i64,
    rows: i64,
    rows_walked: i64,
    transform: Option<&'a str>,
}

pub(super) const ADD_TASKS: Statement = Statement::new(
    "add_tasks",
    "INSERT INTO dunlin_controller.tasks
         (run_id, target, kind, step, range, range_low, range_high, rows_total, rows, rows_walked, transform, state, epoch)
     SELECT n.run_id, r.target, n.kind, n.step, n.range, n.low, n.high, n.rows_total, n.rows, n.rows_walked, n.transform, 'ready',
         r.base_epoch
     FROM jsonb_to_recordset($1) AS n (run_id bigint, kind text, step int, range int, low text[], high text[],
         rows_total bigint, rows bigint, rows_walked bigint, transform text)
     JOIN dunlin_controller.runs r ON r.id = n.run_id
     ORDER BY n.run_id, n.step, n.range",
);

pub(super) async fn add_tasks(session: &Session, tasks: &[(RunId, NewTask)]) -> Result<(), Error> {
    if tasks.is_empty() {
        return Ok(());
    }
    let rows: Vec<NewTaskRow<'_>> = tasks
        .iter()
        .map(|(run, task)| NewTaskRow {
            run_id: run.0,
            kind: task.kind.as_str(),
            step: task.step,
            range: task.range.as_ref().map_or(0, |range| range.ordinal),
            low: task.range.as_ref().and_then(|range| range.low.as_deref()),
            high: task.range.as_ref().map(|range| range.high.as_slice()),
            rows_total: task.range.as_ref().map_or(0, |range| range.rows_total),
            rows: task.range.as_ref().map_or(0, |range| range.rows),
            rows_walked: task.range.as_ref().map_or(0, |range| range.rows_walked),
            transform: task.transform.as_ref().map(TransformName::as_str),
        })
        .collect();
    session.execute(&ADD_TASKS, &[&Json(rows)]).await.map(drop)
}

#[derive(Debug, Serialize)]
struct StepRow<'a> {
    run_id: i64,
    ordinal: i32,
    state: &'static str,
    rows: i64,
    rows_walked: i64,
    rows_walked_before: i64,
    rows_total: i64,
    ranges_done: i32,
    ranges_total: i32,
    planned: bool,
    key: &'a [KeyColumn],
    messages: i64,
}

/// Takes a sample for the speed of a step with an update of it, where rows were walked by the run itself and the last sample is old
/// enough; see `domain::speed`. `walked` says how many, in SQL.
macro_rules! sampled {
    ($before:literal, $walked:literal, $behind:literal) => {
        concat!(
            $before,
            "sampled_at = CASE WHEN (",
            $walked,
            ") > 0 AND coalesce(s.sampled_at[cardinality(s.sampled_at)] <= statement_timestamp() - interval '2 s', true)
                 THEN s.sampled_at[cardinality(s.sampled_at) - 5:] || statement_timestamp() ELSE s.sampled_at END,
             sampled_walked = CASE WHEN (",
            $walked,
            ") > 0 AND coalesce(s.sampled_at[cardinality(s.sampled_at)] <= statement_timestamp() - interval '2 s', true)
                 THEN s.sampled_walked[cardinality(s.sampled_walked) - 5:] || (s.rows_walked - s.rows_walked_before)
                 ELSE s.sampled_walked END",
            $behind
        )
    };
}
pub(super) use sampled;

pub(super) const WRITE_STEPS: Statement = Statement::new(
    "write_steps",
    sampled!(
        "UPDATE dunlin_controller.run_steps s
     SET state = n.state, rows = n.rows, rows_walked = n.rows_walked, rows_walked_before = n.rows_walked_before,
         rows_total = n.rows_total, ranges_done = n.ranges_done, ranges_total = n.ranges_total, planned = n.planned,
         key = n.key, messages = n.messages,
         ended_at = CASE WHEN n.state IN ('succeeded', 'failed', 'rolled_back') THEN coalesce(s.ended_at, clock_timestamp()) END,
         ",
        "n.rows_walked - n.rows_walked_before - s.rows_walked + s.rows_walked_before",
        "
     FROM jsonb_to_recordset($1) AS n (run_id bigint, ordinal int, state text, rows bigint, rows_walked bigint,
         rows_walked_before bigint, rows_total bigint, ranges_done int, ranges_total int, planned boolean, key jsonb, messages bigint)
     WHERE s.run_id = n.run_id AND s.ordinal = n.ordinal"
    ),
);

pub(super) async fn write_steps(session: &Session, steps: &[(RunId, &Step)]) -> Result<(), Error> {
    if steps.is_empty() {
        return Ok(());
    }
    let rows: Vec<StepRow<'_>> = steps
        .iter()
        .map(|(run, step)| StepRow {
            run_id: run.0,
            ordinal: step.ordinal,
            state: step.state.as_str(),
            rows: step.rows,
            rows_walked: step.rows_walked,
            rows_walked_before: step.rows_walked_before,
            rows_total: step.rows_total,
            ranges_done: step.ranges_done,
            ranges_total: step.ranges_total,
            planned: step.planned,
            key: &step.key,
            messages: step.messages,
        })
        .collect();
    session.execute(&WRITE_STEPS, &[&Json(rows)]).await.map(drop)
}

#[derive(Debug, Serialize)]
struct RunRow<'a> {
    id: i64,
    state: &'static str,
    applications: i32,
    failure: Option<&'a Failure>,
    result: Option<&'a serde_json::Map<String, serde_json::Value>>,
}

pub(super) const WRITE_RUNS: Statement = Statement::new(
    "write_runs",
    "UPDATE dunlin_controller.runs r
     SET state = n.state, failure = n.failure, result = n.result,
         applications = CASE WHEN n.state IN ('queued', 'cancelled') THEN r.applications ELSE n.applications END,
         after_run_id = CASE WHEN n.state IN ('queued', 'cancelled') THEN r.after_run_id END,
         started_at = CASE WHEN n.state NOT IN ('queued', 'cancelled')
                           THEN coalesce(r.started_at, clock_timestamp()) ELSE r.started_at END,
         ended_at = CASE WHEN n.state IN ('succeeded', 'failed', 'cancelled') THEN clock_timestamp() END,
         newest_epoch = CASE WHEN n.state IN ('succeeded', 'failed', 'cancelled')
                             THEN (SELECT max(t.epoch) FROM dunlin_controller.tasks t WHERE t.run_id = n.id) END
     FROM jsonb_to_recordset($1) AS n (id bigint, state text, applications int, failure jsonb, result jsonb)
     WHERE r.id = n.id AND r.state IN ('queued', 'running', 'pausing', 'paused')",
);

pub(super) async fn write_runs(session: &Session, runs: &[&Run]) -> Result<(), Error> {
    if runs.is_empty() {
        return Ok(());
    }
    let rows: Vec<RunRow<'_>> = runs
        .iter()
        .map(|run| RunRow {
            id: run.id.0,
            state: run.state.as_str(),
            applications: run.applications,
            failure: run.failure.as_ref(),
            result: run.result.as_ref(),
        })
        .collect();
    session.execute(&WRITE_RUNS, &[&Json(rows)]).await.map(drop)
}

pub(super) const CANCEL_TASKS: Statement = Statement::new(
    "cancel_tasks",
    "UPDATE dunlin_controller.tasks
     SET state = CASE state WHEN 'leased' THEN 'leased' ELSE 'cancelled' END, revoked = state = 'leased',
         ended_at = CASE state WHEN 'leased' THEN NULL ELSE clock_timestamp() END
     WHERE run_id = ANY ($1) AND state IN ('ready', 'leased')",
);

/// Cancels what is left of the tasks of ended runs: what is ready at once, what is held once its holder has said its last word.
pub(super) async fn cancel_tasks(session: &Session, runs: &[RunId]) -> Result<(), Error> {
    if runs.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = runs.iter().map(|run| run.0).collect();
    session.execute(&CANCEL_TASKS, &[&ids]).await.map(drop)
}
