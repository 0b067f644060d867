//! The one loop of a replica that watches the clock: the database's, and only for what is due.
//!
//! Now and then it looks for leases that are renewed and stand still, too. Otherwise it sleeps until the next lease expires, the next task has rested, or the next agent is to be missed, and is woken when
//! something becomes due earlier. All replicas do this; whoever comes first does the work, and the others find nothing.
//!
//! After the database, or this replica, was away, leases may have run out although their agents live: nobody could take in
//! their heartbeats. So nothing expires before all replicas and agents had the time to come back and to send one more. The
//! same holds while the database is there and cannot write, for instance since its disk is full.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::replica::Replica;
use crate::store::{self, Availability};

/// However quiet it is, everything is looked at this often.
const SWEEP: Duration = Duration::from_secs(30);
/// The shortest time between two looks.
const BREATH: Duration = Duration::from_millis(20);
/// The rest after a failure, and when what is due is in the hands of another replica.
const REST: Duration = Duration::from_millis(200);

/// The shortest and the longest time between two looks for leases that stand still.
const STUCK: (Duration, Duration) = (Duration::from_millis(500), SWEEP);

/// The longest that a replica may be behind the others in noticing that the database is there again.
const BEHIND: Duration = Duration::from_secs(2);

/// Does what is due, until the replica stops.
pub(crate) async fn keep_time(replica: Arc<Replica>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = forever(&replica) => {}
    }
}

async fn forever(replica: &Replica) {
    let mut availability = replica.store.availability();
    loop {
        if availability.wait_for(|now| *now == Availability::Available).await.is_err() {
            return;
        }
        let mut back = Instant::now();
        let mut stuck = Stuck { after: replica.stuck_after, looked: back };
        while *availability.borrow_and_update() == Availability::Available {
            if let Err(error) = look(replica, back, &mut stuck).await {
                tracing::debug!(%error, "nothing could be looked at");
                sleep(REST).await;
                back = Instant::now();
            }
        }
    }
}

/// Two heartbeats of every agent, at the replica that comes last: one can just have been missed, and one be late.
fn grace(replica: &Replica) -> Duration {
    BEHIND + replica.heartbeat_interval() * 2 + REST
}

/// The look for leases that stand still.
struct Stuck {
    after: Duration,
    looked: Instant,
}

impl Stuck {
    fn round(&self) -> Duration {
        if self.after.is_zero() { STUCK.1 } else { (self.after / 4).clamp(STUCK.0, STUCK.1) }
    }

    async fn look(&mut self, replica: &Replica) -> Result<(), store::Error> {
        if !self.after.is_zero() && self.looked.elapsed() >= self.round() {
            self.looked = Instant::now();
            replica.wake(&replica.store.take_from_stuck(self.after).await?);
        }
        Ok(())
    }
}

/// `back` is when the database was there again: leases are excused for some time after it.
async fn look(replica: &Replica, back: Instant, stuck: &mut Stuck) -> Result<(), store::Error> {
    let start = Instant::now();
    let grace = grace(replica);
    let excused = grace.saturating_sub(back.elapsed()).max(replica.heartbeats.excused(grace).unwrap_or_default());
    if excused.is_zero() {
        replica.wake(&replica.store.expire().await?);
        stuck.look(replica).await?;
    }
    replica.signals.dispatch();
    // Whatever is granted from now on lives for a whole time to live: until then only what stands now can be due.
    let longest = replica.store.lease_ttl().min(stuck.round());
    let due = replica.store.next_due().await?.unwrap_or(longest).min(longest);
    let rest = if due.is_zero() { REST } else { due };
    let rest = if excused.is_zero() { rest } else { rest.min(excused) };
    let _moved = timeout(rest, replica.signals.timer_moved()).await;
    sleep_until(start + BREATH).await;
    Ok(())
}
