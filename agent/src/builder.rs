//! Putting an agent together, and running it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use dunlin_proto::client;
use dunlin_shared::ids::{self, AgentId, TargetName, TransformName};
use dunlin_shared::postgres;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use crate::health;
use crate::limits::Limits;
use crate::session::{self, Book, Session};
use crate::steps::Tuning;
use crate::target::Target;
use crate::transform::{Transform, Transforms};
use crate::worker;

/// Tasks at one time, unless said otherwise.
const SLOTS: u16 = 2;

/// The most tasks at one time.
const MOST_SLOTS: u16 = 1000;

/// How long an agent that stops waits for its last reports to be stored.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why an agent cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No controller was named.
    #[error("name a controller, such as http://127.0.0.1:7440")]
    NoController,
    /// The URL of a controller cannot be used.
    #[error(transparent)]
    Controller(#[from] client::Error),
    /// No target was named.
    #[error("name a target, as NAME=URL or NAME=@FILE")]
    NoTarget,
    /// A target has no name or no URL.
    #[error("a target is written as NAME=URL or NAME=@FILE, such as main=postgres://app@localhost/app")]
    TargetSyntax,
    /// The directory of targets cannot be used.
    #[error("the directory {path:?} of --targets cannot be used: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The role has no name.
    #[error("--role names no role")]
    Role,
    /// A name breaks its rule.
    #[error(transparent)]
    Name(#[from] ids::Error),
    /// A direct way to a target that is not served.
    #[error("--direct names {0}, which no --target names: give the agent the target too")]
    DirectAlone(String),
    /// A target was named twice.
    #[error("the target {0} is named twice")]
    TargetTwice(TargetName),
    /// A transform was registered twice.
    #[error("the transform {0} is registered twice")]
    TransformTwice(TransformName),
    /// A target's URL cannot be used.
    #[error("target {target}: {source}")]
    Url {
        /// The target.
        target: TargetName,
        /// What is wrong with its URL.
        source: postgres::Error,
    },
    /// The number of slots is out of bounds.
    #[error("the number of slots must be from 1 to {MOST_SLOTS}, not {0}")]
    Slots(u16),
}

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It cannot tell its health.
    #[error("cannot listen on {address}: {source}; name another address with --health-listen")]
    Health {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// What an agent is put together from.
#[derive(Default)]
pub struct Builder {
    controller: String,
    targets: Vec<(String, String)>,
    directs: Vec<(String, String)>,
    ledger_owner: Option<String>,
    role: Option<String>,
    slots: Option<u16>,
    id: Option<String>,
    limits: Limits,
    transforms: Vec<(String, Arc<dyn Transform>)>,
    health: Option<SocketAddr>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the URLs of the targets: they hold passwords.
        f.debug_struct("Builder").field("controller", &self.controller).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Builder {
    /// The URLs of the controllers, separated by commas. The agent uses whichever answers.
    #[must_use]
    pub fn controller(mut self, urls: impl Into<String>) -> Self {
        self.controller = urls.into();
        self
    }

    /// Adds a target: a name for a database, and the URL under which this agent reaches it; or `@` and the path of a file with the URL,
    /// which is read again when it changes.
    #[must_use]
    pub fn target(mut self, name: impl Into<String>, url: impl Into<String>) -> Self {
        self.targets.push((name.into(), url.into()));
        self
    }

    /// The URL of a target past the pooler that stands between, for steps outside a transaction. It must be that of the same
    /// database.
    #[must_use]
    pub fn direct(mut self, name: impl Into<String>, url: impl Into<String>) -> Self {
        self.directs.push((name.into(), url.into()));
        self
    }

    /// The role to which the schema `dunlin` of targets may belong, beside the agent's own and superusers: that of an administrator who
    /// has made it. None unless said otherwise.
    #[must_use]
    pub fn ledger_owner(mut self, role: impl Into<String>) -> Self {
        self.ledger_owner = Some(role.into());
        self
    }

    /// The role that all work is done under, in place of that of the URLs, which must be a member of it. That one unless said otherwise.
    #[must_use]
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// How many tasks are worked on at one time: 2 unless said otherwise.
    #[must_use]
    pub fn slots(mut self, slots: u16) -> Self {
        self.slots = Some(slots);
        self
    }

    /// The agent's id, unique among all agents: the host's name and a random suffix unless said otherwise.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// How long statements may wait for locks and run.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Tells its health by gRPC's health protocol on an address; on none unless said otherwise.
    #[must_use]
    pub fn health(mut self, address: SocketAddr) -> Self {
        self.health = Some(address);
        self
    }

    /// Registers a transform under the name that definitions call it by.
    #[must_use]
    pub fn transform(mut self, name: impl Into<String>, transform: impl Transform) -> Self {
        self.transforms.push((name.into(), Arc::new(transform)));
        self
    }

    /// Puts the agent together. Nothing is connected yet.
    ///
    /// # Errors
    /// Something is missing, named twice, or cannot be used.
    pub fn build(self) -> Result<Agent, Error> {
        if self.controller.trim().is_empty() {
            return Err(Error::NoController);
        }
        client::validate(&self.controller)?;
        if self.targets.is_empty() {
            return Err(Error::NoTarget);
        }
        if self.role.as_ref().is_some_and(|role| role.is_empty() || role.contains('\0')) {
            return Err(Error::Role);
        }
        let slots = self.slots.unwrap_or(SLOTS);
        if !(1..=MOST_SLOTS).contains(&slots) {
            return Err(Error::Slots(slots));
        }
        let mut directs = HashMap::new();
        for (name, url) in self.directs {
            let name = TargetName::parse(name)?;
            if directs.insert(name.clone(), url).is_some() {
                return Err(Error::TargetTwice(name));
            }
        }
        let mut targets = HashMap::new();
        for (name, url) in self.targets {
            let name = TargetName::parse(name)?;
            let of_url = |source| Error::Url { target: name.clone(), source };
            let target = Target::new(name.clone(), &url, usize::from(slots)).map_err(of_url)?;
            let target = target.with_ledger_owner(self.ledger_owner.clone());
            let target = match directs.remove(&name) {
                Some(url) => target.with_direct(&url).map_err(of_url)?,
                None => target,
            };
            let target = match &self.role {
                Some(role) => target.with_role(role).map_err(of_url)?,
                None => target,
            };
            if targets.insert(name.clone(), Arc::new(target)).is_some() {
                return Err(Error::TargetTwice(name));
            }
        }
        if let Some(name) = directs.into_keys().next() {
            return Err(Error::DirectAlone(name.to_string()));
        }
        let mut transforms = Transforms::default();
        for (name, transform) in self.transforms {
            let name = TransformName::parse(name)?;
            if !transforms.insert(name.clone(), transform) {
                return Err(Error::TransformTwice(name));
            }
        }
        let agent = AgentId::parse(self.id.unwrap_or_else(default_id))?;
        Ok(Agent {
            session: Arc::new(Session {
                agent,
                instance: Uuid::new_v4().to_string(),
                controllers: self.controller,
                slots,
                targets,
                transforms,
                limits: self.limits,
                tuning: Tuning::default(),
                book: Arc::new(Book::default()),
            }),
            health: self.health,
        })
    }
}

fn default_id() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    format!("{}-{:06x}", host.unwrap_or_else(|| "agent".to_owned()), rand::random::<u32>() & 0x00ff_ffff)
}

/// An agent that is ready to run.
#[derive(Debug)]
pub struct Agent {
    session: Arc<Session>,
    health: Option<SocketAddr>,
}

impl Agent {
    /// Begins to put an agent together.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The agent's id.
    #[must_use]
    pub fn id(&self) -> &AgentId {
        &self.session.agent
    }

    /// Works until `shutdown` ends. Then open batches are finished, leases are given back, and the last reports are stored.
    ///
    /// Controllers and targets need not be there yet, and may go away and come back.
    ///
    /// # Errors
    /// The address to tell its health on is taken, or not one of this machine.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let session = self.session;
        let mut watches = JoinSet::new();
        if let Some(address) = self.health {
            let listener = TcpListener::bind(address).await.map_err(|source| RunError::Health { address, source })?;
            let reached = session.targets.values().map(|target| target.reached());
            let conditions = reached.chain([session.book.connected()]).collect();
            watches.spawn(async move {
                if let Err(error) = health::serve(listener, conditions).await {
                    tracing::error!(%error, "health is not told any more");
                }
            });
        }
        for target in session.targets.values() {
            let (target, book) = (Arc::clone(target), Arc::clone(&session.book));
            watches.spawn(async move { target.watch(|report| book.report_target(report)).await });
        }
        let mut serving = pin!(session::run(&session));
        tokio::select! {
            () = &mut serving => return Ok(()),
            () = shutdown => {}
        }
        tracing::info!("stopping: finishing open batches and giving leases back");
        session.book.stop();
        let last_words = async {
            let _late = timeout(worker::GRACE + LAST_WORDS, session.book.idle()).await;
            let _late = timeout(LAST_WORDS, session.book.emptied()).await;
        };
        tokio::select! {
            () = &mut serving => {}
            () = last_words => {}
        }
        // The controller takes back what it has granted in the meantime, and ends the stream.
        if session.book.leave() {
            let _late = timeout(LAST_WORDS, serving).await;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Builder {
        Agent::builder().controller("http://127.0.0.1:7440").target("main", "postgres://u:secret@localhost/db")
    }

    #[tokio::test]
    async fn what_is_missing_or_named_twice_is_refused() {
        assert!(sample().build().is_ok());
        assert!(matches!(Agent::builder().build(), Err(Error::NoController)));
        assert!(matches!(Agent::builder().controller("http://c").build(), Err(Error::NoTarget)));
        assert!(matches!(sample().target("main", "postgres://localhost/x").build(), Err(Error::TargetTwice(_))));
        assert!(matches!(sample().slots(0).build(), Err(Error::Slots(0))));
        assert!(matches!(sample().controller("controller:7440").build(), Err(Error::Controller(_))));
        assert!(matches!(sample().target("x", "mysql://localhost").build(), Err(Error::Url { .. })));
    }

    #[tokio::test]
    async fn nothing_that_is_printed_holds_a_password() {
        assert!(!format!("{:?}", sample()).contains("secret"));
        assert!(!format!("{:?}", sample().build().unwrap()).contains("secret"));
    }
}
