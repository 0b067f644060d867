//! Leases are renewed, and expire.
//!
//! A heartbeat renews all leases that it names and takes in their progress, for all agents of a replica in one statement. Leases of a
//! run that has failed are asked back with every heartbeat; what their holders have done by then still counts.
//! It does not wait for the disk: after a crash of the database the next one comes. Expired leases are made ready by whichever replica comes first; the others skip them. Nothing depends on clocks but
//! when: all times are the database's, and in the target the epoch alone decides.

use std::collections::BTreeMap;
use std::time::Duration;

use dunlin_shared::ids::{AgentId, TargetName};
use futures::future::try_join3;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::advancing::{migration, sampled, target, unknown};
use super::agents::{disconnected, lease};
use super::database::Store;
use super::error::Error;
use super::reports::finish;
use super::session::Statement;
use super::wake::{self, Wake};
use crate::domain::report::{Activity, Progress};
use crate::domain::task::Lease;
use crate::domain::{Event, EventType, Severity};

#[derive(Debug, Serialize)]
struct ProgressRow {
    id: i64,
    epoch: i64,
    rows: i64,
    rows_walked: i64,
    before: i64,
    waits: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    activity: Option<Activity>,
    alive: i64,
}

/// Figures of a task never fall. Only ranges and single SQL steps are counted; see `domain::advance`.
const RENEW: Statement = Statement::new(
    "renew",
    sampled!(
        "WITH named AS (
         SELECT * FROM jsonb_to_recordset($1) AS n (id bigint, epoch bigint, rows bigint, rows_walked bigint, before bigint, waits text,
             activity jsonb, alive bigint)
     ), held AS (
         SELECT t.id, t.epoch, t.run_id, t.step, t.target, t.revoked, n.waits, n.activity, n.alive,
                t.waits IS DISTINCT FROM n.waits OR t.activity IS DISTINCT FROM n.activity AS told,
                CASE WHEN t.kind = 'range' THEN least(greatest(n.rows_walked - t.rows_walked, 0), greatest(n.before - t.rows_walked, 0))
                     ELSE 0 END AS before,
                CASE WHEN t.step > 0 AND t.kind <> 'plan' THEN greatest(n.rows - t.rows, 0) ELSE 0 END AS rows,
                CASE WHEN t.kind = 'range' THEN greatest(n.rows_walked - t.rows_walked, 0) ELSE 0 END AS rows_walked
         FROM dunlin_controller.tasks t JOIN named n ON n.id = t.id
         WHERE t.epoch = n.epoch AND t.state = 'leased'
         ORDER BY t.id FOR NO KEY UPDATE OF t
     ), renewed AS (
         UPDATE dunlin_controller.tasks t
         SET expires_at = clock_timestamp() + make_interval(secs => $2), rows = t.rows + h.rows,
             rows_walked = t.rows_walked + h.rows_walked, waits = h.waits, activity = h.activity, alive = h.alive,
             alive_at = CASE WHEN h.alive <> t.alive OR h.rows + h.rows_walked > 0 THEN clock_timestamp() ELSE t.alive_at END
         FROM held h WHERE t.id = h.id
     ), moved AS (
         SELECT run_id, step, sum(rows)::bigint AS rows, sum(rows_walked)::bigint AS rows_walked, sum(before)::bigint AS before
         FROM held GROUP BY run_id, step HAVING sum(rows) > 0 OR sum(rows_walked) > 0
     ), locked AS (
         SELECT s.run_id, s.ordinal, m.rows, m.rows_walked, m.before
         FROM dunlin_controller.run_steps s JOIN moved m ON m.run_id = s.run_id AND m.step = s.ordinal
         ORDER BY s.run_id, s.ordinal FOR NO KEY UPDATE OF s
     ), counted AS (
         UPDATE dunlin_controller.run_steps s
         SET rows = s.rows + l.rows, rows_walked = s.rows_walked + l.rows_walked, rows_walked_before = s.rows_walked_before + l.before,
             ",
        "l.rows_walked - l.before",
        "
         FROM locked l WHERE s.run_id = l.run_id AND s.ordinal = l.ordinal
     )
     SELECT id, epoch, target, revoked, told OR rows + rows_walked > 0 AS moved FROM held"
    ),
);

