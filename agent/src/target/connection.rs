//! One connection to a target, lent from its pool or of one's own.
//!
//! What must stay true: a connection that is given back to the pool has no transaction open. A future of the agent can be
//! dropped at any point, so the connection counts as used up from `BEGIN` until the end of the transaction is answered; used
//! up means closed, and PostgreSQL rolls back what was open.

use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;

use deadpool_postgres::{Object, Pool, PoolError};
use dunlin_shared::postgres::Connector;
use futures::StreamExt;
use tokio_postgres::{Client, SimpleQueryMessage};

/// A connection, and whether it may go back to the pool.
#[derive(Debug)]
pub(crate) struct Connection {
    held: Held,
    open: bool,
    connector: Arc<Connector>,
}

#[derive(Debug)]
enum Held {
    /// Lent.
    Pooled(Object),
    /// Closed afterwards.
    Own(Client),
    /// Only while being dropped.
    Gone,
}

impl Connection {
    /// Lends a connection.
    ///
    /// # Errors
    /// The target cannot be reached.
    pub(crate) async fn lend(pool: &Pool, connector: &Arc<Connector>) -> Result<Self, PoolError> {
        Ok(Self { held: Held::Pooled(pool.get().await?), open: false, connector: Arc::clone(connector) })
    }

    /// A connection of one's own.
    pub(crate) fn own(client: Client, connector: &Arc<Connector>) -> Self {
        Self { held: Held::Own(client), open: false, connector: Arc::clone(connector) }
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

    /// Has a statement prepared in the session: `PREPARE` with its name and whatever stands behind it, in a transaction that `begin`
    /// begins, for PostgreSQL locks the tables. What had the name before is forgotten. The server is asked first what there is,
    /// since SQL of definitions may have removed it.
    ///
    /// # Errors
    /// Those of PostgreSQL; the transaction may then be open.
    pub(crate) async fn prepare(&mut self, begin: &str, name: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
        let known = format!("SELECT statement FROM pg_prepared_statements WHERE name = '{name}'");
        let known = self.simple_query(&known).await?;
        let known = known.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        if known == Some(sql) {
            return Ok(());
        }
        self.begin(begin).await?;
        if known.is_some() {
            self.batch_execute(&format!("DEALLOCATE {name}")).await?;
        }
        self.batch_execute(sql).await?;
        self.commit().await
    }

    /// Commits, and removes what SQL of a definition may have left in the session: settings, roles, temporary tables. Prepared
    /// statements stay: they belong to the client library and to batches.
    ///
    /// Both go in one message, so that a pooler in transaction mode has both done by the same process of the server.
    ///
    /// # Errors
    /// Those of the commit, as for [`commit`](Self::commit). When only the rest fails, the connection is used up.
    pub(crate) async fn commit_and_discard(&mut self) -> Result<(), tokio_postgres::Error> {
        const END: &str = "COMMIT;CLOSE ALL;SET SESSION AUTHORIZATION DEFAULT;RESET ALL;UNLISTEN *;\
            SELECT pg_advisory_unlock_all();DISCARD TEMP;DISCARD SEQUENCES";
        let mut committed = false;
        let mut answers = pin!(self.simple_query_raw(END).await?);
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(_) => committed = true,
                Err(_) if committed => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.open = false;
        Ok(())
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        match &self.held {
            Held::Pooled(object) => object,
            Held::Own(client) => client,
            Held::Gone => unreachable!("the connection is there until it is dropped"),
        }
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        match &mut self.held {
            Held::Pooled(object) => object,
            Held::Own(client) => client,
            Held::Gone => unreachable!("the connection is there until it is dropped"),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.open || self.is_closed() {
            return;
        }
        // Used up: it does not go back to the pool.
        let token = self.cancel_token();
        let (lent, own) = match std::mem::replace(&mut self.held, Held::Gone) {
            Held::Pooled(object) => (Some(Object::take(object)), None),
            Held::Own(client) => (None, Some(client)),
            Held::Gone => return,
        };
        // Not needed for being right, since nobody sends the COMMIT: it frees the locks of a long statement earlier. The
        // connection is closed afterwards, because a pooler knows what to cancel only as long as it is open.
        let connector = Arc::clone(&self.connector);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _gone = connector.cancel(&token).await;
                drop((lent, own));
            });
        }
    }
}
