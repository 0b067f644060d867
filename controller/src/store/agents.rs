//! Agents: their streams, and the leases that they announce.
//!
//! Each stream of an agent has a session number, one more than the one before. Leases are granted to the newest session
//! only, so that a stream that broke and is not yet seen to be broken takes no task with it. What an agent holds by the
//! controller's word but does not announce, it does not hold: it goes back at once.
//!
//! An id belongs to one process at a time. Two that took it from each other would lose their leases for ever. So while the first was
//! heard of within the time to live of a lease, the second is told for whom it waits; the history is told at most every ten minutes.

use std::time::SystemTime;

use dunlin_shared::ids::{AgentId, RunId, TargetName};
use futures::future::{try_join, try_join4};
use serde::Serialize;
use tokio_postgres::types::Json;

use super::advancing::target;
use super::database::Store;
use super::error::Error;
use super::reports::finish;
use super::session::{Session, Statement};
use super::wake::Wake;
use crate::domain::task::Lease;
use crate::domain::{Event, EventType, Severity};

/// What an agent says of itself as it connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its id.
    pub agent: AgentId,
    /// The version of its program.
    pub version: String,
    /// How many tasks it works on at one time.
    pub slots: i32,
    /// The code that it has.
    pub transforms: Vec<String>,
    /// The targets that it serves.
    pub targets: Vec<TargetName>,
    /// The leases that it holds.
    pub leases: Vec<Lease>,
    /// Tells the process apart from others of the same id.
    pub instance: String,
    /// Where the process runs, in words.
    pub process: String,
}

/// What became of a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reception {
    /// The agent has a new stream.
    Welcome(Welcomed),
    /// Another process has the id and lives: why this one waits, in words.
    Taken(String),
}

/// The stream of an agent that is welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcomed {
    /// The number of the stream.
    pub session: i64,
    /// The leases that are still held, with their runs and targets.
    pub kept: Vec<(Lease, RunId, TargetName)>,
    /// What to look at.
    pub wakes: Vec<Wake>,
}

#[derive(Debug, Serialize)]
struct LeaseRow {
    id: i64,
    epoch: i64,
}

/// Waits for grants to the agent's stream of before that are under way, and keeps new ones from it.
const LOCK_AGENT: Statement =
    Statement::new("lock_agent", "SELECT FROM dunlin_controller.agents WHERE id = $1 FOR UPDATE");

/// The first session of an agent is above all that it had before it was forgotten: a stream from then is none of its own.
const WELCOME_AGENT: Statement = Statement::new(
    "welcome_agent",
    "INSERT INTO dunlin_controller.agents AS a (id, version, slots, transforms, session, connected_until, instance, process)
     VALUES ($1, $2, $3, $4, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, now() + make_interval(secs => $5), $6, $7)
     ON CONFLICT (id) DO UPDATE SET version = excluded.version, slots = excluded.slots,
         transforms = excluded.transforms, session = a.session + 1, last_seen_at = now(),
         connected_until = excluded.connected_until, instance = excluded.instance, process = excluded.process,
         taken_told_at = NULL
         WHERE a.instance = excluded.instance OR a.connected_until IS NULL OR a.connected_until <= clock_timestamp()
     RETURNING session",
);

/// Who has the id, and whether that was told a while ago. No row: it is free by now.
const ID_TAKEN: Statement = Statement::new(
    "id_taken",
    "SELECT process, coalesce(taken_told_at < now() - interval '10 min', true) AS tell FROM dunlin_controller.agents
     WHERE id = $1 AND instance <> $2 AND connected_until > clock_timestamp() FOR NO KEY UPDATE",
);

const TELL_ID_TAKEN: Statement =
    Statement::new("tell_id_taken", "UPDATE dunlin_controller.agents SET taken_told_at = now() WHERE id = $1");

/// The history of a target that was forgotten goes on.
const KNOW_TARGETS: Statement = Statement::new(
    "know_targets",
    "INSERT INTO dunlin_controller.targets (name, last_sequence)
     SELECT n, coalesce((SELECT max(e.sequence) FROM dunlin_controller.events e WHERE e.target = n), 0)
     FROM unnest($1::text[]) AS n WHERE NOT EXISTS (SELECT FROM dunlin_controller.targets t WHERE t.name = n) ORDER BY n
     ON CONFLICT (name) DO NOTHING",
);

