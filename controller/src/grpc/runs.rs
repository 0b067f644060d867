//! Runs are queued, told of and followed.

use std::pin::Pin;
use std::sync::Arc;

use dunlin_proto::status::{self, Obstacle};
use dunlin_proto::v1;
use dunlin_proto::v1::run_service_server::RunService;
use dunlin_shared::ids::{MigrationId, RunId, StepName, TargetName};
use dunlin_shared::migration::mending::Refusal;
use futures::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::convert;
use super::page;
use super::status::{
    STATED, bad_field, bad_id, known, no_migration, no_run, no_target, of_store, stated, target, unreached,
};
use super::watch;
use crate::domain::Mending;
use crate::domain::mending::Unlike;
use crate::domain::run::State;
use crate::replica::Replica;
use crate::store;
use crate::store::cancelling::Cancel;
use crate::store::events::Filter;
use crate::store::half_done::HalfDone;
use crate::store::queueing::{All, Single};
use crate::store::runs::RunFilter;

/// The service.
pub(crate) struct Runs {
    replica: Arc<Replica>,
    stop: CancellationToken,
}

impl Runs {
    pub(crate) fn new(replica: Arc<Replica>, stop: CancellationToken) -> Self {
        Self { replica, stop }
    }

    async fn runs(&self, ids: &[i64]) -> Result<Vec<v1::Run>, Status> {
        let views = self.replica.store.runs_by_id(ids).await.map_err(of_store)?;
        Ok(views.iter().map(convert::run_out).collect())
    }

    /// The target of a filter; `None` for all.
    async fn named(&self, name: &str) -> Result<Option<String>, Status> {
        if name.is_empty() {
            return Ok(None);
        }
        known(&self.replica.store, name).await.map(|target| Some(target.into()))
    }

    /// The same, where a target may be forgotten of which there are events.
    async fn remembered(&self, name: &str) -> Result<Option<String>, Status> {
        let known = self.named(name).await;
        match known {
            Err(status) if status.code() == Code::NotFound => {
                let target = target(name)?;
                let has_events = self.replica.store.has_events(&target).await.map_err(of_store)?;
                if has_events { Ok(Some(target.into())) } else { Err(status) }
            }
            known => known,
        }
    }

    /// Waits a moment for an agent that has just connected, so that a run is not refused for want of what it is about to tell.
    async fn settle(&self, target: &TargetName, wait_for_agent: bool) -> Result<(), Status> {
        if !wait_for_agent {
            let _fleet = self.replica.store.settled_fleet(target).await.map_err(of_store)?;
        }
        Ok(())
    }

    /// The answer when runs were not queued, or nobody knows whether they were.
    fn refused(&self, error: store::Error) -> Status {
        if error.retryable() {
            self.replica.doubt();
        }
        of_store(error)
    }
}

#[tonic::async_trait]
impl RunService for Runs {
    async fn run_pending_migrations(
        &self,
        request: Request<v1::RunPendingMigrationsRequest>,
    ) -> Result<Response<v1::RunPendingMigrationsResponse>, Status> {
        let request = request.into_inner();
        let target = target(&request.target)?;
        self.settle(&target, request.wait_for_agent).await?;
        let asked = self.replica.store.queue_pending(&target, request.wait_for_agent).await;
        let queued = match asked.map_err(|error| self.refused(error))? {
            All::Queued(queued) => queued,
            All::NoTarget => return Err(no_target(&target)),
            All::Unreached(fleet) => return Err(unreached(&target, &fleet)),
            All::HalfDone(found) => return Err(half_done(&target, &found)),
        };
        self.replica.wake(&queued.wakes);
        let runs = self.runs(&queued.runs).await?;
        Ok(Response::new(v1::RunPendingMigrationsResponse { runs }))
    }

