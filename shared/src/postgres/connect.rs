//! Connections and pools.
//!
//! A connection that cannot be made within the time limit of the URL (8 seconds unless it says otherwise) is an error, also
//! when the server accepts and then says nothing. Pools hand out connections as they were given back, with no command in
//! between, so that they work through a pooler in transaction mode: who uses them must leave nothing behind in the session.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_postgres::{AsyncMessage, Client, Connection, Notification};

use super::clients::Clients;
use super::error::{Error, describe};
use super::reach::Connected;
use super::source::{Loaded, Source};
use super::url;
use crate::sql::quote_ident;

/// A database that can be connected to, again and again. The URL can stand in a file, as `@FILE`; files are read again when they change.
#[derive(Clone)]
pub struct Connector {
    pub(super) source: Arc<Source>,
    /// The role of sessions, quoted.
    pub(super) role: Option<Arc<str>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(&self.place()).finish()
    }
}

impl Connector {
    /// Reads a URL, or `@` and the path of a file with one. `application_name` is what the server shows in `pg_stat_activity`, unless the
    /// URL names one.
    ///
    /// # Errors
    /// The URL, or a file that it names, cannot be used.
    pub fn new(url: &str, application_name: &str) -> Result<Self, Error> {
        Ok(Self { source: Arc::new(Source::new(url, application_name)?), role: None })
    }

    /// The same, for sessions whose transactions are to work under another role than that of the connection.
    #[must_use]
    pub fn with_role(self, role: &str) -> Self {
        Self { role: Some(quote_ident(role).into()), ..self }
    }

    /// The role of sessions, quoted, where it is not that of the connection.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// True when a file of the URL is not what it was at the last connection.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.source.changed()
    }

    /// True where a connection was made from what is known now.
    pub(super) fn made_from(&self, loaded: &Arc<Loaded>) -> bool {
        Arc::ptr_eq(&self.source.known(), loaded)
    }

    /// The database, as "user@host:port/database": fit for messages.
    #[must_use]
    pub fn place(&self) -> String {
        let config = &self.source.known().config;
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => config.get_hostaddrs().first().map(ToString::to_string).unwrap_or_default(),
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
        format!("{user}{host}:{port}/{database}")
    }

    /// Connects. The task ends with the connection: when the client is dropped or the connection is lost.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or does not answer in time.
    pub async fn connect(&self) -> Result<(Client, JoinHandle<()>), Error> {
        let connected = self.driven().await?;
        Ok((connected.client, connected.driven))
    }

    /// The same, with all that is known of the connection.
    pub(super) async fn driven(&self) -> Result<Connected<JoinHandle<()>>, Error> {
        self.open(|socket, tls| (socket, tls), |connection| spawn(connection, self.place())).await
    }

    /// Connects for LISTEN. The receiver ends when the connection is lost.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn listen(&self) -> Result<(Client, mpsc::UnboundedReceiver<Notification>), Error> {
        let connected = self.open(|socket, tls| (socket, tls), |connection| follow(connection, self.place())).await?;
        Ok((connected.client, connected.driven))
    }

    pub(super) async fn within<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let limit = self.limit();
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done,
            Err(_) => Err(Error::Timeout { place: self.place(), limit }),
        }
    }

    /// The time for all hosts together.
    pub(super) fn limit(&self) -> Duration {
        let config = &self.source.known().config;
        let each = config.get_connect_timeout().copied().unwrap_or(url::CONNECT_TIMEOUT);
        let hosts = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
        each * u32::try_from(hosts).unwrap_or(1)
    }
}

/// Reads a connection to its end, in a task.
pub(super) fn spawn<S, T>(connection: Connection<S, T>, place: String) -> JoinHandle<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(database = place, error = describe(&error), "connection lost");
        }
    })
}

/// The same, and hands out what the server notifies of.
fn follow<S, T>(mut connection: Connection<S, T>, place: String) -> mpsc::UnboundedReceiver<Notification>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => {
                    if sender.send(notification).is_err() {
                        break;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(database = place, error = describe(&error), "connection lost");
                    break;
                }
            }
        }
    });
    receiver
}

/// Connects to a URL; see [`Connector::connect`].
///
/// # Errors
/// The URL cannot be used, or the server cannot be reached, refuses, or does not answer in time.
pub async fn connect(url: &str, application_name: &str) -> Result<(Client, JoinHandle<()>), Error> {
    Connector::new(url, application_name)?.connect().await
}

/// Connects to a URL for LISTEN; see [`Connector::listen`].
///
/// # Errors
/// As [`connect`].
pub async fn listen(
    url: &str,
    application_name: &str,
) -> Result<(Client, mpsc::UnboundedReceiver<Notification>), Error> {
    Connector::new(url, application_name)?.listen().await
}

/// Makes a pool for a URL; see [`Connector::pool`].
///
/// # Errors
/// The URL cannot be used.
pub fn pool(url: &str, application_name: &str, size: usize) -> Result<Clients, Error> {
    Connector::new(url, application_name)?.pool(size)
}