const FORGET_TARGETS: Statement = Statement::new(
    "forget_targets",
    "DELETE FROM dunlin_controller.agent_targets WHERE agent_id = $1 AND NOT target = ANY ($2)",
);

/// What the agent reaches it tells in a moment: until then it serves its targets, and reaches those that it reached before.
const SERVE_TARGETS: Statement = Statement::new(
    "serve_targets",
    "INSERT INTO dunlin_controller.agent_targets (agent_id, target, reachable, error)
     SELECT id, n, false, '' FROM dunlin_controller.agents, unnest($2::text[]) AS n WHERE id = $1 ORDER BY n
     ON CONFLICT (agent_id, target) DO NOTHING",
);

const KEEP_LEASES: Statement = Statement::new(
    "keep_leases",
    "UPDATE dunlin_controller.tasks t SET expires_at = now() + make_interval(secs => $3)
     FROM jsonb_to_recordset($2) AS n (id bigint, epoch bigint)
     WHERE t.id = n.id AND t.epoch = n.epoch AND t.state = 'leased' AND t.agent_id = $1
     RETURNING t.id, t.epoch, t.run_id, t.target",
);

/// Leases that an agent does not have although it should. Those that are being reported at this moment are left alone.
const TAKE_BACK: Statement = Statement::new(
    "take_back",
    "WITH lost AS (
         SELECT t.id FROM dunlin_controller.tasks t
         WHERE t.agent_id = $1 AND t.state = 'leased'
           AND EXISTS (SELECT FROM dunlin_controller.agents a WHERE a.id = $1 AND a.session = coalesce($3, a.session))
           AND NOT EXISTS (SELECT FROM jsonb_to_recordset($2) AS n (id bigint, epoch bigint)
                           WHERE n.id = t.id AND n.epoch = t.epoch)
         ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED
     )
     UPDATE dunlin_controller.tasks t
     SET state = CASE WHEN t.revoked THEN 'cancelled' ELSE 'ready' END, ended_at = CASE WHEN t.revoked THEN clock_timestamp() END,
         agent_id = NULL, expires_at = NULL, run_at = now(), delayed = false, rests = ''
     FROM lost, dunlin_controller.runs r
     WHERE t.id = lost.id AND r.id = t.run_id
     RETURNING t.id, t.epoch, t.run_id, t.target, r.migration_id",
);

const LEAVE_AGENT: Statement = Statement::new(
    "leave_agent",
    "UPDATE dunlin_controller.agents SET connected_until = NULL, last_seen_at = now()
     WHERE id = $1 AND session = $2 AND connected_until IS NOT NULL",
);

const SEE_AGENTS: Statement = Statement::new(
    "see_agents",
    "WITH seen AS (
         SELECT a.id, n.session FROM dunlin_controller.agents a
         JOIN unnest($1::text[], $2::bigint[]) AS n (id, session) ON n.id = a.id
         WHERE a.session = n.session ORDER BY a.id FOR NO KEY UPDATE OF a
     )
     UPDATE dunlin_controller.agents a SET last_seen_at = now(), connected_until = now() + make_interval(secs => $3)
     FROM seen WHERE a.id = seen.id
     RETURNING a.id",
);

const LIST_AGENTS: Statement = Statement::new(
    "list_agents",
    "SELECT a.id, a.version, a.slots, a.transforms, a.connected_at, a.last_seen_at,
            coalesce(a.connected_until > now(), false) AS connected,
            (SELECT count(*) FROM dunlin_controller.tasks t WHERE t.agent_id = a.id AND t.state = 'leased') AS leases,
            ARRAY (SELECT s.target FROM dunlin_controller.agent_targets s WHERE s.agent_id = a.id ORDER BY 1) AS targets
     FROM dunlin_controller.agents a
     WHERE a.id > $1 AND ($2::text IS NULL OR EXISTS (
         SELECT FROM dunlin_controller.agent_targets s WHERE s.agent_id = a.id AND s.target = $2))
     ORDER BY a.id LIMIT $3",
);

