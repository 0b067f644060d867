//! Sessions that are listened to: a client of the library, and what the server says beside its answers.
//!
//! Agents execute other people's SQL, so they take the server's notices and refuse its over-long messages (see [`wire`](super::wire));
//! for that a session reads through a stream of its own. Otherwise it is a connection as every other: it derefs to the client.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect::{Connector, Error, describe};
use super::dial::{self, Peer, Socket};
use super::end::Witness;
use super::notice::Heard;
use super::wire::{Below, Watched, Wire};

/// A connection whose server is listened to.
pub struct Session {
    client: Client,
    wire: Arc<Wire>,
    peer: Peer,
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
        Cancel { token: self.client.cancel_token(), peer: self.peer.clone() }
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
        self.0.session().await
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Error> {
        if session.is_closed() { Err(RecycleError::message("the connection is closed")) } else { Ok(()) }
    }
}

impl Connector {
    /// Connects, and listens to what the server says.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or does not answer in time.
    pub async fn session(&self) -> Result<Session, Error> {
        self.within(self.listened_to()).await
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
        let asking = async {
            let socket = dial::socket(&self.config, &cancel.peer).await.map_err(|error| self.unreached(error))?;
            let tls = self.tls_for::<Socket>(&cancel.peer)?;
            cancel.token.cancel_query_raw(socket, tls).await.map_err(|error| self.refused(error))
        };
        self.within(asking).await
    }

    async fn listened_to(&self) -> Result<Session, Error> {
        let mut last = None;
        for peer in dial::peers(&self.config).await.map_err(|error| self.unreached(error))? {
            match self.session_with(peer).await {
                Ok(session) => return Ok(session),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(Error::Url("it names no host")))
    }

    async fn session_with(&self, peer: Peer) -> Result<Session, Error> {
        let socket = dial::socket(&self.config, &peer).await.map_err(|error| self.unreached(error))?;
        let wire = Arc::<Wire>::default();
        let watched = Watched::before_tls(socket, Arc::clone(&wire), asks_for_tls(&self.config));
        let tls = Below(self.tls_for::<Socket>(&peer)?);
        let connected = self.config.connect_raw(watched, tls).await;
        let (client, connection) = connected.map_err(|error| self.refused(error))?;
        let place = self.place();
        let ended = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(database = place, error = describe(&error), "connection lost");
            }
        });
        let session = Session { client, wire, peer, ended: Some(ended) };
        self.serves(&session).await?;
        Ok(session)
    }

    /// Whether the server is of the kind that the URL asks for.
    async fn serves(&self, session: &Session) -> Result<(), Error> {
        let wanted = match self.config.get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => "off",
            TargetSessionAttrs::ReadOnly => "on",
            _ => return Ok(()),
        };
        let answer = session.simple_query("SHOW transaction_read_only").await.map_err(|error| self.refused(error))?;
        let found = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        if found == Some(wanted) {
            return Ok(());
        }
        let reason = if wanted == "off" { "database does not allow writes" } else { "database is not read only" };
        Err(self.unreached(std::io::Error::new(std::io::ErrorKind::PermissionDenied, reason)))
    }

    fn tls_for<S>(&self, peer: &Peer) -> Result<<MakeRustlsConnect as MakeTlsConnect<S>>::TlsConnect, Error>
    where
        MakeRustlsConnect: MakeTlsConnect<S>,
        <MakeRustlsConnect as MakeTlsConnect<S>>::Error: fmt::Display,
    {
        self.tls.clone().make_tls_connect(&peer.name).map_err(|error| Error::Tls(error.to_string()))
    }

    fn unreached(&self, source: std::io::Error) -> Error {
        Error::Unreached { place: self.place(), source }
    }

    fn refused(&self, source: tokio_postgres::Error) -> Error {
        Error::Connect { place: self.place(), source }
    }
}

/// Whether the client library asks for TLS before anything else.
fn asks_for_tls(config: &Config) -> bool {
    config.get_ssl_mode() != SslMode::Disable && config.get_ssl_negotiation() != SslNegotiation::Direct
}
