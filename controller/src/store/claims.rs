//! Leases are granted: ready tasks are claimed for the free slots of all agents of this replica at once.
//!
//! Candidates are locked and whoever else locks them is skipped, so any number of replicas claim side by side and none
//! gets what another has. Which agent gets which task is decided in between, in memory.
//!
//! The commit does not wait for the disk. A crash of the database can lose a lease, and its epoch is then granted once
//! more: the holder of the lost one is told so when it announces it. Until then two may hold one epoch, and the target
//! tells them apart by the number of batches that is in the checkpoint: each batch is done once all the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dunlin_shared::failpoint::hit;
use dunlin_shared::ids::{AgentId, MigrationId, RunId, StepName, TargetName, TaskId, TransformName};
use dunlin_shared::key::KeyColumn;
use dunlin_shared::migration::Definition;
use futures::future::try_join;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::advancing::{migration, target, unknown};
use super::agents::lease;
use super::database::Store;
use super::error::Error;
use super::session::Statement;
use crate::domain::Mending;
use crate::domain::report::Range;
use crate::domain::task::{Kind, Lease};

/// What agents of this replica could take on for a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Demand {
    /// The target.
    pub target: TargetName,
    /// The code that the agents have.
    pub transforms: Vec<String>,
    /// Free slots.
    pub free: i32,
    /// The agents that have them.
    pub agents: Vec<AgentId>,
}

/// A ready task that is locked for this replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The task.
    pub id: TaskId,
    /// The target.
    pub target: TargetName,
    /// The code that it needs.
    pub transform: Option<TransformName>,
    /// An agent that it is not given to, since it let it go a moment ago and others can take it.
    pub passed_over: Option<AgentId>,
}

/// Which agent gets a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Assignment {
    /// The task.
    pub id: TaskId,
    /// The agent.
    pub agent: AgentId,
    /// The session of its stream.
    pub session: i64,
}

/// A lease that was granted, with all that the agent must know.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The lease.
    pub lease: Lease,
    /// The agent.
    pub agent: AgentId,
    /// The target.
    pub target: TargetName,
    /// The run.
    pub run: RunId,
    /// The migration.
    pub migration: MigrationId,
    /// The revision of what the run executes.
    pub revision: i32,
    /// How often the target's registry must say that the migration was applied.
    pub applications: i32,
    /// What the task is for.
    pub kind: Kind,
    /// The ordinal of its step, or 0.
    pub step: i32,
    /// The range, for a range task.
    pub range: Option<Range>,
    /// How many ranges of the step are known.
    pub known_ranges: i32,
    /// For a plan: slots of the connected agents that could work on its ranges.
    pub slots: i32,
    /// The columns of the key.
    pub key: Vec<KeyColumn>,
    /// The request that queued the run.
    pub request: String,
    /// How the run goes on with a half-done migration.
    pub mending: Mending,
    /// What the run executes.
    pub definition: Arc<Definition>,
}

/// What a round of claims has granted.
#[derive(Debug, Default)]
pub struct Round {
    /// The leases.
    pub granted: Vec<Granted>,
    /// True when there may be more tasks than were looked at.
    pub more: bool,
}

/// Whether another agent than `$agent` works on a target and has the code of a task, in SQL.
macro_rules! others_can_take {
    ($target:literal, $agent:literal, $transform:literal) => {
        concat!(
            "EXISTS (SELECT FROM dunlin_controller.agent_targets s JOIN dunlin_controller.agents a ON a.id = s.agent_id
                     WHERE s.target = ",
            $target,
            " AND s.agent_id <> ",
            $agent,
            " AND s.reachable AND a.connected_until > now() AND (",
            $transform,
            " IS NULL OR ",
            $transform,
            " = ANY (a.transforms)))"
        )
    };
}
pub(super) use others_can_take;

