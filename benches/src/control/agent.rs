//! An agent that is played: it speaks the protocol on a connection of its own, and has no target behind it.

use std::time::Duration;

use dunlin_proto::client::{self, Options};
use dunlin_proto::convert::std_duration;
use dunlin_proto::v1::work_request::Message as Saying;
use dunlin_proto::v1::work_response::Message as Hearing;
use dunlin_proto::v1::{
    Heartbeat, Hello, Lease, LeaseProgress, RunError, TargetReport, TaskDone, TaskFailed, WorkRequest, WorkResponse,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::Error;

/// How long an agent tries to connect, and how long it waits for each welcome.
const CONNECT_WITHIN: Duration = Duration::from_secs(120);
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// The shortest and the longest pause between tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// An agent with an open stream. It sends heartbeats while it is listened to.
pub(crate) struct Agent {
    sender: mpsc::UnboundedSender<WorkRequest>,
    stream: Streaming<WorkResponse>,
    heartbeat: Interval,
    held: Vec<Lease>,
}

impl Agent {
    /// Opens a stream, as often as it takes, as agents do. The targets are served, and not reached until [`Agent::reach`].
    /// Also tells how many streams were refused.
    pub(crate) async fn connect(url: &str, id: &str, slots: i32, targets: &[String]) -> Result<(Self, u32), Error> {
        let mut pause = PAUSES.0;
        let mut refused = 0;
        let deadline = Instant::now() + CONNECT_WITHIN;
        loop {
            match Self::open(url, id, slots, targets).await {
                Ok(agent) => return Ok((agent, refused)),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {
                    refused += 1;
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    async fn open(url: &str, id: &str, slots: i32, targets: &[String]) -> Result<Self, Error> {
        let channel = client::connect(url, &Options::default()).await;
        let channel = channel.map_err(|error| Error::Unexpected(error.to_string()))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let targets = targets.iter().map(|name| TargetReport {
            name: name.clone(),
            error: "it is not its turn yet".to_owned(),
            ..TargetReport::default()
        });
        let hello = Hello {
            agent_id: id.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slots,
            targets: targets.collect(),
            ..Hello::default()
        };
        let _open = sender.send(WorkRequest { message: Some(Saying::Hello(hello)) });
        let (stream, every) = timeout(WELCOME_WITHIN, welcome(channel, receiver))
            .await
            .map_err(|_| Error::Unexpected("the controller did not answer hello in time".to_owned()))??;
        let mut heartbeat = interval(every);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        Ok(Self { sender, stream, heartbeat, held: Vec::new() })
    }

    /// Says that a target is reached and has nothing applied: from now on the agent is granted tasks of it.
    pub(crate) fn reach(&self, target: &str) {
        self.say(Saying::Target(TargetReport {
            name: target.to_owned(),
            reachable: true,
            server_version: "15.0".to_owned(),
            ..TargetReport::default()
        }));
    }

    /// Says something.
    pub(crate) fn say(&self, message: Saying) {
        // A closed stream is noticed by who listens next.
        let _closed = self.sender.send(WorkRequest { message: Some(message) });
    }

    /// Reports a task done.
    pub(crate) fn done(&mut self, lease: Lease, rows: i64) {
        self.held.retain(|held| *held != lease);
        self.say(Saying::Done(TaskDone { lease: Some(lease), rows, rows_walked: rows, ..TaskDone::default() }));
    }

    /// Reports that a task met an error that does not pass.
    pub(crate) fn fail(&mut self, lease: Lease) {
        self.held.retain(|held| *held != lease);
        let error = RunError { message: "a failure that is measured".to_owned(), ..RunError::default() };
        self.say(Saying::Failed(TaskFailed { lease: Some(lease), error: Some(error), ..TaskFailed::default() }));
    }

    /// Closes the stream in order: what the agent holds goes back at once.
    pub(crate) async fn leave(self) -> Result<(), Error> {
        let Self { sender, mut stream, .. } = self;
        drop(sender);
        while stream.message().await?.is_some() {}
        Ok(())
    }

    /// The next thing that the controller says, apart from its answers to heartbeats.
    pub(crate) async fn listen(&mut self) -> Result<Hearing, Error> {
        loop {
            tokio::select! {
                message = self.stream.message() => match message? {
                    None => return Err(Error::Unexpected("the controller closed the stream of an agent".to_owned())),
                    Some(WorkResponse { message: Some(Hearing::Renewed(renewed)) }) => {
                        if let Some(lease) = renewed.lost.iter().find(|lease| self.held.contains(lease)) {
                            return Err(Error::Unexpected(format!("an agent lost {lease:?}: the machine is too slow")));
                        }
                    }
                    Some(WorkResponse { message: Some(message) }) => {
                        if let Hearing::Grant(grant) = &message {
                            self.held.extend(grant.lease);
                        }
                        return Ok(message);
                    }
                    Some(WorkResponse { message: None }) => {}
                },
                _tick = self.heartbeat.tick() => {
                    let leases = self.held.iter().map(|lease| LeaseProgress {
                        lease: Some(*lease),
                        ..LeaseProgress::default()
                    });
                    self.say(Saying::Heartbeat(Heartbeat { leases: leases.collect() }));
                }
            }
        }
    }
}

/// Opens the stream, and waits for the welcome and its interval of heartbeats.
async fn welcome(
    channel: Channel,
    said: mpsc::UnboundedReceiver<WorkRequest>,
) -> Result<(Streaming<WorkResponse>, Duration), Error> {
    let mut stream = client::agent(channel).work(UnboundedReceiverStream::new(said)).await?.into_inner();
    let Some(WorkResponse { message: Some(Hearing::Welcome(welcome)) }) = stream.message().await? else {
        return Err(Error::Unexpected("the controller did not answer hello with welcome".to_owned()));
    };
    let every = welcome.heartbeat_interval.as_ref().and_then(std_duration);
    let every = every.ok_or_else(|| Error::Unexpected("welcome names no interval of heartbeats".to_owned()))?;
    Ok((stream, every))
}