/// Takes leases from their agents: those of tasks that `gone`, a query for ids and agents, selects. Others go first for `$1`
/// seconds. What it returns is read by [`lost_event`].
macro_rules! taken {
    ($gone:expr) => {
        concat!(
            "WITH gone AS (",
            $gone,
            ")
     UPDATE dunlin_controller.tasks t
     SET state = CASE WHEN t.revoked THEN 'cancelled' ELSE 'ready' END,
         ended_at = CASE WHEN t.revoked THEN clock_timestamp() END,
         agent_id = NULL, expires_at = NULL, run_at = clock_timestamp(), delayed = false, rests = '',
         passed_over = gone.agent_id, passed_over_until = clock_timestamp() + make_interval(secs => $1)
     FROM gone, dunlin_controller.runs r
     WHERE t.id = gone.id AND r.id = t.run_id
     RETURNING t.revoked, t.id, t.epoch, t.range, t.run_id, t.target, r.migration_id, gone.agent_id,
         (SELECT s.name FROM dunlin_controller.run_steps s WHERE s.run_id = t.run_id AND s.ordinal = t.step) AS step"
        )
    };
}
pub(super) use taken;

const EXPIRE: Statement = Statement::new(
    "expire",
    taken!(
        "
         SELECT id, agent_id FROM dunlin_controller.tasks
         WHERE state = 'leased' AND expires_at <= statement_timestamp()
         LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED
     "
    ),
);

const LOSE_AGENTS: Statement = Statement::new(
    "lose_agents",
    "UPDATE dunlin_controller.agents SET connected_until = NULL
     WHERE id IN (SELECT id FROM dunlin_controller.agents WHERE has_stream AND connected_until <= statement_timestamp()
                  FOR NO KEY UPDATE SKIP LOCKED)
     RETURNING id",
);

/// How long a task waits for another agent than the one that let it go, in seconds.
pub(super) const OTHERS_FIRST: f64 = 2.0;

const NEXT_DUE: Statement = Statement::new(
    "next_due",
    "SELECT extract(epoch FROM least(
         (SELECT min(expires_at) FROM dunlin_controller.tasks WHERE state = 'leased'),
         (SELECT min(run_at) FROM dunlin_controller.tasks
          WHERE state = 'ready' AND delayed AND run_at > clock_timestamp()),
         (SELECT min(passed_over_until) FROM dunlin_controller.tasks
          WHERE state = 'ready' AND passed_over IS NOT NULL AND passed_over_until > clock_timestamp()),
         (SELECT min(connected_until) FROM dunlin_controller.agents WHERE has_stream)
     ) - clock_timestamp())::float8 AS seconds",
);

/// What a round of renewals has found.
#[derive(Debug, Default)]
pub struct Renewed {
    /// The leases that are still held.
    pub kept: Vec<Lease>,
    /// Those of them whose run has failed: their holders must give them back.
    pub revoked: Vec<Lease>,
    /// The targets whose runs have got on.
    pub moved: Vec<TargetName>,
}

impl Store {
    /// Renews leases and takes in their progress. What is not among the kept is not held any more.
    ///
    /// # Errors
    /// The database is not available, or refuses.
    pub async fn renew(&self, leases: &[(Lease, Progress)]) -> Result<Renewed, Error> {
        if leases.is_empty() {
            return Ok(Renewed::default());
        }
        self.repeat(|| self.renew_once(leases)).await
    }