/// An agent as it is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// True while one of its streams is open.
    pub connected: bool,
    /// The version of its program.
    pub version: String,
    /// How many tasks it works on at one time.
    pub slots: i32,
    /// How many leases it holds.
    pub leases: i64,
    /// The targets that it serves.
    pub targets: Vec<String>,
    /// The code that it has.
    pub transforms: Vec<String>,
    /// When it connected first.
    pub connected_at: SystemTime,
    /// When it was heard of last.
    pub last_seen_at: SystemTime,
}

impl Store {
    /// Takes in a hello: the agent has a new stream, keeps the leases that it announces where they are still its own, and
    /// loses the others.
    ///
    /// # Errors
    /// The database is not available, or refuses.
    pub async fn welcome(&self, hello: &Hello) -> Result<Reception, Error> {
        self.repeat(|| self.welcome_once(hello)).await
    }

    async fn welcome_once(&self, hello: &Hello) -> Result<Reception, Error> {
        let (_turn, session) = self.session_in_turn().await?;
        session
            .prepare(&[
                &LOCK_AGENT,
                &WELCOME_AGENT,
                &KNOW_TARGETS,
                &FORGET_TARGETS,
                &SERVE_TARGETS,
                &KEEP_LEASES,
                &TAKE_BACK,
            ])
            .await?;
        let id = hello.agent.as_str();
        let ttl = self.ttl_seconds();
        let targets: Vec<&str> = hello.targets.iter().map(TargetName::as_str).collect();
        let leases = Json(rows(&hello.leases));
        let ((_, _, welcomed, _), (_, _, kept, lost)) = try_join(
            try_join4(
                session.begin(),
                session.execute(&LOCK_AGENT, &[&id]),
                session.query_opt(
                    &WELCOME_AGENT,
                    &[&id, &hello.version, &hello.slots, &hello.transforms, &ttl, &hello.instance, &hello.process],
                ),
                session.execute(&KNOW_TARGETS, &[&targets]),
            ),
            try_join4(
                session.execute(&FORGET_TARGETS, &[&id, &targets]),
                session.execute(&SERVE_TARGETS, &[&id, &targets]),
                session.query(&KEEP_LEASES, &[&id, &leases, &ttl]),
                session.query(&TAKE_BACK, &[&id, &leases, &None::<i64>]),
            ),
        )
        .await?;
        let Some(welcomed) = welcomed else {
            session.roll_back().await?;
            return self.id_taken(&session, hello).await;
        };
        let number: i64 = welcomed.get("session");
        let mut events = vec![connected(hello)];
        let mut wakes = Vec::new();
        for row in &lost {
            events.push(taken_back(&hello.agent, row)?);
            wakes = vec![Wake::Dispatch];
        }
        finish(&session, self.replica(), events, &mut wakes).await?;
        let kept = kept
            .iter()
            .map(|row| {
                let held = lease(row.get("id"), row.get("epoch"));
                Ok((held, RunId(row.get("run_id")), target(row.get("target"))?))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Reception::Welcome(Welcomed { session: number, kept, wakes }))
    }

    /// Says who has the id, to the history too where that was not said lately.
    async fn id_taken(&self, session: &Session, hello: &Hello) -> Result<Reception, Error> {
        let agent = &hello.agent;
        session.begin().await?;
        let found = session.query_opt(&ID_TAKEN, &[&agent.as_str(), &hello.instance]).await?;
        let Some(found) = found else {
            session.roll_back().await?;
            return Ok(Reception::Taken(format!("another process had the id {agent} until now; it is free")));
        };
        let holder: String = found.get("process");
        let mut events = Vec::new();
        if found.get("tell") {
            session.execute(&TELL_ID_TAKEN, &[&agent.as_str()]).await?;
            events.push(taken(agent, &holder, &hello.process));
        }
        finish(session, self.replica(), events, &mut Vec::new()).await?;
        Ok(Reception::Taken(format!(
            "{} has the id {agent} and lives: this one waits until it is gone; where both are to work, give one of them another \
             id with --id",
            named(&holder)
        )))
    }

    /// Takes back leases that an agent was to have but has not: those whose grant got lost with its commit's answer.
    /// Without effect when the agent has another stream by now.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn take_back(&self, agent: &AgentId, number: i64, held: &[Lease]) -> Result<Vec<Wake>, Error> {
        let session = self.session().await?;
        let leases = Json(rows(held));
        session.begin().await?;
        let lost = session.query(&TAKE_BACK, &[&agent.as_str(), &leases, &Some(number)]).await?;
        let events = lost.iter().map(|row| taken_back(agent, row)).collect::<Result<Vec<_>, _>>()?;
        let mut wakes = if lost.is_empty() { Vec::new() } else { vec![Wake::Dispatch] };
        finish(&session, self.replica(), events, &mut wakes).await?;
        Ok(wakes)
    }

