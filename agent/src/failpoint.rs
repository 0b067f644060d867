//! Where an agent can be made to fail on purpose: between every two durable steps of every kind of task.
//!
//! See [`dunlin_shared::failpoint`]. An `error` here is a lost connection, and a real one: the server ends the backend, and with it
//! whatever transaction is open. Behind the last report of a lease it is the stream to the controller that is cut.

use tokio::sync::Notify;
use tokio_postgres::Client;

use dunlin_shared::failpoint::hit;
pub(crate) use dunlin_shared::failpoint::{Scenario, armed};

/// The points of one kind of task, in the order in which they are come to.
#[derive(Debug)]
pub(crate) struct Points {
    /// The epoch is in the checkpoint: committed, or in the one transaction of a statement or seal.
    pub(crate) taken: &'static str,
    /// The rows are changed, the checkpoint is not advanced yet. A seal changes none.
    pub(crate) changed: &'static str,
    /// The checkpoint is advanced, or the registry's row written and the checkpoints erased; not committed yet.
    pub(crate) advanced: &'static str,
    /// All that is committed, and nobody knows.
    pub(crate) committed: &'static str,
    /// The last report of the lease is on the stream.
    pub(crate) reported: &'static str,
}

macro_rules! points {
    ($kind:literal) => {
        &Points {
            taken: concat!($kind, ".taken"),
            changed: concat!($kind, ".changed"),
            advanced: concat!($kind, ".advanced"),
            committed: concat!($kind, ".committed"),
            reported: concat!($kind, ".reported"),
        }
    };
}

/// A whole atomic migration.
pub(crate) const ATOMIC: &Points = points!("atomic");
/// A step of SQL in a transaction.
pub(crate) const STATEMENT: &Points = points!("statement");
/// A step outside a transaction.
pub(crate) const OUTSIDE: &Points = points!("outside");
/// A plan.
pub(crate) const PLAN: &Points = points!("plan");
/// A range of SQL.
pub(crate) const RANGE: &Points = points!("range");
/// A range of code.
pub(crate) const CODE: &Points = points!("code");
/// The end of a migration.
pub(crate) const SEAL: &Points = points!("seal");

/// Streams that are to be cut.
static CUT: Notify = Notify::const_new();

/// Comes to a point while a connection to the target is in use.
///
/// # Errors
/// That of a connection that the server has ended, when an error was asked for.
pub(crate) async fn at(client: &Client, point: &str) -> Result<(), tokio_postgres::Error> {
    match hit(point).await {
        Ok(()) => Ok(()),
        // A transaction that is open already is ended with its backend.
        Err(_) => {
            client
                .batch_execute(
                    "SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid()), pg_catalog.pg_sleep(60)",
                )
                .await
        }
    }
}

/// Comes to the point behind the last report of a lease.
pub(crate) async fn reported(point: &str) {
    if hit(point).await.is_err() {
        CUT.notify_one();
    }
}

/// Waits until the stream to the controller is to be cut.
pub(crate) async fn cut() {
    CUT.notified().await;
}