    async fn renew_once(&self, leases: &[(Lease, Progress)]) -> Result<Renewed, Error> {
        let session = self.session().await?;
        // Each lease once, however often it was named: its progress is counted once.
        let mut once: BTreeMap<Lease, Progress> = BTreeMap::new();
        for (lease, progress) in leases {
            once.entry(*lease).or_default().follow(progress.clone());
        }
        let named: Vec<ProgressRow> = once
            .into_iter()
            .map(|(lease, Progress { counted, waits, activity, alive })| ProgressRow {
                id: lease.task.0,
                epoch: lease.epoch.0,
                rows: counted.rows,
                rows_walked: counted.rows_walked,
                before: counted.rows_walked_before,
                waits,
                activity,
                alive,
            })
            .collect();
        let (named, ttl) = (Json(named), self.ttl_seconds());
        session.prepare(&[&RENEW]).await?;
        let (_, rows, _) =
            try_join3(session.begin_lazily(), session.query(&RENEW, &[&named, &ttl]), session.commit()).await?;
        session.settle();
        let named = |row: &Row| lease(row.get("id"), row.get("epoch"));
        let kept = rows.iter().map(named).collect();
        let revoked = rows.iter().filter(|row| row.get("revoked")).map(named).collect();
        let mut moved: Vec<TargetName> = rows
            .iter()
            .filter(|row| row.get("moved"))
            .map(|row| target(row.get("target")))
            .collect::<Result<_, _>>()?;
        moved.sort_unstable();
        moved.dedup();
        if !moved.is_empty() {
            let wakes: Vec<Wake> = moved.iter().cloned().map(Wake::Progress).collect();
            wake::notify(&session, self.replica(), &wakes).await?;
        }
        Ok(Renewed { kept, revoked, moved })
    }

    /// Makes tasks with expired leases ready again, and takes in which agents have not been heard of.
    ///
    /// # Errors
    /// The database is not available, or refuses.
    pub async fn expire(&self) -> Result<Vec<Wake>, Error> {
        self.repeat(|| self.expire_once()).await
    }

    async fn expire_once(&self) -> Result<Vec<Wake>, Error> {
        let session = self.session().await?;
        session.prepare(&[&EXPIRE, &LOSE_AGENTS]).await?;
        let (_, expired, lost) =
            try_join3(session.begin(), session.query(&EXPIRE, &[&OTHERS_FIRST]), session.query(&LOSE_AGENTS, &[]))
                .await?;
        if expired.is_empty() && lost.is_empty() {
            session.roll_back().await?;
            return Ok(Vec::new());
        }
        let mut events = expired.iter().map(expired_event).collect::<Result<Vec<_>, _>>()?;
        for row in &lost {
            let agent =
                AgentId::parse(row.get::<_, String>("id")).map_err(|error| unknown("agents.id", &error.to_string()))?;
            events.push(disconnected(&agent, "it was not heard of in time"));
        }
        let mut wakes = if expired.is_empty() { Vec::new() } else { vec![Wake::Dispatch] };
        let counts = expired.iter().fold(BTreeMap::<String, u32>::new(), |mut counts, row| {
            *counts.entry(row.get("agent_id")).or_default() += 1;
            counts
        });
        finish(&session, self.replica(), events, &mut wakes).await?;
        for (agent, leases) in counts {
            tracing::warn!(agent, leases, "leases expired; their tasks are ready again");
        }
        Ok(wakes)
    }

    /// How long until something is due: a lease expires, a task has rested, or an agent is to be missed.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn next_due(&self) -> Result<Option<Duration>, Error> {
        let session = self.session().await?;
        let seconds: Option<f64> = session.query_one(&NEXT_DUE, &[]).await?.get("seconds");
        Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)))
    }
}

fn expired_event(row: &Row) -> Result<Event, Error> {
    lost_event(row, "was not heard of in time")
}

/// The event of a lease that its agent has lost, and why.
pub(super) fn lost_event(row: &Row, why: &str) -> Result<Event, Error> {
    let agent: String = row.get("agent_id");
    let agent = AgentId::parse(agent).map_err(|error| unknown("tasks.agent_id", &error.to_string()))?;
    let step = row.get::<_, Option<String>>("step").unwrap_or_default();
    let range: i32 = row.get("range");
    let whole: &str = row.get("migration_id");
    let part = if range > 0 { "a range of step" } else { "step" };
    let what = if step.is_empty() { whole.to_owned() } else { format!("{part} {step:?} of {whole}") };
    let then = if row.get("revoked") { "its run has failed" } else { "whoever is free goes on with it" };
    let message = format!("agent {agent}, which works on {what}, {why}: {then}");
    Ok(Event::new(EventType::LeaseExpired, Severity::Warning, message)
        .of_target(&target(row.get("target"))?)
        .of_migration(&migration(row.get("migration_id"))?)
        .of_run(row.get::<_, i64>("run_id").into())
        .of_step(step)
        .of_agent(&agent)
        .with("task", row.get::<_, i64>("id"))
        .with("epoch", row.get::<_, i64>("epoch")))
}
