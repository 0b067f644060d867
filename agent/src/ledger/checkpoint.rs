//! Taking a task: the epoch goes into the checkpoint, the cursor comes out.

use dunlin_shared::ids::{Epoch, MigrationId, RunId, StepName};
use dunlin_shared::key::{KeyBound, KeyRange};
use dunlin_shared::postgres::Session;
use futures::future::join;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::{Applied, Error, registry};
use crate::own;

/// The place of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// The migration.
    pub(crate) migration: MigrationId,
    /// The step; `None` for a seal or an atomic migration.
    pub(crate) step: Option<StepName>,
    /// The range, from 1 upwards; 0 for the step itself.
    pub(crate) range: i32,
}

impl Address {
    pub(crate) fn step_text(&self) -> String {
        self.step.as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

/// The kind of a task, as the table says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One SQL step.
    Statement,
    /// Cutting a table into ranges.
    Plan,
    /// One range.
    Range,
    /// The end of a migration; also the whole of an atomic one.
    Seal,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Statement => "statement",
            Self::Plan => "plan",
            Self::Range => "range",
            Self::Seal => "seal",
        }
    }
}

/// Whether a checkpoint is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// There is work left.
    Open,
    /// Nothing is left.
    Done,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
        }
    }

    /// Reads the word. One that this agent does not know is never taken for one that it knows.
    pub(super) fn read(word: &str) -> Result<Self, Error> {
        [Self::Open, Self::Done].into_iter().find(|state| state.as_str() == word).ok_or_else(|| {
            Error::Damaged(format!(
                "a checkpoint has the state {word:?}: a newer agent has written it, or somebody by hand"
            ))
        })
    }
}

/// What a lease claims.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    /// The checkpoint.
    pub(crate) address: Address,
    /// The kind of task.
    pub(crate) kind: Kind,
    /// The lease's epoch.
    pub(crate) epoch: Epoch,
    /// The run.
    pub(crate) run: RunId,
    /// How often the registry must say that the migration was applied.
    pub(crate) applications: i32,
    /// The step's checksum.
    pub(crate) checksum: String,
    /// The place of the step in its definition; `None` for a range, a seal and an atomic migration.
    pub(crate) ordinal: Option<i32>,
    /// The request that the step is carried out again for, where it is.
    pub(crate) redo: Option<String>,
    /// The keys of a range, as the plan that this lease knows has cut them.
    pub(crate) keys: Option<KeyRange>,
    /// True when this lease may have taken the task before, over a connection that was lost.
    pub(crate) again: bool,
}

/// A checkpoint that was taken.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    /// True when the row did not exist before.
    pub(crate) fresh: bool,
    /// Whether there is work left.
    pub(crate) state: State,
    /// True when nothing of it can have taken effect.
    pub(crate) untouched: bool,
    /// True when it is carried out again over what it has done before.
    pub(crate) again: bool,
    /// The epoch that its ranges begin with.
    pub(crate) fence: i64,
    /// The table and its key, where the step is batched.
    pub(crate) key: Option<Value>,
    /// Where to go on.
    pub(crate) cursor: Option<Value>,
    /// The transactions that have advanced it.
    pub(crate) batches: i64,
    /// Rows changed.
    pub(crate) rows: i64,
    /// Rows walked.
    pub(crate) rows_walked: i64,
    /// Rows to walk.
    pub(crate) rows_total: i64,
}

impl Checkpoint {
    /// Where to go on; `None` is the beginning. What cannot be read is not taken for it: batches would be applied again.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub(crate) fn position<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        self.cursor.clone().map(serde_json::from_value).transpose().map_err(Error::Unreadable)
    }
}

/// Why a lease is not current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stale {
    /// The epoch in the target; `None` when it has no such checkpoint.
    pub(crate) stored: Option<i64>,
    /// How often the registry says that the migration was applied.
    pub(crate) applications: i32,
}

