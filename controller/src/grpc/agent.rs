//! The stream of an agent.
//!
//! The stream ends when the agent ends it, says something that no correct agent says, does not read, opens another one, or
//! the controller stops. Its end loses no lease, unless the agent has closed it in order: then it keeps none.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dunlin_proto::convert::duration;
use dunlin_proto::status;
use dunlin_proto::v1::agent_service_server::AgentService;
use dunlin_proto::v1::work_request::Message as Said;
use dunlin_proto::v1::work_response::Message;
use dunlin_proto::v1::{self, WorkRequest, WorkResponse};
use dunlin_shared::ids::{AgentId, TransformName};
use futures::{Stream, StreamExt, stream};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use super::convert;
use super::pages::Pages;
use super::status::{STATED, bad_field, bad_id, of_store};
use crate::advance::Filing;
use crate::dispatch::{Connection, Ending, Held, Identity, OUTGOING};
use crate::domain::report::Report;
use crate::replica::Replica;
use crate::store::agents::{Hello, Reception};
use crate::store::following::Sight;
use crate::store::identity::{self, Recognised};
use crate::store::reports::Filed;

/// How long a stream may be open without a hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// The rest between tries to store what an agent saw, while the database is away.
const REST: Duration = Duration::from_millis(500);
/// The most ranges in one message.
const RANGES: usize = 1000;
/// The most columns of a key: as many as an index can have.
const COLUMNS: usize = 32;
/// The most targets, transforms and leases that one agent may name.
const NAMES: usize = 10_000;

/// The service that agents call.
pub(crate) struct Agents {
    replica: Arc<Replica>,
    stop: CancellationToken,
}

