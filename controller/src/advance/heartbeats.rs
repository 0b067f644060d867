//! Heartbeats of all agents of a replica, taken in together.
//!
//! An agent alone is answered at once; thousands share one statement for their leases and one for themselves, at most ten
//! times a second. While the database is away heartbeats are dropped: agents send them again, and go on working. Of a stream one
//! heartbeat waits, whatever number it sends; and what the database refuses is tried stream by stream, so that figures which
//! cannot be stored cost no other agent its leases.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_proto::v1;
use dunlin_proto::v1::work_response::Message;
use dunlin_shared::ids::AgentId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::dispatch::{Connection, replaced};
use crate::domain::report::Progress;
use crate::domain::task::Lease;
use crate::grpc::convert::lease_out;
use crate::replica::Replica;
use crate::store::{self, Availability};

/// The shortest time between two rounds.
const BREATH: Duration = Duration::from_millis(100);

/// The most leases that wait of one stream. What is named beyond that takes the place of what was named before.
const LEASES: usize = 10_000;

#[derive(Debug)]
struct Beat {
    connection: Arc<Connection>,
    leases: BTreeMap<Lease, Progress>,
}

impl Beat {
    /// What the agent names and holds: nobody renews what is another's.
    fn held(&self) -> impl Iterator<Item = (Lease, Progress)> {
        let leases = self.leases.iter().map(|(lease, progress)| (*lease, progress.clone()));
        leases.filter(|(lease, _)| self.connection.held(*lease).is_some())
    }

    fn take_in(&mut self, leases: Vec<(Lease, Progress)>) {
        if self.leases.len() + leases.len() > LEASES {
            self.leases.clear();
        }
        for (lease, progress) in leases {
            self.leases.entry(lease).or_default().follow(progress);
        }
    }
}

/// Heartbeats that wait to be taken in.
#[derive(Debug, Default)]
pub(crate) struct Heartbeats {
    waiting: Mutex<HashMap<(AgentId, i64), Beat>>,
    some: Notify,
    /// When heartbeats could not be taken in last.
    missed: Mutex<Option<Instant>>,
}

impl Heartbeats {
    /// Takes in a heartbeat.
    pub(crate) fn beat(&self, connection: Arc<Connection>, leases: Vec<(Lease, Progress)>) {
        let stream = (connection.agent().clone(), connection.session());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let beat = waiting.entry(stream).or_insert_with(|| Beat { connection, leases: BTreeMap::new() });
        beat.take_in(leases);
        drop(waiting);
        self.some.notify_one();
    }

    /// Takes in that an agent lives whose leases could not be renewed.
    pub(crate) fn miss(&self) {
        *self.missed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
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
            let beats: Vec<Beat> = beats.into_values().collect();
            // A round must not outlast an absence of the database: those that come after it would wait behind it.
            let mut availability = replica.store.availability();
            let missed = tokio::select! {
                missed = take_in(&replica, &beats) => missed,
                _ = availability.wait_for(|now| *now != Availability::Available) => Some("the database is away".to_owned()),
            };
            if let Some(reason) = missed {
                heartbeats.miss();
                tracing::debug!(reason, agents = beats.len(), "heartbeats were not taken in");
            }
            sleep_until(start + BREATH).await;
        }
    }
}

/// Takes in heartbeats together, or where one of them cannot be, one by one. Returns why the database did not take them.
async fn take_in(replica: &Replica, beats: &[Beat]) -> Option<String> {
    match round(replica, beats).await {
        Ok(()) => None,
        Err(error) if error.retryable() => Some(error.to_string()),
        Err(error) => {
            tracing::error!(%error, agents = beats.len(), "heartbeats cannot be taken in together");
            one_by_one(replica, beats).await;
            None
        }
    }
}

/// Takes in what can be taken in. Streams with what cannot end.
async fn one_by_one(replica: &Replica, beats: &[Beat]) {
    for beat in beats {
        if let Err(error) = round(replica, std::slice::from_ref(beat)).await
            && !error.retryable()
        {
            let agent = beat.connection.agent().as_str();
            tracing::error!(%error, agent, "a heartbeat cannot be taken in");
            let refusal = "a heartbeat could not be stored; the controller's log says why";
            beat.connection.ending().ask(tonic::Status::internal(refusal));
        }
    }
}

async fn round(replica: &Replica, beats: &[Beat]) -> Result<(), store::Error> {
    let mut seen: Vec<(AgentId, i64)> =
        beats.iter().map(|beat| (beat.connection.agent().clone(), beat.connection.session())).collect();
    seen.sort();
    seen.dedup();
    let current: HashSet<String> = replica.store.see_agents(&seen).await?.into_iter().collect();
    let leases: Vec<(Lease, Progress)> = beats.iter().flat_map(Beat::held).collect();
    let renewed = replica.store.renew(&leases).await?;
    for target in &renewed.moved {
        replica.signals.progress(target);
    }
    let kept: HashSet<Lease> = renewed.kept.into_iter().collect();
    let revoked: HashSet<Lease> = renewed.revoked.into_iter().collect();
    let mut freed = false;
    for beat in beats {
        let connection = &beat.connection;
        if !current.contains(connection.agent().as_str()) {
            connection.ending().ask(replaced(connection.agent()));
            continue;
        }
        let (kept, lost): (Vec<Lease>, Vec<Lease>) =
            beat.leases.keys().copied().partition(|lease| kept.contains(lease) && connection.held(*lease).is_some());
        // What has just been reported is not lost: its acknowledgement is on the way.
        let lost: Vec<Lease> = lost.into_iter().filter(|lease| !connection.reporting(*lease)).collect();
        for lease in beat.leases.keys().filter(|lease| revoked.contains(lease)) {
            connection.revoke_lease(*lease);
        }
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
