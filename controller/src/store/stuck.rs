//! Leases that are renewed and stand still: their agents are alive, and their tasks are not.
//!
//! They go to other agents, where there are others that can take them. Where there are none, nothing is gained by it: the holder keeps
//! them. What they have open in the target is ended by whoever takes the task, as after any lost lease.

use std::time::Duration;

use super::claims::others_can_take;
use super::database::Store;
use super::error::Error;
use super::leases::{lost_event, taken};
use super::reports::finish;
use super::session::Statement;
use super::wake::Wake;

const TAKE_STUCK: Statement = Statement::new(
    "take_stuck",
    taken!(concat!(
        "
         SELECT t.id, t.agent_id FROM dunlin_controller.tasks t
         WHERE t.state = 'leased' AND t.alive_at <= clock_timestamp() - make_interval(secs => $1)
           AND (t.revoked OR ",
        others_can_take!("t.target", "t.agent_id", "t.transform"),
        ")
         LIMIT 1000 FOR NO KEY UPDATE OF t SKIP LOCKED
     "
    )),
);

impl Store {
    /// Takes leases from agents that have given no sign of life of their tasks for so long, where others can take them.
    ///
    /// # Errors
    /// The database is not available, or refuses.
    pub async fn take_from_stuck(&self, after: Duration) -> Result<Vec<Wake>, Error> {
        let session = self.session().await?;
        session.begin().await?;
        let stuck = session.query(&TAKE_STUCK, &[&after.as_secs_f64()]).await?;
        if stuck.is_empty() {
            session.roll_back().await?;
            return Ok(Vec::new());
        }
        let why = format!(
            "has renewed its lease for {} without a sign of life of the task",
            humantime::format_duration(after)
        );
        let events = stuck.iter().map(|row| lost_event(row, &why)).collect::<Result<Vec<_>, _>>()?;
        let mut wakes = vec![Wake::Dispatch];
        finish(&session, self.replica(), events, &mut wakes).await?;
        Ok(wakes)
    }
}
