//! A target: its pool of connections, whether it answers, and what it says that it has.
//!
//! Nobody but the agent knows a target's connection string, and no message holds it: errors of the client library name hosts
//! and reasons, not passwords.

mod connection;
mod eye;
mod ground;
mod identity;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use deadpool::managed::PoolError;
use dunlin_shared::ids::{RunId, TargetName};
use dunlin_shared::postgres::{self, Connector, Session, Sessions, told_pid};
use tokio::sync::{Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};
use tokio::time::timeout;

pub(crate) use connection::Connection;
pub(crate) use eye::PROBE_LIMIT;
pub(crate) use ground::{Ground, KEEPALIVES, LOOK, NO_TRANSACTION_TIMEOUT};

use self::eye::Eye;
use self::identity::Recognised;
use crate::failure;
use crate::ledger::{self, Facts};

/// Why a target could not be worked with just now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// It cannot be reached before somebody mends something: the server's TLS, or what the agent was given for it.
    #[error("{0}")]
    Unfit(String),
    /// It answers, and refuses.
    #[error(transparent)]
    Refused(#[from] ledger::PrepareError),
    /// It is reached through a pooler, and the work needs a session of its own.
    #[error("a pooler stands between this agent and the target: the connection is not to one process of the server")]
    Pooled,
}

