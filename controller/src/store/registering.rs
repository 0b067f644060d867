//! A set is registered: all of it or nothing, with what is missing in it refused, taken back or left alone.
//!
//! The registry is held alone meanwhile, so no run is queued from a definition that is about to change. Runs that were queued
//! from one before, and have not begun, are cancelled in the same transaction: no run ever executes a text that it was not
//! queued with, and none that nobody can begin keeps the registry from moving on.

mod look;
mod words;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dunlin_shared::ids::{MigrationId, RunId, TargetName, TransformName};
use dunlin_shared::migration::set::{Entry, Known as KnownVersion, Named, Problem, Set, SourceFile};
use dunlin_shared::migration::{Checksum, Definition, SqlPlace, StepBody, Version};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use self::words::{reason, registered_event, stopped, withdrawn_event, would_stop};
use super::advancing::{migration, unknown};
use super::cancelling::{self, Unbegun};
use super::database::Store;
use super::error::Error;
use super::locks;
use super::reports::finish;
use super::session::{Session, Statement};
use super::wake::Wake;
use crate::domain::register::{self, Current, Decided, Decision, Known, Missing, Outcome, Proposed, Refusal};

/// A set, and how it is to be registered.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Its files.
    pub files: Vec<SourceFile>,
    /// Check everything and register nothing.
    pub validate_only: bool,
    /// What is done with what is missing in it.
    pub missing: Missing,
    /// Migrations that may do something else for targets that do not have them.
    pub amend: HashSet<MigrationId>,
    /// Why they are amended.
    pub reason: String,
    /// Who registers, as it was stated; may be empty.
    pub by: String,
    /// Its turn among those that register, kept for as long as anything of it is in memory.
    pub turn: Option<Arc<OwnedSemaphorePermit>>,
}

/// Why a set was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Definitions have problems.
    #[error("{} problems in the definitions", .0.len())]
    Problems(Vec<Problem>),
    /// Migrations are in use, or missing in the set.
    #[error("{} migrations cannot be registered as they are", .0.len())]
    Refused(Vec<Refusal>),
    /// Migrations that are to be amended are not in the set.
    #[error("{} migrations to amend are not in the set", .0.len())]
    NotInSet(Vec<MigrationId>),
    /// The database.
    #[error(transparent)]
    Store(#[from] Error),
}

/// What became of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// Its migrations, in version order.
    pub migrations: Vec<Registered>,
    /// What was taken back, in version order.
    pub withdrawn: Vec<(MigrationId, Version, Checksum)>,
    /// Runs that had not begun and were cancelled; with `validate_only` those that would be.
    pub cancelled: Vec<Stopped>,
    /// What is allowed in it, but better otherwise.
    pub warnings: Vec<Problem>,
    /// What to look at.
    pub wakes: Vec<Wake>,
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
    /// Its revision.
    pub revision: i32,
    /// The targets that have another definition of it, and its revision.
    pub kept: Vec<(TargetName, i32)>,
}

/// A run that was cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The run.
    pub run: RunId,
    /// Its target.
    pub target: String,
    /// Its migration.
    pub migration: String,
    /// Why, in a sentence.
    pub message: String,
}

#[derive(Debug, Serialize)]
struct NewRow<'a> {
    id: &'a MigrationId,
    version: i64,
    name: &'a str,
    run_after: &'a [MigrationId],
    impacts: &'a [String],
    transforms: Vec<&'a TransformName>,
    steps: Vec<&'a str>,
    atomic: bool,
    checksum: &'a Checksum,
    revision: i32,
    reason: &'a str,
    definition: &'a Definition,
    path: &'a str,
    text: &'a str,
    places: &'a [SqlPlace],
}

