//! Opening streams, one after the other, and serving the one that is open.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use dunlin_proto::client::{self, Order};
use dunlin_proto::convert::std_duration;
use dunlin_proto::fit;
use dunlin_proto::v1::work_request::Message as Saying;
use dunlin_proto::v1::work_response::Message as Hearing;
use dunlin_proto::v1::{
    Grant, Heartbeat, Hello, Look, ReleaseReason, TargetReport, TaskFailed, TaskReleased, WorkRequest, WorkResponse,
};
use dunlin_shared::ids::{AgentId, Epoch, RunId, TargetName};
use futures::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{Book, LeaseId};
use crate::failpoint;
use crate::failure::Place;
use crate::limits::Limits;
use crate::steps::{Context, Told, Tuning, Witnesses};
use crate::target::{self, Target};
use crate::transform::Transforms;
use crate::waits::Seen;
use crate::watchdog::Watch;
use crate::worker;

/// How often progress is told while there is something new.
const PROGRESS: Duration = Duration::from_millis(333);

/// How long looks at targets may hold up the first `hello`, and those after it: a slow target must not keep reports and
/// leases of others from the controller.
const HELLO_LIMITS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(500));

/// How long a controller may take to answer `hello`. Twice as long after each that did not, for a few times: when thousands
/// connect at once, it is no help that they give up and come again.
const WELCOME_LIMIT: Duration = Duration::from_secs(3);
const WELCOME_DOUBLINGS: u32 = 3;

/// How long the answer to a heartbeat may take before another controller is looked for, at least and at most: as long as the
/// interval of heartbeats, since a lease lives for three of them.
const ANSWER_LIMITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// The longest pause before another try to connect, where heartbeats are not more frequent.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Everything that outlives a stream.
#[derive(Debug)]
pub(crate) struct Session {
    /// The agent's id.
    pub(crate) agent: AgentId,
    /// Tells this process apart from others that were given the same id.
    pub(crate) instance: String,
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
    #[error("the controller does not answer heartbeats, and another one serves")]
    Outlived,
    #[error("the controller answered hello with something else than welcome")]
    NotWelcome,
}

