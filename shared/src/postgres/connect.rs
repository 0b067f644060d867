//! Connections and pools.
//!
//! A connection that cannot be made within the time limit of the URL (5 seconds unless it says otherwise) is an error, also
//! when the server accepts and then says nothing. Pools hand out connections as they were given back, with no command in
//! between, so that they work through a pooler in transaction mode: who uses them must leave nothing behind in the session.

use std::fmt;
use std::future::poll_fn;
use std::path::PathBuf;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Notification, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{tls, url};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no URL of PostgreSQL.
    #[error("a database URL begins with postgres:// or postgresql://")]
    Scheme,
    /// The URL cannot be used.
    #[error("the database URL cannot be used: {0}")]
    Url(&'static str),
    /// The URL cannot be read.
    #[error("the database URL cannot be read: {0}")]
    Config(String),
    /// The URL has a parameter that cannot be honoured.
    #[error(
        "the database URL has a parameter that is not supported{}; write @, ? and / in a password as %40, %3F and %2F",
        .0.as_ref().map(|name| format!(": {name}")).unwrap_or_default()
    )]
    Parameter(Option<String>),
    /// The URL asks for an unknown `sslmode`.
    #[error("sslmode in the database URL must be disable, prefer, require, verify-ca or verify-full")]
    SslMode,
    /// The file of `sslrootcert` cannot be used.
    #[error("the file {path:?} of sslrootcert cannot be used: {reason}")]
    RootCertificates {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The server cannot be reached or refuses the connection.
    #[error("cannot connect to {place}: {}", describe(.source))]
    Connect {
        /// The database, as "user@host:port/database".
        place: String,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// No server is there, or none of the kind that the URL asks for.
    #[error("cannot connect to {place}: {source}")]
    Unreached {
        /// The database, as "user@host:port/database".
        place: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server did not let the connection in within the time limit.
    #[error("cannot connect to {place}: no answer within {} s", .limit.as_secs())]
    Timeout {
        /// The database, as "user@host:port/database".
        place: String,
        /// The time limit.
        limit: Duration,
    },
    /// The pool cannot be made.
    #[error("cannot make a pool of connections: {0}")]
    Pool(String),
}

impl Error {
    /// True when the same URL can work later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Unreached { .. } | Self::Timeout { .. } => true,
            Self::Scheme
            | Self::Url(_)
            | Self::Config(_)
            | Self::Parameter(_)
            | Self::SslMode
            | Self::RootCertificates { .. }
            | Self::Tls(_)
            | Self::Pool(_) => false,
        }
    }
}

impl Error {
    /// True where the server does not let the role in: a wrong password, or a rule of `pg_hba.conf`. Trying again at once is of no use.
    #[must_use]
    pub fn denied(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        source.code().is_some_and(|code| code.code().starts_with("28"))
    }
}

/// What went wrong, in one sentence: the server's message with its SQLSTATE, or the error and its causes.
#[must_use]
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", error.message(), error.code().code());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// A database that can be connected to, again and again: the URL is read and the certificates are loaded once.
#[derive(Clone)]
pub struct Connector {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(&self.place()).finish()
    }
}

impl Connector {
    /// Reads a URL. `application_name` is what the server shows in `pg_stat_activity`, unless the URL names one.
    ///
    /// # Errors
    /// The URL or its certificates cannot be used.
    pub fn new(url: &str, application_name: &str) -> Result<Self, Error> {
        let settings = url::parse(url, application_name)?;
        Ok(Self { tls: tls::client(&settings.trust)?, config: settings.config })
    }

    /// The database, as "user@host:port/database": fit for messages.
    #[must_use]
    pub fn place(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => self.config.get_hostaddrs().first().map(ToString::to_string).unwrap_or_default(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let user = self.config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("{user}{host}:{port}/{database}")
    }

    /// Connects. The task ends with the connection: when the client is dropped or the connection is lost.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or does not answer in time.
    pub async fn connect(&self) -> Result<(Client, JoinHandle<()>), Error> {
        let (client, connection) = self.open().await?;
        let place = self.place();
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(database = place, error = describe(&error), "connection lost");
            }
        });
        Ok((client, task))
    }

    /// Connects for LISTEN. The receiver ends when the connection is lost.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn listen(&self) -> Result<(Client, mpsc::UnboundedReceiver<Notification>), Error> {
        let (client, mut connection) = self.open().await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let place = self.place();
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
        Ok((client, receiver))
    }

    /// Makes a pool of at most `size` connections. It connects when connections are asked for.
    ///
    /// # Errors
    /// The pool cannot be made.
    pub fn pool(&self, size: usize) -> Result<Pool, Error> {
        let manager = Manager::from_config(
            self.config.clone(),
            self.tls.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        Pool::builder(manager)
            .max_size(size)
            .create_timeout(Some(self.limit()))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::Pool(error.to_string()))
    }

    async fn open(&self) -> Result<(Client, TlsConnection), Error> {
        let connecting = async {
            let connected = self.config.connect(self.tls.clone()).await;
            connected.map_err(|source| Error::Connect { place: self.place(), source })
        };
        self.within(connecting).await
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
        let each = self.config.get_connect_timeout().copied().unwrap_or(url::CONNECT_TIMEOUT);
        let hosts = self.config.get_hosts().len().max(self.config.get_hostaddrs().len()).max(1);
        each * u32::try_from(hosts).unwrap_or(1)
    }
}

type TlsConnection = Connection<Socket, <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream>;

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
pub fn pool(url: &str, application_name: &str, size: usize) -> Result<Pool, Error> {
    Connector::new(url, application_name)?.pool(size)
}
