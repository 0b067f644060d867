//! The one loop of a replica that claims tasks for its agents.
//!
//! Being alone it can count on the free slots that it saw. A round claims for all agents at once; rounds go on while they
//! find as many tasks as they asked for.
//!
//! When the answer of a claim is lost, leases may stand in the database that no agent was told of. They are taken back as
//! soon as the database is there again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dunlin_proto::v1::work_response::Message;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::connection::Held;
use super::hub::{assign, demands, offers};
use crate::grpc::convert::grant_out;
use crate::replica::Replica;
use crate::store::{self, claims::Granted};

/// The rest after a failure.
const REST: Duration = Duration::from_millis(200);

/// Claims tasks whenever there may be some, until the replica stops.
pub(crate) async fn dispatch(replica: Arc<Replica>, stop: CancellationToken) {
    let mut suspect = false;
    loop {
        tokio::select! {
            () = replica.signals.dispatched() => {}
            () = stop.cancelled() => return,
        }
        loop {
            match round(&replica, &mut suspect).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    suspect = true;
                    tracing::debug!(%error, "no tasks could be claimed");
                    tokio::select! {
                        () = sleep(REST) => {}
                        () = stop.cancelled() => return,
                    }
                    if error.retryable() {
                        replica.signals.dispatch();
                    } else {
                        tracing::error!(%error, "tasks cannot be claimed");
                    }
                    break;
                }
            }
        }
    }
}

/// True when there may be more.
async fn round(replica: &Replica, suspect: &mut bool) -> Result<bool, store::Error> {
    if *suspect {
        for connection in replica.hub.all() {
            let wakes = replica.store.take_back(connection.agent(), connection.session(), &connection.leases()).await?;
            replica.wake(&wakes);
        }
        *suspect = false;
    }
    let mut offers = offers(replica.hub.all());
    if offers.is_empty() {
        return Ok(false);
    }
    let demands = demands(&offers);
    let round = replica.store.claim(&demands, |candidates| assign(&mut offers, candidates)).await?;
    let connections: HashMap<_, _> = offers.iter().map(|offer| (offer.connection.agent(), &offer.connection)).collect();
    for granted in &round.granted {
        if let Some(connection) = connections.get(&granted.agent) {
            let held = Held { run: granted.run, target: granted.target.clone() };
            connection.hold(granted.lease, held);
            log(granted);
            connection.send(Message::Grant(grant_out(granted)));
        }
        // Watchers of other replicas are told with the first heartbeat about the lease.
        replica.signals.progress(&granted.target);
    }
    // An agent that left before the claim was committed has not got its lease, and took its leave too early to give it back.
    for offer in offers.iter().filter(|offer| offer.connection.left()) {
        let connection = &offer.connection;
        replica.wake(&replica.store.take_back(connection.agent(), connection.session(), &[]).await?);
    }
    Ok(round.more)
}

fn log(granted: &Granted) {
    tracing::debug!(
        task = granted.lease.task.0,
        epoch = granted.lease.epoch.0,
        agent = granted.agent.as_str(),
        target = granted.target.as_str(),
        migration = granted.migration.as_str(),
        step = granted.step_name().map(|name| name.as_str()),
        kind = granted.kind.as_str(),
        "granted"
    );
}
