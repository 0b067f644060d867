//! Opening streams, one after the other, and serving the one that is open.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use dunlin_proto::client::{self, Options};
use dunlin_proto::convert::std_duration;
use dunlin_proto::v1::work_request::Message as Saying;
use dunlin_proto::v1::work_response::Message as Hearing;
use dunlin_proto::v1::{Grant, Heartbeat, Hello, TaskFailed, WorkRequest, WorkResponse};
use dunlin_shared::ids::{AgentId, Epoch, RunId, TargetName};
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use super::{Book, LeaseId};
use crate::failpoint;
use crate::failure::Place;
use crate::limits::Limits;
use crate::steps::{Context, Tuning};
use crate::target::{self, Target};
use crate::transform::Transforms;
use crate::watchdog::Watch;
use crate::worker;

/// How often progress is told while there is something new.
const PROGRESS: Duration = Duration::from_millis(333);

/// How long a look at a target may hold up `hello`.
const HELLO_LIMIT: Duration = Duration::from_secs(2);

/// How long a controller may take to answer `hello`.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);

/// Everything that outlives a stream.
#[derive(Debug)]
pub(crate) struct Session {
    /// The agent's id.
    pub(crate) agent: AgentId,
    /// The controllers' URLs, separated by commas.
    pub(crate) controllers: String,
    /// Tasks at one time.
    pub(crate) slots: u16,
    /// The targets.
    pub(crate) targets: HashMap<TargetName, Arc<Target>>,
    /// The code transforms.
    pub(crate) transforms: Transforms,
    /// What the operator allows.
    pub(crate) limits: Limits,
    /// What was learnt about the order of batches.
    pub(crate) tuning: Tuning,
    /// The leases.
    pub(crate) book: Arc<Book>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Connect(#[from] client::Error),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("the controller closed the stream")]
    Closed,
    #[error("the controller did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the controller answered hello with something else than welcome")]
    NotWelcome,
}

impl From<tonic::Status> for Broken {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Keeps a stream open for as long as it is polled, until the agent leaves.
pub(crate) async fn run(session: &Arc<Session>) {
    let mut pauses = target::pauses();
    // Agents that start together do not all begin with the same controller.
    let mut first: usize = rand::random::<u8>().into();
    loop {
        let opened = Instant::now();
        let (broken, welcomed) = serve(session, first).await;
        session.book.close_stream();
        if session.book.left() {
            return;
        }
        if welcomed {
            pauses = target::pauses();
        }
        let pause = pauses.next().unwrap_or(PROGRESS).min(Duration::from_secs(5));
        tracing::warn!(
            reason = %broken, lasted_s = opened.elapsed().as_secs(), pause_ms = pause.as_millis(),
            "no stream to a controller; connecting again"
        );
        first = first.wrapping_add(1);
        tokio::time::sleep(pause).await;
    }
}

/// Opens a stream and serves it until it breaks. Tells whether the controller welcomed the agent.
async fn serve(session: &Arc<Session>, first: usize) -> (Broken, bool) {
    let mut welcomed = false;
    match try_serve(session, first, &mut welcomed).await {
        Ok(never) => match never {},
        Err(broken) => (broken, welcomed),
    }
}

async fn try_serve(
    session: &Arc<Session>,
    first: usize,
    welcomed: &mut bool,
) -> Result<std::convert::Infallible, Broken> {
    let options = Options {
        first,
        user_agent: concat!("dunlin-agent/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..Options::default()
    };
    let channel = client::connect(&session.controllers, &options).await?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let hello = session.hello().await;
    let unreachable: Vec<String> =
        hello.targets.iter().filter(|report| !report.reachable).map(|report| report.name.clone()).collect();
    let _open = sender.send(WorkRequest { message: Some(Saying::Hello(hello)) });
    let mut client = client::agent(channel);
    let answer = client.work(UnboundedReceiverStream::new(receiver));
    let (mut stream, heartbeat) = match tokio::time::timeout(WELCOME_LIMIT, answer).await {
        Err(_) => return Err(Broken::Silent(WELCOME_LIMIT)),
        Ok(answer) => welcome(session, answer?.into_inner()).await?,
    };
    *welcomed = true;
    tracing::info!("connected to a controller");
    session.book.open_stream(sender);
    for target in session.targets.values().filter(|target| unreachable.contains(&target.name().to_string())) {
        target.suspect();
    }

    let mut renew = interval(heartbeat);
    let mut tell = interval(PROGRESS);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
    renew.reset();
    loop {
        tokio::select! {
            message = stream.message() => match message? {
                None => return Err(Broken::Closed),
                Some(WorkResponse { message: Some(message) }) => session.hear(message),
                Some(WorkResponse { message: None }) => {}
            },
            () = failpoint::cut() => return Err(Broken::Closed),
            _tick = renew.tick() => {
                session.book.say(Saying::Heartbeat(Heartbeat { leases: session.book.all() }));
            }
            _tick = tell.tick() => {
                if let Some(leases) = session.book.news() {
                    session.book.say(Saying::Heartbeat(Heartbeat { leases }));
                }
            }
        }
    }
}

/// Waits for the welcome and drops the leases that are not kept.
async fn welcome(
    session: &Session,
    mut stream: Streaming<WorkResponse>,
) -> Result<(Streaming<WorkResponse>, Duration), Broken> {
    let message = tokio::time::timeout(WELCOME_LIMIT, stream.message()).await;
    let message = message.map_err(|_| Broken::Silent(WELCOME_LIMIT))??.ok_or(Broken::Closed)?;
    let Some(Hearing::Welcome(welcome)) = message.message else { return Err(Broken::NotWelcome) };
    let kept: Vec<LeaseId> = welcome.kept.into_iter().map(LeaseId::from).collect();
    session.book.keep_only(&kept);
    let heartbeat = welcome.heartbeat_interval.as_ref().and_then(std_duration);
    let heartbeat = heartbeat.unwrap_or(PROGRESS).max(Duration::from_millis(10));
    Ok((stream, heartbeat))
}

impl Session {
    async fn hello(&self) -> Hello {
        Hello {
            agent_id: self.agent.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slots: i32::from(self.slots),
            targets: join_all(self.targets.values().map(|target| target.report(HELLO_LIMIT))).await,
            transforms: self.transforms.names(),
            leases: self.book.all(),
        }
    }

    fn hear(self: &Arc<Self>, message: Hearing) {
        match message {
            Hearing::Grant(grant) => self.accept(grant),
            Hearing::Ack(ack) => {
                if let Some(lease) = ack.lease {
                    self.book.acknowledged(lease.into());
                }
            }
            Hearing::Renewed(renewed) => self.book.lost(renewed.lost.into_iter().map(LeaseId::from)),
            Hearing::Revoke(revoke) => {
                if let Some(lease) = revoke.lease {
                    self.book.revoke(lease.into(), revoke.reason);
                }
            }
            Hearing::Welcome(_) => tracing::warn!("a second welcome on one stream; ignored"),
        }
    }

    /// Starts a worker for a lease.
    fn accept(self: &Arc<Self>, mut grant: Grant) {
        let Some(lease) = grant.lease else {
            tracing::error!(?grant, "a grant without a lease; ignored");
            return;
        };
        let Some(lease) = self.book.enter(lease.into()) else { return };
        let id = lease.id();
        let target = TargetName::parse(grant.target.as_str()).ok().and_then(|name| self.targets.get(&name).cloned());
        let readable = worker::readable(&grant).map(|(migration, _)| migration);
        match (readable, target, grant.task.take()) {
            (Ok(migration), Some(target), Some(task)) => {
                let context = Context {
                    agent: self.agent.clone(),
                    target,
                    lease,
                    epoch: Epoch(id.epoch),
                    run: RunId(grant.run_id),
                    migration,
                    applications: grant.applications,
                    limits: self.limits,
                    transforms: self.transforms.clone(),
                    tuning: self.tuning.clone(),
                    beats: AtomicU64::new(0),
                    watch: Watch::default(),
                };
                tokio::spawn(worker::work(context, task));
            }
            (readable, _, _) => {
                let place = Place { migration: grant.migration_id, agent: self.agent.to_string(), ..Place::default() };
                let message = match readable {
                    Err(error) => format!("the controller sent a task that this agent cannot read: {error}"),
                    Ok(_) => format!("this agent does not serve the target {}", grant.target),
                };
                let error = place.refuse(message, "Use a controller and agents of the same version.");
                lease.end(Some(Saying::Failed(TaskFailed {
                    lease: Some(id.into()),
                    error: Some(*error),
                    retryable: false,
                })));
            }
        }
    }
}
