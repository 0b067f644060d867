//! The registry: what is registered, and what targets have of it.

use std::collections::HashSet;
use std::sync::Arc;

use dunlin_proto::convert::timestamp;
use dunlin_proto::v1::registry_service_server::RegistryService;
use dunlin_proto::v1::{self, RegisterOutcome};
use dunlin_shared::ids::MigrationId;
use dunlin_shared::migration::set::{Problem, SourceFile};
use dunlin_shared::migration::{Checksum, Version, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use super::convert;
use super::page;
use super::status::{
    STATED, bad_field, bad_id, no_migration, no_revision, no_target, of_register, of_store, stated, target,
};
use crate::domain::register::{Missing, Outcome};
use crate::domain::waits;
use crate::memory::Taken;
use crate::replica::Replica;
use crate::store::migrations::{Stored, apart};
use crate::store::registering::{self, RegisterError, Registered, Stopped};

/// The most characters of a reason.
const REASON: usize = 2000;

/// How many sets are read at a time; one that has more bytes than this is read alone, since what it says takes many times as much.
const TURNS: u32 = 2;
const ALONE: usize = 1024 * 1024;

/// From how many bytes on a definition is long.
const LONG: i64 = 1024 * 1024;

/// The service.
pub(crate) struct Registry {
    replica: Arc<Replica>,
    turns: Arc<Semaphore>,
    /// Long definitions that are told.
    long: Arc<Semaphore>,
    /// Lists of definitions that are made.
    lists: Semaphore,
}

impl Registry {
    pub(crate) fn new(replica: Arc<Replica>) -> Self {
        let turns = Arc::new(Semaphore::new(usize::try_from(TURNS).unwrap_or(1)));
        Self { replica, turns, long: Arc::new(Semaphore::new(1)), lists: Semaphore::new(2) }
    }

    /// Waits for the turn of a set.
    async fn turn(&self, files: &[SourceFile]) -> Option<Arc<OwnedSemaphorePermit>> {
        let bytes: usize = files.iter().map(|file| file.path.len() + file.content.len()).sum();
        let turns = if bytes > ALONE { TURNS } else { 1 };
        // They are never closed.
        Arc::clone(&self.turns).acquire_many_owned(turns).await.ok().map(Arc::new)
    }
}

#[tonic::async_trait]
impl RegistryService for Registry {
    async fn register_migrations(
        &self,
        request: Request<v1::RegisterMigrationsRequest>,
    ) -> Result<Response<v1::RegisterMigrationsResponse>, Status> {
        let mut request = asked(request.into_inner())?;
        request.turn = self.turn(&request.files).await;
        let registered = self.replica.store.register(request).await.map_err(of_register)?;
        self.replica.wake(&registered.wakes);
        Ok(Response::new(v1::RegisterMigrationsResponse {
            migrations: registered.migrations.into_iter().map(registered_out).collect(),
            warnings: registered.warnings.into_iter().map(warning_out).collect(),
            withdrawn: registered.withdrawn.into_iter().map(withdrawn_out).collect(),
            cancelled_runs: registered.cancelled.into_iter().map(stopped_out).collect(),
        }))
    }

    async fn get_migration(
        &self,
        request: Request<v1::GetMigrationRequest>,
    ) -> Result<Response<v1::GetMigrationResponse>, Status> {
        let taken = request.extensions().get::<Taken>().cloned().unwrap_or_default();
        let request = request.into_inner();
        let id = MigrationId::parse(request.id.as_str()).map_err(|error| bad_id("id", &error))?;
        let store = &self.replica.store;
        if store.length_of_migration(&id, request.revision).await.map_err(of_store)? > LONG {
            // One at a time, until it is sent.
            taken.set(Arc::clone(&self.long).acquire_owned().await.ok());
        }
        let stored = store.get_migration(&id, request.revision).await.map_err(of_store)?;
        let stored = stored.ok_or_else(|| match request.revision {
            0 => no_migration(id.as_str()),
            revision => no_revision(id.as_str(), revision),
        })?;
        let applied = store.applied_where(&id).await.map_err(of_store)?;
        let migration = apart(move || migration_out(stored)).await;
        Ok(Response::new(v1::GetMigrationResponse {
            migration: Some(migration),
            applied: applied.iter().map(|(target, row)| convert::applied_out(target, row)).collect(),
        }))
    }

    async fn list_migrations(
        &self,
        request: Request<v1::ListMigrationsRequest>,
    ) -> Result<Response<v1::ListMigrationsResponse>, Status> {
        const LIST: &str = "migrations";
        let request = request.into_inner();
        let size = page::size(request.page_size, 100, 1000)?;
        let after: i64 = page::after(LIST, "", &request.page_token)?.unwrap_or(0);
        let _turn = self.lists.acquire().await;
        let (stored, more) = self.replica.store.list_migrations(after, size).await.map_err(of_store)?;
        let told = move |stored| {
            let migration = migration_out(stored);
            if request.with_sql { migration } else { without_sql(migration) }
        };
        let (migrations, more) = apart(move || page::within(&mut stored.into_iter().map(told), more)).await;
        let next = migrations.last().filter(|_| more).map(|last| page::token(LIST, "", &last.version));
        Ok(Response::new(v1::ListMigrationsResponse { migrations, next_page_token: next.unwrap_or_default() }))
    }

    async fn plan_pending(
        &self,
        request: Request<v1::PlanPendingRequest>,
    ) -> Result<Response<v1::PlanPendingResponse>, Status> {
        let target = target(&request.into_inner().target)?;
        let store = &self.replica.store;
        let fleet = store.settled_fleet(&target).await.map_err(of_store)?;
        let outlook = store.outlook(&target).await.map_err(of_store)?.ok_or_else(|| no_target(&target))?;
        let version = store.schema_version(&target).await.map_err(of_store)?.ok_or_else(|| no_target(&target))?;
        let order: Vec<waits::Pending> = outlook
            .pending
            .iter()
            .map(|one| waits::Pending {
                id: one.id.clone(),
                run_after: one.run_after.clone(),
                transforms: one.transforms.clone(),
                unfinished: one.unfinished,
            })
            .collect();
        let waits = waits::of_pending(&order, &outlook.applied, &fleet);
        let pending = outlook
            .pending
            .into_iter()
            .zip(waits)
            .map(|(one, waits)| v1::PlannedMigration {
                id: one.id.to_string(),
                version: one.version.get(),
                name: one.name,
                steps: i32::try_from(one.steps.len()).unwrap_or(i32::MAX),
                atomic: one.atomic,
                waits: waits.iter().map(|wait| convert::wait_out(wait, &target)).collect(),
                failed_run_id: one.failed.map_or(0, i64::from),
                impacts: one.impacts,
            })
            .collect();
        Ok(Response::new(v1::PlanPendingResponse {
            target: target.to_string(),
            version: version.version,
            pending,
            report_time: version.reported_at.map(timestamp),
            unreached: fleet.unreached(&target),
        }))
    }

    async fn list_applied_migrations(
        &self,
        request: Request<v1::ListAppliedMigrationsRequest>,
    ) -> Result<Response<v1::ListAppliedMigrationsResponse>, Status> {
        const LIST: &str = "applied";
        let request = request.into_inner();
        let target = target(&request.target)?;
        let size = page::size(request.page_size, 100, 1000)?;
        let after: (i64, String) =
            page::after(LIST, target.as_str(), &request.page_token)?.unwrap_or((i64::MIN, String::new()));
        let store = &self.replica.store;
        if store.schema_version(&target).await.map_err(of_store)?.is_none() {
            return Err(no_target(&target));
        }
        let applied = store.list_applied(&target, (after.0, &after.1), size + 1).await.map_err(of_store)?;
        let (applied, next) =
            page::cut(LIST, target.as_str(), applied, size, |(_, last)| (last.version, last.id.clone()));
        let mut applied = applied.iter().map(|(target, row)| convert::applied_out(target, row));
        let (applied, more) = page::within(&mut applied, !next.is_empty());
        let last = applied.last().filter(|_| more);
        let next = last.map(|last| page::token(LIST, target.as_str(), &(last.version, &last.id)));
        Ok(Response::new(v1::ListAppliedMigrationsResponse { applied, next_page_token: next.unwrap_or_default() }))
    }

    async fn get_schema_version(
        &self,
        request: Request<v1::GetSchemaVersionRequest>,
    ) -> Result<Response<v1::GetSchemaVersionResponse>, Status> {
        let target = target(&request.into_inner().target)?;
        let store = &self.replica.store;
        // Whether it is reached is asked first: what was reported before that moment is in the version.
        let fleet = store.settled_fleet(&target).await.map_err(of_store)?;
        let version = store.schema_version(&target).await.map_err(of_store)?.ok_or_else(|| no_target(&target))?;
        Ok(Response::new(v1::GetSchemaVersionResponse {
            target: target.to_string(),
            version: version.version,
            report_time: version.reported_at.map(timestamp),
            unreached: fleet.unreached(&target),
        }))
    }
}

/// The set of a request, and what else it says.
fn asked(request: v1::RegisterMigrationsRequest) -> Result<registering::Request, Status> {
    let missing = match v1::MissingPolicy::try_from(request.missing) {
        Ok(v1::MissingPolicy::Unspecified) => Missing::Refuse,
        Ok(v1::MissingPolicy::Withdraw) => Missing::Withdraw,
        Ok(v1::MissingPolicy::Add) => Missing::Keep,
        Err(_) => return Err(bad_field("missing", format!("{} is not known", request.missing))),
    };
    let amend = request.amend.into_iter().map(MigrationId::parse).collect::<Result<HashSet<_>, _>>();
    let amend = amend.map_err(|error| bad_id("amend", &error))?;
    let reason = stated("reason", &request.reason, REASON)?;
    match (amend.is_empty(), reason.is_empty()) {
        (false, true) => return Err(bad_field("reason", "it is empty; say why migrations are amended")),
        (true, false) => return Err(bad_field("amend", "it is empty, and there is a reason; name the migrations")),
        (true, true) | (false, false) => {}
    }
    let by = stated("registered_by", &request.registered_by, STATED)?;
    let (files, validate_only) = (files(request.files)?, request.validate_only);
    Ok(registering::Request { files, validate_only, missing, amend, reason, by, turn: None })
}

fn registered_out(one: Registered) -> v1::RegisteredMigration {
    let outcome = match one.outcome {
        Outcome::Registered => RegisterOutcome::Registered,
        Outcome::Changed => RegisterOutcome::Changed,
        Outcome::Reworded => RegisterOutcome::Reworded,
        Outcome::Amended => RegisterOutcome::Amended,
        Outcome::Unchanged => RegisterOutcome::Unchanged,
    };
    v1::RegisteredMigration {
        id: one.id.to_string(),
        version: one.version.get(),
        outcome: outcome.into(),
        checksum: one.checksum.to_string(),
        revision: one.revision,
        kept: one.kept.into_iter().map(|(target, revision)| held_out(target.into(), revision)).collect(),
    }
}

fn withdrawn_out((id, version, checksum): (MigrationId, Version, Checksum)) -> v1::RegisteredMigration {
    v1::RegisteredMigration {
        id: id.to_string(),
        version: version.get(),
        outcome: RegisterOutcome::Withdrawn.into(),
        checksum: checksum.to_string(),
        revision: 0,
        kept: Vec::new(),
    }
}

fn stopped_out(run: Stopped) -> v1::CancelledRun {
    v1::CancelledRun { run_id: run.run.0, target: run.target, migration_id: run.migration, message: run.message }
}

fn held_out(target: String, revision: i32) -> v1::HeldRevision {
    v1::HeldRevision { target, revision }
}

fn files(files: Vec<v1::DefinitionFile>) -> Result<Vec<SourceFile>, Status> {
    if files.is_empty() {
        return Err(bad_field("files", "there are none; name at least one definition"));
    }
    let files: Vec<SourceFile> =
        files.into_iter().map(|file| SourceFile { path: file.path, content: file.content }).collect();
    // Before anybody is kept waiting by the registry's lock.
    let unfit = limits::problems(&files);
    if unfit.is_empty() { Ok(files) } else { Err(of_register(RegisterError::Problems(unfit))) }
}

fn warning_out(warning: Problem) -> v1::DefinitionWarning {
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    v1::DefinitionWarning {
        file: warning.file,
        line: number(warning.line),
        column: number(warning.column),
        message: warning.message,
        help: warning.help.unwrap_or_default(),
    }
}

fn migration_out(stored: Stored) -> v1::Migration {
    let (withdraw_time, withdrawn_by) = match stored.withdrawn {
        Some((at, by)) => (Some(timestamp(at)), by),
        None => (None, String::new()),
    };
    v1::Migration {
        definition: stored.text,
        register_time: stored.registered_at.map(timestamp),
        update_time: Some(timestamp(stored.updated_at)),
        revision: stored.revision,
        registered_revision: stored.registered_revision,
        registered_by: stored.registered_by,
        reason: stored.reason,
        other_revisions: stored.others.into_iter().map(|(target, revision)| held_out(target, revision)).collect(),
        withdraw_time,
        withdrawn_by,
        ..v1::Migration::from(&stored.definition)
    }
}

fn without_sql(mut migration: v1::Migration) -> v1::Migration {
    let v1::Migration { before, after, steps, rollback, .. } = &mut migration;
    before.iter_mut().chain(after).for_each(|check| check.sql = String::new());
    steps.iter_mut().chain(rollback).for_each(|step| step.sql = String::new());
    migration
}
