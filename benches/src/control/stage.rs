//! A stage for a crowd: controllers on an empty database, and a run on each target whose ranges are all known and ready.

use std::time::Duration;

use dunlin_proto::v1::RunState;
use dunlin_shared::postgres::throwaway::Server;
use tokio::time::{Instant, timeout};

use super::agent::Agent;
use super::controllers::Controllers;
use super::crowd::{Crowd, Kind};
use super::planner::{Planner, ROWS, definition};
use super::usage;
use crate::Error;
use crate::contender::wait_for;

/// How long a run may take to end once its last range is done.
const END_WITHIN: Duration = Duration::from_secs(60);

/// Controllers, and planned runs.
pub(crate) struct Stage {
    pub(crate) controllers: Controllers,
    pub(crate) targets: Vec<String>,
    pub(crate) runs: Vec<i64>,
    planners: Vec<Planner>,
    ranges: u32,
}

/// Processor time in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Processor {
    pub(crate) controllers: f64,
    pub(crate) database: f64,
}

impl Processor {
    /// What was used so far.
    pub(crate) fn used(controllers: &Controllers, server: &Server) -> Result<Self, Error> {
        Ok(Self {
            controllers: controllers.processor()?,
            database: usage::processor_of_family(usage::postmaster(server.directory())?)?,
        })
    }

    /// What was used since.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { controllers: self.controllers - before.controllers, database: self.database - before.database }
    }
}

impl Stage {
    /// Starts controllers and plans a run of so many ranges on each of so many targets.
    pub(crate) async fn set(server: &Server, controllers: u32, targets: u32, ranges: u32) -> Result<Self, Error> {
        let database = server.database("control").await?;
        let controllers = Controllers::start(&database, controllers).await?;
        controllers.register(vec![definition("ranges", 1)]).await?;
        let targets: Vec<String> = (1..=targets).map(|number| format!("target-{number}")).collect();
        let mut stage = Self { controllers, targets, runs: Vec::new(), planners: Vec::new(), ranges };
        for (number, target) in stage.targets.clone().iter().enumerate() {
            let agent = planner(&stage.controllers, number, target).await?;
            stage.runs.push(stage.controllers.run("ranges", target, false).await?);
            stage.planners.push(Planner::plan(agent, ranges).await?);
        }
        Ok(stage)
    }

    /// How long the controller took to store each message of ranges, in milliseconds.
    pub(crate) fn messages(&self) -> impl Iterator<Item = f64> {
        self.planners.iter().flat_map(|planner| planner.messages.iter().map(|time| time.as_secs_f64() * 1000.0))
    }

    /// Connects a crowd, spread over the controllers. With `everywhere` each agent serves all targets, else each serves one.
    pub(crate) async fn crowd(&self, kind: &Kind, agents: u32, everywhere: bool) -> Result<Crowd, Error> {
        let agents = (0..usize::try_from(agents).unwrap_or(usize::MAX)).map(|number| {
            let targets =
                if everywhere { self.targets.clone() } else { vec![self.targets[number % self.targets.len()].clone()] };
            (self.controllers.url(number / self.targets.len()).to_owned(), targets)
        });
        Crowd::connect(kind, agents.collect()).await
    }

    /// Lets a crowd work off the ranges that are left, ends the runs, and checks that each range was done once.
    pub(crate) async fn work_off(&mut self, server: &Server, crowd: &Crowd, left: u32) -> Result<Processor, Error> {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let before = Processor::used(&self.controllers, server)?;
        crowd.start();
        crowd.until(left).await?;
        let used = Processor::used(&self.controllers, server)?.since(before);
        self.end().await?;
        if crowd.tally.count() == left {
            Ok(used)
        } else {
            Err(Error::Unexpected(format!("{} leases were granted for {left} ranges", crowd.tally.count())))
        }
    }

    /// Finishes the plans and waits for the end of the runs.
    async fn end(&mut self) -> Result<(), Error> {
        for planner in &mut self.planners {
            planner.finish()?;
        }
        let deadline = Instant::now() + END_WITHIN;
        for run in &self.runs {
            let left = deadline.saturating_duration_since(Instant::now());
            timeout(left, wait_for(self.controllers.runs(), vec![*run]))
                .await
                .map_err(|_| Error::Unexpected(format!("run {run} did not end")))??;
            let ended = self.controllers.get_run(*run).await?;
            let expected = i64::from(self.ranges) * i64::from(ROWS);
            if ended.state() != RunState::Succeeded || ended.rows != expected {
                return Err(Error::Unexpected(format!(
                    "run {run}: {expected} rows were expected, and this came: {ended:?}"
                )));
            }
        }
        self.planners.clear();
        Ok(())
    }
}

/// An agent that will plan on a target.
pub(crate) async fn planner(controllers: &Controllers, number: usize, target: &str) -> Result<Agent, Error> {
    let targets = [target.to_owned()];
    let (agent, _) = Agent::connect(controllers.url(number), &format!("planner-{number}"), 1, &targets).await?;
    agent.reach(target);
    Ok(agent)
}
