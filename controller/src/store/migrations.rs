//! The registered migrations, and those that were: what they say, and who has which revision of them.

use std::time::SystemTime;

use dunlin_shared::ids::MigrationId;
use dunlin_shared::migration::Definition;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::database::Store;
use super::error::Error;
use super::session::Statement;

/// A definition of a migration as it is registered, or was.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What it says.
    pub definition: Definition,
    /// Its text.
    pub text: String,
    /// When the migration was registered first.
    pub registered_at: Option<SystemTime>,
    /// When this definition was registered last.
    pub updated_at: SystemTime,
    /// Who registered it, as it was stated; may be empty.
    pub registered_by: String,
    /// Which definition of the migration it is, from 1 upwards.
    pub revision: i32,
    /// The revision that is registered; 0 when none is any more.
    pub registered_revision: i32,
    /// Why it was registered although a target had another one; may be empty.
    pub reason: String,
    /// Targets that have another revision applied, and which.
    pub others: Vec<(String, i32)>,
    /// When the migration was withdrawn, and who did it; `None` while it is registered.
    pub withdrawn: Option<(SystemTime, String)>,
}

const GET_MIGRATION: Statement = Statement::new(
    "get_migration",
    "SELECT coalesce(m.registered_at, w.registered_at) AS registered_at,
            CASE WHEN m.checksum = d.checksum THEN m.updated_at ELSE d.created_at END AS updated_at,
            CASE WHEN m.checksum = d.checksum THEN m.registered_by ELSE d.registered_by END AS registered_by,
            d.definition, d.text, d.revision, d.reason, coalesce(m.revision, 0) AS registered_revision,
            w.withdrawn_at, w.withdrawn_by,
            (SELECT coalesce(array_agg(g.target ORDER BY g.target), '{}') FROM dunlin_controller.target_registry g
             WHERE g.migration_id = d.migration_id AND g.checksum <> d.checksum) AS other_targets,
            (SELECT coalesce(array_agg(g.revision ORDER BY g.target), '{}') FROM dunlin_controller.target_registry g
             WHERE g.migration_id = d.migration_id AND g.checksum <> d.checksum) AS other_revisions
     FROM dunlin_controller.definitions d
     LEFT JOIN dunlin_controller.migrations m ON m.id = d.migration_id
     LEFT JOIN dunlin_controller.withdrawn w ON w.id = d.migration_id
     WHERE d.migration_id = $1
       AND CASE WHEN $2::int = 0 THEN d.checksum = coalesce(m.checksum, w.checksum) ELSE d.revision = $2 END",
);

/// Definitions can be long: no more of them are read than come to $3 bytes, and one in any case.
const LIST_MIGRATIONS: Statement = Statement::new(
    "list_migrations",
    "WITH page AS MATERIALIZED (
         SELECT m.version, octet_length(d.definition::text) AS bytes
         FROM dunlin_controller.migrations m
         JOIN dunlin_controller.definitions d ON d.migration_id = m.id AND d.checksum = m.checksum
         WHERE m.version > $1 ORDER BY m.version LIMIT $2
     ), short AS MATERIALIZED (
         SELECT version FROM (SELECT version, sum(bytes) OVER (ORDER BY version) - bytes AS before FROM page) p
         WHERE before < $3::bigint
     )
     SELECT m.registered_at, m.updated_at, m.registered_by, d.definition, '' AS text, m.revision, d.reason,
            m.revision AS registered_revision, NULL::timestamptz AS withdrawn_at, NULL::text AS withdrawn_by,
            (SELECT coalesce(array_agg(g.target ORDER BY g.target), '{}') FROM dunlin_controller.target_registry g
             WHERE g.migration_id = m.id AND g.checksum <> m.checksum) AS other_targets,
            (SELECT coalesce(array_agg(g.revision ORDER BY g.target), '{}') FROM dunlin_controller.target_registry g
             WHERE g.migration_id = m.id AND g.checksum <> m.checksum) AS other_revisions,
            (SELECT count(*) FROM page) AS found
     FROM short
     JOIN dunlin_controller.migrations m ON m.version = short.version
     JOIN dunlin_controller.definitions d ON d.migration_id = m.id AND d.checksum = m.checksum
     ORDER BY m.version",
);

const LENGTH: Statement = Statement::new(
    "definition_length",
    "SELECT octet_length(d.text)::bigint + octet_length(d.definition::text) AS bytes
     FROM dunlin_controller.definitions d
     LEFT JOIN dunlin_controller.migrations m ON m.id = d.migration_id
     LEFT JOIN dunlin_controller.withdrawn w ON w.id = d.migration_id
     WHERE d.migration_id = $1
       AND CASE WHEN $2::int = 0 THEN d.checksum = coalesce(m.checksum, w.checksum) ELSE d.revision = $2 END",
);

/// How many bytes of definitions are read at a time.
const BYTES: i64 = 4 * 1024 * 1024;

impl Store {
    /// A migration: its definition of a revision, or with 0 the one that is registered, or was when it was withdrawn.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn get_migration(&self, id: &MigrationId, revision: i32) -> Result<Option<Stored>, Error> {
        let session = self.session().await?;
        let row = session.query_opt(&GET_MIGRATION, &[&id.as_str(), &revision]).await?;
        Ok(apart(move || row.as_ref().map(read)).await)
    }

    /// How many bytes [`get_migration`](Self::get_migration) reads; 0 where there is none.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn length_of_migration(&self, id: &MigrationId, revision: i32) -> Result<i64, Error> {
        let session = self.session().await?;
        let row = session.query_opt(&LENGTH, &[&id.as_str(), &revision]).await?;
        Ok(row.map_or(0, |row| row.get("bytes")))
    }

    /// Registered migrations behind a version, without their texts: at most so many, and fewer where their definitions are long. Tells
    /// whether there are more.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn list_migrations(&self, after: i64, limit: i64) -> Result<(Vec<Stored>, bool), Error> {
        let session = self.session().await?;
        let rows = session.query(&LIST_MIGRATIONS, &[&after, &(limit + 1), &BYTES]).await?;
        let found = rows.first().map_or(0, |row| row.get::<_, i64>("found"));
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let listed: Vec<Stored> = apart(move || rows.iter().take(most).map(read).collect()).await;
        let more = usize::try_from(found).is_ok_and(|found| found > listed.len());
        Ok((listed, more))
    }
}

/// Works on what can be long away from the threads that serve.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The program ends, and whoever waits with it.
        Err(_) => std::future::pending().await,
    }
}

fn read(row: &Row) -> Stored {
    let targets: Vec<String> = row.get("other_targets");
    let revisions: Vec<i32> = row.get("other_revisions");
    let withdrawn: Option<SystemTime> = row.get("withdrawn_at");
    Stored {
        definition: row.get::<_, Json<Definition>>("definition").0,
        text: row.get("text"),
        registered_at: row.get("registered_at"),
        updated_at: row.get("updated_at"),
        registered_by: row.get("registered_by"),
        revision: row.get("revision"),
        registered_revision: row.get("registered_revision"),
        reason: row.get("reason"),
        others: targets.into_iter().zip(revisions).collect(),
        withdrawn: withdrawn.map(|at| (at, row.get::<_, Option<String>>("withdrawn_by").unwrap_or_default())),
    }
}
