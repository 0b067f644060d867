//! Reports on their way into the database.
//!
//! Each target has a lane. What arrives while a transaction of the lane is under way is stored together in the next one: a
//! single report waits for nothing, and a thousand share a transaction.
//!
//! What a report sets off happens once it is stored: slots are free, the next tasks are granted. Its acknowledgement waits
//! for the disk. An agent keeps a report until then, and the target knows what was done in it: if a crash of the database
//! takes the report back, with all that came of it, the agent sends it again.
//!
//! What must stay true: a report is acknowledged once it is safe from a crash, never before; reports of one agent on one
//! target are stored in their order; a report is not given up while its stream is open. When the database is away, lanes
//! wait for it.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_shared::failpoint::hit;
use dunlin_shared::ids::TargetName;
use futures::FutureExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tonic::Status;

use crate::dispatch::Connection;
use crate::domain::Verdict;
use crate::domain::report::Report;
use crate::replica::Replica;
use crate::store::Wake;
use crate::store::reports::{Filed, Stored};

/// How many reports are stored together at most.
const MOST: usize = 256;
/// The rests between tries while the database is away.
const RESTS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A report and the stream that it came by.
#[derive(Clone, Debug)]
pub(crate) struct Filing {
    pub(crate) connection: Arc<Connection>,
    pub(crate) filed: Filed,
    /// The room that it takes of what its stream may have waiting.
    #[expect(dead_code, reason = "it is held, and given back when this is dropped")]
    pub(crate) room: Option<Arc<OwnedSemaphorePermit>>,
}

type Queue = VecDeque<Filing>;

/// The lanes of a replica. A lane exists while it has something to store.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: Mutex<HashMap<Option<TargetName>, Queue>>,
}

impl Lanes {
    /// Takes in a report.
    pub(crate) fn file(&self, replica: &Arc<Replica>, filing: Filing) {
        let lane = filing.connection.held(filing.filed.lease).map(|held| held.target);
        if ends(&filing.filed.report) {
            filing.connection.report(filing.filed.lease);
        }
        let mut lanes = self.lanes();
        match lanes.get_mut(&lane) {
            Some(queue) => queue.push_back(filing),
            None => {
                lanes.insert(lane.clone(), Queue::from([filing]));
                tokio::spawn(work(Arc::clone(replica), lane));
            }
        }
    }

    /// The next reports of a lane. `None`: there are none, and the lane is gone.
    fn next(&self, lane: &Option<TargetName>) -> Option<Vec<Filing>> {
        let mut lanes = self.lanes();
        let queue = lanes.get_mut(lane)?;
        if queue.is_empty() {
            lanes.remove(lane);
            return None;
        }
        let count = queue.len().min(MOST);
        Some(queue.drain(..count).collect())
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Option<TargetName>, Queue>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn work(replica: Arc<Replica>, lane: Option<TargetName>) {
    while let Some(filings) = replica.lanes.next(&lane) {
        if let Err(filings) = try_to_store(&replica, filings).await {
            // One of them cannot be stored: find out which.
            for filing in filings {
                if let Err(filings) = try_to_store(&replica, vec![filing]).await {
                    for filing in filings {
                        filing
                            .connection
                            .ending()
                            .ask(Status::internal("a report could not be stored; the controller's log says why"));
                    }
                }
            }
        }
    }
}

/// Stores reports. One that makes this replica panic is refused as any other that cannot be stored: a lane must not end.
async fn try_to_store(replica: &Arc<Replica>, filings: Vec<Filing>) -> Result<(), Vec<Filing>> {
    let again = filings.clone();
    AssertUnwindSafe(store(replica, filings)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(reports = again.len(), "storing reports has panicked");
        Err(again)
    })
}

/// Stores reports and acknowledges them. Gives them back when the database refuses them.
async fn store(replica: &Arc<Replica>, mut filings: Vec<Filing>) -> Result<(), Vec<Filing>> {
    let mut rest = RESTS.0;
    let mut tries = 0_u32;
    loop {
        let reports: Vec<Filed> = filings.iter().map(|filing| filing.filed.clone()).collect();
        match replica.store.store_reports(&reports).await {
            Ok(stored) => {
                let (stored, wakes) = follow_up(filings, stored);
                // A wake that gets lost is made up for by the timer.
                if hit("run.advanced").await.is_ok() {
                    replica.wake(&wakes);
                }
                if tries > 0 {
                    // The first try may have been stored with its answer lost: its consequences are not known.
                    replica.signals.everything();
                }
                tokio::spawn(acknowledge(Arc::clone(replica), stored));
                return Ok(());
            }
            Err(error) if error.retryable() => {
                tries += 1;
                tracing::debug!(%error, tries, "reports wait for the database");
                sleep(rest).await;
                rest = (rest * 2).min(RESTS.1);
                filings.retain(|filing| filing.connection.ending().status().is_none());
                if filings.is_empty() {
                    return Ok(());
                }
            }
            Err(error) => {
                tracing::error!(%error, reports = filings.len(), "reports cannot be stored");
                return Err(filings);
            }
        }
    }
}

/// Frees slots. Returns the reports that are to be acknowledged, and what to look at.
fn follow_up(filings: Vec<Filing>, stored: Stored) -> (Vec<Filing>, Vec<Wake>) {
    let mut freed = false;
    let mut unacknowledged = Vec::with_capacity(filings.len());
    for (filing, verdict) in filings.into_iter().zip(stored.verdicts) {
        let Filing { connection, filed, .. } = &filing;
        if matches!(filed.report, Report::Note { .. }) {
            continue;
        }
        match verdict {
            Ok(verdict) => {
                if verdict == Verdict::Late {
                    tracing::debug!(
                        agent = connection.agent().as_str(),
                        task = filed.lease.task.0,
                        epoch = filed.lease.epoch.0,
                        "a report came too late and has no effect"
                    );
                }
                if ends(&filed.report) {
                    freed |= connection.free_slot(filed.lease);
                }
                unacknowledged.push(filing);
            }
            Err(reason) => {
                tracing::error!(agent = connection.agent().as_str(), reason, "a report contradicts what is known");
                connection.ending().ask(Status::invalid_argument(reason));
            }
        }
    }
    // Slots and tasks together: one look for both.
    let mut wakes = stored.wakes;
    if freed && !wakes.contains(&Wake::Dispatch) {
        wakes.push(Wake::Dispatch);
    }
    (unacknowledged, wakes)
}

/// Acknowledges reports that were stored, as soon as they are safe from a crash. Where that is not known their agents send
/// them again, on another stream.
async fn acknowledge(replica: Arc<Replica>, filings: Vec<Filing>) {
    if filings.is_empty() {
        return;
    }
    let flushed = replica.store.flush().await.and(hit("report.flushed").await.map_err(Into::into));
    for Filing { connection, filed, .. } in filings {
        match &flushed {
            Ok(()) => connection.acknowledge(filed.lease, ends(&filed.report)),
            Err(error) => connection.ending().ask(Status::unavailable(format!("a report may be lost: {error}"))),
        }
    }
}

/// True for the last report about a lease.
fn ends(report: &Report) -> bool {
    match report {
        Report::Note { .. } | Report::Ranges { .. } => false,
        Report::Done { .. } | Report::Failed { .. } | Report::Released { .. } | Report::Stale { .. } => true,
    }
}
