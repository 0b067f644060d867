//! The registry: what the target has.

use std::time::SystemTime;

use dunlin_proto::convert;
use dunlin_proto::v1::{AppliedMigration, Migration};
use dunlin_shared::ids::{MigrationId, RunId};
use dunlin_shared::postgres::Session;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Address, Error};
use crate::own;

/// A row of the registry.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    /// How often the migration was applied.
    pub(crate) applications: i32,
    /// The run that applied it last.
    pub(crate) run: RunId,
    /// The row as controllers read it. The name of the target is still empty.
    pub(crate) message: AppliedMigration,
}

/// What the checkpoints of a migration add up to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sums {
    /// Rows changed.
    pub(crate) rows: i64,
    /// The counters of code transforms.
    pub(crate) counters: Map<String, Value>,
}

const COLUMNS: &str =
    "id, version, name, checksum, applications, run_id, applied_at, last_applied_at, agent_id, rows, result, revision";

/// The registry's row of a migration.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn applied(client: &Session, migration: &MigrationId) -> Result<Option<Applied>, Error> {
    let row = client
        .query_typed_opt(
            &format!("SELECT {COLUMNS} FROM dunlin.migrations_registry WHERE id = $1"),
            &[(&migration.as_str(), Type::TEXT)],
        )
        .await?;
    row.as_ref().map(read).transpose()
}

/// The whole registry, in the order of versions. Outside of any transaction, as the next.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn registry(client: &Session) -> Result<Vec<AppliedMigration>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM dunlin.migrations_registry ORDER BY version, id");
    own::query(client, &sql, &[]).await?.iter().map(|row| Ok(read(row)?.message)).collect()
}

/// What the whole registry, and the steps of half-done migrations, add up to: two that differ are told apart without reading either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fingerprint {
    rows: i64,
    hash: i64,
    held: i64,
}

/// The fingerprint of the registry, and of what is half done, as they are now.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn fingerprint(client: &Session) -> Result<Fingerprint, Error> {
    let row = own::query_one(
        client,
        "SELECT count(*), coalesce(bit_xor(hash_record_extended(r, 0)), 0),
                    (SELECT coalesce(bit_xor(hash_record_extended(
                        ROW(c.migration, c.step, c.checksum, c.state, c.redo, c.repaired), 0)), 0)
                     FROM dunlin.checkpoints c WHERE c.range = 0 AND c.step <> '')
             FROM dunlin.migrations_registry AS r",
        &[],
    )
    .await?;
    Ok(Fingerprint { rows: row.try_get(0)?, hash: row.try_get(1)?, held: row.try_get(2)? })
}

fn read(row: &Row) -> Result<Applied, Error> {
    let run: i64 = row.try_get(5)?;
    let result: Value = row.try_get(10)?;
    let applied_at: SystemTime = row.try_get(6)?;
    let last_applied_at: SystemTime = row.try_get(7)?;
    let message = AppliedMigration {
        id: row.try_get(0)?,
        version: row.try_get(1)?,
        name: row.try_get(2)?,
        target: String::new(),
        checksum: row.try_get(3)?,
        revision: row.try_get(11)?,
        applications: row.try_get(4)?,
        run_id: run,
        apply_time: Some(convert::timestamp(applied_at)),
        last_apply_time: Some(convert::timestamp(last_applied_at)),
        agent_id: row.try_get(8)?,
        rows: row.try_get(9)?,
        result: Some(convert::to_struct(&result).map_err(|error| Error::Damaged(error.to_string()))?),
    };
    Ok(Applied { applications: message.applications, run: RunId(run), message })
}

/// Adds up the checkpoints of a migration.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn sums(client: &Session, migration: &MigrationId) -> Result<Sums, Error> {
    let row = client
        .query_typed_one(
            "SELECT coalesce((SELECT sum(rows) FROM dunlin.checkpoints WHERE migration = $1), 0)::bigint,
                    coalesce((SELECT jsonb_object_agg(name, total) FROM (
                        SELECT e.key AS name, sum(e.value::bigint)::bigint AS total
                        FROM dunlin.checkpoints c, jsonb_each_text(c.counters) AS e
                        WHERE c.migration = $1 GROUP BY e.key) AS counted), '{}')",
            &[(&migration.as_str(), Type::TEXT)],
        )
        .await?;
    let counters: Value = row.try_get(1)?;
    let Value::Object(counters) = counters else {
        return Err(Error::Damaged("the counters are not an object".to_owned()));
    };
    Ok(Sums { rows: row.try_get(0)?, counters })
}

