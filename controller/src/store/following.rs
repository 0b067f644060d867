//! What agents see of targets: whether they reach them, and what these have applied. The target's word is taken.
//!
//! An unchanged registry is known by its digest, so that a thousand agents that connect at once cost a thousand small
//! look-ups, not a thousand comparisons row by row.

use std::collections::HashMap;
use std::time::SystemTime;

use dunlin_shared::ids::{AgentId, MigrationId, RunId, TargetName};
use futures::future::{try_join, try_join4};

use super::advancing::migration;
use super::applied::{digest, read_applied, take_over};
use super::database::Store;
use super::error::Error;
use super::half_done::{self, HeldStep};
use super::identity::{self, Recognised};
use super::locks;
use super::reports::finish;
use super::session::{Session, Statement};
use super::starting::turn_come;
use super::wake::Wake;
use crate::domain::followed::{self, Known};
use crate::domain::identity::Seen;
use crate::domain::report::Applied;
use crate::domain::{Event, EventType, Severity};

/// What an agent sees of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// The target.
    pub target: TargetName,
    /// Why it was not reached; `None` when it was.
    pub error: Option<String>,
    /// The version of PostgreSQL.
    pub server_version: String,
    /// The whole registry, when it was reached.
    pub applied: Vec<Applied>,
    /// The steps of half-done migrations, and when they were so by the clock of the target, when it was reached.
    pub held: Option<(SystemTime, Vec<HeldStep>)>,
    /// When the look was asked for that showed this, by the clock of the controllers' database; `None` when it was not.
    pub asked: Option<SystemTime>,
    /// Which database it is, where the agent says so.
    pub identity: Option<Seen>,
    /// True when the agent has raised the line on its connection.
    pub raised: bool,
}

impl Sight {
    /// This page and the next one: all that is listed in both, and for the rest what the next one says.
    #[must_use]
    pub(crate) fn followed_by(self, next: Self) -> Self {
        let Self { mut applied, held, .. } = self;
        applied.extend(next.applied);
        let held = match (held, next.held) {
            (Some((_, mut held)), Some((at, more))) => {
                held.extend(more);
                Some((at, held))
            }
            (_, held) => held,
        };
        Self { applied, held, ..next }
    }
}

/// What follows from what an agent sees.
#[derive(Debug)]
pub struct Noted {
    /// What to look at.
    pub wakes: Vec<Wake>,
    /// What the agent may do with what it sees; `None` where it sees nothing.
    pub recognised: Option<Recognised>,
    /// The agent is to look once more, and to name this time: what it has told may be older than what is known.
    pub ask: Option<SystemTime>,
}

const SEE_TARGET: Statement = Statement::new(
    "see_target",
    "INSERT INTO dunlin_controller.agent_targets (agent_id, target, reachable, error, identity, refusal)
     SELECT id, $2, $3, $4, $5, $6 FROM dunlin_controller.agents WHERE id = $1
     ON CONFLICT (agent_id, target) DO UPDATE SET reachable = excluded.reachable, error = excluded.error,
         identity = excluded.identity, refusal = excluded.refusal",
);

/// The history of a target that was forgotten goes on.
const KNOW_TARGET: Statement = Statement::new(
    "know_target",
    "INSERT INTO dunlin_controller.targets (name, last_sequence)
     SELECT $1::text, coalesce((SELECT max(e.sequence) FROM dunlin_controller.events e WHERE e.target = $1), 0)
     WHERE NOT EXISTS (SELECT FROM dunlin_controller.targets t WHERE t.name = $1)
     ON CONFLICT (name) DO NOTHING",
);

const TARGET_KNOWN: Statement = Statement::new(
    "target_known",
    "SELECT t.reachable, t.reported_at IS NOT NULL AS reported, t.registry_digest,
            EXISTS (SELECT FROM dunlin_controller.agent_targets s JOIN dunlin_controller.agents a ON a.id = s.agent_id
                    WHERE s.target = t.name AND s.reachable AND a.connected_until > now()) AS reached
     FROM dunlin_controller.targets t WHERE t.name = $1",
);

const KNOWN_REGISTRY: Statement = Statement::new(
    "known_registry",
    "SELECT migration_id, version, name, checksum, revision, applications, run_id, agent_id, rows, result, applied_at,
            last_applied_at,
            recorded_at, clock_timestamp() AS asked
     FROM dunlin_controller.target_registry WHERE target = $1",
);

const UNFINISHED_RUNS: Statement = Statement::new(
    "unfinished_runs",
    "SELECT id, migration_id FROM dunlin_controller.runs
     WHERE target = $1 AND state IN ('queued', 'running', 'pausing', 'paused')",
);

