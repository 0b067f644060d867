use std::time::Duration;

use super::super::queueing::{Queued, Single};
use super::super::retention::Removed;
use super::lab::{Lab, Worker, atomic, batched, done, failed, id, main};
use crate::domain::run::State;

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn rerun(lab: &Lab, name: &str) -> i64 {
    match lab.store.queue_one(&main(), &id(name), true, false).await.unwrap() {
        Single::Queued(Queued { runs, .. }) => runs[0],
        other => panic!("not queued: {other:?}"),
    }
}

/// A run of an atomic migration from its start to its success.
async fn succeeds(lab: &Lab, agent: &Worker, name: &str) -> i64 {
    let run = rerun(lab, name).await;
    let granted = lab.claim_one(agent).await;
    lab.report(granted.lease, done(0)).await;
    assert_eq!(lab.run(run).await.state, State::Succeeded);
    run
}

/// Lets everything so far have happened two days earlier.
async fn age(lab: &Lab) {
    lab.client
        .batch_execute(
            "UPDATE dunlin_controller.events SET created_at = created_at - interval '2 days';
             UPDATE dunlin_controller.runs SET created_at = created_at - interval '2 days',
                 started_at = started_at - interval '2 days', ended_at = ended_at - interval '2 days'",
        )
        .await
        .unwrap();
}

async fn runs_left(lab: &Lab) -> Vec<i64> {
    let rows = lab.client.query("SELECT id FROM dunlin_controller.runs ORDER BY id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn number(lab: &Lab, sql: &str) -> i64 {
    lab.client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_ended_long_ago_goes_with_all_that_belongs_to_it_and_the_last_stays() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("other", 2, &[])]).await;
    let agent = lab.agent("x").await;
    let mut runs = Vec::new();
    for _run in 0..3 {
        runs.push(succeeds(&lab, &agent, "a").await);
    }
    let other = succeeds(&lab, &agent, "other").await;
    assert_eq!(lab.store.remove_older_than(DAY).await.unwrap(), Removed::default());
    age(&lab).await;
    let young = succeeds(&lab, &agent, "a").await;
    // The last but one is old, too, and there is a younger one.
    let removed = lab.store.remove_older_than(DAY).await.unwrap();
    assert_eq!(removed.runs, 3);
    assert_eq!(runs_left(&lab).await, [other, young]);
    for table in ["tasks", "run_steps"] {
        let left = format!(
            "SELECT count(*) FROM dunlin_controller.{table} WHERE run_id <> ALL (ARRAY[{other}, {young}]::bigint[])"
        );
        assert_eq!(number(&lab, &left).await, 0, "{table}");
    }
    let of_gone = format!("SELECT count(*) FROM dunlin_controller.events WHERE run_id = ANY (ARRAY{runs:?}::bigint[])");
    assert_eq!(number(&lab, &of_gone).await, 0);
    assert!(lab.events(other).await.contains(&"run_succeeded"));
    // Events of agents, targets and registrations are old, but for those that are the last of their kind.
    assert!(removed.events > 0);
    let registered = "SELECT count(*) FROM dunlin_controller.events WHERE type = 'migration_registered'";
    assert_eq!(number(&lab, registered).await, 0);
    assert_eq!(lab.store.remove_older_than(DAY).await.unwrap(), Removed::default());
}

#[tokio::test]
async fn the_last_event_of_a_migration_and_of_a_target_stays() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    lab.agent("x").await;
    age(&lab).await;
    lab.store.remove_older_than(DAY).await.unwrap();
    let left =
        "SELECT count(*) FROM dunlin_controller.events WHERE type = 'migration_registered' AND migration_id = 'a'";
    assert_eq!(number(&lab, left).await, 1);
    assert_eq!(number(&lab, "SELECT count(*) FROM dunlin_controller.events WHERE target = 'main'").await, 1);
}

#[tokio::test]
async fn a_later_run_that_never_began_takes_the_place_of_no_other() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("x").await;
    // One with epochs, which the leases of every later run must be above, and which says why it failed.
    let begun = lab.queue("b").await;
    for _lost in 0..3 {
        let granted = lab.claim_one(&agent).await;
        lab.run_out(granted.lease).await;
        lab.store.expire().await.unwrap();
    }
    let granted = lab.claim_one(&agent).await;
    let newest = granted.lease.epoch;
    lab.report(granted.lease, failed(false)).await;
    assert_eq!(lab.run(begun).await.state, State::Failed);
    let cancelled = lab.queue("b").await;
    lab.store.cancel_run(cancelled, "").await.unwrap();
    age(&lab).await;
    assert_eq!(lab.store.remove_older_than(DAY).await.unwrap().runs, 0);
    assert_eq!(runs_left(&lab).await, [begun, cancelled]);
    let next = lab.queue("b").await;
    let granted = lab.claim_one(&agent).await;
    assert!(granted.lease.epoch > newest, "{:?} after {newest:?}", granted.lease);
    assert_eq!(lab.run(next).await.state, State::Running);
    // Now the one that was cancelled is neither the last nor one that began.
    assert_eq!(lab.store.remove_older_than(DAY).await.unwrap().runs, 1);
    assert_eq!(runs_left(&lab).await, [begun, next]);
}

#[tokio::test]
async fn who_was_cancelled_behind_a_run_stays_when_that_goes() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &["a"])]).await;
    let agent = lab.agent("x").await;
    let runs = lab.queue_pending().await;
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, failed(false)).await;
    assert_eq!(lab.states(&runs).await, [State::Failed, State::Cancelled]);
    let again = succeeds(&lab, &agent, "a").await;
    age(&lab).await;
    assert_eq!(lab.store.remove_older_than(DAY).await.unwrap().runs, 1);
    assert_eq!(runs_left(&lab).await, [runs[1], again]);
}

#[tokio::test]
async fn a_run_of_which_somebody_holds_a_task_stays() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("x").await;
    let run = lab.queue("a").await;
    let held = lab.claim_one(&agent).await;
    // As it is when a run fails while another of its tasks is held.
    let fail = "UPDATE dunlin_controller.runs SET state = 'failed', failure = '{}', ended_at = now() WHERE id = $1";
    lab.client.execute(fail, &[&run]).await.unwrap();
    let again = succeeds(&lab, &agent, "a").await;
    age(&lab).await;
    assert_eq!(lab.store.remove_older_than(DAY).await.unwrap().runs, 0);
    let end = "UPDATE dunlin_controller.tasks SET state = 'failed', agent_id = NULL, expires_at = NULL, ended_at = now() WHERE id = $1";
    lab.client.execute(end, &[&held.lease.task.0]).await.unwrap();
    assert_eq!(lab.store.remove_older_than(DAY).await.unwrap().runs, 1);
    assert_eq!(runs_left(&lab).await, [again]);
}