/// The steps among `steps` of which the target does not say that they are finished.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn unfinished_steps(
    client: &Session,
    migration: &MigrationId,
    steps: &[String],
) -> Result<Vec<String>, Error> {
    let rows = client
        .query_typed(
            "SELECT s.name FROM unnest($2) WITH ORDINALITY AS s(name, n)
             WHERE NOT EXISTS (SELECT FROM dunlin.checkpoints c
                               WHERE c.migration = $1 AND c.step = s.name AND c.range = 0 AND c.state = 'done')
                OR EXISTS (SELECT FROM dunlin.checkpoints c
                           WHERE c.migration = $1 AND c.step = s.name AND c.range > 0 AND c.state <> 'done')
             ORDER BY s.n",
            &[(&migration.as_str(), Type::TEXT), (&steps, Type::TEXT_ARRAY)],
        )
        .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Writes the registry's row, in the transaction that finishes the migration.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn record(
    client: &Session,
    migration: &Migration,
    run: RunId,
    agent: &str,
    rows: i64,
    result: &Value,
) -> Result<Applied, Error> {
    let sql = format!(
        "INSERT INTO dunlin.migrations_registry AS r
             (id, version, name, description, checksum, revision, run_after, impacts, run_id, agent_id, rows, result,
              started_at)
         SELECT $1, $2, $3, $4, $5, $12, $6, $7, $8, $9, $10, $11,
                coalesce((SELECT min(created_at) FROM dunlin.checkpoints WHERE migration = $1), now())
         ON CONFLICT (id) DO UPDATE SET
             version = excluded.version, name = excluded.name, description = excluded.description,
             checksum = excluded.checksum, revision = excluded.revision, run_after = excluded.run_after, impacts = excluded.impacts,
             applications = r.applications + 1, run_id = excluded.run_id, agent_id = excluded.agent_id,
             rows = excluded.rows, result = excluded.result, started_at = excluded.started_at, last_applied_at = now()
         RETURNING {COLUMNS}"
    );
    let row = client
        .query_typed_one(
            &sql,
            &[
                (&migration.id, Type::TEXT),
                (&migration.version, Type::INT8),
                (&migration.name, Type::TEXT),
                (&migration.description, Type::TEXT),
                (&migration.checksum, Type::TEXT),
                (&migration.run_after, Type::TEXT_ARRAY),
                (&migration.impacts, Type::TEXT_ARRAY),
                (&run.0, Type::INT8),
                (&agent, Type::TEXT),
                (&rows, Type::INT8),
                (result, Type::JSONB),
                // A controller that knows nothing of revisions has one.
                (&migration.revision.max(1), Type::INT4),
            ],
        )
        .await?;
    read(&row)
}

/// Deletes the checkpoints of a migration, in the transaction that finishes it: exactly when the lease's own is still there,
/// and the transaction is still the one that took it.
///
/// # Errors
/// [`Error::Moved`] when SQL of the definition has ended the transaction, and those of PostgreSQL.
pub(crate) async fn erase(client: &Session, own: &Address, epoch: i64, mark: &str) -> Result<(), Error> {
    let deleted = client
        .query_typed(
            "WITH witness AS (DELETE FROM dunlin.unlogged_witness WHERE migration = $1)
             DELETE FROM dunlin.checkpoints WHERE migration = $1 AND current_setting('dunlin.lease', true) = $2
             RETURNING step = $3 AND range = $4 AND epoch = $5",
            &[
                (&own.migration.as_str(), Type::TEXT),
                (&mark, Type::TEXT),
                (&own.step_text(), Type::TEXT),
                (&own.range, Type::INT4),
                (&epoch, Type::INT8),
            ],
        )
        .await?;
    for row in &deleted {
        if row.try_get(0)? {
            return Ok(());
        }
    }
    Err(Error::Moved)
}