impl From<tonic::Status> for Broken {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// What is known of the controllers from one stream to the next.
#[derive(Debug)]
struct Memory {
    /// Where the last stream was, or was tried.
    last: Option<String>,
    /// The interval of heartbeats, once a controller has told it.
    heartbeat: Option<Duration>,
    /// How many controllers in a row did not answer.
    silent: u32,
    /// Why there was no stream when the log was told last.
    told: Option<String>,
}

/// Keeps a stream open for as long as it is polled, until the agent leaves.
pub(crate) async fn run(session: &Arc<Session>) {
    let mut memory = Memory { last: None, heartbeat: None, silent: 0, told: None };
    let mut pauses = target::pauses(LONGEST_PAUSE);
    loop {
        let opened = Instant::now();
        let (broken, welcomed) = serve(session, &mut memory).await;
        session.book.close_stream();
        if session.book.left() {
            return;
        }
        memory.silent = if matches!(broken, Broken::Silent(_)) { memory.silent + 1 } else { 0 };
        if welcomed {
            // As long as leases are held, somebody must be found before they expire.
            let heartbeat = memory.heartbeat.unwrap_or(LONGEST_PAUSE);
            pauses = target::pauses(heartbeat.clamp(Duration::from_millis(200), LONGEST_PAUSE));
        }
        let pause = pauses.next().unwrap_or(PROGRESS);
        let reason = Some(broken.to_string());
        // Once for each reason, and each time that there was a stream.
        if welcomed || memory.told != reason {
            tracing::warn!(
                reason,
                controller = memory.last.as_deref(),
                lasted_s = opened.elapsed().as_secs(),
                "no stream to a controller; connecting again until there is one"
            );
        }
        memory.told = reason;
        sleep(pause).await;
    }
}

/// Opens a stream and serves it until it breaks. Tells whether the controller welcomed the agent.
async fn serve(session: &Arc<Session>, memory: &mut Memory) -> (Broken, bool) {
    let mut welcomed = false;
    match try_serve(session, memory, &mut welcomed).await {
        Ok(never) => match never {},
        Err(broken) => (broken, welcomed),
    }
}

async fn try_serve(
    session: &Arc<Session>,
    memory: &mut Memory,
    welcomed: &mut bool,
) -> Result<std::convert::Infallible, Broken> {
    let choice = client::choose(&session.controllers, &options(memory.last.clone())).await?;
    memory.last = Some(choice.url.clone());
    let (sender, receiver) = mpsc::unbounded_channel();
    let looks = if memory.heartbeat.is_none() { HELLO_LIMITS.0 } else { HELLO_LIMITS.1 };
    let hello = session.hello(looks).await;
    let reached: Vec<String> =
        hello.targets.iter().filter(|report| report.reachable).map(|report| report.name.clone()).collect();
    let _open = sender.send(WorkRequest { message: Some(Saying::Hello(hello)) });
    let limit = WELCOME_LIMIT * 2_u32.pow(memory.silent.min(WELCOME_DOUBLINGS));
    let welcome = timeout(limit, welcome(session, choice.channel, receiver)).await;
    let (mut stream, heartbeat) = welcome.map_err(|_| Broken::Silent(limit))??;
    *welcomed = true;
    memory.heartbeat = Some(heartbeat);
    tracing::info!(controller = choice.url, "connected to a controller");
    session.book.open_stream(sender);
    // Of the others the controller is told as soon as they have been looked at.
    for target in session.targets.values().filter(|target| !reached.contains(&target.name().to_string())) {
        target.suspect();
    }

    let unanswered = watch::Sender::new(None);
    let outlived = outlived(session, &choice.url, unanswered.subscribe(), heartbeat);
    let mut outlived = pin!(outlived);
    let beat = |leases| {
        unanswered.send_if_modified(|since| since.replace(since.unwrap_or_else(Instant::now)).is_none());
        session.book.say(Saying::Heartbeat(Heartbeat { leases }));
    };
    let mut renew = interval(heartbeat);
    let mut tell = interval(PROGRESS);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
    renew.reset();
    loop {
        tokio::select! {
            message = stream.message() => match message? {
                None => return Err(Broken::Closed),
                Some(WorkResponse { message: Some(message) }) => {
                    if matches!(message, Hearing::Renewed(_)) {
                        unanswered.send_replace(None);
                    }
                    session.hear(message);
                }
                Some(WorkResponse { message: None }) => {}
            },
            () = failpoint::cut() => return Err(Broken::Closed),
            _tick = renew.tick() => beat(session.book.all()),
            _tick = tell.tick() => {
                if let Some(leases) = session.book.news() {
                    beat(leases);
                }
            }
            () = &mut outlived => return Err(Broken::Outlived),
        }
    }
}

fn options(last: Option<String>) -> client::Options {
    client::Options {
        order: Order::Random { last },
        user_agent: concat!("dunlin-agent/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..client::Options::default()
    }
}

/// Ends when a controller leaves heartbeats unanswered while another one serves: it stands still, or has lost its database,
/// and the leases would expire. When none serves it is as well to wait here: a whole fleet that comes back to a database
/// that has just come back itself would be no help.
async fn outlived(
    session: &Session,
    here: &str,
    mut unanswered: watch::Receiver<Option<Instant>>,
    heartbeat: Duration,
) {
    let patience = heartbeat.clamp(ANSWER_LIMITS.0, ANSWER_LIMITS.1);
    loop {
        // The other end is this stream's own, which outlives this.
        let since = unanswered.wait_for(Option::is_some).await.ok().and_then(|since| *since);
        sleep_until(since.unwrap_or_else(Instant::now) + patience).await;
        if *unanswered.borrow() == since {
            let found = client::choose(&session.controllers, &options(Some(here.to_owned()))).await;
            if found.is_ok_and(|choice| choice.serves) && *unanswered.borrow() == since {
                return;
            }
            sleep(patience).await;
        }
    }
}

/// Says hello, waits for the welcome and drops the leases that are not kept.
async fn welcome(
    session: &Session,
    channel: Channel,
    requests: mpsc::UnboundedReceiver<WorkRequest>,
) -> Result<(Streaming<WorkResponse>, Duration), Broken> {
    let mut stream = client::agent(channel).work(UnboundedReceiverStream::new(requests)).await?.into_inner();
    let message = stream.message().await?.ok_or(Broken::Closed)?;
    let Some(Hearing::Welcome(welcome)) = message.message else { return Err(Broken::NotWelcome) };
    let kept: Vec<LeaseId> = welcome.kept.into_iter().map(LeaseId::from).collect();
    session.book.keep_only(&kept);
    let heartbeat = welcome.heartbeat_interval.as_ref().and_then(std_duration);
    let heartbeat = heartbeat.unwrap_or(PROGRESS).max(Duration::from_millis(10));
    Ok((stream, heartbeat))
}

/// Where this process runs, for those who look for it.
fn process() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    format!("process {} on {}", std::process::id(), host.unwrap_or_else(|| "an unnamed host".to_owned()))
}

impl Session {
    /// What the agent is, has and holds. A target that cannot be looked at in time, or has more to tell than fits, is left out.
    async fn hello(&self, looks: Duration) -> Hello {
        let targets = join_all(self.targets.values().map(|target| target.report_soon(looks))).await;
        Hello {
            agent_id: self.agent.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slots: i32::from(self.slots),
            targets: fit::of_hello(targets.into_iter().flatten()),
            transforms: self.transforms.names(),
            leases: self.book.all(),
            instance: self.instance.clone(),
            process: process(),
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
            Hearing::Look(look) => self.look(look),
            Hearing::Recognition(said) => match self.target(&said.target) {
                Some(target) => target.recognise(&said),
                None => tracing::warn!(
                    target = said.target,
                    "a target that this agent does not serve was recognised; ignored"
                ),
            },
            Hearing::Welcome(_) => tracing::warn!("a second welcome on one stream; ignored"),
        }
    }