pub(super) const CANDIDATES: Statement = Statement::new(
    "candidates",
    concat!(
        "SELECT t.id, t.target, t.transform, t.passed_over
     FROM jsonb_to_recordset($1) AS d (target text, transforms text[], free int, agents text[])
     CROSS JOIN LATERAL (
         SELECT id, target, transform, CASE WHEN passed_over_until > clock_timestamp() THEN passed_over END AS passed_over
         FROM dunlin_controller.tasks w
         WHERE target = d.target AND state = 'ready' AND run_at <= clock_timestamp()
           AND (SELECT suspended FROM dunlin_controller.targets WHERE name = d.target) = ''
           AND (transform IS NULL OR transform = ANY (d.transforms))
           AND NOT (passed_over IS NOT NULL AND passed_over_until > clock_timestamp() AND d.agents <@ ARRAY[passed_over]
                    AND ",
        others_can_take!("d.target", "w.passed_over", "w.transform"),
        ")
         ORDER BY priority, run_at, id LIMIT d.free
         FOR NO KEY UPDATE SKIP LOCKED
     ) t"
    ),
);

/// The session is locked, shared with heartbeats: an agent that opens another stream meanwhile waits for this grant, and
/// then takes back what it was not told of. Runs are looked up for each task: joined, the planner would at times begin with
/// the runs that are running, and walk over all of their tasks.
pub(super) const GRANT: Statement = Statement::new(
    "grant",
    "WITH n AS (
         SELECT n.id, n.agent FROM jsonb_to_recordset($1) AS n (id bigint, agent text, session bigint)
         JOIN dunlin_controller.agents a ON a.id = n.agent AND a.session = n.session
         ORDER BY a.id FOR KEY SHARE OF a
     ), leased AS (
         UPDATE dunlin_controller.tasks t
         SET state = 'leased', epoch = t.epoch + 1, agent_id = n.agent,
             expires_at = clock_timestamp() + make_interval(secs => $2),
             granted_at = coalesce(t.granted_at, clock_timestamp()), delayed = false, rests = '', waits = NULL, activity = NULL,
             alive = 0, alive_at = clock_timestamp()
         FROM n
         WHERE t.id = n.id AND (SELECT r.state FROM dunlin_controller.runs r WHERE r.id = t.run_id) = 'running'
         RETURNING t.id, t.epoch, t.agent_id, t.target, t.run_id, t.kind, t.step, t.range, t.range_low, t.range_high,
             t.rows_total, t.transform
     )
     SELECT l.id, l.epoch, l.agent_id, l.target, l.run_id, l.kind, l.step, l.range, l.range_low, l.range_high,
         l.rows_total, r.migration_id, r.checksum, r.revision, r.applications, r.request_id, r.redo_steps, r.continue_steps, r.reason,
         r.requested_by, s.ranges_total AS known_ranges, s.key,
         CASE WHEN l.kind = 'plan' THEN (
             SELECT least(sum(a.slots), 10000)::int FROM dunlin_controller.agent_targets reach
             JOIN dunlin_controller.agents a ON a.id = reach.agent_id
             WHERE reach.target = l.target AND reach.reachable AND a.connected_until > now()
               AND (l.transform IS NULL OR l.transform = ANY (a.transforms))
         ) END AS slots
     FROM leased l JOIN dunlin_controller.runs r ON r.id = l.run_id
     LEFT JOIN dunlin_controller.run_steps s ON s.run_id = l.run_id AND s.ordinal = l.step",
);

