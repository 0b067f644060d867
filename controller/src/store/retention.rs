//! What is older than the operator keeps goes: ended runs with their tasks, steps and events, and events of no run.
//!
//! It goes in small batches, each in a transaction of its own, so that it holds up nothing. What breaks off in the middle leaves a run
//! without some of its tasks or events, which goes with the next round.
//!
//! What must stay true: of each migration on each target, these runs stay whatever their age is: the last one, the last one that began,
//! the last one that succeeded, and one with the newest epoch, which the leases of the next run must be above. So does a run that
//! another one waits for, or of which somebody still holds a task. The last event of each migration and of each target stays, unless the
//! target is forgotten.

use std::time::Duration;

use super::database::Store;
use super::error::Error;
use super::session::{Session, Statement};

/// How many rows a batch removes.
const BATCH: u32 = 1000;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Ended runs.
    pub runs: u64,
    /// Events of no run.
    pub events: u64,
}

/// Whatever allows a run to go stays true until it is gone: later runs are only added, and of those that go a later one stays.
const EXPENDABLE: Statement = Statement::new(
    "expendable_runs",
    "SELECT r.id FROM dunlin_controller.runs r
     WHERE r.id > $1 AND r.ended_at < clock_timestamp() - make_interval(secs => $2)
       AND EXISTS (SELECT FROM dunlin_controller.runs l
                   WHERE l.migration_id = r.migration_id AND l.target = r.target AND l.id > r.id)
       AND (r.started_at IS NULL
            OR EXISTS (SELECT FROM dunlin_controller.runs l
                       WHERE l.migration_id = r.migration_id AND l.target = r.target AND l.id > r.id
                         AND l.started_at IS NOT NULL))
       AND (r.state <> 'succeeded'
            OR EXISTS (SELECT FROM dunlin_controller.runs l
                       WHERE l.migration_id = r.migration_id AND l.target = r.target AND l.id > r.id
                         AND l.state = 'succeeded'))
       AND (r.newest_epoch IS NULL
            OR EXISTS (SELECT FROM dunlin_controller.runs l
                       WHERE l.migration_id = r.migration_id AND l.target = r.target AND l.id > r.id
                         AND l.newest_epoch >= r.newest_epoch))
       AND NOT EXISTS (SELECT FROM dunlin_controller.runs b WHERE b.after_run_id = r.id AND b.ended_at IS NULL)
       AND NOT EXISTS (SELECT FROM dunlin_controller.tasks t WHERE t.run_id = r.id AND t.state = 'leased')
     ORDER BY r.id LIMIT $3",
);

const REMOVE_TASKS: Statement = Statement::new(
    "remove_tasks",
    "DELETE FROM dunlin_controller.tasks WHERE id = ANY (ARRAY (
         SELECT id FROM dunlin_controller.tasks WHERE run_id = $1 LIMIT $2))",
);

const REMOVE_EVENTS_OF_RUN: Statement = Statement::new(
    "remove_events_of_run",
    "DELETE FROM dunlin_controller.events WHERE id = ANY (ARRAY (
         SELECT id FROM dunlin_controller.events e
         WHERE e.run_id = $1
           AND (e.migration_id IS NULL
                OR EXISTS (SELECT FROM dunlin_controller.events l WHERE l.migration_id = e.migration_id AND l.id > e.id))
           AND (e.target IS NULL
                OR EXISTS (SELECT FROM dunlin_controller.events l WHERE l.target = e.target AND l.sequence > e.sequence))
         LIMIT $2))",
);

/// Runs that were cancelled behind it no longer name it.
const UNTIE: Statement = Statement::new(
    "untie",
    "UPDATE dunlin_controller.runs SET after_run_id = NULL WHERE after_run_id = $1 AND state = 'cancelled'",
);

const REMOVE_STEPS: Statement =
    Statement::new("remove_steps", "DELETE FROM dunlin_controller.run_steps WHERE run_id = $1");

const REMOVE_RUN: Statement =
    Statement::new("remove_run", "DELETE FROM dunlin_controller.runs WHERE id = $1 AND ended_at IS NOT NULL");

/// A page of events, and those of it that go: of no run, or of one that has gone. `last` is the end of the page; NULL when nothing behind it is old enough.
const REMOVE_EVENTS: Statement = Statement::new(
    "remove_events",
    "WITH page AS (
         SELECT e.id, e.target, e.sequence, e.migration_id, e.run_id,
                e.created_at < clock_timestamp() - make_interval(secs => $2) AS old
         FROM dunlin_controller.events e WHERE e.id > $1 ORDER BY e.id LIMIT $3
     ), gone AS (
         DELETE FROM dunlin_controller.events e
         WHERE e.id = ANY (ARRAY (
             SELECT p.id FROM page p
             WHERE p.old
               AND (p.run_id IS NULL OR NOT EXISTS (SELECT FROM dunlin_controller.runs r WHERE r.id = p.run_id))
               AND (p.migration_id IS NULL
                    OR EXISTS (SELECT FROM dunlin_controller.events l
                               WHERE l.migration_id = p.migration_id AND l.id > p.id))
               AND (p.target IS NULL
                    OR NOT EXISTS (SELECT FROM dunlin_controller.targets t WHERE t.name = p.target)
                    OR EXISTS (SELECT FROM dunlin_controller.events l
                               WHERE l.target = p.target AND l.sequence > p.sequence))))
         RETURNING e.id
     )
     SELECT (SELECT CASE WHEN bool_and(old) THEN max(id) END FROM page) AS last, (SELECT count(*) FROM gone) AS removed",
);

impl Store {
    /// Removes what ended, or happened, longer ago than `keep`.
    ///
    /// # Errors
    /// The database is not available. What was removed by then is gone.
    pub async fn remove_older_than(&self, keep: Duration) -> Result<Removed, Error> {
        let seconds = keep.as_secs_f64();
        let mut removed = Removed::default();
        let mut after = 0_i64;
        loop {
            let rows = self.session().await?.query(&EXPENDABLE, &[&after, &seconds, &i64::from(BATCH)]).await?;
            let runs: Vec<i64> = rows.iter().map(|row| row.get("id")).collect();
            let Some(last) = runs.last() else { break };
            after = *last;
            for run in runs {
                removed.runs += self.repeat(|| self.remove_run(run)).await?;
            }
        }
        let mut after = Some(0_i64);
        while let Some(behind) = after {
            let page = self.session().await?.query_one(&REMOVE_EVENTS, &[&behind, &seconds, &i64::from(BATCH)]).await?;
            after = page.get("last");
            removed.events += u64::try_from(page.get::<_, i64>("removed")).unwrap_or(0);
        }
        Ok(removed)
    }

    async fn remove_run(&self, run: i64) -> Result<u64, Error> {
        let session = self.session().await?;
        in_batches(&session, &REMOVE_TASKS, run).await?;
        in_batches(&session, &REMOVE_EVENTS_OF_RUN, run).await?;
        session.begin().await?;
        session.execute(&UNTIE, &[&run]).await?;
        session.execute(&REMOVE_STEPS, &[&run]).await?;
        let removed = session.execute(&REMOVE_RUN, &[&run]).await?;
        session.commit().await?;
        session.settle();
        Ok(removed)
    }
}

async fn in_batches(session: &Session, statement: &Statement, run: i64) -> Result<(), Error> {
    while session.execute(statement, &[&run, &i64::from(BATCH)]).await? >= u64::from(BATCH) {}
    Ok(())
}
