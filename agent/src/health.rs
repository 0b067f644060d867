//! The health of an agent, by gRPC's health protocol, for the probes of Kubernetes and the like.
//!
//! An agent serves while it has a stream to a controller and its last look has reached every target: a target that is away, or
//! refuses the agent (a wrong password, a missing privilege), makes it NOT_SERVING, and its log says why. That an agent lives is
//! seen from the port alone: a target or a controller that is away comes back without a restart.

use futures::StreamExt;
use futures::stream::select_all;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

/// Tells the health on a listener for as long as it is polled: SERVING while all of `conditions` hold.
///
/// # Errors
/// The server broke.
pub(crate) async fn serve(
    listener: TcpListener,
    conditions: Vec<watch::Receiver<bool>>,
) -> Result<(), tonic::transport::Error> {
    let (reporter, service) = tonic_health::server::health_reporter();
    let follow = async {
        let mut changes = select_all(conditions.iter().cloned().map(WatchStream::new));
        while changes.next().await.is_some() {
            let ready = conditions.iter().all(|condition| *condition.borrow());
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status("", status).await;
        }
        // The conditions live as long as the agent.
        std::future::pending().await
    };
    reporter.set_service_status("", ServingStatus::NotServing).await;
    let serving = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
    tokio::select! {
        served = serving => served,
        never = follow => never,
    }
}
