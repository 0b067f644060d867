//! The ledger: what the target itself says about its migrations.
//!
//! Two tables in the schema `dunlin` of each target: `migrations_registry`, what has been applied, and `checkpoints`, how far
//! the rest is; and beside them `identity`, which says whose ledger it is. This module has the only SQL about them.
//!
//! Why it is safe that an agent can stop anywhere, and that two agents can believe to hold the same task:
//!
//! 1. **Take.** A lease writes its epoch into the checkpoint if the stored one is smaller. The row lock makes it wait for
//!    the open transaction of an older holder. Then, in a statement of its own and so with a fresh snapshot, it reads how
//!    often the migration was applied: a seal deletes the checkpoints, and without this look a stale lease could begin again
//!    what is finished.
//! 2. **Advance.** Each transaction that does work moves the checkpoint `WHERE epoch = e AND batches = n`. The epoch refuses
//!    older holders; the number of batches refuses the ghost of a transaction of one's own whose connection was cut while it
//!    was under way. A checkpoint that does not match makes the *server* abort, so a commit that is on its way behind it
//!    cannot happen.
//! 3. **Compare.** What begins a step, goes on with one or ends a migration first compares the definition's steps with those that the
//!    target holds ([`hold`], [`holdings`]), and gives them their new names.
//! 4. **Look.** What became of a transaction is never concluded from an error; it is read from the checkpoint.

mod advance;
mod checkpoint;
mod foreign;
mod identity;
mod ranges;
mod registry;
mod schema;
mod steps;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod versions;

pub(crate) use advance::{Advance, Advanced, PREPARED as PREPARED_ADVANCE, to_prepare};
pub(crate) use checkpoint::{Address, Checkpoint, Claim, Kind, Stale, State, Taken, anything_begun, held, look, take};
pub(crate) use identity::{Identity, Place, adopt as adopt_identity, glance, identity, place, raise};
pub(crate) use ranges::{
    NewRange, StoredRange, begin_walk, describe, insert_ranges, planned, ranges_after, unfinished_ranges,
};
pub(crate) use registry::{Applied, Fingerprint, Sums, erase, fingerprint, record, registry, sums, unfinished_steps};
#[cfg(test)]
pub(crate) use schema::LOCK as PREPARE_LOCK;
pub(crate) use schema::{Error as PrepareError, Facts, prepare, survey};
pub(crate) use steps::{
    Holding, Request, adopt, all_holdings, begin_again, hold, holdings, note_repaired, rename, stories,
};

/// What can go wrong with the ledger.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// PostgreSQL's error, or a lost connection.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// The checkpoint does not match any more: another lease or an own ghost has moved it. Nothing was changed.
    #[error("the checkpoint has been moved by another transaction")]
    Moved,
    /// A row of the ledger does not have the expected shape.
    #[error("the ledger in the target is damaged: {0}")]
    Damaged(String),
    /// The position in a checkpoint has a shape that this version does not know.
    #[error("the checkpoint cannot be read ({0}): another version of the agent has written it")]
    Unreadable(serde_json::Error),
}
