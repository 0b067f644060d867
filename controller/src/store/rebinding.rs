//! An operator says which database a target is, where it is not the one of before.
//!
//! What the agents see is bound: all connected agents of the target must see the same, with one and the same line, so that nobody has to
//! guess which is meant. A copy and an empty database get an identity of their own, which their agents write.

use dunlin_shared::ids::TargetName;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::database::Store;
use super::error::Error;
use super::identity::{State, TARGET_BOUND, bind, named};
use super::locks;
use super::reports::finish;
use super::session::Statement;
use super::wake::Wake;
use crate::domain::identity::{Bound, Difference, Found, Kind, Seen, compare};
use crate::domain::{Event, EventType, Severity};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Rebinding {
    /// The target.
    pub target: TargetName,
    /// What the database is.
    pub kind: Kind,
    /// Why.
    pub reason: String,
    /// Who asks, as the caller says.
    pub requested_by: String,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebound {
    /// The target is bound to the database at this place.
    Bound(String),
    /// No agent sees a database.
    Unseen,
    /// It is not, for this reason.
    Refused(String),
}

const SIGHTS: Statement = Statement::new(
    "sights",
    "SELECT s.agent_id, s.identity FROM dunlin_controller.agent_targets s JOIN dunlin_controller.agents a ON a.id = s.agent_id
     WHERE s.target = $1 AND s.identity IS NOT NULL AND a.connected_until > now() ORDER BY s.agent_id",
);

/// Whatever is known of the registry is compared row by row with what the database says.
const REBOUND: Statement = Statement::new(
    "rebound",
    "WITH lifted AS (
         UPDATE dunlin_controller.agent_targets SET refusal = '', error = '' WHERE target = $1 AND refusal <> ''
     )
     UPDATE dunlin_controller.targets SET registry_digest = NULL WHERE name = $1",
);

impl Store {
    /// Binds a target to the database that its agents see.
    ///
    /// # Errors
    /// The database is not available, or refuses.
    pub async fn rebind(&self, request: &Rebinding) -> Result<(Rebound, Vec<Wake>), Error> {
        self.repeat(|| self.rebind_once(request)).await
    }

    async fn rebind_once(&self, request: &Rebinding) -> Result<(Rebound, Vec<Wake>), Error> {
        let Rebinding { target, kind, reason, requested_by } = request;
        let session = self.session().await?;
        let name = target.as_str();
        session.begin().await?;
        locks::schedule(&session, target).await?;
        locks::identities(&session).await?;
        let state = State::read(&session.query_one(&TARGET_BOUND, &[&name, &""]).await?);
        let sights: Vec<(String, Seen)> = session
            .query(&SIGHTS, &[&name])
            .await?
            .iter()
            .map(|row| (row.get("agent_id"), row.get::<_, Json<Seen>>("identity").0))
            .collect();
        let refused = |why: String| Ok((Rebound::Refused(why), vec![Wake::LookAll(target.clone())]));
        let Some((first, seen)) = sights.first() else {
            session.roll_back().await?;
            return Ok((Rebound::Unseen, Vec::new()));
        };
        if let Some((other, what)) = sights.iter().find(|(_, other)| !one(seen, other)) {
            session.roll_back().await?;
            return refused(format!(
                "agents see two databases, or two moments of one, as target {target}: {first} sees {}, at {}, and {other} sees {}, at {}; \
                 stop the agents of the one that is not meant, or say it again in a moment",
                seen.place(),
                seen.line,
                what.place(),
                what.line
            ));
        }
        let other = named(&session, target, seen.data.as_deref()).await?;
        let difference = match compare(state.bound.as_ref(), seen, true, other) {
            Found::Other(difference) => difference,
            _ if !state.suspended.is_empty() => Difference::Behind,
            _ => {
                session.roll_back().await?;
                return refused(format!(
                    "target {target} is bound to the database that its agents see: there is nothing to say"
                ));
            }
        };
        if !difference.ways().contains(kind) {
            session.roll_back().await?;
            return refused(format!("{} contradicts what agents see: {}", kind.option(), difference.describe(target)));
        }
        let bound = binding(state.bound.as_ref(), seen, *kind);
        bind(&session, target, &bound, None).await?;
        session.execute(&REBOUND, &[&name]).await?;
        let message = format!(
            "target {target} is {} from now on, as {requested_by} says: {}; the reason: {reason}",
            seen.place(),
            kind.describe()
        );
        let event = Event::new(EventType::TargetRebound, Severity::Warning, message)
            .of_target(target)
            .with("kind", kind.option())
            .with("reason", reason.as_str())
            .with("requested_by", requested_by.as_str());
        let mut wakes = vec![Wake::LookAll(target.clone())];
        finish(&session, self.replica(), vec![event], &mut wakes).await?;
        Ok((Rebound::Bound(seen.place()), wakes))
    }
}

/// Whether two agents see one database at one moment.
fn one(seen: &Seen, other: &Seen) -> bool {
    seen.beside(other) && seen.data == other.data && seen.line == other.line && seen.mark == other.mark
}

/// What a name is bound to when an operator says what a database is.
fn binding(before: Option<&Bound>, seen: &Seen, kind: Kind) -> Bound {
    let seen = seen.clone();
    match (kind, &seen.data) {
        (Kind::Copied, _) | (Kind::Replaced, None) => {
            Bound { data: Uuid::new_v4().to_string(), written: false, was: seen.data.clone(), seen }
        }
        (_, Some(data)) => Bound { data: data.clone(), written: true, was: None, seen },
        (_, None) => {
            let data = before.map_or_else(|| Uuid::new_v4().to_string(), |before| before.data.clone());
            Bound { data, written: false, was: None, seen }
        }
    }
}
