//! One connection to a target, lent from its pool.
//!
//! What must stay true: a connection that is given back to the pool has no transaction open. A future of the agent can be
//! dropped at any point, so the connection counts as used up from `BEGIN` until the end of the transaction is answered; used
//! up means closed, and PostgreSQL rolls back what was open.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use deadpool_postgres::{Object, Pool, PoolError};
use dunlin_shared::postgres::Connector;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A connection, and whether it may go back to the pool.
#[derive(Debug)]
pub(crate) struct Connection {
    object: Option<Object>,
    open: bool,
    connector: Arc<Connector>,
}

impl Connection {
    /// Lends a connection.
    ///
    /// # Errors
    /// The target cannot be reached.
    pub(crate) async fn lend(pool: &Pool, connector: &Arc<Connector>) -> Result<Self, PoolError> {
        Ok(Self { object: Some(pool.get().await?), open: false, connector: Arc::clone(connector) })
    }

    /// Marks the connection as used up before a transaction is begun.
    pub(crate) fn opening(&mut self) {
        self.open = true;
    }

    /// Marks the connection as clean after the end of a transaction was answered.
    pub(crate) fn closed(&mut self) {
        self.open = false;
    }

    /// Executes statements that begin a transaction and may do more in it.
    ///
    /// # Errors
    /// Those of PostgreSQL; the transaction is then still open.
    pub(crate) async fn begin(&mut self, sql: &str) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
        self.open = true;
        self.simple_query(sql).await
    }

    /// Commits.
    ///
    /// # Errors
    /// Those of PostgreSQL. An error that the server did not send leaves open whether the commit happened.
    pub(crate) async fn commit(&mut self) -> Result<(), tokio_postgres::Error> {
        self.batch_execute("COMMIT").await?;
        self.open = false;
        Ok(())
    }

    /// Rolls back. Where that fails the connection is closed, which comes to the same.
    pub(crate) async fn rollback(&mut self) {
        if self.open && self.batch_execute("ROLLBACK").await.is_ok() {
            self.open = false;
        }
    }

    /// Removes what SQL of a definition may have left in the session: settings, roles, temporary tables. Prepared statements
    /// stay: those that there are belong to the client library.
    pub(crate) async fn discard(&mut self) {
        const DISCARD: &str = "CLOSE ALL;SET SESSION AUTHORIZATION DEFAULT;RESET ALL;UNLISTEN *;\
            SELECT pg_advisory_unlock_all();DISCARD TEMP;DISCARD SEQUENCES";
        self.open = true;
        if self.batch_execute(DISCARD).await.is_ok() {
            self.open = false;
        }
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        match &self.object {
            Some(object) => object,
            None => unreachable!("the connection is there until it is dropped"),
        }
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        match &mut self.object {
            Some(object) => object,
            None => unreachable!("the connection is there until it is dropped"),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(object) = self.object.take()
            && self.open
        {
            let client = Object::take(object);
            if client.is_closed() {
                return;
            }
            // Not needed for being right, since nobody sends the COMMIT: it frees the locks of a long statement earlier.
            let (token, connector) = (client.cancel_token(), Arc::clone(&self.connector));
            drop(client);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    let _gone = connector.cancel(&token).await;
                });
            }
        }
    }
}
