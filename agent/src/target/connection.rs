//! One connection to a target, lent from its pool or of one's own.
//!
//! What must stay true: a connection that is given back to the pool has no transaction open. A future of the agent can be
//! dropped at any point, so the connection counts as used up from `BEGIN` until the end of the transaction is answered; used
//! up means closed, and PostgreSQL rolls back what was open.
//!
//! A session that has executed SQL of a definition is not given back either: what such SQL can leave in it (locks, settings that were
//! never there before, prepared statements) cannot all be seen, let alone be removed. What can be is removed in the message that ends
//! the transaction; then the session ends with the task. Behind a pooler the removal is all there can be, since the session is not
//! the agent's.

use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::Arc;

use deadpool::managed::{Object, PoolError};
use dunlin_shared::postgres::{self, Connector, Heard, Lent, Session, Sessions, Witness};
use futures::StreamExt;
use tokio_postgres::SimpleQueryMessage;

use super::KEEPALIVES;
use crate::frame::{DISCARD, FREE_NAMES};

/// A connection, and whether it may go back to the pool.
#[derive(Debug)]
pub(crate) struct Connection {
    held: Held,
    open: bool,
    /// True once SQL of a definition was executed.
    used: bool,
    /// True when a pooler stands on the way.
    pooled: bool,
    connector: Arc<Connector>,
}

#[derive(Debug)]
enum Held {
    /// Lent.
    Pooled(Lent),
    /// Closed afterwards.
    Own(Session),
    /// Only while being dropped.
    Gone,
}

impl Connection {
    /// Lends a connection.
    ///
    /// # Errors
    /// The target cannot be reached.
    pub(crate) async fn lend(pool: &Sessions, connector: &Arc<Connector>) -> Result<Self, PoolError<postgres::Error>> {
        Ok(Self::of(Held::Pooled(pool.get().await?), connector))
    }

    /// A connection of one's own.
    pub(crate) fn own(session: Session, connector: &Arc<Connector>) -> Self {
        Self::of(Held::Own(session), connector)
    }

    fn of(held: Held, connector: &Arc<Connector>) -> Self {
        Self { held, open: false, used: false, pooled: false, connector: Arc::clone(connector) }
    }

    /// True for a session that nobody has used before.
    pub(super) fn is_new(&self) -> bool {
        match &self.held {
            Held::Pooled(object) => Object::metrics(object).recycle_count == 0,
            Held::Own(_) => true,
            Held::Gone => false,
        }
    }

    /// True when what the connection was made from has been replaced, such as a password.
    pub(super) fn outdated(&self) -> bool {
        self.connector.outdates(self.session())
    }

    /// Whoever wants to know how the session has ended.
    pub(crate) fn witness(&self) -> Witness {
        self.session().witness()
    }

    /// What the server has said beside its answers since the last call.
    pub(crate) fn heard(&self) -> Heard {
        self.session().heard()
    }

    fn session(&self) -> &Session {
        match &self.held {
            Held::Pooled(object) => object,
            Held::Own(session) => session,
            Held::Gone => unreachable!("the connection is there until it is dropped"),
        }
    }

    /// Says whether a pooler stands on the way.
    pub(super) fn set_pooled(&mut self, pooled: bool) {
        self.pooled = pooled;
    }

    /// Says that SQL of a definition comes next, or code of a transform.
    pub(crate) fn lend_to_definition(&mut self) {
        self.used = true;
    }

    /// What follows a COMMIT or ROLLBACK in its message: the removal of what SQL of a definition may have left in the session.
    pub(crate) fn removal(&self) -> String {
        match (self.used, self.pooled) {
            (false, _) => String::new(),
            // The session goes on, within its task.
            (true, false) => format!(";{DISCARD};{KEEPALIVES}"),
            (true, true) => format!(";{DISCARD};{FREE_NAMES}"),
        }
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

    /// Commits, and removes what SQL of a definition may have left in the session.
    ///
    /// Both go in one message, so that a pooler in transaction mode has both done by the same process of the server.
    ///
    /// # Errors
    /// Those of PostgreSQL. An error that the server did not send leaves open whether the commit happened. When only the removal
    /// fails, the connection is used up.
    pub(crate) async fn commit(&mut self) -> Result<(), tokio_postgres::Error> {
        let end = format!("COMMIT{}", self.removal());
        let mut committed = false;
        {
            let mut answers = pin!(self.simple_query_raw(&end).await?);
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(_) => committed = true,
                    Err(_) if committed => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
        self.open = false;
        Ok(())
    }

    /// Rolls back, and removes what outlasts that. Where it fails the connection is closed, which comes to the same.
    pub(crate) async fn rollback(&mut self) {
        let end = format!("ROLLBACK{}", self.removal());
        if self.open && self.batch_execute(&end).await.is_ok() {
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
        let known = format!(
            "SELECT statement FROM pg_catalog.pg_prepared_statements WHERE name OPERATOR(pg_catalog.=) '{name}'"
        );
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
}

impl Deref for Connection {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session()
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Session {
        match &mut self.held {
            Held::Pooled(object) => object,
            Held::Own(client) => client,
            Held::Gone => unreachable!("the connection is there until it is dropped"),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let kept = !self.open && (!self.used || self.pooled);
        if kept || self.is_closed() {
            return;
        }
        // It does not go back to the pool.
        let cancel = self.session().canceller();
        let (lent, own) = match std::mem::replace(&mut self.held, Held::Gone) {
            Held::Pooled(object) => (Some(Object::take(object)), None),
            Held::Own(client) => (None, Some(client)),
            Held::Gone => return,
        };
        if !self.open {
            return;
        }
        // Not needed for being right, since nobody sends the COMMIT: it frees the locks of a long statement earlier. The
        // connection is closed afterwards, because a pooler knows what to cancel only as long as it is open.
        let connector = Arc::clone(&self.connector);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _gone = connector.cancel(&cancel).await;
                drop((lent, own));
            });
        }
    }
}
