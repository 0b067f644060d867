//! The registered migrations.

use std::time::SystemTime;

use dunlin_shared::ids::{MigrationId, RunId, TransformName};
use dunlin_shared::migration::set::{Entry, Known as KnownVersion, Problem, Set, SourceFile};
use dunlin_shared::migration::{Checksum, Definition, StepBody, Version};
use futures::future::try_join;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::advancing::{migration, target, unknown};
use super::database::Store;
use super::error::Error;
use super::locks;
use super::reports::finish;
use super::session::{Session, Statement};
use crate::domain::register::{Known, Outcome, Refusal, decide};
use crate::domain::{Event, EventType, Severity};

/// Why a set was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Definitions have problems.
    #[error("{} problems in the definitions", .0.len())]
    Problems(Vec<Problem>),
    /// Changed definitions are in use.
    #[error("{} changed migrations are in use", .0.len())]
    Refused(Vec<Refusal>),
    /// The database.
    #[error(transparent)]
    Store(#[from] Error),
}

/// What became of a migration of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The migration.
    pub id: MigrationId,
    /// Its version.
    pub version: Version,
    /// What became of it.
    pub outcome: Outcome,
    /// The checksum that is registered now.
    pub checksum: Checksum,
}

/// What became of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// Its migrations, in version order.
    pub migrations: Vec<Registered>,
    /// What is allowed in it, but better otherwise.
    pub warnings: Vec<Problem>,
}

/// A migration as it is registered.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What it says.
    pub definition: Definition,
    /// Its text.
    pub text: String,
    /// When it was registered first.
    pub registered_at: SystemTime,
    /// When its definition was changed last.
    pub updated_at: SystemTime,
}

#[derive(Debug, Serialize)]
struct NewRow<'a> {
    id: &'a MigrationId,
    version: i32,
    name: &'a str,
    run_after: &'a [MigrationId],
    impacts: &'a [String],
    transforms: Vec<&'a TransformName>,
    steps: Vec<&'a str>,
    atomic: bool,
    checksum: &'a Checksum,
    definition: &'a Definition,
    path: &'a str,
    text: &'a str,
}

const REGISTERED: Statement =
    Statement::new("registered", "SELECT id, version, checksum FROM dunlin_controller.migrations");

const APPLIED_OF: Statement = Statement::new(
    "applied_of",
    "SELECT migration_id, target, checksum FROM dunlin_controller.target_registry WHERE migration_id = ANY ($1)
     ORDER BY migration_id, target",
);

const UNFINISHED_OF: Statement = Statement::new(
    "unfinished_of",
    "SELECT migration_id, target, id FROM dunlin_controller.runs
     WHERE migration_id = ANY ($1) AND state IN ('queued', 'running', 'pausing', 'paused') ORDER BY id",
);

const WRITE_DEFINITIONS: Statement = Statement::new(
    "write_definitions",
    "INSERT INTO dunlin_controller.definitions (migration_id, checksum, definition, path, text)
     SELECT n.id, n.checksum, n.definition, n.path, n.text
     FROM jsonb_to_recordset($1) AS n (id text, checksum text, definition jsonb, path text, text text)
     ON CONFLICT (migration_id, checksum) DO UPDATE SET path = excluded.path, text = excluded.text",
);

const WRITE_MIGRATIONS: Statement = Statement::new(
    "write_migrations",
    "INSERT INTO dunlin_controller.migrations
         (id, version, name, run_after, impacts, transforms, steps, atomic, checksum)
     SELECT n.id, n.version, n.name, n.run_after, n.impacts, n.transforms, n.steps, n.atomic, n.checksum
     FROM jsonb_to_recordset($1) AS n (id text, version int, name text, run_after text[], impacts text[],
         transforms text[], steps text[], atomic boolean, checksum text)
     ON CONFLICT (id) DO UPDATE SET version = excluded.version, name = excluded.name, run_after = excluded.run_after,
         impacts = excluded.impacts, transforms = excluded.transforms, steps = excluded.steps, atomic = excluded.atomic,
         checksum = excluded.checksum, updated_at = now()",
);

const GET_MIGRATION: Statement = Statement::new(
    "get_migration",
    "SELECT m.registered_at, m.updated_at, d.definition, d.text FROM dunlin_controller.migrations m
     JOIN dunlin_controller.definitions d ON d.migration_id = m.id AND d.checksum = m.checksum WHERE m.id = $1",
);

const LIST_MIGRATIONS: Statement = Statement::new(
    "list_migrations",
    "SELECT m.registered_at, m.updated_at, d.definition, '' AS text FROM dunlin_controller.migrations m
     JOIN dunlin_controller.definitions d ON d.migration_id = m.id AND d.checksum = m.checksum
     WHERE m.version > $1 ORDER BY m.version LIMIT $2",
);

