//! Heartbeats of all agents of a replica, taken in together.
//!
//! An agent alone is answered at once; thousands share one statement for their leases and one for themselves, at most ten
//! times a second. While the database is away heartbeats are dropped: agents send them again, and go on working.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_proto::v1;
use dunlin_proto::v1::work_response::Message;
use dunlin_shared::ids::AgentId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::dispatch::{Connection, replaced};
use crate::domain::report::Counted;
use crate::domain::task::Lease;
use crate::grpc::convert::lease_out;
use crate::replica::Replica;
use crate::store::{self, Availability};

/// The shortest time between two rounds.
const BREATH: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Beat {
    connection: Arc<Connection>,
    leases: Vec<(Lease, Counted)>,
}

/// Heartbeats that wait to be taken in.
#[derive(Debug, Default)]
pub(crate) struct Heartbeats {
    waiting: Mutex<Vec<Beat>>,
    some: Notify,
    /// When heartbeats could not be taken in last.
    missed: Mutex<Option<Instant>>,
}

impl Heartbeats {
    /// Takes in a heartbeat.
    pub(crate) fn beat(&self, connection: Arc<Connection>, leases: Vec<(Lease, Counted)>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Beat { connection, leases });
        self.some.notify_one();
    }

    /// How much of `grace` is left since heartbeats could not be taken in; `None` when they were all taken in.
    pub(crate) fn excused(&self, grace: Duration) -> Option<Duration> {
        let missed = *self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        missed.and_then(|missed| grace.checked_sub(missed.elapsed())).filter(|left| !left.is_zero())
    }

    /// Stores heartbeats and answers them, until the replica stops.
    pub(crate) async fn run(replica: Arc<Replica>, stop: CancellationToken) {
        let heartbeats = &replica.heartbeats;
        loop {
            tokio::select! {
                () = heartbeats.some.notified() => {}
                () = stop.cancelled() => return,
            }
            let start = Instant::now();
            let beats = std::mem::take(&mut *heartbeats.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            // A round must not outlast an absence of the database: those that come after it would wait behind it.
            let mut availability = replica.store.availability();
            let missed = tokio::select! {
                done = round(&replica, &beats) => done.err().map(|error| error.to_string()),
                _ = availability.wait_for(|now| *now != Availability::Available) => Some("the database is away".to_owned()),
            };
            if let Some(reason) = missed {
                *heartbeats.missed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                tracing::debug!(reason, agents = beats.len(), "heartbeats were not taken in");
            }
            sleep_until(start + BREATH).await;
        }
    }
}

async fn round(replica: &Replica, beats: &[Beat]) -> Result<(), store::Error> {
    let mut seen: Vec<(AgentId, i64)> =
        beats.iter().map(|beat| (beat.connection.agent().clone(), beat.connection.session())).collect();
    seen.sort();
    seen.dedup();
    let current: HashSet<String> = replica.store.see_agents(&seen).await?.into_iter().collect();
    let leases: Vec<(Lease, Counted)> = beats.iter().flat_map(|beat| beat.leases.iter().copied()).collect();
    let renewed = replica.store.renew(&leases).await?;
    for target in &renewed.moved {
        replica.signals.progress(target);
    }
    let kept: HashSet<Lease> = renewed.kept.into_iter().collect();
    let mut freed = false;
    for beat in beats {
        let connection = &beat.connection;
        if !current.contains(connection.agent().as_str()) {
            connection.ending().ask(replaced(connection.agent()));
            continue;
        }
        let (kept, lost): (Vec<Lease>, Vec<Lease>) =
            beat.leases.iter().map(|(lease, _)| *lease).partition(|lease| kept.contains(lease));
        // What has just been reported is not lost: its acknowledgement is on the way.
        let lost: Vec<Lease> = lost.into_iter().filter(|lease| !connection.reporting(*lease)).collect();
        for lease in &lost {
            freed |= connection.free_slot(*lease);
        }
        connection.send(Message::Renewed(v1::Renewed {
            kept: kept.into_iter().map(lease_out).collect(),
            lost: lost.into_iter().map(lease_out).collect(),
        }));
    }
    if freed {
        replica.signals.dispatch();
    }
    Ok(())
}