impl Agents {
    pub(crate) fn new(replica: Arc<Replica>, stop: CancellationToken) -> Self {
        Self { replica, stop }
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    type WorkStream = Pin<Box<dyn Stream<Item = Result<WorkResponse, Status>> + Send>>;

    async fn work(&self, request: Request<Streaming<WorkRequest>>) -> Result<Response<Self::WorkStream>, Status> {
        let (sender, receiver) = mpsc::channel(OUTGOING);
        let ending = Ending::default();
        let stream = serve(Arc::clone(&self.replica), request.into_inner(), sender, ending.clone(), self.stop.clone());
        tokio::spawn(stream);
        let asked = ending.clone();
        let last = stream::once(async move { ending.status().map(Err) }).filter_map(|last| async { last });
        let messages = ReceiverStream::new(receiver).map(Ok);
        let outgoing = messages.take_until(async move { asked.asked().await }).chain(last);
        Ok(Response::new(Box::pin(outgoing)))
    }
}

async fn serve(
    replica: Arc<Replica>,
    mut incoming: Streaming<WorkRequest>,
    sender: mpsc::Sender<WorkResponse>,
    ending: Ending,
    stop: CancellationToken,
) {
    let stopped = || status::error(Code::Unavailable, "STOPPING", "this controller stops; connect to another one");
    // The outgoing stream must not end before its status is known: this one outlives all that is sent.
    let outgoing = sender.clone();
    let opened = tokio::select! {
        opened = open(&replica, &mut incoming, sender, &ending) => opened,
        // It did not wait for its welcome: a late one would end the stream that it has opened elsewhere.
        () = outgoing.closed() => Err(Status::cancelled("the agent has gone")),
        () = stop.cancelled() => Err(stopped()),
    };
    let (connection, sights) = match opened {
        Ok(opened) => opened,
        Err(status) => {
            ending.ask(status);
            return;
        }
    };
    let agent = connection.agent().clone();
    let reason = tokio::select! {
        end = work(&replica, &connection, &sights, &mut incoming) => match end {
            Ok(()) => {
                connection.leave();
                "it closed its stream".to_owned()
            }
            Err(status) => {
                let reason = format!("its stream broke: {}", status.message());
                ending.ask(status);
                reason
            }
        },
        () = ending.asked() => ending.status().map(|status| status.message().to_owned()).unwrap_or_default(),
        () = stop.cancelled() => {
            ending.ask(stopped());
            "the controller stops".to_owned()
        }
    };
    replica.hub.remove(&connection);
    if connection.left() {
        // What was granted while the agent took its leave goes to others at once.
        match replica.store.take_back(&agent, connection.session(), &[]).await {
            Ok(wakes) => replica.wake(&wakes),
            Err(error) => tracing::debug!(%error, agent = agent.as_str(), "leases wait for their expiry"),
        }
    }
    // Whatever still holds the connection, such as a lane, must not keep a closed stream open.
    ending.ask(Status::ok(""));
    tracing::info!(agent = agent.as_str(), reason, "an agent's stream ended");
    match replica.store.leave(&agent, connection.session(), &reason).await {
        Ok(wakes) => replica.wake(&wakes),
        Err(error) => tracing::debug!(%error, agent = agent.as_str(), "the end of a stream was not stored"),
    }
}

/// Takes the hello and answers it.
async fn open(
    replica: &Arc<Replica>,
    incoming: &mut Streaming<WorkRequest>,
    sender: mpsc::Sender<WorkResponse>,
    ending: &Ending,
) -> Result<(Arc<Connection>, Vec<Sight>), Status> {
    let no_hello = || status::error(Code::InvalidArgument, "NO_HELLO", "the first message of a stream must be `hello`");
    let first = timeout(HELLO_WITHIN, incoming.message())
        .await
        .map_err(|_| status::error(Code::DeadlineExceeded, "NO_HELLO", "no `hello` came within 10 s"))??;
    let Some(WorkRequest { message: Some(Said::Hello(mut said)) }) = first else { return Err(no_hello()) };
    let (hello, sights) = read(&said)?;
    // They may wait for long, and take their room once.
    said.targets = Vec::new();
    let received = replica.store.welcome(&hello).await.map_err(|error| {
        // It would have been a heartbeat, too.
        if error.retryable() {
            replica.heartbeats.miss();
        }
        of_store(error)
    })?;
    let welcomed = match received {
        Reception::Welcome(welcomed) => welcomed,
        Reception::Taken(why) => return Err(status::error(Code::AlreadyExists, "AGENT_ID_TAKEN", why)),
    };
    let identity = Identity {
        agent: hello.agent.clone(),
        session: welcomed.session,
        slots: usize::try_from(hello.slots).unwrap_or(1),
        transforms: hello.transforms,
    };
    let connection = Arc::new(Connection::new(identity, sender, ending.clone()));
    for (lease, run, target) in &welcomed.kept {
        connection.hold(*lease, Held { run: *run, target: target.clone() });
    }
    connection.send(Message::Welcome(v1::Welcome {
        lease_ttl: Some(duration(replica.store.lease_ttl())),
        heartbeat_interval: Some(duration(replica.heartbeat_interval())),
        kept: welcomed.kept.iter().map(|(lease, ..)| convert::lease_out(*lease)).collect(),
    }));
    replica.wake(&welcomed.wakes);
    tracing::info!(
        agent = connection.agent().as_str(),
        slots = hello.slots,
        targets = ?hello.targets,
        kept = welcomed.kept.len(),
        "an agent connected"
    );
    replica.hub.add(&connection);
    let progress: Vec<_> = said.leases.iter().filter_map(convert::progress_in).collect();
    if !progress.is_empty() {
        replica.heartbeats.beat(Arc::clone(&connection), progress);
    }
    Ok((connection, sights))
}

fn read(said: &v1::Hello) -> Result<(Hello, Vec<Sight>), Status> {
    let agent = AgentId::parse(said.agent_id.as_str()).map_err(|error| bad_id("hello.agent_id", &error))?;
    if !(1..=1000).contains(&said.slots) {
        return Err(bad_field("hello.slots", format!("it must be 1 to 1000, and is {}", said.slots)));
    }
    for (field, text) in [("hello.instance", &said.instance), ("hello.process", &said.process)] {
        if text.chars().count() > STATED || text.chars().any(char::is_control) {
            return Err(bad_field(
                field,
                format!("it must be at most {STATED} characters, none of them a control character"),
            ));
        }
    }
    for (field, count) in [
        ("hello.targets", said.targets.len()),
        ("hello.transforms", said.transforms.len()),
        ("hello.leases", said.leases.len()),
    ] {
        if count > NAMES {
            return Err(bad_field(field, format!("at most {NAMES} may be named, and these are {count}")));
        }
    }
    if said.targets.iter().any(|report| report.more_follows) {
        let message = "a report of several pages is none of `hello`; it follows as `target`";
        return Err(bad_field("hello.targets.more_follows", message));
    }
    let sights: Vec<Sight> = said
        .targets
        .iter()
        .map(|report| convert::sight_in(report).map_err(|error| bad_id("hello.targets.name", &error)))
        .collect::<Result<_, _>>()?;
    let names: BTreeSet<_> = sights.iter().map(|sight| sight.target.clone()).collect();
    if names.len() < sights.len() {
        return Err(bad_field("hello.targets", "a target is named twice"));
    }
    let transforms: BTreeSet<String> = said
        .transforms
        .iter()
        .map(|name| TransformName::parse(name.as_str()).map(String::from))
        .collect::<Result<_, _>>()
        .map_err(|error| bad_id("hello.transforms", &error))?;
    let hello = Hello {
        agent,
        version: convert::clean(&said.version),
        slots: said.slots,
        transforms: transforms.into_iter().collect(),
        targets: names.into_iter().collect(),
        leases: said.leases.iter().filter_map(|held| convert::lease_in(held.lease.as_ref())).collect(),
        instance: said.instance.clone(),
        process: said.process.clone(),
    };
    Ok((hello, sights))
}

/// Takes in what the agent saw of its targets, then what it says. Each target is worked on as soon as it was taken in: none
/// waits for the others.
async fn work(
    replica: &Arc<Replica>,
    connection: &Arc<Connection>,
    sights: &[Sight],
    incoming: &mut Streaming<WorkRequest>,
) -> Result<(), Status> {
    for sight in sights {
        keep_seeing(replica, connection, sight).await?;
    }
    listen(replica, connection, incoming).await
}

/// Takes in what the agent says until it closes the stream.
async fn listen(
    replica: &Arc<Replica>,
    connection: &Arc<Connection>,
    incoming: &mut Streaming<WorkRequest>,
) -> Result<(), Status> {
    let mut pages = Pages::default();
    while let Some(request) = next(incoming, &pages).await? {
        let bytes = request.encoded_len();
        let filed = match request.message {
            // A message of a later version of the protocol.
            None => continue,
            Some(Said::Hello(_)) => {
                return Err(status::error(Code::InvalidArgument, "SECOND_HELLO", "a stream has one `hello` only"));
            }
            Some(Said::Heartbeat(beat)) => {
                if beat.leases.len() > NAMES {
                    return Err(bad_field("heartbeat.leases", format!("at most {NAMES} may be named")));
                }
                let leases = beat.leases.iter().filter_map(convert::progress_in).collect();
                replica.heartbeats.beat(Arc::clone(connection), leases);
                continue;
            }
            Some(Said::Target(report)) => {
                let whole = pages.take(&report)?;
                // It may wait for long, and takes its room once.
                drop(report);
                if let Some(sight) = whole {
                    keep_seeing(replica, connection, &sight).await?;
                }
                continue;
            }
            Some(Said::RangesPlanned(planned)) => {
                if planned.ranges.len() > RANGES {
                    return Err(bad_field("ranges_planned.ranges", format!("at most {RANGES} fit into a message")));
                }
                if planned.key.len() > COLUMNS {
                    return Err(bad_field("ranges_planned.key", format!("a key has at most {COLUMNS} columns")));
                }
                let report = convert::ranges_in(&planned).map_err(|error| bad_id("ranges_planned.key", &error))?;
                (planned.lease, report)
            }
            Some(Said::Done(done)) => (done.lease, convert::done_in(&done)),
            Some(Said::Failed(failed)) => (failed.lease, convert::failed_in(&failed)),
            Some(Said::Released(released)) => {
                if released.reason() == v1::ReleaseReason::Stopping {
                    connection.stop_granting();
                }
                (released.lease, convert::released_in(&released))
            }
            Some(Said::Stale(stale)) => {
                let report =
                    Report::Stale { stored: stale.stored_epoch.max(0).into(), applications: stale.applications };
                (stale.lease, report)
            }
            Some(Said::Note(note)) => (note.lease, convert::note_in(&note)),
        };
        let (lease, report) = filed;
        let lease = convert::lease_in(lease.as_ref()).ok_or_else(|| bad_field("lease", "it is missing"))?;
        if connection.held(lease).is_none() {
            // Not, or no more, this agent's: as late as a report can be, and none of the business of whoever holds it now.
            tracing::debug!(
                agent = connection.agent().as_str(),
                ?lease,
                "a report about a lease that the agent does not hold"
            );
            if matches!(report, Report::Note { .. }) {
                continue;
            }
            connection.send(Message::Ack(v1::Ack { lease: Some(convert::lease_out(lease)) }));
            continue;
        }
        // While the database is away an agent is not read further than this.
        let room = connection.room(bytes).await;
        let filing = Filing { connection: Arc::clone(connection), filed: Filed { lease, report }, room };
        replica.lanes.file(replica, filing);
    }
    Ok(())
}

/// The next message: before long, where pages wait for it.
async fn next(incoming: &mut Streaming<WorkRequest>, pages: &Pages) -> Result<Option<WorkRequest>, Status> {
    match pages.until() {
        None => incoming.message().await,
        Some(until) => timeout_at(until, incoming.message()).await.map_err(|_| Pages::late())?,
    }
}

/// Takes in what the agent sees of a target, and waits for the database when it is away.
async fn keep_seeing(replica: &Arc<Replica>, connection: &Arc<Connection>, sight: &Sight) -> Result<(), Status> {
    loop {
        match see(replica, connection, sight).await {
            Ok(()) => return Ok(()),
            Err(error) if error.retryable() => {
                tracing::debug!(%error, "what an agent sees waits for the database");
                sleep(REST).await;
            }
            Err(error) => return Err(of_store(error)),
        }
    }
}

async fn see(replica: &Replica, connection: &Arc<Connection>, sight: &Sight) -> Result<(), crate::store::Error> {
    let target = &sight.target;
    let trusted = connection.reached().contains(target);
    let noted = replica.store.see_target(connection.agent(), sight, trusted).await?;
    let asked = noted.recognised == Some(Recognised::Asked);
    connection.reach(target, noted.recognised == Some(Recognised::Accepted) || asked && trusted);
    if let Some(said) = noted.recognised.and_then(|recognised| convert::recognition_out(sight, recognised)) {
        connection.send(Message::Recognition(said));
    }
    if asked {
        let (replica, connection, target) = (replica.store.clone(), Arc::clone(connection), target.clone());
        tokio::spawn(async move {
            sleep(identity::REST).await;
            // The next one comes with the next look, where the database is away now.
            if let Ok(now) = replica.now().await {
                connection.ask_to_look(&target, now);
            }
        });
    } else if let Some(time) = noted.ask {
        connection.ask_to_look(target, time);
    }
    replica.wake(&noted.wakes);
    replica.signals.dispatch();
    Ok(())
}