impl Store {
    /// Claims tasks. `assign` gives candidates to agents; what it leaves out stays ready.
    ///
    /// # Errors
    /// The database is not available. Leases may have been granted nevertheless when the commit was not answered.
    pub async fn claim(
        &self,
        demands: &[Demand],
        assign: impl FnOnce(&[Candidate]) -> Vec<Assignment>,
    ) -> Result<Round, Error> {
        let session = self.session().await?;
        session.prepare(&[&CANDIDATES, &GRANT]).await?;
        let demanded = Json(demands);
        let (_, rows) = try_join(session.begin_lazily(), session.query(&CANDIDATES, &[&demanded])).await?;
        if rows.is_empty() {
            session.roll_back().await?;
            return Ok(Round::default());
        }
        let candidates = rows.iter().map(candidate).collect::<Result<Vec<_>, _>>()?;
        let mut found: BTreeMap<&TargetName, i32> = BTreeMap::new();
        for candidate in &candidates {
            *found.entry(&candidate.target).or_default() += 1;
        }
        let more = demands.iter().any(|demand| found.get(&demand.target).is_some_and(|found| *found >= demand.free));
        let assignments = assign(&candidates);
        let (rows, _) =
            try_join(session.query(&GRANT, &[&Json(&assignments), &self.ttl_seconds()]), session.commit()).await?;
        hit("grant.written").await?;
        session.settle();
        let mut checksums: Vec<String> = rows.iter().map(|row| row.get("checksum")).collect();
        checksums.sort_unstable();
        checksums.dedup();
        let definitions = self.definitions_of(&session, &checksums).await?;
        let mut granted = rows
            .iter()
            .map(|row| {
                let checksum: &str = row.get("checksum");
                let definition = definitions.get(checksum).ok_or_else(|| unknown("runs.checksum", checksum))?;
                granted(row, Arc::clone(definition))
            })
            .collect::<Result<Vec<_>, _>>()?;
        // In the order of the claim: the first ranges are worked on first.
        let places: HashMap<TaskId, usize> = assignments.iter().map(|one| one.id).zip(0..).collect();
        granted.sort_by_key(|one| places.get(&one.lease.task).copied());
        Ok(Round { more: more && !granted.is_empty(), granted })
    }
}

fn candidate(row: &Row) -> Result<Candidate, Error> {
    let transform = row.get::<_, Option<String>>("transform").map(TransformName::parse).transpose();
    Ok(Candidate {
        id: TaskId(row.get("id")),
        target: target(row.get("target"))?,
        transform: transform.map_err(|error| unknown("tasks.transform", &error.to_string()))?,
        passed_over: row
            .get::<_, Option<String>>("passed_over")
            .map(AgentId::parse)
            .transpose()
            .map_err(|error| unknown("tasks.passed_over", &error.to_string()))?,
    })
}

fn granted(row: &Row, definition: Arc<Definition>) -> Result<Granted, Error> {
    let kind: &str = row.get("kind");
    let high: Option<Vec<String>> = row.get("range_high");
    Ok(Granted {
        lease: lease(row.get("id"), row.get("epoch")),
        agent: AgentId::parse(row.get::<_, String>("agent_id"))
            .map_err(|error| unknown("tasks.agent_id", &error.to_string()))?,
        target: target(row.get("target"))?,
        run: RunId(row.get("run_id")),
        migration: migration(row.get("migration_id"))?,
        revision: row.get("revision"),
        applications: row.get("applications"),
        kind: Kind::parse(kind).ok_or_else(|| unknown("tasks.kind", kind))?,
        step: row.get("step"),
        range: high.map(|high| Range {
            ordinal: row.get("range"),
            low: row.get("range_low"),
            high,
            rows_total: row.get("rows_total"),
            done: false,
            rows: 0,
            rows_walked: 0,
        }),
        known_ranges: row.get::<_, Option<i32>>("known_ranges").unwrap_or(0),
        slots: row.get::<_, Option<i32>>("slots").unwrap_or(0),
        key: row.get::<_, Option<Json<Vec<KeyColumn>>>>("key").map(|key| key.0).unwrap_or_default(),
        request: row.get::<_, Uuid>("request_id").to_string(),
        mending: Mending {
            redo_steps: row.get("redo_steps"),
            continue_steps: row.get("continue_steps"),
            reason: row.get("reason"),
            requested_by: row.get("requested_by"),
        },
        definition,
    })
}

/// The step of a grant, by name, for messages.
impl Granted {
    /// The name of the step, where the task belongs to one.
    #[must_use]
    pub fn step_name(&self) -> Option<&StepName> {
        let index = usize::try_from(self.step).ok()?.checked_sub(1)?;
        self.definition.steps.get(index).map(|step| &step.name)
    }
}