const REMOVE_APPLIED: Statement = Statement::new(
    "remove_applied",
    "DELETE FROM dunlin_controller.target_registry WHERE target = $1 AND migration_id = ANY ($2)",
);

/// Queued runs that were planned upon migrations which the target has no more, and those that come behind them. What an
/// unfinished run brings back is waited for.
const UNFOUNDED: Statement = Statement::new(
    "unfounded",
    "WITH RECURSIVE gone AS (
         SELECT n AS id FROM unnest($2::text[]) AS n
         WHERE NOT EXISTS (SELECT FROM dunlin_controller.runs r WHERE r.target = $1 AND r.migration_id = n
                           AND r.state IN ('queued', 'running', 'pausing', 'paused'))
     ), unfounded AS (
         SELECT r.id FROM dunlin_controller.runs r
         WHERE r.target = $1 AND r.state = 'queued' AND r.run_after && (SELECT array_agg(id) FROM gone)
         UNION
         SELECT r.id FROM dunlin_controller.runs r JOIN unfounded u ON r.after_run_id = u.id
             OR r.run_after @> ARRAY (SELECT b.migration_id FROM dunlin_controller.runs b WHERE b.id = u.id)
         WHERE r.target = $1 AND r.state = 'queued'
     ), locked AS (
         SELECT r.id FROM dunlin_controller.runs r JOIN unfounded u ON u.id = r.id ORDER BY r.id FOR NO KEY UPDATE OF r
     )
     UPDATE dunlin_controller.runs r SET state = 'cancelled', ended_at = clock_timestamp()
     FROM locked WHERE r.id = locked.id AND r.state = 'queued' RETURNING r.id, r.migration_id",
);

/// Tasks that were put off while nobody reached the target.
const HASTEN: Statement = Statement::new(
    "hasten",
    "UPDATE dunlin_controller.tasks SET run_at = clock_timestamp(), delayed = false
     WHERE id IN (SELECT id FROM dunlin_controller.tasks
                  WHERE target = $1 AND state = 'ready' AND delayed AND postponed > 0
                  FOR NO KEY UPDATE SKIP LOCKED)",
);

const WRITE_TARGET: Statement = Statement::new(
    "write_target",
    "UPDATE dunlin_controller.targets
     SET reachable = $2, error = $3, server_version = CASE WHEN $4 = '' THEN server_version ELSE $4 END,
         registry_digest = CASE WHEN $6 THEN $5 ELSE registry_digest END,
         reported_at = CASE WHEN $6 THEN clock_timestamp() ELSE reported_at END
     WHERE name = $1",
);

impl Store {
    /// Takes in what an agent sees of a target. `trusted`: the agent was let work on what it saw before, by this stream.
    ///
    /// # Errors
    /// The database is not available, or refuses.
    pub async fn see_target(&self, agent: &AgentId, sight: &Sight, trusted: bool) -> Result<Noted, Error> {
        self.repeat(|| self.see_once(agent, sight, trusted)).await
    }

    async fn see_once(&self, agent: &AgentId, sight: &Sight, trusted: bool) -> Result<Noted, Error> {
        let (_turn, session) = self.session_in_turn().await?;
        let target = &sight.target;
        let name = target.as_str();
        session
            .prepare(&[&KNOW_TARGET, &locks::LOCK_SCHEDULE, &identity::TARGET_BOUND, &SEE_TARGET, &TARGET_KNOWN])
            .await?;
        let (_, _, _, state) = try_join4(
            session.begin(),
            locks::schedule(&session, target),
            session.execute(&KNOW_TARGET, &[&name]),
            session.query_one(&identity::TARGET_BOUND, &[&name, &agent.as_str()]),
        )
        .await?;
        let state = identity::State::read(&state);
        let mut events = Vec::new();
        let mut wakes = Vec::new();
        let recognised = match &sight.error {
            Some(_) => None,
            None => {
                let about = (&mut events, &mut wakes);
                Some(identity::recognise(&session, agent, sight, (&state, trusted), about).await?)
            }
        };
        let mut ask = (recognised == Some(Recognised::Asked)).then_some(state.now);
        let refusal = match &recognised {
            Some(Recognised::Refused(why)) => why.as_str(),
            _ => "",
        };
        let error = sight.error.as_deref().unwrap_or(refusal);
        let reached = recognised == Some(Recognised::Accepted) || ask.is_some() && trusted;
        let seen = identity::stored(sight);
        let (_, known) = try_join(
            session.execute(&SEE_TARGET, &[&agent.as_str(), &name, &reached, &error, &seen, &refusal]),
            session.query_one(&TARGET_KNOWN, &[&name]),
        )
        .await?;
        // What is only on its way to be worked on is no news of the target.
        let settled = reached && ask.is_none() || !error.is_empty();
        if settled {
            let was_reached: bool = known.get("reachable");
            let is_reached: bool = reached || known.get("reached");
            if was_reached != is_reached {
                if refusal.is_empty() {
                    events.push(reachability(sight, is_reached).of_agent(agent));
                }
                if is_reached {
                    session.execute(&HASTEN, &[&name]).await?;
                    wakes.push(Wake::Dispatch);
                }
            }
            let mut seen = reached.then(|| digest(&sight.applied));
            if reached && known.get::<_, Option<String>>("registry_digest") != seen {
                let change = self.follow(&session, sight, known.get("reported"), &mut events).await?;
                if change.ask.is_some() {
                    // Whatever comes next is compared row by row.
                    seen = None;
                    ask = change.ask;
                }
                if change.started && !wakes.contains(&Wake::Dispatch) {
                    wakes.push(Wake::Dispatch);
                }
            }
            if let Some((at, held)) = sight.held.as_ref().filter(|_| reached) {
                half_done::keep(&session, target, (*at, held)).await?;
            }
            let error = if is_reached { "" } else { error };
            session
                .execute(&WRITE_TARGET, &[&name, &is_reached, &error, &sight.server_version, &seen, &reached])
                .await?;
        }
        finish(&session, self.replica(), events, &mut wakes).await?;
        Ok(Noted { wakes, recognised, ask })
    }

