//! The store: a pool of connections to the controller's database, and what is known of its availability.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use deadpool::managed::PoolError;
use dunlin_shared::migration::Definition;
use dunlin_shared::postgres::{Clients, Connector};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;

use super::error::Error;
use super::flush::Flushes;
use super::schema;
use super::session::Session;

/// How long an operation waits for a connection.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(5);

/// How many definitions are kept in memory.
const DEFINITIONS: usize = 1000;

/// Whether the controller's database can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Available,
    /// It cannot, and why. It is tried again.
    Away(String),
}

/// The controller's database. Clones share everything.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Connector,
    pool: Clients,
    replica: String,
    lease_ttl: Duration,
    availability: watch::Sender<Availability>,
    definitions: Mutex<HashMap<String, Arc<Definition>>>,
    flushes: Flushes,
    /// For what comes in crowds: half of the connections are left to leases and reports.
    crowds: Semaphore,
}

impl Store {
    /// Makes a store for a database that is not contacted yet.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub fn new(url: &str, connections: usize, lease_ttl: Duration) -> Result<Self, Error> {
        let connector = Connector::new(url, "dunlin-controller").map_err(Error::Url)?;
        let pool = connector.pool(connections).map_err(Error::Url)?;
        let away = Availability::Away("it was not reached yet".to_owned());
        Ok(Self {
            inner: Arc::new(Inner {
                connector,
                pool,
                replica: format!("{:016x}", rand::random::<u64>()),
                lease_ttl,
                availability: watch::Sender::new(away),
                definitions: Mutex::default(),
                flushes: Flushes::default(),
                crowds: Semaphore::new((connections / 2).max(1)),
            }),
        })
    }

    /// Brings the schema up to date; from then on the store can be used. Several replicas may do this at once.
    ///
    /// # Errors
    /// The database cannot be reached, or its schema cannot be brought up to date.
    pub async fn open(&self) -> Result<(), Error> {
        self.bring_up_to_date().await?;
        self.set_availability(Availability::Available);
        Ok(())
    }

    pub(super) async fn bring_up_to_date(&self) -> Result<(), Error> {
        schema::apply(&self.inner.connector).await
    }

    /// The database, as "user@host:port/database".
    #[must_use]
    pub fn place(&self) -> String {
        self.inner.connector.place()
    }

    /// Follows whether the database can be used.
    #[must_use]
    pub fn availability(&self) -> watch::Receiver<Availability> {
        self.inner.availability.subscribe()
    }

    pub(crate) fn set_availability(&self, availability: Availability) {
        self.inner.availability.send_if_modified(|current| {
            let changed = *current != availability;
            *current = availability;
            changed
        });
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.inner.connector
    }

    /// The name of this replica in notifications, so that it knows its own.
    pub(crate) fn replica(&self) -> &str {
        &self.inner.replica
    }

    /// How long a lease lives without a heartbeat.
    #[must_use]
    pub fn lease_ttl(&self) -> Duration {
        self.inner.lease_ttl
    }

    /// The time to live in seconds, as statements take it.
    pub(crate) fn ttl_seconds(&self) -> f64 {
        self.inner.lease_ttl.as_secs_f64()
    }

    /// Takes a connection.
    pub(crate) async fn session(&self) -> Result<Session, Error> {
        if let Availability::Away(reason) = &*self.inner.availability.borrow() {
            return Err(Error::Unavailable { reason: reason.clone() });
        }
        let connection = match timeout(CONNECTION_DEADLINE, self.inner.pool.get()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(PoolError::Backend(error))) => return Err(Error::Unavailable { reason: error.to_string() }),
            Ok(Err(error)) => return Err(Error::Unavailable { reason: error.to_string() }),
            Err(_) => {
                return Err(Error::Unavailable { reason: "no connection was free within 5 s".to_owned() });
            }
        };
        Session::open(connection).await
    }

    /// Takes a connection for something that thousands of agents may want at the same moment, such as to say hello. Those
    /// that wait for their turn, however long, hold up nobody else.
    pub(crate) async fn session_in_turn(&self) -> Result<(Option<SemaphorePermit<'_>>, Session), Error> {
        // It is never closed.
        let turn = self.inner.crowds.acquire().await.ok();
        Ok((turn, self.session().await?))
    }

    /// Repeats an operation that met another transaction.
    pub(crate) async fn repeat<T, F, Fut>(&self, operation: F) -> Result<T, Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(5))
            .with_max_delay(Duration::from_millis(500))
            .with_max_times(8)
            .with_jitter();
        operation.retry(delays).when(Error::conflict).await
    }

    pub(super) fn flushes(&self) -> &Flushes {
        &self.inner.flushes
    }

    fn definitions(&self) -> MutexGuard<'_, HashMap<String, Arc<Definition>>> {
        self.inner.definitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A definition that is in memory.
    pub(crate) fn remembered(&self, checksum: &str) -> Option<Arc<Definition>> {
        self.definitions().get(checksum).cloned()
    }

    /// Keeps a definition in memory: one never changes under its checksum.
    pub(crate) fn remember(&self, checksum: String, definition: Definition) -> Arc<Definition> {
        let definition = Arc::new(definition);
        let mut definitions = self.definitions();
        if definitions.len() >= DEFINITIONS {
            definitions.clear();
        }
        definitions.insert(checksum, Arc::clone(&definition));
        definition
    }
}
