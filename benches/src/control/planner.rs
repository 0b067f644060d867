//! The agent that plans: it takes a plan task, reports the ranges, and keeps the task until it is told how to end it.

use std::time::Duration;

use dunlin_proto::v1::work_request::Message as Saying;
use dunlin_proto::v1::work_response::Message as Hearing;
use dunlin_proto::v1::{Grant, Key, KeyColumn, Lease, PlannedRange, RangesPlanned, grant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::agent::Agent;
use crate::Error;

/// The rows of each range.
pub(crate) const ROWS: u32 = 100;

/// Ranges in a message: as many as the protocol allows.
const MESSAGE: u32 = 1000;

/// A migration of one batch step.
pub(crate) fn definition(id: &str, version: u32) -> (String, String) {
    let text = format!(
        "id = \"{id}\"\nname = \"Ranges\"\ndescription = \"Many ranges.\"\nversion = {version}\n\
         [[step]]\nname = \"change\"\nbatch = {{ table = \"accounts\", size = 100, range = 100 }}\n\
         sql = \"UPDATE accounts SET display = upper(name) WHERE :batch\"\n"
    );
    (id.to_owned(), text)
}

/// How a plan task ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Done,
    Failed,
}

/// An agent that holds a plan task whose ranges are all stored. Dropping it ends the agent.
pub(crate) struct Planner {
    end: Option<oneshot::Sender<End>>,
    agent: JoinHandle<Result<Duration, Error>>,
    /// When the task was granted.
    pub(crate) granted: Instant,
    /// How long the controller took to store each message of ranges.
    pub(crate) messages: Vec<Duration>,
}

impl Planner {
    /// Takes the plan task of a run on a target that the agent reaches, and reports so many ranges.
    pub(crate) async fn plan(mut agent: Agent, ranges: u32) -> Result<Self, Error> {
        let lease = loop {
            let heard = agent.listen().await?;
            if let Hearing::Grant(Grant { lease: Some(lease), task: Some(grant::Task::Plan(_)), .. }) = heard {
                break lease;
            }
        };
        let granted = Instant::now();
        let mut messages = Vec::new();
        let mut first = 1;
        while first <= ranges {
            let last = ranges.min(first + MESSAGE - 1);
            let sent = Instant::now();
            agent.say(Saying::RangesPlanned(RangesPlanned {
                lease: Some(lease),
                ranges: (first..=last).map(range).collect::<Result<_, _>>()?,
                key: vec![KeyColumn { name: "id".to_owned(), r#type: "bigint".to_owned() }],
            }));
            while !matches!(agent.listen().await?, Hearing::Ack(_)) {}
            messages.push(sent.elapsed());
            first = last + 1;
        }
        let (end, told) = oneshot::channel();
        let agent = tokio::spawn(hold(agent, lease, told));
        Ok(Self { end: Some(end), agent, granted, messages })
    }

    /// Reports the plan done. The agent stays for the seal.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        self.tell(End::Done)
    }

    /// Reports the plan failed, and tells how long it took until that was stored.
    pub(crate) async fn fail(mut self) -> Result<Duration, Error> {
        self.tell(End::Failed)?;
        (&mut self.agent).await.map_err(|error| Error::Unexpected(error.to_string()))?
    }

    fn tell(&mut self, end: End) -> Result<(), Error> {
        let told = self.end.take().map(|sender| sender.send(end));
        told.and_then(Result::ok).ok_or_else(|| Error::Unexpected("the planning agent has ended".to_owned()))
    }
}

impl Drop for Planner {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

/// Holds the plan task until it is told how to end it, and works on what comes after a plan that is done.
async fn hold(mut agent: Agent, lease: Lease, mut told: oneshot::Receiver<End>) -> Result<Duration, Error> {
    let mut ended: Option<(Instant, End)> = None;
    loop {
        tokio::select! {
            end = &mut told, if ended.is_none() => {
                let end = end.map_err(|_| Error::Unexpected("the planning agent was given up".to_owned()))?;
                ended = Some((Instant::now(), end));
                match end {
                    End::Done => agent.done(lease, 0),
                    End::Failed => agent.fail(lease),
                }
            }
            heard = agent.listen() => match (heard?, ended) {
                (Hearing::Ack(_), Some((since, End::Failed))) => return Ok(since.elapsed()),
                (Hearing::Grant(Grant { lease: Some(lease), .. }), Some(_)) => agent.done(lease, 0),
                _ => {}
            }
        }
    }
}

fn range(ordinal: u32) -> Result<PlannedRange, Error> {
    let key = |range: u32| Key { values: vec![(u64::from(range) * u64::from(ROWS)).to_string()] };
    Ok(PlannedRange {
        ordinal: i32::try_from(ordinal).map_err(|_| Error::Unexpected("too many ranges".to_owned()))?,
        low: (ordinal > 1).then(|| key(ordinal - 1)),
        high: Some(key(ordinal)),
        rows_total: ROWS.into(),
        ..PlannedRange::default()
    })
}