    async fn follow(
        &self,
        session: &Session,
        sight: &Sight,
        reported_before: bool,
        events: &mut Vec<Event>,
    ) -> Result<Followed, Error> {
        let target = &sight.target;
        let name = target.as_str();
        let (known, runs) =
            try_join(session.query(&KNOWN_REGISTRY, &[&name]), session.query(&UNFINISHED_RUNS, &[&name])).await?;
        // Later than all that is known: whoever stores a row holds the schedule, as this does.
        let now: Option<SystemTime> = known.first().map(|row| row.get("asked"));
        let known: Vec<Known> = known
            .iter()
            .map(|row| {
                let recorded: Option<SystemTime> = row.get("recorded_at");
                let settled = sight.asked.is_some_and(|asked| recorded.is_none_or(|recorded| recorded < asked));
                Known { row: read_applied(row), settled }
            })
            .collect();
        let runs: HashMap<MigrationId, RunId> = runs
            .iter()
            .map(|row| Ok((migration(row.get("migration_id"))?, RunId(row.get("id")))))
            .collect::<Result<_, Error>>()?;
        let changes = followed::compare(&known, sight.applied.clone(), &runs);
        if !changes.remove.is_empty() {
            session.execute(&REMOVE_APPLIED, &[&name, &changes.remove]).await?;
        }
        take_over(session, target, &changes.write).await?;
        events.extend(changes.event(target).map(|event| event.with("first_report", !reported_before)));
        if !changes.remove.is_empty() {
            for row in session.query(&UNFOUNDED, &[&name, &changes.remove]).await? {
                events.push(unfounded(target, RunId(row.get("id")), &migration(row.get("migration_id"))?));
            }
        }
        let rows = turn_come(session, target, &[]).await?;
        let starting = self.start_runs(session, target, rows, events).await?;
        starting.write(session).await?;
        Ok(Followed { ask: now.filter(|_| changes.doubted), started: !starting.runs.is_empty() })
    }
}

struct Followed {
    /// When the report may be older than what is known: the time by which the next one is known to be newer.
    ask: Option<SystemTime>,
    /// True when runs started.
    started: bool,
}

fn unfounded(target: &TargetName, run: RunId, migration: &MigrationId) -> Event {
    let message = format!(
        "run {run} of {migration} was cancelled: target {target} was put back and does not have what it was planned upon; \
         `dunlin run --pending{}` plans from what it has",
        target.option()
    );
    Event::new(EventType::RunCancelled, Severity::Warning, message)
        .of_target(target)
        .of_migration(migration)
        .of_run(run)
}

fn reachability(sight: &Sight, reached: bool) -> Event {
    let target = &sight.target;
    let event = if reached {
        // An agent that does not reach it can bring the news that another one does.
        let version = match sight.server_version.as_str() {
            "" => String::new(),
            version => format!(": PostgreSQL {version}"),
        };
        let message = format!("target {target} is reached{version}");
        Event::new(EventType::TargetReachable, Severity::Info, message)
    } else {
        let error = sight.error.as_deref().unwrap_or_default();
        let message = format!("target {target} cannot be reached by any agent: {error}; its tasks wait");
        Event::new(EventType::TargetUnreachable, Severity::Warning, message)
    };
    event.of_target(target)
}
