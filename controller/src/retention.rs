//! Old history goes, and agents that are gone for good, from time to time, at every replica: what one has removed the next one does not
//! find.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::replica::Replica;
use crate::store::Availability;

/// How often it is looked for, unless little is kept.
const ROUND: Duration = Duration::from_secs(3600);

/// How long an agent is remembered that is gone.
const GONE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Removes what is older than `keep`, and agents that are gone, until the replica stops. All history stays where `keep` is zero.
pub(crate) async fn retain(replica: Arc<Replica>, keep: Duration, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = forever(&replica, keep) => {}
    }
}

async fn forever(replica: &Replica, keep: Duration) {
    let mut availability = replica.store.availability();
    let round = if keep.is_zero() { ROUND } else { ROUND.min(keep) };
    loop {
        // Replicas that were started together do not all look at once.
        sleep(round.mul_f64(rand::random_range(0.5..1.0))).await;
        if availability.wait_for(|now| *now == Availability::Available).await.is_err() {
            return;
        }
        tidy(replica, keep).await;
    }
}

/// One round.
async fn tidy(replica: &Replica, keep: Duration) {
    match replica.store.forget_agents_gone_for(GONE).await {
        Ok(0) => {}
        Ok(agents) => tracing::info!(agents, "agents that were gone for 7 days are forgotten"),
        Err(error) => tracing::warn!(%error, "agents that are gone could not be forgotten; it is tried again later"),
    }
    if keep.is_zero() {
        return;
    }
    match replica.store.remove_older_than(keep).await {
        Ok(removed) if removed.runs + removed.events > 0 => {
            tracing::info!(runs = removed.runs, events = removed.events, "what is older than --keep was removed");
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%error, "what is older than --keep could not be removed; it is tried again later");
        }
    }
}

#[cfg(test)]
mod tests {
    use dunlin_shared::postgres::{connect, throwaway};

    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn agents_that_are_gone_go_also_where_all_history_is_kept() {
        let url = throwaway::shared().await.database("retention").await.unwrap();
        let store = Store::new(&url, 2, Duration::from_secs(30)).unwrap();
        store.open().await.unwrap();
        let (client, _connection) = connect(&url, "test").await.unwrap();
        client
            .batch_execute(
                "INSERT INTO dunlin_controller.agents (id, version, slots, transforms, session, last_seen_at)
                 VALUES ('gone', '1', 1, '{}', 1, now() - interval '8 days');
                 INSERT INTO dunlin_controller.events (created_at, type, severity, step, message, details)
                 VALUES (now() - interval '3 years', 'agent_connected', 'info', '', 'm', '{}')",
            )
            .await
            .unwrap();
        let replica = Replica::new(store, Duration::ZERO);
        let left = async |table: &str| -> i64 {
            let sql = format!("SELECT count(*) FROM dunlin_controller.{table}");
            client.query_one(&sql, &[]).await.unwrap().get(0)
        };
        tidy(&replica, Duration::ZERO).await;
        assert_eq!((left("agents").await, left("events").await), (0, 2), "one event more: that it is forgotten");
        tidy(&replica, Duration::from_secs(24 * 3600)).await;
        assert_eq!(left("events").await, 1);
    }
}
