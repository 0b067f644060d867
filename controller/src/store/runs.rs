//! Runs as they are told of: with their steps, their speed, who works on them, and what they wait for.
//!
//! A run that has begun is worked on while a task of it is leased, and in no other case. Otherwise its next task says what it waits for.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use dunlin_shared::ids::{MigrationId, TargetName, TransformName};
use dunlin_shared::migration::SqlPlace;
use futures::future::try_join;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::advancing::{migration, read_step, target, unknown};
use super::database::Store;
use super::error::Error;
use super::session::{Session, Statement};
use crate::domain::WHOLE;
use crate::domain::report::Activity;
use crate::domain::run::{Failure, State};
use crate::domain::speed::{Sample, rows_per_second};
use crate::domain::step::{self, Step};
use crate::domain::waits::{Fleet, Wait};

/// How many things that are waited for in the target are told.
const LOCKS: usize = 3;

/// A run as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The number of the run.
    pub id: i64,
    /// The target.
    pub target: TargetName,
    /// The migration.
    pub migration: MigrationId,
    /// The version of the migration.
    pub version: i64,
    /// `apply`, `rollback` or `rehearse`.
    pub kind: String,
    /// Where it stands.
    pub state: State,
    /// True when the migration had been applied before.
    pub rerun: bool,
    /// The checksum of the definition that it executes.
    pub checksum: String,
    /// The revision of that definition.
    pub revision: i32,
    /// The request that queued it.
    pub request_id: String,
    /// Its steps, in order.
    pub steps: Vec<StepView>,
    /// How many of its tasks are leased.
    pub leases: i64,
    /// How far PostgreSQL is with the statement of one of them.
    pub activity: Option<Activity>,
    /// What it waits for.
    pub waits: Vec<Wait>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Where the SQL of a run that failed stands.
    pub places: Vec<SqlPlace>,
    /// Its result.
    pub result: Option<Map<String, Value>>,
    /// When it was queued.
    pub created_at: SystemTime,
    /// When its first task was granted.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub ended_at: Option<SystemTime>,
}

/// A step of a run as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct StepView {
    /// The step.
    pub step: Step,
    /// When its first task was granted.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub ended_at: Option<SystemTime>,
    /// How many of its tasks are leased.
    pub leases: i64,
    /// Rows walked in a second over the last seconds, without those of earlier attempts; 0 while nothing moves.
    pub rows_per_second: f64,
}

/// Which runs are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Only on this target.
    pub target: Option<String>,
    /// Only of this migration.
    pub migration: Option<String>,
    /// Only in these states; all when empty.
    pub states: Vec<&'static str>,
}

const RUNS_BY_ID: Statement = Statement::new(
    "runs_by_id",
    "SELECT r.id, r.target, r.migration_id, r.version, r.checksum, r.revision, r.kind, r.state, r.rerun, r.request_id, r.run_after, r.failure,
            (SELECT d.places FROM dunlin_controller.definitions d WHERE d.migration_id = r.migration_id AND d.checksum = r.checksum
                AND r.failure IS NOT NULL) AS places,
            r.result, r.created_at, r.ended_at, b.migration_id AS behind
     FROM dunlin_controller.runs r
     LEFT JOIN dunlin_controller.runs b ON b.id = r.after_run_id
     WHERE r.id = ANY ($1) ORDER BY r.id DESC",
);

/// A list for each filter that has an index; the others sift what it finds.
macro_rules! list {
    ($name:literal, $by:literal) => {
        Statement::new(
            $name,
            concat!(
                "SELECT r.id, r.target, r.migration_id, r.version, r.checksum, r.revision, r.kind, r.state, r.rerun, r.request_id, r.run_after, r.failure,
            (SELECT d.places FROM dunlin_controller.definitions d WHERE d.migration_id = r.migration_id AND d.checksum = r.checksum
                AND r.failure IS NOT NULL) AS places,
                        r.result, r.created_at, r.ended_at, b.migration_id AS behind
                             FROM dunlin_controller.runs r
                 LEFT JOIN dunlin_controller.runs b ON b.id = r.after_run_id
                 WHERE ",
                $by,
                " AND ($1::text IS NULL OR r.target = $1) AND ($2::text IS NULL OR r.migration_id = $2)
                  AND (cardinality($3::text[]) = 0 OR r.state = ANY ($3)) AND r.id < $4
                 ORDER BY r.id DESC LIMIT $5"
            ),
        )
    };
}

