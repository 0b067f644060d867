//! The operator of a target: registers a round's migrations, brings the target to date, repeats some, and begins the next.
//!
//! It does what the documentation tells an operator to do: what failed is run again. Whether it had a reason to fail is
//! judged at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dunlin_proto::client;
use dunlin_proto::status::Details;
use dunlin_proto::v1::{
    DefinitionFile, ListRunsRequest, MissingPolicy, PlanPendingRequest, RegisterMigrationsRequest, RunMigrationRequest,
    RunPendingMigrationsRequest, RunState, WaitReason,
};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::api::Api;
use crate::set::Round;
use crate::violations::Violations;
use crate::writer::Order;

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The operator of one target.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) api: Api,
    pub(crate) target: &'static str,
    pub(crate) seed: u64,
    pub(crate) order: Arc<Order>,
    pub(crate) violations: Violations,
}

/// The controllers refused what they must not.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

impl Operator {
    /// Runs rounds until `over` says so, and finishes the one that is open. Returns how many there were.
    pub(crate) async fn work(&self, over: watch::Receiver<bool>) -> usize {
        let mut number = 0;
        while !*over.borrow() {
            let round = Round::draw(self.seed, number);
            if let Err(Refused(why)) = self.round(&round, &over).await {
                self.violations.add(format!("round {number} on {}: {why}", self.target));
                return number;
            }
            number += 1;
        }
        number
    }

    async fn round(&self, round: &Round, over: &watch::Receiver<bool>) -> Result<(), Refused> {
        let files: Vec<DefinitionFile> = round
            .definitions
            .iter()
            .map(|(path, text)| DefinitionFile { path: path.clone(), content: text.clone() })
            .collect();
        let request = RegisterMigrationsRequest { files, missing: MissingPolicy::Add.into(), ..Default::default() };
        let send = |channel, request| async move { client::registry(channel).register_migrations(request).await };
        let registered = self.api.call(request, send).await;
        registered.map_err(|status| refused("the set was not registered", &status))?;
        self.order.rounds.store(round.number + 1, Ordering::SeqCst);
        self.bring_to_date().await?;
        if !*over.borrow() {
            for migration in &round.repeats {
                self.repeat(migration).await?;
            }
            for migration in &round.repeats {
                self.repeated(migration).await?;
            }
        }
        Ok(())
    }

    /// Runs what is pending until nothing is.
    pub(crate) async fn bring_to_date(&self) -> Result<(), Refused> {
        let target = self.target.to_owned();
        loop {
            let request = PlanPendingRequest { target: target.clone() };
            let send = |channel, request| async move { client::registry(channel).plan_pending(request).await };
            let plan = self.api.call(request, send).await;
            let plan = plan.map_err(|status| refused("no plan", &status))?;
            // The other target's operator may be a round ahead: its set is pending here, too.
            if plan.pending.is_empty() {
                return Ok(());
            }
            let runs = |reason: i32| reason == i32::from(WaitReason::Run);
            if plan.pending.iter().any(|one| !one.waits.iter().any(|wait| runs(wait.reason))) {
                let request = RunPendingMigrationsRequest { target: target.clone(), wait_for_agent: true };
                let send =
                    |channel, request| async move { client::runs(channel).run_pending_migrations(request).await };
                let queued = self.api.call(request, send).await;
                queued.map_err(|status| refused("what is pending was not queued", &status))?;
            }
            sleep(LOOK).await;
        }
    }

    async fn repeat(&self, migration: &str) -> Result<(), Refused> {
        let request = RunMigrationRequest {
            migration_id: migration.to_owned(),
            target: self.target.to_owned(),
            rerun: true,
            wait_for_agent: true,
            ..RunMigrationRequest::default()
        };
        let send = |channel, request| async move { client::runs(channel).run_migration(request).await };
        let queued = self.api.call(request, send).await;
        match queued {
            Ok(response) if response.skipped => Err(Refused(format!("the repetition of {migration} was skipped"))),
            Ok(_) => Ok(()),
            // An answer was lost, and the request with it carried out.
            Err(status) if Details::of(&status).reason == "UNFINISHED_RUN" => Ok(()),
            Err(status) => Err(refused(&format!("{migration} was not repeated"), &status)),
        }
    }

    /// Waits until the last run of a migration has succeeded; repeats it after a failure.
    async fn repeated(&self, migration: &str) -> Result<(), Refused> {
        loop {
            let request = ListRunsRequest {
                target: self.target.to_owned(),
                migration_id: migration.to_owned(),
                page_size: 1,
                ..ListRunsRequest::default()
            };
            let send = |channel, request| async move { client::runs(channel).list_runs(request).await };
            let runs = self.api.call(request, send).await;
            let runs = runs.map_err(|status| refused("the runs were not listed", &status))?;
            match runs.runs.first().map(dunlin_proto::v1::Run::state) {
                Some(RunState::Succeeded) => return Ok(()),
                Some(RunState::Failed | RunState::Cancelled) => self.repeat(migration).await?,
                _ => {}
            }
            sleep(LOOK).await;
        }
    }
}

fn refused(what: &str, status: &tonic::Status) -> Refused {
    Refused(format!("{what}: {}: {}", status.code(), status.message()))
}