    fn target(&self, name: &str) -> Option<Arc<Target>> {
        TargetName::parse(name).ok().and_then(|name| self.targets.get(&name).cloned())
    }

    /// Looks at a target and tells what it has.
    fn look(self: &Arc<Self>, look: Look) {
        let Some(target) = self.target(&look.target) else {
            tracing::warn!(
                target = look.target,
                "a look at a target was asked for that this agent does not serve; ignored"
            );
            return;
        };
        let book = Arc::clone(&self.book);
        tokio::spawn(async move {
            let report = target.report(target::PROBE_LIMIT).await;
            book.report_target(TargetReport { look_time: look.time, ..report });
        });
    }

    /// Starts a worker for a lease.
    fn accept(self: &Arc<Self>, mut grant: Grant) {
        let Some(lease) = grant.lease else {
            tracing::error!(?grant, "a grant without a lease; ignored");
            return;
        };
        let Some(lease) = self.book.enter(lease.into()) else { return };
        let id = lease.id();
        if self.book.busy() > usize::from(self.slots) {
            tracing::warn!(
                task = id.task,
                epoch = id.epoch,
                "more tasks were granted than there are slots; given back"
            );
            lease.end(Some(Saying::Released(TaskReleased {
                lease: Some(id.into()),
                reason: ReleaseReason::Busy.into(),
                message: format!("agent {} has {} slots, and works in all of them", self.agent, self.slots),
                ..TaskReleased::default()
            })));
            return;
        }
        let target = self.target(&grant.target);
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
                    steps: grant.steps.iter().map(Into::into).collect(),
                    mending: grant.mending.unwrap_or_default(),
                    limits: self.limits,
                    transforms: self.transforms.clone(),
                    tuning: self.tuning.clone(),
                    beats: AtomicU64::new(0),
                    told: Told::default(),
                    watch: Watch::default(),
                    waits: Seen::default(),
                    sessions: Witnesses::default(),
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
                    ..TaskFailed::default()
                })));
            }
        }
    }
}
