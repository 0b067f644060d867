//! Old history goes, from time to time, at every replica: what one has removed the next one does not find.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::replica::Replica;
use crate::store::Availability;

/// How often it is looked for, unless little is kept.
const ROUND: Duration = Duration::from_secs(3600);

/// Removes what is older than `keep`, until the replica stops. Nothing where `keep` is zero.
pub(crate) async fn retain(replica: Arc<Replica>, keep: Duration, stop: CancellationToken) {
    if keep.is_zero() {
        return;
    }
    tokio::select! {
        () = stop.cancelled() => {}
        () = forever(&replica, keep) => {}
    }
}

async fn forever(replica: &Replica, keep: Duration) {
    let mut availability = replica.store.availability();
    let round = ROUND.min(keep);
    loop {
        // Replicas that were started together do not all look at once.
        sleep(round.mul_f64(rand::random_range(0.5..1.0))).await;
        if availability.wait_for(|now| *now == Availability::Available).await.is_err() {
            return;
        }
        match replica.store.remove_older_than(keep).await {
            Ok(removed) if removed.runs + removed.events > 0 => {
                tracing::info!(runs = removed.runs, events = removed.events, "what is older than --keep was removed");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "what is older than --keep could not be removed; it is tried again later")
            }
        }
    }
}
