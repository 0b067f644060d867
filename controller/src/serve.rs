//! A controller from its start to its end.
//!
//! It listens at once, and serves as soon as its database is there; until then, and whenever the database is away, its
//! health is NOT_SERVING and calls are answered with UNAVAILABLE. When it is told to stop, streams end with UNAVAILABLE, so
//! that agents and watchers move to another replica, and calls under way may finish within a few seconds.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use dunlin_proto::fit::WORK_LIMIT;
use dunlin_proto::v1::agent_service_server::AgentServiceServer;
use dunlin_proto::v1::fleet_service_server::FleetServiceServer;
use dunlin_proto::v1::registry_service_server::RegistryServiceServer;
use dunlin_proto::v1::run_service_server::RunServiceServer;
use dunlin_proto::{DESCRIPTORS, REGISTER_LIMIT};
use dunlin_shared::open_files;
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::advance::Heartbeats;
use crate::config::Config;
use crate::connections::{self, Room};
use crate::dispatch::{dispatch, keep_time};
use crate::grpc::{Agents, Fleet, Registry, Runs};
use crate::memory;
use crate::replica::Replica;
use crate::retention::retain;
use crate::store::{self, Availability, Heard, Store};

/// How long calls under way may take once the controller is told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// The rest before a loop that has panicked begins anew.
const AFTER_PANIC: Duration = Duration::from_secs(1);
/// Calls and streams on one connection.
const STREAMS: u32 = 1000;
/// What a client may send, on a stream and on a connection, before it is read.
const WINDOWS: (u32, u32) = (128 * 1024, 256 * 1024);
/// How often clients are asked for a sign of life, and how long they may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));