    /// Takes in that a stream has ended. Without effect when the agent has another one by now.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn leave(&self, agent: &AgentId, number: i64, reason: &str) -> Result<Vec<Wake>, Error> {
        let (_turn, session) = self.session_in_turn().await?;
        session.begin().await?;
        let left = session.execute(&LEAVE_AGENT, &[&agent.as_str(), &number]).await?;
        let events = if left == 0 { Vec::new() } else { vec![disconnected(agent, reason)] };
        let mut wakes = Vec::new();
        finish(&session, self.replica(), events, &mut wakes).await?;
        Ok(wakes)
    }

    /// Takes in that agents were heard of. Returns those whose session is still the newest.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn see_agents(&self, seen: &[(AgentId, i64)]) -> Result<Vec<String>, Error> {
        let session = self.session().await?;
        let ids: Vec<&str> = seen.iter().map(|(id, _)| id.as_str()).collect();
        let numbers: Vec<i64> = seen.iter().map(|(_, number)| *number).collect();
        let rows = session.query(&SEE_AGENTS, &[&ids, &numbers, &self.ttl_seconds()]).await?;
        Ok(rows.iter().map(|row| row.get("id")).collect())
    }

    /// A page of agents behind an id.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn list_agents(&self, target: Option<&str>, after: &str, limit: i64) -> Result<Vec<Listed>, Error> {
        let session = self.session().await?;
        let rows = session.query(&LIST_AGENTS, &[&after, &target, &limit]).await?;
        Ok(rows
            .iter()
            .map(|row| Listed {
                id: row.get("id"),
                connected: row.get("connected"),
                version: row.get("version"),
                slots: row.get("slots"),
                leases: row.get("leases"),
                targets: row.get("targets"),
                transforms: row.get("transforms"),
                connected_at: row.get("connected_at"),
                last_seen_at: row.get("last_seen_at"),
            })
            .collect())
    }
}

fn rows(leases: &[Lease]) -> Vec<LeaseRow> {
    leases.iter().map(|lease| LeaseRow { id: lease.task.0, epoch: lease.epoch.0 }).collect()
}

pub(super) fn lease(task: i64, epoch: i64) -> Lease {
    Lease { task: task.into(), epoch: epoch.into() }
}

fn connected(hello: &Hello) -> Event {
    let targets: Vec<&str> = hello.targets.iter().map(TargetName::as_str).collect();
    let message = format!("agent {} connected with {} slots for {}", hello.agent, hello.slots, targets.join(", "));
    Event::new(EventType::AgentConnected, Severity::Info, message)
        .of_agent(&hello.agent)
        .with("slots", hello.slots)
        .with("version", hello.version.as_str())
}

/// The process that has an id, in words.
fn named(process: &str) -> &str {
    if process.is_empty() { "another process" } else { process }
}

fn taken(agent: &AgentId, holder: &str, other: &str) -> Event {
    let message = format!(
        "two agents run under the id {agent}: {} has it, and {} waits until that is gone; where both are to work, give one of them \
         another id with --id",
        named(holder),
        named(other)
    );
    Event::new(EventType::AgentIdTaken, Severity::Warning, message).of_agent(agent)
}

pub(super) fn disconnected(agent: &AgentId, reason: &str) -> Event {
    let message = format!("agent {agent} went away: {reason}");
    Event::new(EventType::AgentDisconnected, Severity::Info, message).of_agent(agent)
}

fn taken_back(agent: &AgentId, row: &tokio_postgres::Row) -> Result<Event, Error> {
    let epoch: i64 = row.get("epoch");
    let message = format!("agent {agent} came back without a task that it had: whoever is free goes on with it");
    Ok(Event::new(EventType::LeaseReleased, Severity::Warning, message)
        .of_target(&target(row.get("target"))?)
        .of_migration(&super::advancing::migration(row.get("migration_id"))?)
        .of_run(row.get::<_, i64>("run_id").into())
        .of_agent(agent)
        .with("epoch", epoch))
}