const LIST_RUNS_OF_MIGRATION: Statement = list!("list_runs_of_migration", "r.migration_id = $2");
pub(super) const LIST_RUNS_ON_TARGET: Statement = list!("list_runs_on_target", "r.target = $1 AND r.base_epoch >= 0");
const LIST_RUNS: Statement = list!("list_runs", "true");

const UNFINISHED_ON: Statement = Statement::new(
    "unfinished_on",
    "SELECT r.id, r.target, r.migration_id, r.version, r.checksum, r.revision, r.kind, r.state, r.rerun, r.request_id, r.run_after, r.failure,
            (SELECT d.places FROM dunlin_controller.definitions d WHERE d.migration_id = r.migration_id AND d.checksum = r.checksum
                AND r.failure IS NOT NULL) AS places,
            r.result, r.created_at, r.ended_at, b.migration_id AS behind
     FROM dunlin_controller.runs r
     LEFT JOIN dunlin_controller.runs b ON b.id = r.after_run_id
     WHERE r.target = $1 AND r.state IN ('queued', 'running', 'pausing', 'paused') ORDER BY r.id DESC",
);

const STEP_VIEWS: Statement = Statement::new(
    "step_views",
    "SELECT s.run_id, s.transform, s.ended_at, s.ordinal, s.name, s.state, s.rows, s.rows_walked, s.rows_walked_before, s.messages, s.rows_total, s.ranges_done,
            s.ranges_total, s.planned, s.key, s.sampled_at, s.sampled_walked,
            t.granted_at AS step_started_at, clock_timestamp() AS now
     FROM dunlin_controller.run_steps s
     LEFT JOIN LATERAL (
         SELECT min(granted_at) AS granted_at FROM dunlin_controller.tasks t
         WHERE t.run_id = s.run_id AND t.range = 0 AND t.step IN (0, s.ordinal) AND t.kind <> 'seal'
     ) t ON true
     WHERE s.run_id = ANY ($1)
     ORDER BY s.run_id, s.ordinal",
);

/// Materialized, so that what is leased is found by its own index: a run may have very many tasks that have ended.
pub(super) const HELD_OF: Statement = Statement::new(
    "held_of",
    "WITH held AS MATERIALIZED (
         SELECT run_id, step, coalesce(waits, '') AS waits, activity FROM dunlin_controller.tasks WHERE state = 'leased'
     )
     SELECT run_id, step, waits, count(*) AS leases, (array_agg(activity) FILTER (WHERE activity IS NOT NULL))[1] AS activity
     FROM held WHERE run_id = ANY ($1) GROUP BY run_id, step, waits ORDER BY run_id, step, leases DESC, waits",
);

/// In the order of the claims, by their index.
pub(super) const NEXT_TASK: Statement = Statement::new(
    "next_task",
    "SELECT run_at, rests, run_at > clock_timestamp() AS resting, run_at < clock_timestamp() - interval '1 s' AS overdue
     FROM (SELECT run_id, run_at, rests FROM dunlin_controller.tasks WHERE target = $1 AND state = 'ready'
           ORDER BY priority, run_at, id OFFSET 0) AS ready
     WHERE run_id = $2 LIMIT 1",
);

const APPLIED_AMONG: Statement = Statement::new(
    "applied_among",
    "SELECT migration_id FROM dunlin_controller.target_registry WHERE target = $1 AND migration_id = ANY ($2)",
);