const REGISTERED: Statement = Statement::new(
    "registered",
    "SELECT m.id, m.version, m.checksum, m.registered_by,
            to_char(m.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS\"+00\"') AS since,
            EXISTS (SELECT FROM dunlin_controller.target_registry g WHERE g.migration_id = m.id) AS applied
     FROM dunlin_controller.migrations m",
);

// What a definition does stays as it was registered first, and so does its text: the two say the same, line ends included. Another layout
// of the same definition changes neither.
const WRITE_DEFINITIONS: Statement = Statement::new(
    "write_definitions",
    "INSERT INTO dunlin_controller.definitions
         (migration_id, checksum, revision, definition, path, text, places, registered_by, reason)
     SELECT n.id, n.checksum, n.revision, n.definition, n.path, n.text, n.places, $2, n.reason
     FROM jsonb_to_recordset($1) AS n (id text, checksum text, revision int, definition jsonb, path text, text text,
         places jsonb, reason text)
     ON CONFLICT (migration_id, checksum) DO UPDATE SET path = excluded.path, places = excluded.places,
         registered_by = excluded.registered_by, reason = excluded.reason",
);

const MOVE_PLACES: Statement = Statement::new(
    "move_places",
    "UPDATE dunlin_controller.definitions d SET path = n.path, places = n.places
     FROM jsonb_to_recordset($1) AS n (id text, checksum text, path text, places jsonb)
     WHERE d.migration_id = n.id AND d.checksum = n.checksum AND (d.path, d.places) IS DISTINCT FROM (n.path, n.places)",
);

const WRITE_MIGRATIONS: Statement = Statement::new(
    "write_migrations",
    "INSERT INTO dunlin_controller.migrations
         (id, version, name, run_after, impacts, transforms, steps, atomic, checksum, revision, registered_by)
     SELECT n.id, n.version, n.name, n.run_after, n.impacts, n.transforms, n.steps, n.atomic, n.checksum, n.revision, $2
     FROM jsonb_to_recordset($1) AS n (id text, version bigint, name text, run_after text[], impacts text[],
         transforms text[], steps text[], atomic boolean, checksum text, revision int)
     ON CONFLICT (id) DO UPDATE SET version = excluded.version, name = excluded.name, run_after = excluded.run_after,
         impacts = excluded.impacts, transforms = excluded.transforms, steps = excluded.steps, atomic = excluded.atomic,
         checksum = excluded.checksum, revision = excluded.revision, registered_by = excluded.registered_by,
         updated_at = now()",
);

const WITHDRAW: Statement = Statement::new(
    "withdraw",
    "WITH gone AS (DELETE FROM dunlin_controller.migrations WHERE id = ANY ($1) RETURNING id, checksum, registered_at)
     INSERT INTO dunlin_controller.withdrawn (id, checksum, registered_at, withdrawn_by)
     SELECT id, checksum, registered_at, $2 FROM gone
     ON CONFLICT (id) DO UPDATE SET checksum = excluded.checksum, registered_at = excluded.registered_at,
         withdrawn_by = excluded.withdrawn_by, withdrawn_at = now()",
);

const BACK_AGAIN: Statement =
    Statement::new("back_again", "DELETE FROM dunlin_controller.withdrawn WHERE id = ANY ($1)");

/// How often a set is read again since others have registered something meanwhile.
const TRIES: u32 = 5;

impl Store {
    /// Registers a set, all of it or nothing.
    ///
    /// # Errors
    /// All problems of the definitions; or all that stands in the way; or the database.
    pub async fn register(&self, request: Request) -> Result<Registration, RegisterError> {
        let request = Arc::new(request);
        let registered = self.repeat(|| async {
            match self.register_once(&request).await {
                Ok(registration) => Ok(Ok(registration)),
                Err(RegisterError::Store(error)) => Err(error),
                Err(refused) => Ok(Err(refused)),
            }
        });
        registered.await?
    }

    async fn register_once(&self, request: &Arc<Request>) -> Result<Registration, RegisterError> {
        // Read outside of the transaction: nobody waits for the lock meanwhile, and no session stands idle in it.
        let mut known = registered(&self.session().await?).await?;
        for _ in 0..TRIES {
            let parsed = parse(request, &known).await;
            let session = self.session().await?;
            session.begin().await?;
            locks::registry(&session).await?;
            let now = registered(&session).await?;
            if now != known {
                // Somebody else has registered something: whether the set fits together with it is another question.
                session.roll_back().await?;
                known = now;
                continue;
            }
            let outcome = match parsed {
                Ok(parsed) => self.register_within(&session, request, parsed, known).await,
                Err(refused) => Err(refused),
            };
            return match outcome {
                // The connection is in an unknown state, and is closed with the session.
                Ok(_) | Err(RegisterError::Store(_)) => outcome,
                Err(refused) => {
                    session.roll_back().await?;
                    Err(refused)
                }
            };
        }
        Err(Error::Conflict { statement: "registered" }.into())
    }

    async fn register_within(
        &self,
        session: &Session,
        request: &Arc<Request>,
        (set, proposed): (Set, Vec<Proposed>),
        registered: HashMap<MigrationId, Current>,
    ) -> Result<Registration, RegisterError> {
        let in_set: HashSet<MigrationId> = proposed.iter().map(|one| one.migration.clone()).collect();
        let mut absent: Vec<MigrationId> = request.amend.difference(&in_set).cloned().collect();
        if !absent.is_empty() {
            absent.sort_unstable();
            return Err(RegisterError::NotInSet(absent));
        }
        let missing = register::missing(&in_set, &registered);
        let (known, mut revisions) = self.look_around(session, &proposed, &missing, registered).await?;
        let decision = register::decide(&proposed, request.missing, &request.amend, &known);
        let decision = decision.map_err(RegisterError::Refused)?;
        let became: Vec<Became<'_>> = set
            .entries
            .iter()
            .zip(&proposed)
            .zip(&decision.set)
            .map(|((entry, proposed), decided)| {
                let of = revisions.entry(proposed.migration.clone()).or_default();
                let next = of.values().max().copied().unwrap_or(0) + 1;
                let revision = *of.entry(proposed.checksum.clone()).or_insert(next);
                Became { entry, checksum: &proposed.checksum, revision, decided }
            })
            .collect();
        let (cancelled, wakes) = if request.validate_only {
            session.roll_back().await?;
            (decision.cancelled.iter().map(|run| would_stop(run, &decision, request)).collect(), Vec::new())
        } else {
            self.write(session, request, &became, &decision, &known).await?
        };
        Ok(Registration {
            migrations: became.into_iter().map(Became::registered).collect(),
            withdrawn: decision
                .withdrawn
                .into_iter()
                .filter_map(|id| {
                    let current = known.registered.get(&id)?;
                    let (version, checksum) = (current.version, current.checksum.clone());
                    Some((id, version, checksum))
                })
                .collect(),
            cancelled,
            warnings: set.warnings,
            wakes,
        })
    }

    async fn write(
        &self,
        session: &Session,
        request: &Request,
        set: &[Became<'_>],
        decision: &Decision,
        known: &Known,
    ) -> Result<(Vec<Stopped>, Vec<Wake>), Error> {
        let mut events = Vec::new();
        let unbegun: Vec<Unbegun> = decision
            .cancelled
            .iter()
            .map(|run| Unbegun { id: run.run, migration: run.migration.clone(), target: run.target.clone() })
            .collect();
        let why = |run: &Unbegun| reason(&run.migration, decision, request);
        if cancelling::cancel(session, &unbegun, &why, &mut events).await?.is_err() {
            // One of them has begun meanwhile: that is a reason to refuse.
            return Err(Error::Conflict { statement: "cancel_unbegun" });
        }
        let stopped = events.iter().filter_map(stopped).collect();
        let changed: Vec<&Became<'_>> =
            set.iter().filter(|became| became.decided.outcome != Outcome::Unchanged).collect();
        let rows: Vec<NewRow<'_>> = changed.iter().map(|became| new_row(became, request)).collect();
        if !decision.withdrawn.is_empty() {
            let ids: Vec<&str> = decision.withdrawn.iter().map(MigrationId::as_str).collect();
            session.execute(&WITHDRAW, &[&ids, &request.by]).await?;
        }
        if !rows.is_empty() {
            let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
            let rows = Json(rows);
            session.execute(&WRITE_DEFINITIONS, &[&rows, &request.by]).await?;
            session.execute(&WRITE_MIGRATIONS, &[&rows, &request.by]).await?;
            session.execute(&BACK_AGAIN, &[&ids]).await?;
        }
        let moved: Vec<Moved<'_>> = set.iter().map(Moved::of).collect();
        session.execute(&MOVE_PLACES, &[&Json(moved)]).await?;
        events.extend(changed.iter().map(|became| registered_event(became, request)));
        events.extend(
            decision.withdrawn.iter().filter_map(|id| Some(withdrawn_event(id, known.registered.get(id)?, request))),
        );
        let mut wakes = Vec::new();
        finish(session, self.replica(), events, &mut wakes).await?;
        Ok((stopped, wakes))
    }
}

/// Where a definition stands: a comment moves it and changes nothing.
#[derive(Debug, Serialize)]
struct Moved<'a> {
    id: &'a MigrationId,
    checksum: &'a Checksum,
    path: &'a str,
    places: &'a [SqlPlace],
}

impl<'a> Moved<'a> {
    fn of(became: &Became<'a>) -> Self {
        let Entry { definition, path, places, .. } = became.entry;
        Self { id: &definition.id, checksum: became.checksum, path, places }
    }
}

/// A migration of a set, and what becomes of it.
struct Became<'a> {
    entry: &'a Entry,
    checksum: &'a Checksum,
    revision: i32,
    decided: &'a Decided,
}

