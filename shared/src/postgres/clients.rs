//! A pool of plain clients. It hands them out as they were given back, with no command in between, and none that was made from a URL or
//! a password that has been replaced since.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;

use super::connect::Connector;
use super::error::Error;
use super::reach::Connected;
use super::source::Loaded;

/// A pool of clients.
pub type Clients = managed::Pool<Maker>;

/// A client that is lent from a pool.
pub type LentClient = managed::Object<Maker>;

/// What makes the clients of a pool.
#[derive(Debug)]
pub struct Maker(Connector);

/// A client, with the statements that it has prepared.
pub struct Pooled {
    client: ClientWrapper,
    loaded: Arc<Loaded>,
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled").finish_non_exhaustive()
    }
}

impl Deref for Pooled {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}

impl managed::Manager for Maker {
    type Type = Pooled;
    type Error = Error;

    async fn create(&self) -> Result<Pooled, Error> {
        let Connected { client, driven, loaded, .. } = self.0.driven().await?;
        Ok(Pooled { client: ClientWrapper::new(client, driven), loaded })
    }

    async fn recycle(&self, client: &mut Pooled, _: &Metrics) -> RecycleResult<Error> {
        fit(client.is_closed(), self.0.made_from(&client.loaded))
    }
}

/// Whether a connection can be handed out again.
pub(super) fn fit(closed: bool, current: bool) -> RecycleResult<Error> {
    match (closed, current) {
        (true, _) => Err(RecycleError::message("the connection is closed")),
        (_, false) => Err(RecycleError::message("its URL or password was replaced")),
        _ => Ok(()),
    }
}

impl Connector {
    /// Makes a pool of at most `size` connections. It connects when connections are asked for.
    ///
    /// # Errors
    /// The pool cannot be made.
    pub fn pool(&self, size: usize) -> Result<Clients, Error> {
        managed::Pool::builder(Maker(self.clone()))
            .max_size(size)
            .create_timeout(Some(self.limit()))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| Error::Pool(error.to_string()))
    }
}
