//! Sessions that are listened to: a client of the library, and what the server says beside its answers.
//!
//! Agents execute other people's SQL, so they take the server's notices and refuse its over-long messages (see [`wire`](super::wire));
//! for that a session reads through a stream of its own. Otherwise it is a connection as every other: it derefs to the client.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use deadpool::managed::{self, Metrics, RecycleResult};
use tokio::task::JoinHandle;
use tokio_postgres::{CancelToken, Client};

use super::clients::fit;
use super::connect::{Connector, spawn};
use super::dial::Peer;
use super::end::Witness;
use super::error::Error;
use super::notice::Heard;
use super::reach::Connected;
use super::source::Loaded;
use super::wire::{Below, Watched, Wire};

/// A connection whose server is listened to.
pub struct Session {
    client: Client,
    wire: Arc<Wire>,
    peer: Peer,
    loaded: Arc<Loaded>,
    encrypted: bool,
    role: Option<Arc<str>>,
    ended: Option<JoinHandle<()>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What cancels the statement that a session executes.
pub struct Cancel {
    token: CancelToken,
    peer: Peer,
    loaded: Arc<Loaded>,
    encrypted: bool,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Session {
    /// What the server has said beside its answers since the last call. What it said before an answer is there once the answer is.
    pub fn heard(&self) -> Heard {
        self.wire.take()
    }

    /// Whoever wants to know how the session has ended, once it has.
    #[must_use]
    pub fn witness(&self) -> Witness {
        Witness(Arc::clone(&self.wire))
    }

    /// What cancels the statement that the session executes, also when the session is in other hands.
    #[must_use]
    pub fn canceller(&self) -> Cancel {
        Cancel {
            token: self.client.cancel_token(),
            peer: self.peer.clone(),
            loaded: Arc::clone(&self.loaded),
            encrypted: self.encrypted,
        }
    }

    /// The role that its transactions are to work under, quoted, where that is not the one of the connection. Nothing is set here.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// The same session, to be used under the role of the connection.
    #[must_use]
    pub fn as_connected(mut self) -> Self {
        self.role = None;
        self
    }

    /// The task that ends with the connection: when the session is dropped or the connection is lost. It is there once.
    pub fn ended(&mut self) -> Option<JoinHandle<()>> {
        self.ended.take()
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// A pool of sessions. It hands them out as they were given back, with no command in between.
pub type Sessions = managed::Pool<Manager>;

/// A session that is lent from a pool.
pub type Lent = managed::Object<Manager>;

/// What makes the sessions of a pool.
#[derive(Debug)]
pub struct Manager(Connector);

impl managed::Manager for Manager {
    type Type = Session;
    type Error = Error;

    async fn create(&self) -> Result<Session, Error> {
        Box::pin(self.0.session()).await
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Error> {
        fit(session.is_closed(), self.0.made_from(&session.loaded))
    }
}

impl Connector {
    /// Connects, and listens to what the server says.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or does not answer in time.
    pub async fn session(&self) -> Result<Session, Error> {
        let wire = Mutex::new(Arc::<Wire>::default());
        let over = |socket, tls| {
            let fresh = Arc::<Wire>::default();
            *wire.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
            (Watched::new(socket, fresh), Below(tls))
        };
        let connected = self.open(over, |connection| spawn(connection, self.place())).await?;
        let Connected { client, driven, peer, loaded, encrypted } = connected;
        // That of the last attempt, which was the one that succeeded.
        let wire = wire.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Session { client, wire, peer, loaded, encrypted, role: self.role.clone(), ended: Some(driven) })
    }

    /// True when what a session was made from has been replaced, such as a password.
    #[must_use]
    pub fn outdates(&self, session: &Session) -> bool {
        self.changed() || !self.made_from(&session.loaded)
    }

    /// Makes a pool of at most `size` sessions. It connects when sessions are asked for.
    ///
    /// # Errors
    /// The pool cannot be made.
    pub fn sessions(&self, size: usize) -> Result<Sessions, Error> {
        managed::Pool::builder(Manager(self.clone()))
            .max_size(size)
            .create_timeout(Some(self.limit()))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| Error::Pool(error.to_string()))
    }

    /// Asks the server to cancel what a session executes. An answer does not say whether it did.
    ///
    /// # Errors
    /// The server cannot be reached in time.
    pub async fn cancel(&self, cancel: &Cancel) -> Result<(), Error> {
        let asking = self.cancelled(&cancel.loaded, &cancel.peer, &cancel.token, cancel.encrypted);
        self.within(asking).await
    }
}
