//! The order in which a transaction locks, so that none waits for another in a circle:
//!
//! 1. the registry, shared by who queues runs, alone by who registers;
//! 2. running runs, in the order of their ids;
//! 3. their tasks, in the order of their ids (claims and expiry skip what is locked and never wait);
//! 4. their steps, in order;
//! 5. the schedule of a target, by who starts or queues runs or takes in what the target has applied;
//! 6. which database has which name, by who gives one a name;
//! 7. rows of the target's registry, then queued runs in the order of their ids;
//! 8. the row of the target, which numbers the events.
//!
//! Where a circle arises all the same, the database breaks it and the operation is repeated.

use dunlin_shared::ids::TargetName;

use super::error::Error;
use super::session::{Session, Statement};

/// Keys of advisory locks are a number of the use and, for targets, a hash of the name.
const REGISTRY: i64 = 0x6475_6e6c_696e_0002;
const IDENTITIES: i64 = 0x6475_6e6c_696e_0003;
const SCHEDULE: i32 = 0x6475_6e01;

pub(super) const LOCK_REGISTRY: Statement = Statement::new("lock_registry", "SELECT pg_advisory_xact_lock($1)");

pub(super) const SHARE_REGISTRY: Statement =
    Statement::new("share_registry", "SELECT pg_advisory_xact_lock_shared($1)");

pub(super) const LOCK_SCHEDULE: Statement =
    Statement::new("lock_schedule", "SELECT pg_advisory_xact_lock($1, hashtext($2))");

/// Keeps runs from being queued, and others from registering.
pub(super) async fn registry(session: &Session) -> Result<(), Error> {
    session.execute(&LOCK_REGISTRY, &[&REGISTRY]).await.map(drop)
}

/// Keeps definitions from being changed.
pub(super) async fn registry_shared(session: &Session) -> Result<(), Error> {
    session.execute(&SHARE_REGISTRY, &[&REGISTRY]).await.map(drop)
}

/// Keeps others from starting or queueing runs on a target. What they have committed is seen by the next statement.
pub(super) async fn schedule(session: &Session, target: &TargetName) -> Result<(), Error> {
    session.execute(&LOCK_SCHEDULE, &[&SCHEDULE, &target.as_str()]).await.map(drop)
}

/// Keeps others from giving a name to a database.
pub(super) async fn identities(session: &Session) -> Result<(), Error> {
    session.execute(&LOCK_REGISTRY, &[&IDENTITIES]).await.map(drop)
}
