//! The copies of the targets' registries: what each target has applied, as far as the controller knows.

use std::time::SystemTime;

use dunlin_shared::ids::{MigrationId, TargetName};
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::database::Store;
use super::error::Error;
use super::session::{Session, Statement};
use crate::domain::report::Applied;

/// A row as statements take it. Times are microseconds since 1970, as exact as the database.
#[derive(Debug, Serialize)]
struct AppliedRow<'a> {
    migration_id: &'a str,
    version: i64,
    name: &'a str,
    checksum: &'a str,
    revision: i32,
    applications: i32,
    run_id: i64,
    agent_id: &'a str,
    rows: i64,
    result: serde_json::Value,
    applied_at: Option<i64>,
    last_applied_at: Option<i64>,
}

pub(super) const RECORD_APPLIED: Statement = Statement::new(
    "record_applied",
    "WITH compared AS (
         UPDATE dunlin_controller.targets SET registry_digest = NULL, reported_at = clock_timestamp() WHERE name = $1
     )
     INSERT INTO dunlin_controller.target_registry AS g
         (target, migration_id, version, name, checksum, revision, applications, run_id, agent_id, rows, result,
          applied_at, last_applied_at, recorded_at)
     SELECT $1, n.migration_id, n.version, n.name, n.checksum, n.revision, n.applications, n.run_id, n.agent_id, n.rows, n.result,
            timestamptz 'epoch' + n.applied_at * interval '1 microsecond',
            timestamptz 'epoch' + n.last_applied_at * interval '1 microsecond',
            clock_timestamp()
     FROM jsonb_to_recordset($2) AS n (migration_id text, version bigint, name text, checksum text, revision int, applications int,
         run_id bigint, agent_id text, rows bigint, result jsonb, applied_at bigint, last_applied_at bigint)
     ON CONFLICT (target, migration_id) DO UPDATE SET
         version = excluded.version, name = excluded.name, checksum = excluded.checksum, revision = excluded.revision,
         applications = excluded.applications, run_id = excluded.run_id, agent_id = excluded.agent_id,
         rows = excluded.rows, result = excluded.result, applied_at = coalesce(excluded.applied_at, g.applied_at),
         last_applied_at = coalesce(excluded.last_applied_at, g.last_applied_at), recorded_at = excluded.recorded_at",
);

/// Writes what tasks have applied to a target. The caller holds its schedule.
pub(super) async fn record(session: &Session, target: &TargetName, rows: &[&Applied]) -> Result<(), Error> {
    write(session, target, rows).await
}

/// Writes what a target itself says that it has applied. The caller holds its schedule.
pub(super) async fn take_over(session: &Session, target: &TargetName, rows: &[Applied]) -> Result<(), Error> {
    let rows: Vec<&Applied> = rows.iter().collect();
    write(session, target, &rows).await
}

async fn write(session: &Session, target: &TargetName, rows: &[&Applied]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows: Vec<AppliedRow<'_>> = rows.iter().copied().map(row).collect();
    session.execute(&RECORD_APPLIED, &[&target.as_str(), &Json(rows)]).await.map(drop)
}

fn row(applied: &Applied) -> AppliedRow<'_> {
    AppliedRow {
        migration_id: &applied.id,
        version: applied.version,
        name: &applied.name,
        checksum: &applied.checksum,
        revision: applied.revision,
        applications: applied.applications,
        run_id: applied.run_id,
        agent_id: &applied.agent_id,
        rows: applied.rows,
        result: applied.result.clone().into(),
        applied_at: applied.applied_at.and_then(micros),
        last_applied_at: applied.last_applied_at.and_then(micros),
    }
}

fn micros(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_micros()).ok()
}

