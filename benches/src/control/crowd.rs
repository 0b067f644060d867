//! Many agents that report every task done the moment they are granted it, and the tally of what they did.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_proto::v1::work_response::Message as Hearing;
use dunlin_proto::v1::{Grant, grant};
use futures::future::try_join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::agent::Agent;
use super::planner::ROWS;
use crate::Error;
use crate::measure::percentile;

/// How long nothing may happen while something is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// One lease of a range or statement.
#[derive(Clone, Copy, Debug)]
struct Cycle {
    granted: Instant,
    /// From the last report of the same agent.
    after: Option<Duration>,
}

/// What a crowd did, in the order in which it did it.
#[derive(Debug)]
pub(crate) struct Tally {
    cycles: Mutex<Vec<Cycle>>,
    count: watch::Sender<usize>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { cycles: Mutex::default(), count: watch::Sender::new(0) }
    }
}

impl Tally {
    fn cycles(&self) -> MutexGuard<'_, Vec<Cycle>> {
        self.cycles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, cycle: Cycle) {
        let count = {
            let mut cycles = self.cycles();
            cycles.push(cycle);
            cycles.len()
        };
        self.count.send_replace(count);
    }

    /// Leases in a second, between two shares of the whole, in percent. The beginning, when the agents only come,
    /// and the end, when there is not work for all, are left out by who asks.
    pub(crate) fn rate(&self, from: usize, to: usize) -> f64 {
        let cycles = self.cycles();
        let at = |share: usize| (cycles.len() * share / 100).min(cycles.len().saturating_sub(1));
        let (first, last) = (at(from), at(to));
        let (Some(start), Some(end)) = (cycles.get(first), cycles.get(last)) else { return f64::NAN };
        let count = u32::try_from(last - first).unwrap_or(u32::MAX);
        f64::from(count) / end.granted.duration_since(start.granted).as_secs_f64()
    }

    /// Milliseconds from a report to the next grant of the same agent: a percentile between two shares of the whole.
    pub(crate) fn latency(&self, percent: usize, from: usize, to: usize) -> f64 {
        let cycles = self.cycles();
        let cycles = &cycles[cycles.len() * from / 100..cycles.len() * to / 100];
        percentile(cycles.iter().filter_map(|cycle| cycle.after).map(|after| after.as_secs_f64() * 1000.0), percent)
    }

    /// How many leases there were.
    pub(crate) fn count(&self) -> usize {
        self.cycles().len()
    }

    /// When the last lease was granted.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.cycles().last().map(|cycle| cycle.granted)
    }
}

/// What the agents of a crowd are.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    /// What their ids begin with.
    pub(crate) name: &'static str,
    /// The slots of each.
    pub(crate) slots: i32,
    /// The leases that each takes before it leaves; `None`: it stays.
    pub(crate) leases: Option<u32>,
}

/// Agents that work. Dropping them ends them.
pub(crate) struct Crowd {
    pub(crate) tally: Arc<Tally>,
    /// How many streams were refused or not answered before all were open.
    pub(crate) refused: u32,
    start: watch::Sender<bool>,
    agents: Vec<JoinHandle<Result<(), Error>>>,
}

impl Crowd {
    /// Connects agents, each to its URL and for its targets. They are granted nothing until [`Crowd::start`].
    pub(crate) async fn connect(kind: &Kind, agents: Vec<(String, Vec<String>)>) -> Result<Self, Error> {
        let (start, _) = watch::channel(false);
        let tally = Arc::<Tally>::default();
        let opened = try_join_all(agents.into_iter().enumerate().map(|(number, (url, targets))| async move {
            let id = format!("{}-{number}", kind.name);
            let (agent, refused) = Agent::connect(&url, &id, kind.slots, &targets).await?;
            Ok::<_, Error>((agent, refused, targets))
        }))
        .await?;
        let refused = opened.iter().map(|(_, refused, _)| refused).sum();
        let agents = opened
            .into_iter()
            .map(|(agent, _, targets)| {
                tokio::spawn(work(agent, targets, start.subscribe(), Arc::clone(&tally), kind.leases))
            })
            .collect();
        Ok(Self { tally, refused, start, agents })
    }

    /// Lets the agents reach their targets.
    pub(crate) fn start(&self) {
        self.start.send_replace(true);
    }

    /// Waits until so many leases were granted.
    pub(crate) async fn until(&self, count: usize) -> Result<(), Error> {
        let mut now = self.tally.count.subscribe();
        loop {
            let seen = *now.borrow_and_update();
            if seen >= count {
                return Ok(());
            }
            if timeout(PATIENCE, now.changed()).await.is_err() {
                return Err(Error::Unexpected(format!(
                    "{seen} of {count} leases were granted, and then nothing happened"
                )));
            }
        }
    }

    /// Waits until all agents have left by themselves.
    pub(crate) async fn left(mut self) -> Result<(), Error> {
        for agent in std::mem::take(&mut self.agents) {
            agent.await.map_err(|error| Error::Unexpected(error.to_string()))??;
        }
        Ok(())
    }

    /// Ends the agents. An error when one of them met one before.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        for agent in std::mem::take(&mut self.agents) {
            agent.abort();
            match agent.await {
                Ok(ended) => ended?,
                Err(ended) if ended.is_cancelled() => {}
                Err(panicked) => return Err(Error::Unexpected(panicked.to_string())),
            }
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for agent in &self.agents {
            agent.abort();
        }
    }
}

async fn work(
    mut agent: Agent,
    targets: Vec<String>,
    mut start: watch::Receiver<bool>,
    tally: Arc<Tally>,
    leases: Option<u32>,
) -> Result<(), Error> {
    let mut waiting = true;
    let mut reported: Option<Instant> = None;
    let mut left = leases;
    loop {
        let heard = tokio::select! {
            started = start.wait_for(|started| *started), if waiting => {
                if started.is_err() {
                    return Ok(());
                }
                waiting = false;
                for target in &targets {
                    agent.reach(target);
                }
                continue;
            }
            heard = agent.listen() => heard?,
        };
        let Hearing::Grant(Grant { lease: Some(lease), task: Some(task), .. }) = heard else { continue };
        let granted = Instant::now();
        match task {
            grant::Task::Seal(_) => {
                agent.done(lease, 0);
                continue;
            }
            grant::Task::Plan(_) => {
                return Err(Error::Unexpected("a working agent was granted a plan".to_owned()));
            }
            grant::Task::Range(_) | grant::Task::Statement(_) if left == Some(0) => return agent.leave().await,
            grant::Task::Range(_) => agent.done(lease, ROWS.into()),
            grant::Task::Statement(_) => agent.done(lease, 0),
        }
        left = left.map(|left| left - 1);
        tally.note(Cycle { granted, after: reported.map(|reported| granted.duration_since(reported)) });
        reported = Some(granted);
    }
}