/// The outcome of [`take`].
#[derive(Debug)]
pub(crate) enum Taken {
    /// The task is this lease's.
    Mine(Checkpoint),
    /// This run has applied the migration already: the answer to the commit was lost.
    Applied(Box<Applied>),
    /// The lease is not current.
    Stale(Stale),
    /// The range is of another text, or of another plan: it was cut, or is worked on, for what the step was before or is by now.
    OtherText,
}

// Taking again is for the same lease only. Its epoch alone does not name it: a controller that has lost what it knew of an earlier
// run grants its epochs again, while a late holder of them may still be about. Where the runs have one number, too, both can
// take; then the number of batches alone keeps each batch from being done twice.
const INSERT: &str = "
INSERT INTO dunlin.checkpoints AS c (migration, step, range, kind, epoch, checksum, run_id, ordinal, redo)
VALUES ($1, $2, $3, $4, $5, $6, $7, $9, $10)
ON CONFLICT (migration, step, range) DO UPDATE
SET epoch = excluded.epoch, run_id = excluded.run_id, updated_at = now()
WHERE c.epoch < excluded.epoch OR ($8 AND c.epoch = excluded.epoch AND c.run_id = excluded.run_id)
RETURNING c.xmax = 0, c.state, c.key, c.cursor, c.batches, c.rows, c.rows_walked, c.rows_total, c.redo IS NOT NULL,
          coalesce(c.fence, 0)";

// Only the plan inserts ranges, so that a range which is unknown to the target cannot come into being here. One that was cut for
// another text can be met where the target was put back to a time before the step was begun again; one with other ends by a lease
// from before that, which nobody has taken: the fence knows of leases that were.
const UPDATE: &str = "
UPDATE dunlin.checkpoints AS c SET epoch = $5, run_id = $7, updated_at = now()
WHERE c.migration = $1 AND c.step = $2 AND c.range = $3 AND c.kind = $4 AND c.checksum = $6
  AND ($12::text[] IS NULL OR c.low IS NOT DISTINCT FROM $11 AND c.high = $12)
  AND (c.epoch < $5 OR ($8 AND c.epoch = $5 AND c.run_id = $7))
RETURNING false, c.state, c.key, c.cursor, c.batches, c.rows, c.rows_walked, c.rows_total, false, 0::bigint";

/// Takes a task within the transaction that is open. The caller commits when it is mine, and rolls back otherwise.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn take(client: &Session, claim: &Claim) -> Result<Taken, Error> {
    let sql = if claim.kind == Kind::Range { UPDATE } else { INSERT };
    let migration = claim.address.migration.as_str();
    let step = claim.address.step_text();
    let kind = claim.kind.as_str();
    let low = claim.keys.as_ref().and_then(|keys| keys.low.as_ref()).map(|bound| &bound.0);
    let high = claim.keys.as_ref().map(|keys| &keys.high.0);
    let parameters: [(&(dyn ToSql + Sync), Type); 12] = [
        (&migration, Type::TEXT),
        (&step, Type::TEXT),
        (&claim.address.range, Type::INT4),
        (&kind, Type::TEXT),
        (&claim.epoch.0, Type::INT8),
        (&claim.checksum, Type::TEXT),
        (&claim.run.0, Type::INT8),
        (&claim.again, Type::BOOL),
        (&claim.ordinal, Type::INT4),
        (&claim.redo, Type::TEXT),
        (&low, Type::TEXT_ARRAY),
        (&high, Type::TEXT_ARRAY),
    ];
    let taking = client.query_typed(sql, &parameters);
    // Sent together, executed one after the other: the second has a snapshot that is younger than the row lock of the first.
    let (taken, applied) = join(taking, registry::applied(client, &claim.address.migration)).await;
    let (taken, applied) = (taken?, applied?);
    let applications = applied.as_ref().map_or(0, |row| row.applications);
    if applications != claim.applications {
        return Ok(match applied {
            Some(row) if row.applications == claim.applications + 1 && row.run == claim.run => {
                Taken::Applied(Box::new(row))
            }
            _ => Taken::Stale(Stale { stored: None, applications }),
        });
    }
    match taken.first() {
        Some(row) => Ok(Taken::Mine(read(row)?)),
        None => {
            let seen = client.query_typed(LOOK, &parameters[..3]).await?.first().map(seen).transpose()?;
            let other =
                |seen: &Seen| seen.checksum != claim.checksum || claim.keys.is_some() && seen.keys != claim.keys;
            if claim.kind == Kind::Range && seen.as_ref().is_some_and(other) {
                return Ok(Taken::OtherText);
            }
            Ok(Taken::Stale(Stale { stored: seen.map(|seen| seen.epoch), applications }))
        }
    }
}

