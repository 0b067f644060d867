//! An agent's stream on this replica: what it holds, and the way to it.
//!
//! What must stay true: an agent is never granted more than its slots. A slot is taken from the grant on, and free again once
//! the last report about its lease is stored or the agent was told that it lost the lease.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use dunlin_proto::convert::timestamp;
use dunlin_proto::v1::work_response::Message;
use dunlin_proto::v1::{self, WorkResponse};
use dunlin_shared::ids::{AgentId, RunId, TargetName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::domain::task::Lease;
use crate::grpc::convert::lease_out;

/// Messages that may wait for an agent to read them. More than that, and it does not read.
pub(crate) const OUTGOING: usize = 4096;

/// Bytes of reports of one stream that may wait to be stored, in KiB. More is not read: the agent waits.
pub(crate) const WAITING: u32 = 8 * 1024;

/// What an agent says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) agent: AgentId,
    pub(crate) session: i64,
    pub(crate) slots: usize,
    pub(crate) transforms: Vec<String>,
}

/// The end of a stream: once it is asked for, it happens, with the first status that was given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    asked: CancellationToken,
    status: Arc<OnceLock<Status>>,
}

impl Ending {
    /// Asks for the end.
    pub(crate) fn ask(&self, status: Status) {
        let _first = self.status.set(status);
        self.asked.cancel();
    }

    /// Waits until the end is asked for.
    pub(crate) async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// The status to end with.
    pub(crate) fn status(&self) -> Option<Status> {
        self.status.get().cloned()
    }
}

/// What a lease that is held is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) run: RunId,
    pub(crate) target: TargetName,
}

#[derive(Debug, Default)]
struct State {
    /// Shared with whoever looks at it, which happens far more often than that it changes.
    reached: Arc<BTreeSet<TargetName>>,
    /// All that the agent has told of.
    served: BTreeSet<TargetName>,
    held: HashMap<Lease, Held>,
    reporting: HashSet<Lease>,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Connection {
    identity: Identity,
    outgoing: mpsc::Sender<WorkResponse>,
    ending: Ending,
    state: Mutex<State>,
    stopping: AtomicBool,
    left: AtomicBool,
    room: Arc<Semaphore>,
}

impl Connection {
    pub(crate) fn new(identity: Identity, outgoing: mpsc::Sender<WorkResponse>, ending: Ending) -> Self {
        let (stopping, left) = (AtomicBool::new(false), AtomicBool::new(false));
        let room = Arc::new(Semaphore::new(usize::try_from(WAITING).unwrap_or(usize::MAX)));
        Self { identity, outgoing, ending, state: Mutex::default(), stopping, left, room }
    }

    pub(crate) fn agent(&self) -> &AgentId {
        &self.identity.agent
    }

    pub(crate) fn session(&self) -> i64 {
        self.identity.session
    }

    pub(crate) fn transforms(&self) -> &[String] {
        &self.identity.transforms
    }

    pub(crate) fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Sends a message. An agent that does not read its messages loses its stream.
    pub(crate) fn send(&self, message: Message) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.outgoing.try_send(WorkResponse { message: Some(message) })
        {
            self.ending.ask(Status::resource_exhausted(format!(
                "agent {} does not read what it is sent: {OUTGOING} messages wait for it",
                self.identity.agent
            )));
        }
    }

    /// Waits until there is room for a report of so many bytes among those that wait to be stored. One that is larger than all
    /// of the room waits alone. It takes the room until the permit is dropped.
    pub(crate) async fn room(&self, bytes: usize) -> Option<Arc<OwnedSemaphorePermit>> {
        let size = u32::try_from(bytes / 1024 + 1).unwrap_or(WAITING).min(WAITING);
        Arc::clone(&self.room).acquire_many_owned(size).await.ok().map(Arc::new)
    }

    /// The agent stops: it is granted nothing more.
    pub(crate) fn stop_granting(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// The agent has closed its stream in order: whatever it was granted meanwhile, it has not.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
    }

    /// True once the agent has closed its stream in order.
    pub(crate) fn left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }

    /// The slots that are free.
    pub(crate) fn free(&self) -> usize {
        if self.stopping.load(Ordering::SeqCst) {
            return 0;
        }
        self.identity.slots.saturating_sub(self.state().held.len())
    }

    /// The targets that the agent reaches.
    pub(crate) fn reached(&self) -> Arc<BTreeSet<TargetName>> {
        Arc::clone(&self.state().reached)
    }

    /// Takes in whether the agent reaches a target.
    pub(crate) fn reach(&self, target: &TargetName, reached: bool) {
        let mut state = self.state();
        state.served.insert(target.clone());
        let targets = Arc::make_mut(&mut state.reached);
        if reached {
            targets.insert(target.clone());
        } else {
            targets.remove(target);
        }
    }

    /// Whether the agent has told of a target.
    pub(crate) fn serves(&self, target: &TargetName) -> bool {
        self.state().served.contains(target)
    }

    /// Asks the agent to look at a target.
    pub(crate) fn ask_to_look(&self, target: &TargetName, time: SystemTime) {
        self.send(Message::Look(v1::Look { target: target.to_string(), time: Some(timestamp(time)) }));
    }

    /// Takes a slot.
    pub(crate) fn hold(&self, lease: Lease, held: Held) {
        self.state().held.insert(lease, held);
    }

    /// Frees the slot of a lease. True when it was taken.
    pub(crate) fn free_slot(&self, lease: Lease) -> bool {
        self.state().held.remove(&lease).is_some()
    }

    /// Notes that the last report about a lease is on its way to the disk.
    pub(crate) fn report(&self, lease: Lease) {
        self.state().reporting.insert(lease);
    }

    /// Acknowledges a report, `last` of its lease or not: the agent can forget it.
    pub(crate) fn acknowledge(&self, lease: Lease, last: bool) {
        if last {
            self.state().reporting.remove(&lease);
        }
        self.send(Message::Ack(v1::Ack { lease: Some(lease_out(lease)) }));
    }

    /// True from the last report about a lease to its acknowledgement.
    pub(crate) fn reporting(&self, lease: Lease) -> bool {
        self.state().reporting.contains(&lease)
    }

    /// What a lease is about, if it is held.
    pub(crate) fn held(&self, lease: Lease) -> Option<Held> {
        self.state().held.get(&lease).cloned()
    }

    /// All leases that are held.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        self.state().held.keys().copied().collect()
    }

    /// Asks for the leases of an ended run back.
    pub(crate) fn revoke(&self, run: RunId) {
        let leases: Vec<Lease> =
            self.state().held.iter().filter(|(_, held)| held.run == run).map(|(lease, _)| *lease).collect();
        for lease in leases {
            self.revoke_lease(lease);
        }
    }

    /// Asks for a lease of an ended run back, if it is held.
    pub(crate) fn revoke_lease(&self, lease: Lease) {
        let Some(Held { run, .. }) = self.held(lease) else { return };
        let reason = format!("run {run} has ended");
        self.send(Message::Revoke(v1::Revoke { lease: Some(lease_out(lease)), reason }));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
