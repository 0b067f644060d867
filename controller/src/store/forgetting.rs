//! Targets and agents that are gone for good are forgotten: nothing stays of them but their events.
//!
//! A target goes in one transaction with its runs, their tasks and steps, and the copy of its registry, however much that is: nobody works
//! on it, so nobody is held up. What must stay true: neither an agent that serves a target, nor a run that has not ended, nor a task that
//! somebody holds loses its target under it. So the schedule of the target, its row and its agents are locked before it is decided.
//!
//! The events stay, numbered as they were. A target of the same name begins anew, and its history goes on behind the last number.

use dunlin_shared::ids::{AgentId, TargetName};

use super::advancing::unknown;
use super::database::Store;
use super::error::Error;
use super::events;
use super::locks;
use super::log;
use super::reports::finish;
use super::session::{Session, Statement};
use super::wake::Wake;
use crate::domain::{Event, EventType, Severity};

/// How many obstacles of a kind are told.
const OBSTACLES: i64 = 100;

/// How many agents a batch removes.
const BATCH: i64 = 500;

/// Why a target cannot be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InUse {
    /// A connected agent serves it.
    Agent(String),
    /// A run has not ended: its number, migration and state.
    Run(i64, String, String),
    /// An agent still holds a task of a run that has ended: the agent and the run.
    Held(String, i64),
}

/// What was removed of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Its runs.
    pub runs: i64,
    /// Their tasks.
    pub tasks: i64,
    /// Migrations in the copy of its registry.
    pub applied: i64,
    /// The agents that served it.
    pub agents: Vec<String>,
}

/// What became of a request to forget a target.
#[derive(Debug)]
pub enum Forgotten {
    /// It is forgotten.
    Removed(Removed, Vec<Wake>),
    /// No agent has ever served it.
    Unknown,
    /// It is in use.
    InUse(Vec<InUse>),
}

/// What became of a request to forget an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dismissed {
    /// It is forgotten, and served these targets.
    Removed(Vec<String>),
    /// No agent has the id.
    Unknown,
    /// It is connected.
    Connected,
    /// It holds so many leases.
    Holding(i64),
}

/// Agents that say hello at this moment come before it or after it.
const LOCK_AGENTS_OF: Statement = Statement::new(
    "lock_agents_of",
    "SELECT a.id, coalesce(a.connected_until > clock_timestamp(), false) AS connected
     FROM dunlin_controller.agents a
     WHERE a.id IN (SELECT s.agent_id FROM dunlin_controller.agent_targets s WHERE s.target = $1)
     ORDER BY a.id FOR UPDATE OF a",
);

const LOCK_TARGET: Statement =
    Statement::new("lock_target", "SELECT name FROM dunlin_controller.targets WHERE name = $1 FOR UPDATE");

const UNFINISHED: Statement = Statement::new(
    "unfinished",
    "SELECT id, migration_id, state FROM dunlin_controller.runs
     WHERE target = $1 AND state IN ('queued', 'running', 'pausing', 'paused') ORDER BY id LIMIT $2",
);

const HELD_ON: Statement = Statement::new(
    "held_on",
    "SELECT DISTINCT agent_id, run_id FROM dunlin_controller.tasks WHERE target = $1 AND state = 'leased'
     ORDER BY run_id, agent_id LIMIT $2",
);

const RUNS_ON: Statement = Statement::new(
    "runs_on",
    "SELECT id FROM dunlin_controller.runs WHERE target = $1 AND base_epoch >= 0 ORDER BY id",
);

const FORGET_TASKS: Statement = Statement::new("forget_tasks", "DELETE FROM dunlin_controller.tasks WHERE run_id = $1");

const FORGET_STEPS: Statement =
    Statement::new("forget_steps", "DELETE FROM dunlin_controller.run_steps WHERE run_id = ANY ($1)");

/// All at once: they name each other.
const FORGET_RUNS: Statement = Statement::new("forget_runs", "DELETE FROM dunlin_controller.runs WHERE id = ANY ($1)");

const FORGET_REGISTRY: Statement =
    Statement::new("forget_registry", "DELETE FROM dunlin_controller.target_registry WHERE target = $1");