    async fn run_migration(
        &self,
        request: Request<v1::RunMigrationRequest>,
    ) -> Result<Response<v1::RunMigrationResponse>, Status> {
        let request = request.into_inner();
        let target = target(&request.target)?;
        let id = MigrationId::parse(request.migration_id.as_str()).map_err(|error| bad_id("migration_id", &error))?;
        let mending = mending_in(&request)?;
        let (rerun, wait) = (request.rerun, request.wait_for_agent);
        self.settle(&target, wait).await?;
        let asked = self.replica.store.queue_mending(&target, &id, rerun, wait, &mending).await;
        match asked.map_err(|error| self.refused(error))? {
            Single::Queued(queued) => {
                self.replica.wake(&queued.wakes);
                let run = self.runs(&queued.runs).await?.into_iter().next();
                Ok(Response::new(v1::RunMigrationResponse { run, ..v1::RunMigrationResponse::default() }))
            }
            Single::Applied => {
                let message = format!(
                    "{id} is applied on target {target} already; `dunlin run {id}{} --rerun` (`rerun` in a request) repeats it",
                    target.option()
                );
                let skipped = true;
                Ok(Response::new(v1::RunMigrationResponse { skipped, message, ..v1::RunMigrationResponse::default() }))
            }
            Single::Attached(run) => {
                let message = attached(&id, &target, run, &mending);
                let run = self.runs(&[run.0]).await?.into_iter().next();
                let attached = true;
                Ok(Response::new(v1::RunMigrationResponse { run, message, attached, skipped: false }))
            }
            Single::NoMigration => Err(no_migration(id.as_str())),
            Single::NoTarget => Err(no_target(&target)),
            Single::Unreached(fleet) => Err(unreached(&target, &fleet)),
            Single::Unfinished(run, unlike) => Err(unfinished_run(&id, &target, run, &unlike)),
            Single::Lacking(missing) => Err(lacking(&id, &target, &missing)),
            Single::HalfDone(found) => Err(half_done(&target, &[found])),
            Single::NothingToMend => {
                let message = format!(
                    "{id} is applied on target {target}, so none of its steps is half done: put what is to be changed into a new \
                     migration, or repeat the whole with `dunlin run {id}{} --rerun`",
                    target.option()
                );
                Err(status::precondition("APPLIED", message.clone(), [Obstacle::new("APPLIED", id.as_str(), message)]))
            }
        }
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::CancelRunResponse>, Status> {
        let request = request.into_inner();
        let by = stated("cancelled_by", &request.cancelled_by, STATED)?;
        match self.replica.store.cancel_run(request.id, &by).await.map_err(|error| self.refused(error))? {
            Cancel::Cancelled { behind, wakes } => {
                self.replica.wake(&wakes);
                let run = self.runs(&[request.id]).await?.into_iter().next();
                Ok(Response::new(v1::CancelRunResponse { run, behind: self.runs(&behind).await? }))
            }
            Cancel::NoRun => Err(no_run(request.id)),
            Cancel::Begun(state) => Err(begun(request.id, state)),
            Cancel::Ended(state) => Err(ended(request.id, state)),
        }
    }

    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::GetRunResponse>, Status> {
        let id = request.into_inner().id;
        let run = self.runs(&[id]).await?.into_iter().next().ok_or_else(|| no_run(id))?;
        Ok(Response::new(v1::GetRunResponse { run: Some(run) }))
    }

    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        const LIST: &str = "runs";
        let request = request.into_inner();
        let size = page::size(request.page_size, 50, 500)?;
        let states = request
            .states
            .iter()
            .map(|number| {
                let state = v1::RunState::try_from(*number).ok().and_then(convert::state_word);
                state.ok_or_else(|| bad_field("states", format!("{number} is no state of a run")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let filter =
            RunFilter { target: self.named(&request.target).await?, migration: id(&request.migration_id)?, states };
        let digest = format!("{filter:?}");
        let before: i64 = page::after(LIST, &digest, &request.page_token)?.unwrap_or(i64::MAX);
        let views = self.replica.store.list_runs(&filter, before, size + 1).await.map_err(of_store)?;
        let (views, next_page_token) = page::cut(LIST, &digest, views, size, |last| last.id);
        let runs = views.iter().map(convert::run_out).collect();
        Ok(Response::new(v1::ListRunsResponse { runs, next_page_token }))
    }

    type WatchRunsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchRunsResponse, Status>> + Send>>;

    async fn watch_runs(
        &self,
        request: Request<v1::WatchRunsRequest>,
    ) -> Result<Response<Self::WatchRunsStream>, Status> {
        let stream = watch::watch(Arc::clone(&self.replica), request.into_inner(), self.stop.clone()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        const LIST: &str = "events";
        let request = request.into_inner();
        let size = page::size(request.page_size, 100, 1000)?;
        let filter = Filter {
            run_id: (request.run_id != 0).then_some(request.run_id),
            target: self.remembered(&request.target).await?,
            migration_id: id(&request.migration_id)?,
            newest_first: request.newest_first,
        };
        let digest = format!("{filter:?}");
        let after: Option<i64> = page::after(LIST, &digest, &request.page_token)?;
        let events = self.replica.store.list_events(&filter, after, size + 1).await.map_err(of_store)?;
        let (events, next_page_token) = page::cut(LIST, &digest, events, size, |last| last.id);
        let events = events.iter().map(convert::event_out).collect();
        Ok(Response::new(v1::ListEventsResponse { events, next_page_token }))
    }
}

/// The most characters of a reason, and of who asks.
const REASON: usize = 1000;
const REQUESTED_BY: usize = 200;

fn mending_in(request: &v1::RunMigrationRequest) -> Result<Mending, Status> {
    for (field, steps) in [("redo_steps", &request.redo_steps), ("continue_steps", &request.continue_steps)] {
        for step in steps {
            StepName::parse(step.as_str()).map_err(|error| bad_id(field, &error))?;
        }
    }
    for (field, text, most) in
        [("reason", &request.reason, REASON), ("requested_by", &request.requested_by, REQUESTED_BY)]
    {
        if text.chars().count() > most {
            return Err(bad_field(field, format!("it has more than {most} characters")));
        }
    }
    if let Some(step) = request.redo_steps.iter().find(|step| request.continue_steps.contains(step)) {
        return Err(bad_field("continue_steps", format!("the step {step:?} cannot go on and begin again at once")));
    }
    if !request.continue_steps.is_empty() && request.reason.trim().is_empty() {
        let wrong = "a step goes on with another text only for a reason, which the history keeps";
        return Err(bad_field("reason", wrong));
    }
    Ok(Mending {
        redo_steps: request.redo_steps.clone(),
        continue_steps: request.continue_steps.clone(),
        reason: convert::clean(request.reason.trim()),
        requested_by: convert::clean(request.requested_by.trim()),
    })
}

/// The migration of a filter; `None` for all.
fn id(id: &str) -> Result<Option<String>, Status> {
    match id {
        "" => Ok(None),
        id => MigrationId::parse(id).map(|id| Some(id.into())).map_err(|error| bad_id("migration_id", &error)),
    }
}

/// That a run is returned that was there before.
fn attached(id: &MigrationId, target: &TargetName, run: RunId, asked: &Mending) -> String {
    let reason = if asked.reason.is_empty() { "" } else { "; the reason that you give is not recorded" };
    format!("run {run} of {id} on target {target} has not ended, and does what is asked for{reason}")
}

fn unfinished_run(id: &MigrationId, target: &TargetName, run: RunId, unlike: &Unlike) -> Status {
    let message = format!(
        "run {run} of {id} on target {target} has not ended, and {}. Ask again when it has ended (`dunlin watch {run}` follows it), or \
         take it back with `dunlin cancel {run}`, which works as long as it has not begun",
        unlike.describe()
    );
    status::precondition("UNFINISHED_RUN", message.clone(), [Obstacle::new("UNFINISHED_RUN", run.to_string(), message)])
}

fn begun(run: i64, state: State) -> Status {
    let state = state.as_str();
    let message = format!("run {run} has begun ({state}): only a run that has not begun can be cancelled");
    status::precondition("RUN_BEGUN", message.clone(), [Obstacle::new(state, run.to_string(), message)])
}

fn ended(run: i64, state: State) -> Status {
    let state = state.as_str();
    let message = format!("run {run} has ended ({state}): there is nothing to cancel");
    status::precondition("RUN_ENDED", message.clone(), [Obstacle::new(state, run.to_string(), message)])
}

/// What a target holds is not what the definitions have. A step that the caller has named and that there is none of is a mistake of
/// the call; anything else must be decided first.
fn half_done(target: &TargetName, found: &[HalfDone]) -> Status {
    let told = |half_done: &HalfDone| {
        let HalfDone { migration, refusal } = half_done;
        let on = target.option();
        let what = refusal.describe(&format!("target {target}"));
        format!("{migration}: {what}. {}", refusal.next(&format!("dunlin run {migration}{on}")))
    };
    if let [HalfDone { refusal: Refusal::Unknown { step }, migration }] = found {
        let message = format!("{migration} has no step {step:?}: `dunlin show {migration}` lists those that it has");
        return status::invalid("INVALID_ARGUMENT", message.clone(), [("steps", message)]);
    }
    let message = match found {
        [one] => format!("nothing was queued: {}", told(one)),
        many => format!("nothing was queued: {} migrations are half done otherwise than they are defined", many.len()),
    };
    let obstacles = found.iter().map(|half_done| Obstacle::new("HALF_DONE", half_done.refusal.step(), told(half_done)));
    status::precondition("HALF_DONE", message, obstacles)
}

fn lacking(id: &MigrationId, target: &TargetName, missing: &[MigrationId]) -> Status {
    let on = target.option();
    let what = match missing {
        [one] => format!("{one}, which is not applied on target {target}: run that first (`dunlin run {one}{on}`)"),
        many => {
            let names = many.iter().map(MigrationId::as_str).collect::<Vec<_>>().join(", ");
            format!("{names}, which are not applied on target {target}: run those first")
        }
    };
    let message = format!("{id} runs after {what}, or all that is pending (`dunlin run --pending{on}`)");
    let obstacles = missing.iter().map(|missing| {
        Obstacle::new("DEPENDENCY", missing.as_str(), format!("{missing} is not applied on target {target}"))
    });
    status::precondition("DEPENDENCIES_MISSING", message, obstacles)
}
