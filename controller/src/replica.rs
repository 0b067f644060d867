//! A replica: what all parts of one controller process share. It keeps nothing that another replica could not look up.

use std::sync::Arc;
use std::time::Duration;

use dunlin_shared::ids::TargetName;

use crate::advance::{Heartbeats, Lanes};
use crate::dispatch::{Connection, Hub};
use crate::signals::Signals;
use crate::store::{Store, Wake};

/// How long the database may take to end what nobody waits for any more.
const DOUBT: Duration = Duration::from_millis(200);

/// What the parts of a controller share.
pub(crate) struct Replica {
    pub(crate) store: Store,
    pub(crate) signals: Signals,
    pub(crate) hub: Hub,
    pub(crate) lanes: Lanes,
    pub(crate) heartbeats: Heartbeats,
    /// How long a lease may be renewed without a sign of life of its task; zero for ever.
    pub(crate) stuck_after: Duration,
}

impl Replica {
    pub(crate) fn new(store: Store, stuck_after: Duration) -> Self {
        Self {
            store,
            signals: Signals::default(),
            hub: Hub::default(),
            lanes: Lanes::default(),
            heartbeats: Heartbeats::default(),
            stuck_after,
        }
    }

    /// How often agents send a heartbeat: a lease lives through the loss of two.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        self.store.lease_ttl() / 3
    }

    /// Looks at everything a little later: an operation was not answered, and may have been carried out all the same.
    pub(crate) fn doubt(self: &Arc<Self>) {
        let replica = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(DOUBT).await;
            replica.signals.everything();
        });
    }

    /// Asks agents to look at a target, at a time after all that has been stored until now.
    fn ask_to_look(&self, target: &TargetName, connections: Vec<Arc<Connection>>) {
        if connections.is_empty() {
            return;
        }
        let (store, target) = (self.store.clone(), target.clone());
        tokio::spawn(async move {
            match store.now().await {
                Ok(now) => connections.iter().for_each(|connection| connection.ask_to_look(&target, now)),
                Err(error) => tracing::debug!(%error, target = target.as_str(), "nobody is asked to look"),
            }
        });
    }

    /// Looks at what has happened, here or on another replica.
    pub(crate) fn wake(&self, wakes: &[Wake]) {
        for wake in wakes {
            match wake {
                Wake::Dispatch => self.signals.dispatch(),
                Wake::Timer => self.signals.timer(),
                Wake::Events(target) => self.signals.events(target),
                Wake::Progress(target) => self.signals.progress(target),
                Wake::Revoke(run) => self.hub.revoke(*run),
                Wake::Look(target) => self.ask_to_look(target, self.hub.working_on(target)),
                Wake::LookAll(target) => self.ask_to_look(target, self.hub.serving(target)),
            }
        }
    }
}