const FORGET_SERVICE: Statement =
    Statement::new("forget_service", "DELETE FROM dunlin_controller.agent_targets WHERE target = $1");

const FORGET_TARGET: Statement =
    Statement::new("forget_target", "DELETE FROM dunlin_controller.targets WHERE name = $1");

const AGENT_TO_FORGET: Statement = Statement::new(
    "agent_to_forget",
    "SELECT coalesce(a.connected_until > clock_timestamp(), false) AS connected,
            (SELECT count(*) FROM dunlin_controller.tasks t WHERE t.agent_id = a.id AND t.state = 'leased') AS leases,
            ARRAY (SELECT s.target FROM dunlin_controller.agent_targets s WHERE s.agent_id = a.id ORDER BY s.target) AS targets
     FROM dunlin_controller.agents a WHERE a.id = $1 FOR UPDATE OF a",
);

const FORGET_AGENT: Statement = Statement::new("forget_agent", "DELETE FROM dunlin_controller.agents WHERE id = $1");

const FORGET_GONE: Statement = Statement::new(
    "forget_gone",
    "DELETE FROM dunlin_controller.agents WHERE id = ANY (ARRAY (
         SELECT a.id FROM dunlin_controller.agents a
         WHERE coalesce(a.connected_until <= clock_timestamp(), true)
           AND a.last_seen_at < clock_timestamp() - make_interval(secs => $1)
           AND NOT EXISTS (SELECT FROM dunlin_controller.tasks t WHERE t.agent_id = a.id AND t.state = 'leased')
         ORDER BY a.id LIMIT $2 FOR UPDATE OF a SKIP LOCKED))
     RETURNING id, last_seen_at",
);

impl Store {
    /// Forgets a target that nobody uses. `reason` may be empty; `by` is who asks, as it was stated.
    ///
    /// # Errors
    /// The database is not available, or refuses. Nothing is removed then.
    pub async fn forget_target(&self, target: &TargetName, reason: &str, by: &str) -> Result<Forgotten, Error> {
        self.repeat(|| self.forget_target_once(target, reason, by)).await
    }

    async fn forget_target_once(&self, target: &TargetName, reason: &str, by: &str) -> Result<Forgotten, Error> {
        let session = self.session().await?;
        let name = target.as_str();
        session.begin().await?;
        locks::schedule(&session, target).await?;
        // Before its agents, unlike elsewhere: whoever comes to serve it waits, and whoever has come is seen.
        if session.query_opt(&LOCK_TARGET, &[&name]).await?.is_none() {
            session.roll_back().await?;
            return Ok(Forgotten::Unknown);
        }
        let agents = session.query(&LOCK_AGENTS_OF, &[&name]).await?;
        let mut in_use: Vec<InUse> =
            agents.iter().filter(|row| row.get("connected")).map(|row| InUse::Agent(row.get("id"))).collect();
        let unfinished = session.query(&UNFINISHED, &[&name, &OBSTACLES]).await?;
        in_use
            .extend(unfinished.iter().map(|row| InUse::Run(row.get("id"), row.get("migration_id"), row.get("state"))));
        if unfinished.is_empty() {
            let held = session.query(&HELD_ON, &[&name, &OBSTACLES]).await?;
            in_use.extend(held.iter().map(|row| InUse::Held(row.get("agent_id"), row.get("run_id"))));
        }
        if !in_use.is_empty() {
            session.roll_back().await?;
            return Ok(Forgotten::InUse(in_use));
        }
        let mut removed = remove(&session, target).await?;
        removed.agents = agents.iter().map(|row| row.get("id")).collect();
        // The event is numbered by the row of the target, which goes behind it.
        let event = forgotten(target, &removed, reason, by);
        events::append(&session, std::slice::from_ref(&event)).await?;
        session.execute(&FORGET_TARGET, &[&name]).await?;
        // An agent that was not heard of for a while, and whose stream is open all the same, tells of its target again.
        let mut wakes = vec![Wake::Events(target.clone()), Wake::LookAll(target.clone())];
        finish(&session, self.replica(), Vec::new(), &mut wakes).await?;
        log::line(&event);
        Ok(Forgotten::Removed(removed, wakes))
    }

