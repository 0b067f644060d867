//! What is known of the database behind a target's name, and what an agent that sees one may do with it.
//!
//! Everything happens under the schedule of the target, in the transaction that takes in what the agent sees. An agent that has just raised
//! the line is believed once an agent that is believed already has seen it do so, where there is one: of two databases with one identity
//! that is the difference. Until then it is asked to look again.

use std::time::{Duration, SystemTime};

use dunlin_shared::ids::{AgentId, TargetName};
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::advancing::target as read_target;
use super::error::Error;
use super::following::Sight;
use super::locks;
use super::session::{Session, Statement};
use super::wake::Wake;
use crate::domain::identity::{Bound, Difference, Found, Seen, compare};
use crate::domain::{Event, EventType, Severity};

/// How long an agent rests that is asked to look again.
pub(crate) const REST: Duration = Duration::from_millis(50);

/// `others`: connected agents, beside the one that tells, that work on the target.
pub(super) const TARGET_BOUND: Statement = Statement::new(
    "target_bound",
    "SELECT t.system, t.database, t.data, t.data_written, t.data_was, t.bound_by, t.line, t.mark, t.line_at, t.line_by,
            t.line_witnessed, t.suspended, clock_timestamp() AS now,
            EXISTS (SELECT FROM dunlin_controller.agent_targets s JOIN dunlin_controller.agents a ON a.id = s.agent_id
                    WHERE s.target = t.name AND s.agent_id <> $2 AND s.reachable AND a.connected_until > now()) AS others,
            EXISTS (SELECT FROM dunlin_controller.agents a
                    WHERE a.id = t.bound_by AND a.id <> $2 AND a.connected_until > now()) AS binder_lives
     FROM dunlin_controller.targets t WHERE t.name = $1",
);

const NAMED: Statement = Statement::new(
    "named",
    "SELECT name FROM dunlin_controller.targets WHERE data = $1 AND name <> $2 ORDER BY name LIMIT 1",
);

const BIND: Statement = Statement::new(
    "bind",
    "UPDATE dunlin_controller.targets SET system = $2, database = $3, data = $4, data_written = $5, data_was = $6, bound_by = $7,
         line = $8, mark = $9, line_at = clock_timestamp(), line_by = $7, line_witnessed = false, suspended = ''
     WHERE name = $1",
);

const ADVANCE_LINE: Statement = Statement::new(
    "advance_line",
    "UPDATE dunlin_controller.targets SET system = coalesce(system, $2), data_written = true, data_was = NULL, line = $3, mark = $4,
         line_at = CASE WHEN $6 THEN clock_timestamp() ELSE line_at END, line_by = CASE WHEN $6 THEN $5 ELSE line_by END,
         line_witnessed = $7
     WHERE name = $1",
);

const SUSPEND: Statement =
    Statement::new("suspend", "UPDATE dunlin_controller.targets SET suspended = $2 WHERE name = $1");

const REFUSED_SO: Statement = Statement::new(
    "refused_so",
    "SELECT EXISTS (SELECT FROM dunlin_controller.agent_targets WHERE target = $1 AND refusal = $2) AS so",
);

/// What an agent may do with the database that it sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// Work on it.
    Accepted,
    /// It is the target: the agent raises the line.
    Known,
    /// Look again.
    Asked,
    /// Write that its data is this.
    Adopt(String),
    /// Nothing, for this reason.
    Refused(String),
}

/// What is known of the database behind a name.
pub(super) struct State {
    pub(super) bound: Option<Bound>,
    line_at: Option<SystemTime>,
    line_by: Option<String>,
    witnessed: bool,
    pub(super) suspended: String,
    others: bool,
    /// True when an agent that lives, another one, is to write the data.
    binder_lives: bool,
    /// True when an agent was told to write the data, not an operator.
    by_agent: bool,
    pub(super) now: SystemTime,
}

impl State {
    pub(super) fn read(row: &Row) -> Self {
        let bound = row.get::<_, Option<String>>("data").map(|data| Bound {
            seen: Seen {
                system: row.get("system"),
                database: row.get::<_, Option<i64>>("database").unwrap_or_default(),
                data: Some(data.clone()),
                line: row.get("line"),
                mark: row.get("mark"),
            },
            data,
            written: row.get("data_written"),
            was: row.get("data_was"),
        });
        Self {
            bound,
            line_at: row.get("line_at"),
            line_by: row.get("line_by"),
            witnessed: row.get("line_witnessed"),
            suspended: row.get("suspended"),
            others: row.get("others"),
            binder_lives: row.get("binder_lives"),
            by_agent: row.get::<_, Option<String>>("bound_by").is_some(),
            now: row.get("now"),
        }
    }

    /// What the name is bound to, for an agent that sees this. A database into which an agent was to write its data and has not binds
    /// nobody once that agent is gone, nor where other data was written there meanwhile.
    fn bound_for(&self, seen: &Seen) -> Option<&Bound> {
        self.bound.as_ref().filter(|bound| {
            let settled = bound.written || bound.was.is_some() || !self.by_agent;
            let untouched = seen.data.is_none() || seen.data.as_ref() == Some(&bound.data);
            settled || if bound.seen.beside(seen) { untouched } else { self.binder_lives }
        })
    }
}

