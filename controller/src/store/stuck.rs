//! Leases that are renewed and stand still: their agents are alive, and their tasks are not.
//!
//! They go to other agents, where there are others that can take them. Where there are none, nothing is gained by it: the holder keeps
//! them. What they have open in the target is ended by whoever takes the task, as after any lost lease.

use std::time::Duration;

use super::database::Store;
use super::error::Error;
use super::leases::lost_event;
use super::reports::finish;
use super::session::Statement;
use super::wake::Wake;

const TAKE_STUCK: Statement = Statement::new(
    "take_stuck",
    "WITH stuck AS (
         SELECT t.id, t.agent_id FROM dunlin_controller.tasks t
         WHERE t.state = 'leased' AND t.alive_at <= clock_timestamp() - make_interval(secs => $1)
           AND (t.revoked OR EXISTS (
               SELECT FROM dunlin_controller.agent_targets s JOIN dunlin_controller.agents a ON a.id = s.agent_id
               WHERE s.target = t.target AND s.agent_id <> t.agent_id AND s.reachable AND a.connected_until > now()
                 AND (t.transform IS NULL OR t.transform = ANY (a.transforms))))
         LIMIT 1000 FOR NO KEY UPDATE OF t SKIP LOCKED
     )
     UPDATE dunlin_controller.tasks t
     SET state = CASE WHEN t.revoked THEN 'cancelled' ELSE 'ready' END,
         ended_at = CASE WHEN t.revoked THEN clock_timestamp() END,
         agent_id = NULL, expires_at = NULL, run_at = clock_timestamp(), delayed = false, rests = '',
         passed_over = stuck.agent_id, passed_over_until = clock_timestamp() + make_interval(secs => $1)
     FROM stuck, dunlin_controller.runs r
     WHERE t.id = stuck.id AND r.id = t.run_id
     RETURNING t.revoked, t.id, t.epoch, t.range, t.run_id, t.target, r.migration_id, stuck.agent_id,
         (SELECT s.name FROM dunlin_controller.run_steps s WHERE s.run_id = t.run_id AND s.ordinal = t.step) AS step",
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