    /// Forgets an agent that is not connected. `by` is who asks, as it was stated.
    ///
    /// # Errors
    /// The database is not available, or refuses.
    pub async fn forget_agent(&self, agent: &AgentId, by: &str) -> Result<Dismissed, Error> {
        self.repeat(|| self.forget_agent_once(agent, by)).await
    }

    async fn forget_agent_once(&self, agent: &AgentId, by: &str) -> Result<Dismissed, Error> {
        let session = self.session().await?;
        session.begin().await?;
        let found = session.query_opt(&AGENT_TO_FORGET, &[&agent.as_str()]).await?;
        let refused = match &found {
            None => Some(Dismissed::Unknown),
            Some(row) if row.get("connected") => Some(Dismissed::Connected),
            Some(row) => Some(row.get::<_, i64>("leases")).filter(|leases| *leases > 0).map(Dismissed::Holding),
        };
        if let Some(refused) = refused {
            session.roll_back().await?;
            return Ok(refused);
        }
        session.execute(&FORGET_AGENT, &[&agent.as_str()]).await?;
        let message = format!("agent {agent} is forgotten, as {} asked", named(by));
        let event =
            Event::new(EventType::AgentForgotten, Severity::Info, message).of_agent(agent).with("requested_by", by);
        finish(&session, self.replica(), vec![event], &mut Vec::new()).await?;
        Ok(Dismissed::Removed(found.map(|row| row.get("targets")).unwrap_or_default()))
    }

    /// Forgets agents that were not heard of for so long, a batch at a time, and returns how many.
    ///
    /// # Errors
    /// The database is not available. Those that went by then are forgotten.
    pub async fn forget_agents_gone_for(&self, gone: std::time::Duration) -> Result<u64, Error> {
        let mut forgotten = 0;
        loop {
            let batch = self.repeat(|| self.forget_gone_once(gone)).await?;
            forgotten += batch;
            if batch < BATCH.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }

    async fn forget_gone_once(&self, gone: std::time::Duration) -> Result<u64, Error> {
        let session = self.session().await?;
        session.begin().await?;
        let rows = session.query(&FORGET_GONE, &[&gone.as_secs_f64(), &BATCH]).await?;
        let events = rows
            .iter()
            .map(|row| {
                let agent = AgentId::parse(row.get::<_, String>("id"))
                    .map_err(|error| unknown("agents.id", &error.to_string()))?;
                let days = gone.as_secs() / (24 * 3600);
                let message = format!("agent {agent} was gone for {days} days and is forgotten");
                Ok(Event::new(EventType::AgentForgotten, Severity::Info, message).of_agent(&agent))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
        finish(&session, self.replica(), events, &mut Vec::new()).await?;
        Ok(count)
    }
}

/// Removes what hangs on a target, its own row and its events excepted.
async fn remove(session: &Session, target: &TargetName) -> Result<Removed, Error> {
    let name = target.as_str();
    let count = |rows: u64| i64::try_from(rows).unwrap_or(i64::MAX);
    let runs: Vec<i64> = session.query(&RUNS_ON, &[&name]).await?.iter().map(|row| row.get("id")).collect();
    let mut tasks = 0;
    for run in &runs {
        tasks += session.execute(&FORGET_TASKS, &[run]).await?;
    }
    session.execute(&FORGET_STEPS, &[&runs]).await?;
    let removed = session.execute(&FORGET_RUNS, &[&runs]).await?;
    let applied = session.execute(&FORGET_REGISTRY, &[&name]).await?;
    session.execute(&FORGET_SERVICE, &[&name]).await?;
    Ok(Removed { runs: count(removed), tasks: count(tasks), applied: count(applied), agents: Vec::new() })
}

/// Who asks, in words.
fn named(by: &str) -> &str {
    if by.is_empty() { "somebody" } else { by }
}

fn forgotten(target: &TargetName, removed: &Removed, reason: &str, by: &str) -> Event {
    let why = if reason.is_empty() { String::new() } else { format!("; the reason: {reason}") };
    let message = format!("target {target} is forgotten, as {} asked{why}", named(by));
    Event::new(EventType::TargetForgotten, Severity::Warning, message)
        .of_target(target)
        .with("reason", reason)
        .with("requested_by", by)
        .with("runs", removed.runs)
        .with("applied", removed.applied)
}