/// The other target that is bound to this data.
pub(super) async fn named(
    session: &Session,
    target: &TargetName,
    data: Option<&str>,
) -> Result<Option<TargetName>, Error> {
    let Some(data) = data else { return Ok(None) };
    let row = session.query_opt(&NAMED, &[&data, &target.as_str()]).await?;
    row.map(|row| read_target(row.get("name"))).transpose()
}

/// Binds a name to a database. `by` is the agent that is to write its data, where one is.
pub(super) async fn bind(
    session: &Session,
    target: &TargetName,
    bound: &Bound,
    by: Option<&AgentId>,
) -> Result<(), Error> {
    let Bound { seen, data, written, was } = bound;
    let by = by.map(AgentId::as_str);
    let name = target.as_str();
    session
        .execute(&BIND, &[&name, &seen.system, &seen.database, data, written, was, &by, &seen.line, &seen.mark])
        .await
        .map(drop)
}

/// Decides what an agent may do with the database that it sees, and keeps what follows. `trusted`: it worked on it before this.
pub(super) async fn recognise(
    session: &Session,
    agent: &AgentId,
    sight: &Sight,
    (state, trusted): (&State, bool),
    (events, wakes): (&mut Vec<Event>, &mut Vec<Wake>),
) -> Result<Recognised, Error> {
    let target = &sight.target;
    let Some(seen) = &sight.identity else {
        return match state.bound {
            None => Ok(Recognised::Accepted),
            Some(_) => refuse(session, agent, sight, (state, &Difference::Untold), (events, wakes)).await,
        };
    };
    let bound = state.bound_for(seen);
    if bound.is_none() {
        locks::identities(session).await?;
    }
    let other = match bound {
        Some(bound) if seen.data.as_ref() == Some(&bound.data) => None,
        _ => named(session, target, seen.data.as_deref()).await?,
    };
    let fresh = sight.asked.is_some_and(|asked| state.line_at.is_some_and(|at| asked > at));
    let found = match compare(bound, seen, fresh, other) {
        Found::Other(difference) => {
            return refuse(session, agent, sight, (state, &difference), (events, wakes)).await;
        }
        found => found,
    };
    if !state.suspended.is_empty() {
        return Ok(Recognised::Refused(state.suspended.clone()));
    }
    let ahead = found == Found::Ahead;
    match found {
        Found::Doubtful => Ok(Recognised::Asked),
        Found::Unwritten => Ok(Recognised::Adopt(bound.map(|bound| bound.data.clone()).unwrap_or_default())),
        Found::New => {
            let data = Uuid::new_v4().to_string();
            let new = Bound { seen: seen.clone(), data: data.clone(), written: false, was: None };
            bind(session, target, &new, Some(agent)).await?;
            Ok(Recognised::Adopt(data))
        }
        Found::Same | Found::Ahead | Found::Other(_) => {
            if let (None, Some(data)) = (bound, &seen.data) {
                let new = Bound { seen: seen.clone(), data: data.clone(), written: true, was: None };
                bind(session, target, &new, Some(agent)).await?;
            }
            if !sight.raised {
                return Ok(Recognised::Known);
            }
            let own = state.line_by.as_deref() == Some(agent.as_str());
            let witnessed = trusted || !state.others || !ahead && state.witnessed;
            let news = ahead
                || bound.is_none_or(|bound| !bound.written || bound.seen.system.is_none() && seen.system.is_some());
            if news || witnessed && !state.witnessed && (!own || !state.others) {
                session
                    .execute(
                        &ADVANCE_LINE,
                        &[&target.as_str(), &seen.system, &seen.line, &seen.mark, &agent.as_str(), &ahead, &witnessed],
                    )
                    .await?;
            }
            if ahead && state.others && sight.asked.is_none() {
                wakes.push(Wake::Look(target.clone()));
            }
            Ok(if witnessed { Recognised::Accepted } else { Recognised::Asked })
        }
    }
}

/// Refuses a database. The history is told once.
async fn refuse(
    session: &Session,
    agent: &AgentId,
    sight: &Sight,
    (state, difference): (&State, &Difference),
    (events, wakes): (&mut Vec<Event>, &mut Vec<Wake>),
) -> Result<Recognised, Error> {
    let target = &sight.target;
    let message = difference.describe(target);
    let told = if difference.suspends() {
        if !state.suspended.is_empty() {
            return Ok(Recognised::Refused(state.suspended.clone()));
        }
        session.execute(&SUSPEND, &[&target.as_str(), &message]).await?;
        wakes.push(Wake::LookAll(target.clone()));
        false
    } else {
        session.query_one(&REFUSED_SO, &[&target.as_str(), &message]).await?.get("so")
    };
    if !told {
        let place = sight.identity.as_ref().map(Seen::place).unwrap_or_default();
        let text = format!("agent {agent} sees {place} as target {target}, and is not let work on it: {message}");
        events.push(
            Event::new(EventType::TargetRefused, Severity::Error, text)
                .of_target(target)
                .of_agent(agent)
                .with("place", place),
        );
    }
    Ok(Recognised::Refused(message))
}

/// What an agent sees, as it is stored.
pub(super) fn stored(sight: &Sight) -> Option<Json<&Seen>> {
    sight.identity.as_ref().map(Json)
}