/// An attempt at a task, among those of this agent on its target.
pub(crate) enum Turn {
    /// There may be others.
    WithOthers(#[expect(dead_code, reason = "it is held")] OwnedRwLockReadGuard<()>),
    /// There are none.
    Alone(#[expect(dead_code, reason = "it is held")] OwnedRwLockWriteGuard<()>),
}

impl Turn {
    /// True where there are no others.
    pub(crate) fn alone(&self) -> bool {
        matches!(self, Self::Alone(_))
    }
}

/// A session of one's own.
pub(crate) struct Direct {
    /// The session.
    pub(crate) session: Session,
    /// Its role, quoted where that is needed.
    pub(crate) role: String,
    /// What it stands on.
    pub(crate) ground: Ground,
}

/// What is known about a target.
#[derive(Debug, Default)]
struct Known {
    facts: Option<Facts>,
    /// What the newest session for work stands on.
    ground: Ground,
    /// True when the target, and the ledger, were there when somebody looked last.
    ledger: bool,
    recognised: Recognised,
}

/// A target.
#[derive(Debug)]
pub(crate) struct Target {
    name: TargetName,
    connector: Arc<Connector>,
    /// The way past a pooler.
    direct: Option<Arc<Connector>>,
    /// The role that the ledger may belong to, beside the agent's and superusers.
    ledger_owner: Option<String>,
    pool: Sessions,
    known: Mutex<Known>,
    suspected: Arc<Notify>,
    eye: tokio::sync::Mutex<Eye>,
    /// Whether the last look has reached it.
    reached: watch::Sender<bool>,
    /// What the log was told last about it: why it cannot be worked on, or that it can.
    logged: Mutex<Option<Result<(), String>>>,
    /// What was told about it in a run.
    told: Mutex<(RunId, Vec<String>)>,
    /// Held by each attempt at a task, and by a suspect alone.
    turn: Arc<RwLock<()>>,
}

impl Target {
    /// A target under a connection string, with at most `size` connections for work. Nothing is connected yet.
    ///
    /// # Errors
    /// The string is not one.
    pub(crate) fn new(name: TargetName, url: &str, size: usize) -> Result<Self, postgres::Error> {
        let connector = Arc::new(Connector::new(url, "dunlin-agent")?);
        let pool = connector.sessions(size)?;
        Ok(Self {
            name,
            connector,
            direct: None,
            ledger_owner: None,
            pool,
            known: Mutex::default(),
            suspected: Arc::default(),
            eye: tokio::sync::Mutex::default(),
            reached: watch::Sender::new(false),
            logged: Mutex::new(None),
            told: Mutex::new((RunId(0), Vec::new())),
            turn: Arc::default(),
        })
    }

    /// The same target with a second connection string, for sessions that must not go through a pooler.
    ///
    /// # Errors
    /// The string is not one.
    pub(crate) fn with_direct(self, url: &str) -> Result<Self, postgres::Error> {
        Ok(Self { direct: Some(Arc::new(Connector::new(url, "dunlin-agent")?)), ..self })
    }

    /// The same target, worked on under another role than that of the connections.
    ///
    /// # Errors
    /// No pool can be made.
    pub(crate) fn with_role(self, role: &str) -> Result<Self, postgres::Error> {
        let connector = Arc::new(Connector::clone(&self.connector).with_role(role));
        let pool = connector.sessions(self.pool.status().max_size)?;
        let direct = self.direct.map(|direct| Arc::new(Connector::clone(&direct).with_role(role)));
        Ok(Self { connector, pool, direct, ..self })
    }

    /// The same target, whose ledger may belong to a role beside the agent's and superusers.
    pub(crate) fn with_ledger_owner(self, role: Option<String>) -> Self {
        Self { ledger_owner: role, ..self }
    }

    /// The name.
    pub(crate) fn name(&self) -> &TargetName {
        &self.name
    }

    /// Lends a connection to the target, which has the ledger.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub(crate) async fn lend(&self) -> Result<Connection, Error> {
        let mut connection = Connection::lend(&self.pool, &self.connector).await.map_err(unreachable)?;
        self.prepared(&mut connection).await?;
        Ok(connection)
    }

    /// A connection that nobody has used before.
    ///
    /// # Errors
    /// The target does not answer, or refuses.
    pub(crate) async fn fresh(&self) -> Result<Connection, Error> {
        let mut connection = Connection::own(connect(&self.connector).await?, &self.connector);
        self.prepared(&mut connection).await?;
        Ok(connection)
    }

    async fn prepared(&self, connection: &mut Connection) -> Result<(), Error> {
        let known = self.known().ledger;
        if !known || connection.is_new() {
            // Given up in the middle, the connection is not fit for others.
            connection.opening();
            self.known_again(connection).await?;
            let facts =
                if known { None } else { Some(ledger::survey(connection, self.ledger_owner.as_deref()).await?.facts) };
            connection.closed();
            if let Some(facts) = facts {
                self.keep(facts);
            }
        }
        let pooled = self.pooled();
        connection.set_pooled(pooled);
        if connection.is_new() {
            connection.opening();
            let ground = ground::ask(connection, !pooled).await.map_err(lost)?;
            connection.closed();
            self.known().ground = ground;
        }
        Ok(())
    }

    /// What the newest session for work stands on.
    pub(crate) fn ground(&self) -> Ground {
        self.known().ground
    }

    /// A connection outside the pool, to look at the server with: under the role of the connection, which sees its other sessions.
    ///
    /// # Errors
    /// The target does not answer.
    pub(crate) async fn session(&self) -> Result<Session, Error> {
        Ok(connect(&self.connector).await?.as_connected())
    }

    /// A connection outside the pool, to look at the server with that [`direct`](Self::direct) leads to.
    ///
    /// # Errors
    /// The target does not answer.
    pub(crate) async fn beside_direct(&self) -> Result<Session, Error> {
        Ok(connect(self.direct.as_ref().unwrap_or(&self.connector)).await?.as_connected())
    }

    /// Whether [`direct`](Self::direct) has any chance, as far as is known without asking.
    pub(crate) fn can_be_direct(&self) -> bool {
        self.direct.is_some() || self.facts().is_none_or(|facts| !facts.pooled)
    }

    /// A session of one's own, to one process of the server, for as long as the client lives.
    ///
    /// # Errors
    /// The target does not answer, or there is a pooler on the way.
    pub(crate) async fn direct(&self) -> Result<Direct, Error> {
        let session = connect(self.direct.as_ref().unwrap_or(&self.connector)).await?;
        let who = "SELECT pg_catalog.pg_backend_pid(), pg_catalog.quote_ident(current_user)";
        let row = session.query_typed_one(who, &[]).await.map_err(lost)?;
        let (pid, connected): (i32, String) = (row.try_get(0).map_err(lost)?, row.try_get(1).map_err(lost)?);
        if told_pid(&session.cancel_token()).await != Some(pid) {
            return Err(Error::Pooled);
        }
        let ground = ground::ask(&session, true).await.map_err(lost)?;
        let role = session.role().map(str::to_owned);
        if let Some(role) = &role {
            // The session is this agent's alone, and ends with the step.
            session.batch_execute(&format!("SET ROLE {role}")).await.map_err(lost)?;
        }
        Ok(Direct { session, role: role.unwrap_or(connected), ground })
    }

    /// Whether the last look at the target has reached it: it answers, and lets the agent work.
    pub(crate) fn reached(&self) -> watch::Receiver<bool> {
        self.reached.subscribe()
    }

    /// Waits until an attempt at a task may begin: with others, or, for a suspect, once there are none. It is not waited long for that.
    pub(crate) async fn turn(&self, suspect: bool) -> Turn {
        if suspect && let Ok(alone) = timeout(LONGEST_PAUSE, Arc::clone(&self.turn).write_owned()).await {
            return Turn::Alone(alone);
        }
        Turn::WithOthers(Arc::clone(&self.turn).read_owned().await)
    }

    /// True for a sentence about the target that was not told in this run yet.
    pub(crate) fn is_news(&self, run: RunId, sentence: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0 != run {
            *told = (run, Vec::new());
        }
        let news = !told.1.iter().any(|other| other == sentence);
        if news {
            told.1.push(sentence.to_owned());
        }
        news
    }

    /// What is known about the server, once it was reached.
    pub(crate) fn facts(&self) -> Option<Facts> {
        self.known().facts.clone()
    }

    /// The role that is worked under, quoted where that is needed; `None` where nobody has looked yet.
    pub(crate) fn role(&self) -> Option<String> {
        self.facts().map(|facts| facts.role).or_else(|| self.connector.role().map(str::to_owned))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, facts: Facts) {
        let mut known = self.known();
        (known.facts, known.ledger) = (Some(facts), true);
    }

    /// True when connections go through a pooler.
    pub(crate) fn pooled(&self) -> bool {
        self.facts().is_some_and(|facts| facts.pooled)
    }

    /// The ledger was not where it should be, or another server may answer: look before the next work.
    pub(crate) fn forget(&self) {
        self.known().ledger = false;
    }

    /// Something about the target is not as expected: look again soon and report what it has.
    pub(crate) fn suspect(&self) {
        self.suspected.notify_one();
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what errors are mapped by")]
fn lost(error: tokio_postgres::Error) -> Error {
    Error::Unreachable(postgres::describe(&error))
}

async fn connect(connector: &Connector) -> Result<Session, Error> {
    connector.session().await.map_err(away)
}

/// Why there is no connection, without the place: it is the agent's alone.
fn away(error: postgres::Error) -> Error {
    if !error.retryable() {
        return Error::Unfit(match error {
            postgres::Error::Insecure { mode, why, .. } => format!("sslmode is {mode}: {why}"),
            error => error.to_string(),
        });
    }
    Error::Unreachable(match error {
        postgres::Error::Connect { source, .. } => postgres::describe(&source),
        postgres::Error::Unreached { source, .. } => format!("error connecting to server: {source}"),
        postgres::Error::Timeout { limit, .. } => silent(limit),
        error => error.to_string(),
    })
}

/// The pause between two looks at a target that cannot be reached before somebody mends something.
const MENDING_PAUSE: Duration = Duration::from_secs(60);

fn silent(limit: Duration) -> String {
    format!("no answer within {} s", limit.as_secs())
}

/// The longest pause between two looks at a target that is away.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Pauses between attempts to reach something: about 0.1 s, doubled each time until `longest` is near. All have jitter, the
/// last ones too, so that those who lost something together do not come back together.
pub(crate) fn pauses(longest: Duration) -> impl Iterator<Item = Duration> + Send {
    const FIRST: Duration = Duration::from_millis(100);
    // The jitter adds up to as much again.
    ExponentialBuilder::default()
        .with_min_delay(FIRST.min(longest / 2))
        .with_max_delay(longest / 2)
        .with_jitter()
        .without_max_times()
        .build()
}

fn unreachable(error: PoolError<postgres::Error>) -> Error {
    match error {
        PoolError::Backend(error) => away(error),
        PoolError::Timeout(_) => Error::Unreachable("no answer to the attempt to connect".to_owned()),
        error => Error::Unreachable(failure::chain(&error)),
    }
}