/// Why a controller does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}; name another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// There is no room for connections, or less than one peer may have.
    #[error(transparent)]
    Room(#[from] connections::Error),
    /// The limit of open files is not known.
    #[error("the limit of open files cannot be read: {0}")]
    Files(std::io::Error),
    /// The URL of the database cannot be used.
    #[error("--database-url: {0}")]
    Database(#[from] store::Error),
    /// The descriptors of the protocol cannot be served.
    #[error("the reflection service cannot be set up: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server broke.
    #[error("the server ended: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Listens on the address of the configuration and serves until `stop` is cancelled.
///
/// # Errors
/// The address or the database's URL cannot be used.
pub async fn serve(config: &Config, stop: CancellationToken) -> Result<(), Error> {
    let address = config.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    serve_on(listener, config, stop).await
}

/// Serves on a listener until `stop` is cancelled.
///
/// # Errors
/// The limit of open files leaves no room, the database's URL cannot be used, or the server breaks.
pub async fn serve_on(listener: TcpListener, config: &Config, stop: CancellationToken) -> Result<(), Error> {
    let limit = open_files::limit().map_err(Error::Files)?;
    let room = Room::new(limit, config.database_connections.into(), config.max_connections_per_peer.map(u64::from))?;
    let store = Store::new(&config.database_url, config.database_connections.into(), config.lease_ttl)?;
    let address = listener.local_addr().map_err(|source| Error::Listen { address: config.listen, source })?;
    let (reporter, health) = tonic_health::server::health_reporter();
    let replica = Arc::new(Replica::new(store.clone(), config.stuck_after));
    report_health(&reporter, ServingStatus::NotServing).await;

    let tasks = TaskTracker::new();
    let ended = CancellationToken::new();
    let (sender, heard) = mpsc::channel(256);
    let (unusable, told_unusable) = oneshot::channel();
    let listening = store.clone().listen(sender);
    tasks.spawn(until(ended.clone(), async move {
        if let Err(error) = listening.await {
            let _ended_already = unusable.send(error);
        }
    }));
    tasks.spawn(until(ended.clone(), hear(Arc::clone(&replica), heard)));
    tasks.spawn(until(ended.clone(), follow_availability(store, reporter.clone(), stop.clone())));
    let of = |replica: &Arc<Replica>, ended: &CancellationToken| (Arc::clone(replica), ended.clone());
    let (claims, due, heartbeats) = (of(&replica, &ended), of(&replica, &ended), of(&replica, &ended));
    tasks.spawn(unfailing("dispatch", move || dispatch(Arc::clone(&claims.0), claims.1.clone())));
    tasks.spawn(unfailing("keep_time", move || keep_time(Arc::clone(&due.0), due.1.clone())));
    tasks.spawn(unfailing("heartbeats", move || Heartbeats::run(Arc::clone(&heartbeats.0), heartbeats.1.clone())));
    let (old, keep) = (of(&replica, &ended), config.keep);
    tasks.spawn(unfailing("retain", move || retain(Arc::clone(&old.0), keep, old.1.clone())));
    tasks.close();

    tracing::info!(address = %address, "dunlin-controller listening on {address}");
    let mut server = Server::builder()
        .max_concurrent_streams(Some(STREAMS))
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .layer(memory::layer(memory::Room::default()));
    let router = server
        .add_service(health)
        .add_service(reflection()?.build_v1()?)
        .add_service(reflection()?.build_v1alpha()?)
        .add_service(
            RegistryServiceServer::new(Registry::new(Arc::clone(&replica))).max_decoding_message_size(REGISTER_LIMIT),
        )
        .add_service(RunServiceServer::new(Runs::new(Arc::clone(&replica), stop.clone())))
        .add_service(FleetServiceServer::new(Fleet::new(Arc::clone(&replica))))
        .add_service(
            AgentServiceServer::new(Agents::new(Arc::clone(&replica), stop.clone()))
                .max_decoding_message_size(WORK_LIMIT),
        );
    let incoming = connections::incoming(listener, room);
    let serving = router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let stopping = async {
        stop.cancelled().await;
        report_health(&reporter, ServingStatus::NotServing).await;
        tokio::time::sleep(STOP_WITHIN).await;
    };
    let served = tokio::select! {
        served = serving => served.map_err(Error::from),
        Ok(error) = told_unusable => Err(error.into()),
        () = stopping => {
            tracing::warn!("calls under way were cut off");
            Ok(())
        }
    };
    ended.cancel();
    let _late = timeout(STOP_WITHIN, tasks.wait()).await;
    tracing::info!("dunlin-controller has stopped");
    served
}

fn reflection() -> Result<tonic_reflection::server::Builder<'static>, Error> {
    Ok(tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET))
}

async fn until(ended: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = ended.cancelled() => {}
    }
}

/// Begins a loop anew when it has panicked: without it this replica would look alive and do nothing.
async fn unfailing<F: Future<Output = ()>>(name: &'static str, begin: impl Fn() -> F) {
    while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
        tracing::error!(name, "a loop of this replica has panicked and begins anew");
        tokio::time::sleep(AFTER_PANIC).await;
    }
}

/// Looks at what other replicas tell of.
async fn hear(replica: Arc<Replica>, mut heard: mpsc::Receiver<Heard>) {
    while let Some(heard) = heard.recv().await {
        match heard {
            Heard::Up => replica.signals.everything(),
            Heard::Wake(wake) => replica.wake(&[wake]),
        }
    }
}

async fn follow_availability(store: Store, reporter: HealthReporter, stop: CancellationToken) {
    let mut availability = store.availability();
    loop {
        let status = match *availability.borrow_and_update() {
            Availability::Available if !stop.is_cancelled() => ServingStatus::Serving,
            Availability::Available | Availability::Away(_) => ServingStatus::NotServing,
        };
        report_health(&reporter, status).await;
        if availability.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the health of the whole server, and of each service by its name.
async fn report_health(reporter: &HealthReporter, status: ServingStatus) {
    for service in
        ["", "dunlin.v1.RegistryService", "dunlin.v1.RunService", "dunlin.v1.FleetService", "dunlin.v1.AgentService"]
    {
        reporter.set_service_status(service, status).await;
    }
}