impl Became<'_> {
    fn registered(self) -> Registered {
        Registered {
            id: self.entry.definition.id.clone(),
            version: self.entry.definition.version,
            outcome: self.decided.outcome,
            checksum: self.checksum.clone(),
            revision: self.revision,
            kept: self.decided.kept.clone(),
        }
    }
}

/// Reads the definitions, away from the threads that serve.
async fn parse(
    request: &Arc<Request>,
    registered: &HashMap<MigrationId, Current>,
) -> Result<(Set, Vec<Proposed>), RegisterError> {
    let registered = registered.clone();
    let request = Arc::clone(request);
    let parsed = tokio::task::spawn_blocking(move || {
        let set = Set::parse_beside(&request.files, |named| beside(named, &registered, request.missing))?;
        let proposed = set.entries.iter().map(|entry| Proposed {
            migration: entry.definition.id.clone(),
            checksum: entry.definition.checksum(),
            deed: entry.definition.deed(),
        });
        let proposed = proposed.collect();
        Ok::<_, Vec<Problem>>((set, proposed))
    });
    match parsed.await {
        Ok(parsed) => parsed.map_err(RegisterError::Problems),
        Err(panicked) => {
            tracing::error!(error = %panicked, "the definition parser failed");
            Err(unknown("a definition", "the parser failed on it").into())
        }
    }
}