fn read(row: &Row) -> Result<Checkpoint, Error> {
    let state: &str = row.try_get(1)?;
    Ok(Checkpoint {
        fresh: row.try_get(0)?,
        state: State::read(state)?,
        untouched: false,
        key: row.try_get(2)?,
        cursor: row.try_get(3)?,
        batches: row.try_get(4)?,
        rows: row.try_get(5)?,
        rows_walked: row.try_get(6)?,
        rows_total: row.try_get(7)?,
        again: row.try_get(8)?,
        fence: row.try_get(9)?,
    })
}

/// What a look at a checkpoint shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The epoch.
    pub(crate) epoch: i64,
    /// The transactions that have advanced it.
    pub(crate) batches: i64,
    /// The checksum of the step that it is of.
    pub(crate) checksum: String,
    /// Its keys, where it is a range.
    pub(crate) keys: Option<KeyRange>,
}

const LOOK: &str = "SELECT epoch, batches, checksum, low, high FROM dunlin.checkpoints WHERE migration = $1 AND step = $2 AND range = $3";

/// Reads a checkpoint without taking it, outside of any transaction.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn look(client: &Session, address: &Address) -> Result<Option<Seen>, Error> {
    let (migration, step) = (address.migration.as_str(), address.step_text());
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&migration, Type::TEXT), (&step, Type::TEXT), (&address.range, Type::INT4)];
    own::query(client, LOOK, &parameters).await?.first().map(seen).transpose()
}

fn seen(row: &Row) -> Result<Seen, Error> {
    let (low, high): (Option<Vec<String>>, Option<Vec<String>>) = (row.try_get(3)?, row.try_get(4)?);
    let keys = high.map(|high| KeyRange { low: low.map(KeyBound), high: KeyBound(high) });
    Ok(Seen { epoch: row.try_get(0)?, batches: row.try_get(1)?, checksum: row.try_get(2)?, keys })
}

/// Reads the rows changed and walked of a checkpoint that a lease has taken, and locks it: whoever commits behind it has everything
/// before on disk. `None` when another lease has taken it since.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn held(client: &Session, address: &Address, epoch: Epoch) -> Result<Option<(i64, i64)>, Error> {
    let row = client
        .query_typed_opt(
            "SELECT rows, rows_walked FROM dunlin.checkpoints
             WHERE migration = $1 AND step = $2 AND range = $3 AND epoch = $4 FOR UPDATE",
            &[
                (&address.migration.as_str(), Type::TEXT),
                (&address.step_text(), Type::TEXT),
                (&address.range, Type::INT4),
                (&epoch.0, Type::INT8),
            ],
        )
        .await?;
    row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}

/// True when the target has a checkpoint of the migration other than the one of `address`.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn anything_begun(client: &Session, address: &Address) -> Result<bool, Error> {
    let row = client
        .query_typed_one(
            "SELECT EXISTS (SELECT FROM dunlin.checkpoints WHERE migration = $1 AND (step, range) <> ($2, $3))",
            &[
                (&address.migration.as_str(), Type::TEXT),
                (&address.step_text(), Type::TEXT),
                (&address.range, Type::INT4),
            ],
        )
        .await?;
    Ok(row.try_get(0)?)
}