impl Store {
    /// Registers a set, all of it or nothing. With `validate_only` everything is checked and nothing registered.
    ///
    /// # Errors
    /// All problems of the definitions; or all changed migrations that are in use; or the database.
    pub async fn register(&self, files: Vec<SourceFile>, validate_only: bool) -> Result<Registration, RegisterError> {
        let session = self.session().await?;
        session.begin().await?;
        locks::registry(&session).await?;
        let rows = session.query(&REGISTERED, &[]).await?;
        let mut known = Vec::with_capacity(rows.len());
        let mut decided = Known::default();
        for row in &rows {
            let id = migration(row.get("id"))?;
            let version = Version::new(row.get::<_, i32>("version").into())
                .map_err(|error| unknown("migrations.version", &error.to_string()))?;
            decided.registered.insert(id.clone(), Checksum::from_stored(row.get::<_, String>("checksum")));
            known.push(KnownVersion { id, version });
        }
        let parsed = tokio::task::spawn_blocking(move || {
            let set = Set::parse(&files, &known)?;
            let checksums: Vec<Checksum> = set.entries.iter().map(|entry| entry.definition.checksum()).collect();
            Ok::<_, Vec<Problem>>((set, checksums))
        })
        .await;
        let (set, checksums) = match parsed {
            Ok(Ok(parsed)) => parsed,
            Ok(Err(problems)) => {
                session.roll_back().await?;
                return Err(RegisterError::Problems(problems));
            }
            Err(panicked) => {
                session.roll_back().await?;
                tracing::error!(error = %panicked, "the definition parser failed");
                return Err(unknown("a definition", "the parser failed on it").into());
            }
        };
        let ids: Vec<&str> = set.entries.iter().map(|entry| entry.definition.id.as_str()).collect();
        let (applied, unfinished) =
            try_join(session.query(&APPLIED_OF, &[&ids]), session.query(&UNFINISHED_OF, &[&ids])).await?;
        for row in &applied {
            let checksum = Checksum::from_stored(row.get::<_, String>("checksum"));
            decided.applied.push((migration(row.get("migration_id"))?, target(row.get("target"))?, checksum));
        }
        for row in &unfinished {
            let run = RunId(row.get("id"));
            decided.unfinished.push((migration(row.get("migration_id"))?, target(row.get("target"))?, run));
        }
        let asked: Vec<(MigrationId, Checksum)> =
            set.entries.iter().map(|entry| entry.definition.id.clone()).zip(checksums.iter().cloned()).collect();
        let outcomes = match decide(&asked, &decided) {
            Ok(outcomes) => outcomes,
            Err(refusals) => {
                session.roll_back().await?;
                return Err(RegisterError::Refused(refusals));
            }
        };
        let became: Vec<(&Entry, &Checksum, Outcome)> = set
            .entries
            .iter()
            .zip(&checksums)
            .zip(outcomes)
            .map(|((entry, checksum), outcome)| (entry, checksum, outcome))
            .collect();
        if validate_only {
            session.roll_back().await?;
        } else {
            write(&session, self.replica(), &became).await?;
        }
        let migrations = became.into_iter().map(|(entry, checksum, outcome)| Registered {
            id: entry.definition.id.clone(),
            version: entry.definition.version,
            outcome,
            checksum: checksum.clone(),
        });
        let migrations = migrations.collect();
        Ok(Registration { migrations, warnings: set.warnings })
    }

    /// A registered migration.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn get_migration(&self, id: &MigrationId) -> Result<Option<Stored>, Error> {
        let session = self.session().await?;
        Ok(session.query_opt(&GET_MIGRATION, &[&id.as_str()]).await?.as_ref().map(read))
    }

    /// A page of registered migrations behind a version, without their texts.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn list_migrations(&self, after: i32, limit: i64) -> Result<Vec<Stored>, Error> {
        let session = self.session().await?;
        Ok(session.query(&LIST_MIGRATIONS, &[&after, &limit]).await?.iter().map(read).collect())
    }
}

async fn write(session: &Session, replica: &str, set: &[(&Entry, &Checksum, Outcome)]) -> Result<(), Error> {
    let changed: Vec<_> = set.iter().filter(|(_, _, outcome)| *outcome != Outcome::Unchanged).collect();
    let rows: Vec<NewRow<'_>> = changed.iter().map(|(entry, checksum, _)| new_row(entry, checksum)).collect();
    let events = changed.iter().map(|(entry, checksum, outcome)| event(entry, checksum, *outcome)).collect();
    if !rows.is_empty() {
        let rows = Json(rows);
        session.execute(&WRITE_DEFINITIONS, &[&rows]).await?;
        session.execute(&WRITE_MIGRATIONS, &[&rows]).await?;
    }
    finish(session, replica, events, &mut Vec::new()).await
}

fn new_row<'a>(entry: &'a Entry, checksum: &'a Checksum) -> NewRow<'a> {
    let definition = &entry.definition;
    NewRow {
        id: &definition.id,
        version: definition.version.get(),
        name: &definition.name,
        run_after: &definition.run_after,
        impacts: &definition.impacts,
        transforms: definition
            .steps
            .iter()
            .filter_map(|step| match &step.body {
                StepBody::Transform { transform, .. } => Some(transform),
                StepBody::Sql { .. } | StepBody::Batch { .. } => None,
            })
            .collect(),
        steps: definition.steps.iter().map(|step| step.name.as_str()).collect(),
        atomic: definition.is_atomic(),
        checksum,
        definition,
        path: &entry.path,
        text: &entry.text,
    }
}

fn event(entry: &Entry, checksum: &Checksum, outcome: Outcome) -> Event {
    let definition = &entry.definition;
    let (event_type, verb) = match outcome {
        Outcome::Registered | Outcome::Unchanged => (EventType::MigrationRegistered, "was registered"),
        Outcome::Changed => (EventType::MigrationChanged, "has another definition now"),
    };
    let message = format!("migration {} (version {}) {verb}", definition.id, definition.version);
    Event::new(event_type, Severity::Info, message).of_migration(&definition.id).with("checksum", checksum.as_str())
}

fn read(row: &Row) -> Stored {
    Stored {
        definition: row.get::<_, Json<Definition>>("definition").0,
        text: row.get("text"),
        registered_at: row.get("registered_at"),
        updated_at: row.get("updated_at"),
    }
}