/// What a registry says, in few bytes, so that an unchanged one is known at a glance.
pub(super) fn digest(rows: &[Applied]) -> String {
    use sha2::{Digest, Sha256};
    let mut rows: Vec<AppliedRow<'_>> = rows.iter().map(row).collect();
    rows.sort_by(|a, b| a.migration_id.cmp(b.migration_id));
    let text = serde_json::to_vec(&rows).unwrap_or_default();
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The schema version of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// The highest version that is applied, 0 when none is.
    pub version: i64,
    /// When the registry of the target was reported last; `None` when it never was.
    pub reported_at: Option<SystemTime>,
}

pub(super) const LIST_APPLIED: Statement = Statement::new(
    "list_applied",
    "SELECT g.target, g.migration_id, g.version, coalesce(m.name, g.name) AS name, g.checksum, g.revision, g.applications,
         g.run_id, g.agent_id, g.rows, g.result, g.applied_at, g.last_applied_at
     FROM dunlin_controller.target_registry g LEFT JOIN dunlin_controller.migrations m ON m.id = g.migration_id
     WHERE g.target = $1 AND g.applications >= 1 AND (g.version, g.migration_id) > ($2, $3)
     ORDER BY g.version, g.migration_id LIMIT $4",
);

const APPLIED_WHERE: Statement = Statement::new(
    "applied_where",
    "SELECT g.target, g.migration_id, g.version, coalesce(m.name, g.name) AS name, g.checksum, g.revision, g.applications,
         g.run_id, g.agent_id, g.rows, g.result, g.applied_at, g.last_applied_at
     FROM dunlin_controller.target_registry g LEFT JOIN dunlin_controller.migrations m ON m.id = g.migration_id
     WHERE g.migration_id = $1 ORDER BY g.target",
);

const SCHEMA_VERSION: Statement = Statement::new(
    "schema_version",
    "SELECT (SELECT max(g.version) FROM dunlin_controller.target_registry g
             WHERE g.target = t.name AND g.applications >= 1) AS version,
            t.reported_at
     FROM dunlin_controller.targets t WHERE t.name = $1",
);

impl Store {
    /// A page of what a target has applied, behind a version and id, in that order.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn list_applied(
        &self,
        target: &TargetName,
        after: (i64, &str),
        limit: i64,
    ) -> Result<Vec<(String, Applied)>, Error> {
        let session = self.session().await?;
        let rows = session.query(&LIST_APPLIED, &[&target.as_str(), &after.0, &after.1, &limit]).await?;
        Ok(rows.iter().map(|row| (row.get("target"), read_applied(row))).collect())
    }

    /// Where a migration is applied, in the order of the targets' names.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn applied_where(&self, migration: &MigrationId) -> Result<Vec<(String, Applied)>, Error> {
        let session = self.session().await?;
        let rows = session.query(&APPLIED_WHERE, &[&migration.as_str()]).await?;
        Ok(rows.iter().map(|row| (row.get("target"), read_applied(row))).collect())
    }

    /// The schema version of a target, and from when it is. `None`: no agent has ever served the target.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn schema_version(&self, target: &TargetName) -> Result<Option<SchemaVersion>, Error> {
        let session = self.session().await?;
        let row = session.query_opt(&SCHEMA_VERSION, &[&target.as_str()]).await?;
        Ok(row.map(|row| SchemaVersion {
            version: row.get::<_, Option<i64>>("version").unwrap_or(0),
            reported_at: row.get("reported_at"),
        }))
    }
}

pub(super) fn read_applied(row: &Row) -> Applied {
    Applied {
        id: row.get("migration_id"),
        version: row.get("version"),
        name: row.get("name"),
        checksum: row.get("checksum"),
        revision: row.get("revision"),
        applications: row.get("applications"),
        run_id: row.get("run_id"),
        agent_id: row.get("agent_id"),
        rows: row.get("rows"),
        result: row.get::<_, Json<serde_json::Map<_, _>>>("result").0,
        applied_at: row.get("applied_at"),
        last_applied_at: row.get("last_applied_at"),
    }
}
