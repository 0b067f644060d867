//! The registry: what is registered, and what targets have of it.

use std::sync::Arc;

use dunlin_proto::convert::timestamp;
use dunlin_proto::v1::registry_service_server::RegistryService;
use dunlin_proto::v1::{self, RegisterOutcome};
use dunlin_shared::ids::MigrationId;
use dunlin_shared::migration::limits;
use dunlin_shared::migration::set::{Problem, SourceFile};
use tonic::{Request, Response, Status};

use super::convert;
use super::page;
use super::status::{bad_field, bad_id, no_migration, no_target, of_register, of_store, target};
use crate::domain::register::Outcome;
use crate::domain::waits;
use crate::replica::Replica;
use crate::store::migrations::{RegisterError, Stored};

/// The service.
pub(crate) struct Registry {
    replica: Arc<Replica>,
}

impl Registry {
    pub(crate) fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }
}

#[tonic::async_trait]
impl RegistryService for Registry {
    async fn register_migrations(
        &self,
        request: Request<v1::RegisterMigrationsRequest>,
    ) -> Result<Response<v1::RegisterMigrationsResponse>, Status> {
        let request = request.into_inner();
        let files = files(request.files)?;
        let registered = self.replica.store.register(files, request.validate_only).await.map_err(of_register)?;
        let warnings = registered.warnings.into_iter().map(warning_out).collect();
        let migrations = registered
            .migrations
            .into_iter()
            .map(|one| {
                let outcome = match one.outcome {
                    Outcome::Registered => RegisterOutcome::Registered,
                    Outcome::Changed => RegisterOutcome::Changed,
                    Outcome::Unchanged => RegisterOutcome::Unchanged,
                };
                v1::RegisteredMigration {
                    id: one.id.to_string(),
                    version: one.version.get(),
                    outcome: outcome.into(),
                    checksum: one.checksum.to_string(),
                }
            })
            .collect();
        Ok(Response::new(v1::RegisterMigrationsResponse { migrations, warnings }))
    }

    async fn get_migration(
        &self,
        request: Request<v1::GetMigrationRequest>,
    ) -> Result<Response<v1::GetMigrationResponse>, Status> {
        let request = request.into_inner();
        let id = MigrationId::parse(request.id.as_str()).map_err(|error| bad_id("id", &error))?;
        let store = &self.replica.store;
        let stored = store.get_migration(&id).await.map_err(of_store)?.ok_or_else(|| no_migration(id.as_str()))?;
        let applied = store.applied_where(&id).await.map_err(of_store)?;
        Ok(Response::new(v1::GetMigrationResponse {
            migration: Some(migration_out(&stored)),
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
        let after: i32 = page::after(LIST, "", &request.page_token)?.unwrap_or(0);
        let stored = self.replica.store.list_migrations(after, size + 1).await.map_err(of_store)?;
        let (stored, next_page_token) = page::cut(LIST, "", stored, size, |last| last.definition.version.get());
        Ok(Response::new(v1::ListMigrationsResponse {
            migrations: stored.iter().map(migration_out).collect(),
            next_page_token,
        }))
    }

    async fn plan_pending(
        &self,
        request: Request<v1::PlanPendingRequest>,
    ) -> Result<Response<v1::PlanPendingResponse>, Status> {
        let target = target(&request.into_inner().target)?;
        let store = &self.replica.store;
        let outlook = store.outlook(&target).await.map_err(of_store)?.ok_or_else(|| no_target(&target))?;
        let version = store.schema_version(&target).await.map_err(of_store)?.ok_or_else(|| no_target(&target))?;
        let fleet = store.fleet(&target).await.map_err(of_store)?;
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
        let after: (i32, String) =
            page::after(LIST, target.as_str(), &request.page_token)?.unwrap_or((i32::MIN, String::new()));
        let store = &self.replica.store;
        if store.schema_version(&target).await.map_err(of_store)?.is_none() {
            return Err(no_target(&target));
        }
        let applied = store.list_applied(&target, (after.0, &after.1), size + 1).await.map_err(of_store)?;
        let (applied, next_page_token) =
            page::cut(LIST, target.as_str(), applied, size, |(_, last)| (last.version, last.id.clone()));
        Ok(Response::new(v1::ListAppliedMigrationsResponse {
            applied: applied.iter().map(|(target, row)| convert::applied_out(target, row)).collect(),
            next_page_token,
        }))
    }

    async fn get_schema_version(
        &self,
        request: Request<v1::GetSchemaVersionRequest>,
    ) -> Result<Response<v1::GetSchemaVersionResponse>, Status> {
        let target = target(&request.into_inner().target)?;
        let store = &self.replica.store;
        // Whether it is reached is asked first: what was reported before that moment is in the version.
        let fleet = store.fleet(&target).await.map_err(of_store)?;
        let version = store.schema_version(&target).await.map_err(of_store)?.ok_or_else(|| no_target(&target))?;
        Ok(Response::new(v1::GetSchemaVersionResponse {
            target: target.to_string(),
            version: version.version,
            report_time: version.reported_at.map(timestamp),
            unreached: fleet.unreached(&target),
        }))
    }
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

fn migration_out(stored: &Stored) -> v1::Migration {
    v1::Migration {
        definition: stored.text.clone(),
        register_time: Some(timestamp(stored.registered_at)),
        update_time: Some(timestamp(stored.updated_at)),
        ..v1::Migration::from(&stored.definition)
    }
}