pub(super) const FLEET_OF: Statement = Statement::new(
    "fleet_of",
    "SELECT count(*) AS serving, count(*) FILTER (WHERE s.reachable AND t.suspended = '') AS reaching,
            coalesce(max(t.suspended), '') AS suspended, coalesce(max(s.refusal), '') AS refusal,
            coalesce(max(s.error) FILTER (WHERE NOT s.reachable), '') AS error,
            ARRAY (SELECT DISTINCT unnest(b.transforms) FROM dunlin_controller.agents b
                   JOIN dunlin_controller.agent_targets c ON c.agent_id = b.id
                   WHERE c.target = $1 AND c.reachable AND b.connected_until > now()) AS transforms
     FROM dunlin_controller.agent_targets s JOIN dunlin_controller.agents a ON a.id = s.agent_id
     JOIN dunlin_controller.targets t ON t.name = s.target
     WHERE s.target = $1 AND a.connected_until > now()",
);

/// Why agents do not reach a target of which they have told nothing.
const NOT_TOLD: &str = "an agent that serves it has just connected and looks at it now";

/// How long it is waited for: an agent that cannot connect to its target says so after its limit of 8 s, and is not waited for.
const LOOKING: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Store {
    /// Runs by their numbers, in the order in which they are named; those that do not exist are left out.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn runs_by_id(&self, ids: &[i64]) -> Result<Vec<View>, Error> {
        let session = self.session().await?;
        let rows = session.query(&RUNS_BY_ID, &[&ids]).await?;
        let views = views(&session, rows).await?;
        let mut views: HashMap<i64, View> = views.into_iter().map(|view| (view.id, view)).collect();
        Ok(ids.iter().filter_map(|id| views.remove(id)).collect())
    }

    /// A page of runs, newest first, behind a number.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn list_runs(&self, filter: &RunFilter, before: i64, limit: i64) -> Result<Vec<View>, Error> {
        let session = self.session().await?;
        let statement = match (&filter.migration, &filter.target) {
            (Some(_), _) => &LIST_RUNS_OF_MIGRATION,
            (None, Some(_)) => &LIST_RUNS_ON_TARGET,
            (None, None) => &LIST_RUNS,
        };
        let rows =
            session.query(statement, &[&filter.target, &filter.migration, &filter.states, &before, &limit]).await?;
        views(&session, rows).await
    }

    /// The runs of a target that have not ended, oldest first.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn unfinished_runs(&self, target: &TargetName) -> Result<Vec<View>, Error> {
        let session = self.session().await?;
        let rows = session.query(&UNFINISHED_ON, &[&target.as_str()]).await?;
        let mut views = views(&session, rows).await?;
        views.reverse();
        Ok(views)
    }

    /// The connected agents of a target, taken together.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn fleet(&self, target: &TargetName) -> Result<Fleet, Error> {
        let session = self.session().await?;
        fleet(&session, target).await
    }

    /// The same, once an agent that has just connected has told what it sees: it is waited for a moment where no other reaches the
    /// target.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn settled_fleet(&self, target: &TargetName) -> Result<Fleet, Error> {
        let deadline = Instant::now() + LOOKING;
        loop {
            let fleet = self.fleet(target).await?;
            if fleet.reaching > 0 || fleet.error != NOT_TOLD || Instant::now() >= deadline {
                return Ok(fleet);
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

pub(super) async fn fleet(session: &Session, target: &TargetName) -> Result<Fleet, Error> {
    let row = session.query_one(&FLEET_OF, &[&target.as_str()]).await?;
    let error = match row.get::<_, &str>("error") {
        "" if row.get::<_, i64>("serving") > 0 => NOT_TOLD,
        error => error,
    };
    Ok(Fleet {
        reaching: row.get("reaching"),
        error: error.to_owned(),
        refusal: [row.get::<_, String>("suspended"), row.get("refusal")]
            .into_iter()
            .find(|why| !why.is_empty())
            .unwrap_or_default(),
        transforms: row.get::<_, Vec<String>>("transforms").into_iter().collect(),
    })
}

/// What is known of a target, as far as runs can wait for it.
struct Surroundings {
    fleet: Fleet,
    applied: HashSet<String>,
}

async fn views(session: &Session, rows: Vec<Row>) -> Result<Vec<View>, Error> {
    let ids: Vec<i64> = rows.iter().map(|row| row.get("id")).collect();
    let mut steps: HashMap<i64, Vec<(StepView, Option<TransformName>)>> = HashMap::new();
    let mut held: HashMap<i64, Vec<Held>> = HashMap::new();
    if !ids.is_empty() {
        // In this order: what was counted with the last word of a lease is seen by whoever sees that it is held no more.
        let (held_rows, step_rows) =
            try_join(session.query(&HELD_OF, &[&ids]), session.query(&STEP_VIEWS, &[&ids])).await?;
        for row in &held_rows {
            held.entry(row.get("run_id")).or_default().push(Held::read(row));
        }
        for row in step_rows {
            let of_run = held.get(&row.get("run_id")).map_or(&[][..], Vec::as_slice);
            let transform = row.get::<_, Option<String>>("transform").map(TransformName::parse).transpose();
            let transform = transform.map_err(|error| unknown("run_steps.transform", &error.to_string()))?;
            steps.entry(row.get("run_id")).or_default().push((step_view(&row, of_run)?, transform));
        }
    }
    let mut surroundings: HashMap<TargetName, Surroundings> = HashMap::new();
    let mut views = Vec::with_capacity(rows.len());
    for row in &rows {
        let steps = steps.remove(&row.get::<_, i64>("id")).unwrap_or_default();
        let mut view = view(row, &steps)?;
        let held = held.remove(&view.id).unwrap_or_default();
        view.leases = held.iter().map(|held| held.leases).sum();
        view.activity = held.iter().find_map(|held| held.activity.clone());
        if !view.state.ended() {
            if !surroundings.contains_key(&view.target) {
                surroundings.insert(view.target.clone(), look_around(session, &view.target, &rows).await?);
            }
            if let Some(around) = surroundings.get(&view.target) {
                view.waits = waits(row, &view, &steps, around)?;
            }
            if view.waits.is_empty() && view.state != State::Queued {
                view.waits = match view.leases {
                    0 => next_task(session, &view).await?,
                    _ => locks(&held),
                };
            }
        }
        views.push(view);
    }
    Ok(views)
}

/// Leases of one step of a run that wait for the same, or do not wait.
struct Held {
    step: i32,
    waits: String,
    leases: i64,
    activity: Option<Activity>,
}

impl Held {
    fn read(row: &Row) -> Self {
        Self {
            step: row.get("step"),
            waits: row.get("waits"),
            leases: row.get("leases"),
            activity: row.get::<_, Option<Json<Activity>>>("activity").map(|activity| activity.0),
        }
    }
}

/// What the leases of a run wait for, where all of them do.
fn locks(held: &[Held]) -> Vec<Wait> {
    if held.iter().any(|held| held.waits.is_empty()) {
        return Vec::new();
    }
    held.iter().take(LOCKS).map(|held| Wait::Lock(held.waits.clone())).collect()
}

/// What the next task of a run waits for that has no lease and whose target is reached.
async fn next_task(session: &Session, view: &View) -> Result<Vec<Wait>, Error> {
    let next = session.query_opt(&NEXT_TASK, &[&view.target.as_str(), &view.id]).await?;
    let Some(next) = next else { return Ok(Vec::new()) };
    if next.get("resting") {
        return Ok(vec![Wait::Retry { why: next.get("rests"), until: next.get("run_at") }]);
    }
    // A task that has just become ready is given to an agent in a moment.
    Ok(if next.get("overdue") { vec![Wait::Slot] } else { Vec::new() })
}

async fn look_around(session: &Session, target: &TargetName, rows: &[Row]) -> Result<Surroundings, Error> {
    let dependencies: BTreeSet<String> = rows.iter().flat_map(|row| row.get::<_, Vec<String>>("run_after")).collect();
    let dependencies: Vec<String> = dependencies.into_iter().collect();
    let (fleet, applied) =
        try_join(fleet(session, target), session.query(&APPLIED_AMONG, &[&target.as_str(), &dependencies])).await?;
    Ok(Surroundings { fleet, applied: applied.iter().map(|row| row.get("migration_id")).collect() })
}

fn waits(
    row: &Row,
    view: &View,
    steps: &[(StepView, Option<TransformName>)],
    around: &Surroundings,
) -> Result<Vec<Wait>, Error> {
    let mut waits = Vec::new();
    if view.state == State::Queued {
        if let Some(behind) = row.get::<_, Option<String>>("behind") {
            waits.push(Wait::Order(migration(behind)?));
        }
        for dependency in row.get::<_, Vec<String>>("run_after") {
            if !around.applied.contains(&dependency) {
                let dependency = migration(dependency)?;
                if !waits.contains(&Wait::Order(dependency.clone())) {
                    waits.push(Wait::Dependency(dependency));
                }
            }
        }
    }
    let ahead = steps.iter().filter(|(view, _)| view.step.state != step::State::Succeeded);
    let transforms: Vec<TransformName> = match view.state {
        State::Queued => ahead.filter_map(|(_, transform)| transform.clone()).collect(),
        _ => ahead.take(1).filter_map(|(_, transform)| transform.clone()).collect(),
    };
    waits.extend(around.fleet.waits(&transforms));
    Ok(waits)
}

fn step_view(row: &Row, held: &[Held]) -> Result<StepView, Error> {
    let step = read_step(row)?;
    let held: Vec<&Held> = held.iter().filter(|held| [WHOLE, step.ordinal].contains(&held.step)).collect();
    let started = step.state != step::State::Pending;
    let started_at = row.get::<_, Option<SystemTime>>("step_started_at").filter(|_| started);
    let moves = step.state == step::State::Running && held.iter().any(|held| held.waits.is_empty());
    let rows_per_second = match started_at {
        Some(began) if moves => speed(row, began, step.rows_walked - step.rows_walked_before),
        _ => 0.0,
    };
    Ok(StepView {
        started_at,
        ended_at: row.get("ended_at"),
        leases: if step.state == step::State::Running { held.iter().map(|held| held.leases).sum() } else { 0 },
        rows_per_second,
        step,
    })
}

fn speed(row: &Row, began: SystemTime, walked: i64) -> f64 {
    let now: SystemTime = row.get("now");
    let ago = |moment: SystemTime| now.duration_since(moment).unwrap_or_default();
    let at: Vec<SystemTime> = row.get("sampled_at");
    let samples: Vec<Sample> = at
        .into_iter()
        .zip(row.get::<_, Vec<i64>>("sampled_walked"))
        .map(|(at, walked)| Sample { ago: ago(at), walked })
        .collect();
    rows_per_second(&samples, ago(began), walked)
}

fn view(row: &Row, steps: &[(StepView, Option<TransformName>)]) -> Result<View, Error> {
    let state: &str = row.get("state");
    let steps: Vec<StepView> = steps.iter().map(|(view, _)| view.clone()).collect();
    Ok(View {
        id: row.get("id"),
        target: target(row.get("target"))?,
        migration: migration(row.get("migration_id"))?,
        version: row.get("version"),
        kind: row.get("kind"),
        state: State::parse(state).ok_or_else(|| unknown("runs.state", state))?,
        rerun: row.get("rerun"),
        checksum: row.get("checksum"),
        revision: row.get("revision"),
        request_id: row.get::<_, uuid::Uuid>("request_id").to_string(),
        leases: 0,
        activity: None,
        waits: Vec::new(),
        failure: row.get::<_, Option<Json<Failure>>>("failure").map(|failure| failure.0),
        places: row.get::<_, Option<Json<Vec<SqlPlace>>>>("places").map(|places| places.0).unwrap_or_default(),
        result: row.get::<_, Option<Json<Map<String, Value>>>>("result").map(|result| result.0),
        created_at: row.get("created_at"),
        started_at: steps.iter().filter_map(|view| view.started_at).min(),
        ended_at: row.get("ended_at"),
        steps,
    })
}