/// What the set has to fit together with. What is missing in it and about to be taken back is nothing to fit with; where it
/// stands in the way of the set, its version is no problem of the set either: that it is missing is told by itself.
fn beside(named: &[Named], registered: &HashMap<MigrationId, Current>, policy: Missing) -> Vec<KnownVersion> {
    let in_set: HashSet<&MigrationId> = named.iter().filter_map(|one| one.id.as_ref()).collect();
    let versions: HashSet<Version> = named.iter().filter_map(|one| one.version).collect();
    let remains = |id: &MigrationId, current: &Current| match policy {
        _ if current.applied || in_set.contains(id) => true,
        Missing::Keep => true,
        Missing::Withdraw => false,
        Missing::Refuse => !versions.contains(&current.version),
    };
    let remaining = registered.iter().filter(|(id, current)| remains(id, current));
    remaining.map(|(id, current)| KnownVersion { id: id.clone(), version: current.version }).collect()
}

/// What is registered now.
async fn registered(session: &Session) -> Result<HashMap<MigrationId, Current>, Error> {
    session.query(&REGISTERED, &[]).await?.iter().map(current).collect()
}

fn current(row: &Row) -> Result<(MigrationId, Current), Error> {
    let version =
        Version::new(row.get("version")).map_err(|error| unknown("migrations.version", &error.to_string()))?;
    let current = Current {
        version,
        checksum: Checksum::from_stored(row.get::<_, String>("checksum")),
        applied: row.get("applied"),
        by: row.get("registered_by"),
        since: row.get("since"),
    };
    Ok((migration(row.get("id"))?, current))
}

fn new_row<'a>(became: &Became<'a>, request: &'a Request) -> NewRow<'a> {
    let definition = &became.entry.definition;
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
        checksum: became.checksum,
        revision: became.revision,
        reason: if request.amend.contains(&definition.id) { &request.reason } else { "" },
        definition,
        path: &became.entry.path,
        text: &became.entry.text,
        places: &became.entry.places,
    }
}
