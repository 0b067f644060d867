//! What is told of runs while they go on, and the last words of those that have failed.

use super::super::claims::Granted;
use super::lab::{Lab, Worker, batched, counted, done, failed};
use crate::domain::Verdict;
use crate::domain::report::{Activity, Counted, Progress, Range, ReleaseReason, Report};
use crate::domain::run::State;
use crate::domain::step;
use crate::domain::task::Lease;
use crate::domain::waits::Wait;

fn range(ordinal: i32) -> Range {
    Range {
        ordinal,
        low: None,
        high: vec![ordinal.to_string()],
        rows_total: 1000,
        done: false,
        rows: 0,
        rows_walked: 0,
    }
}

fn planned(ranges: Vec<Range>) -> Report {
    Report::Ranges { ranges, key: Vec::new() }
}

fn released(reason: ReleaseReason, counted: Counted) -> Report {
    Report::Released { reason, message: "the disk is full".to_owned(), counted }
}

/// A run in its first step, with some ranges that one agent has leased; the plan is done.
async fn walking(ranges: Vec<Range>) -> (Lab, Worker, i64, Vec<Granted>) {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, planned(ranges)).await;
    lab.report(plan.lease, done(0)).await;
    let granted = lab.claim(&agent, 10).await;
    (lab, agent, run, granted)
}

fn told(lease: Lease, rows: i64) -> (Lease, Progress) {
    (lease, counted(rows).into())
}

#[tokio::test]
async fn what_agents_finish_after_the_failure_of_a_run_is_counted_once_and_under_their_own_lease_only() {
    let (lab, agent, run, granted) = walking((1..=4).map(range).collect()).await;
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|index| granted[index].lease);
    lab.store.renew(&[told(second, 100)]).await.unwrap();
    let Report::Failed { failure, .. } = failed(false) else { unreachable!() };
    lab.report(first, Report::Failed { failure, retry: None, counted: counted(30) }).await;
    let view = lab.run(run).await;
    assert_eq!((view.state, view.leases, view.steps[0].step.rows), (State::Failed, 3, 130));
    assert!(lab.claim(&agent, 10).await.is_empty());

    let renewed = lab.store.renew(&[told(second, 200), told(third, 50)]).await.unwrap();
    assert_eq!(
        (renewed.kept.len(), renewed.revoked.len()),
        (2, 2),
        "they are asked back, and held until they are given"
    );
    let rows = async || lab.run(run).await.steps[0].step.rows;
    assert_eq!(rows().await, 280);
    let verdict = async |lease, report| lab.report(lease, report).await.verdicts.remove(0).unwrap();
    let stale = Lease { epoch: dunlin_shared::ids::Epoch(second.epoch.0 - 1), ..second };
    assert_eq!(verdict(stale, released(ReleaseReason::Revoked, counted(999))).await, Verdict::Late);
    assert_eq!(verdict(second, released(ReleaseReason::Revoked, counted(240))).await, Verdict::Effective);
    assert_eq!(verdict(second, released(ReleaseReason::Revoked, counted(999))).await, Verdict::Late);
    assert_eq!(verdict(third, done(60)).await, Verdict::Effective);
    assert_eq!(verdict(fourth, failed(true)).await, Verdict::Effective);
    let view = lab.run(run).await;
    assert_eq!((view.state, view.leases, rows().await), (State::Failed, 0, 330));
    assert_eq!((view.steps[0].step.state, view.steps[0].step.ranges_done), (step::State::Failed, 1));
    assert!(lab.claim(&agent, 10).await.is_empty(), "nothing of it is ready again");
    assert_eq!(lab.events(run).await.iter().filter(|event| **event == "run_failed").count(), 1);
}

#[tokio::test]
async fn reports_that_come_with_the_failure_of_their_run_are_counted() {
    use super::super::reports::Filed;
    let (lab, agent, run, granted) = walking((1..=3).map(range).collect()).await;
    let filed = |index: usize, report| Filed { lease: granted[index].lease, report };
    let reports =
        [filed(0, failed(false)), filed(1, released(ReleaseReason::Stopping, counted(7))), filed(2, failed(false))];
    let stored = lab.store.store_reports(&reports).await.unwrap();
    assert_eq!(stored.verdicts, vec![Ok(Verdict::Effective); 3]);
    let view = lab.run(run).await;
    assert_eq!((view.state, view.leases, view.steps[0].step.rows), (State::Failed, 0, 7));
    assert!(lab.claim(&agent, 10).await.is_empty());
}

#[tokio::test]
async fn ranges_that_are_reported_with_the_failure_of_their_run_are_no_tasks() {
    use super::super::reports::Filed;
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    lab.queue("b").await;
    let plan = lab.claim_one(&agent).await.lease;
    let reports =
        [Filed { lease: plan, report: planned(vec![range(1)]) }, Filed { lease: plan, report: failed(false) }];
    lab.store.store_reports(&reports).await.unwrap();
    let ready = "SELECT count(*) FROM dunlin_controller.tasks WHERE state = 'ready'";
    assert_eq!(lab.client.query_one(ready, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_lease_of_a_failed_run_whose_holder_is_gone_is_over_once_it_expires() {
    let (lab, agent, run, granted) = walking((1..=3).map(range).collect()).await;
    lab.report(granted[0].lease, failed(false)).await;
    lab.run_out(granted[1].lease).await;
    lab.store.expire().await.unwrap();
    assert_eq!(lab.run(run).await.leases, 1);
    // An agent that comes again without the other one.
    lab.hello("a", &[]).await;
    assert_eq!(lab.run(run).await.leases, 0);
    let states = "SELECT DISTINCT state FROM dunlin_controller.tasks WHERE kind = 'range' ORDER BY 1";
    let states: Vec<String> = lab.client.query(states, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(states, ["cancelled", "failed"]);
    assert!(lab.claim(&agent, 10).await.is_empty());
}

/// Samples as if they had been taken so much earlier.
async fn passes(lab: &Lab, seconds: i32) {
    let sql = format!(
        "UPDATE dunlin_controller.run_steps
         SET sampled_at = ARRAY (SELECT t - interval '{seconds} s' FROM unnest(sampled_at) WITH ORDINALITY AS u (t, n) ORDER BY n);
         UPDATE dunlin_controller.tasks SET granted_at = granted_at - interval '{seconds} s'"
    );
    lab.client.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn the_speed_is_that_of_the_last_seconds_over_all_ranges() {
    let (lab, _agent, run, granted) = walking((1..=2).map(range).collect()).await;
    let speed = async || lab.run(run).await.steps[0].rows_per_second;
    for round in 1..=20 {
        let leases = [told(granted[0].lease, round * 10), told(granted[1].lease, round * 20)];
        lab.store.renew(&leases).await.unwrap();
        passes(&lab, 3).await;
    }
    // 30 rows in three seconds, of which the last three have none yet.
    let found = speed().await;
    assert!((6.0..=11.0).contains(&found), "{found}");
    lab.store.renew(&[told(granted[0].lease, 900)]).await.unwrap();
    let faster = speed().await;
    assert!(faster > 50.0, "{faster}");
    passes(&lab, 11).await;
    let standing = lab.run(run).await.steps.remove(0);
    assert!(standing.rows_per_second < 0.001, "{standing:?}");
    // A report counts as a heartbeat does.
    lab.report(granted[1].lease, done(1000)).await;
    assert!(speed().await > 50.0);
    let kept = lab.client.query_one("SELECT max(cardinality(sampled_at)) FROM dunlin_controller.run_steps", &[]).await;
    assert_eq!(kept.unwrap().get::<_, i32>(0), 7);
}

#[tokio::test]
async fn rows_of_earlier_attempts_are_counted_and_are_no_speed() {
    let earlier = Range { rows: 300, rows_walked: 400, ..range(1) };
    let (lab, _agent, run, granted) = walking(vec![earlier, range(2)]).await;
    let view = async || lab.run(run).await.steps.remove(0);
    let step = view().await.step;
    assert_eq!((step.rows, step.rows_walked, step.rows_walked_before), (300, 400, 400));
    // More than the plan has seen was there by the time that the range was taken.
    let resumed = Counted { rows: 400, rows_walked: 500, rows_walked_before: 500 };
    lab.store.renew(&[(granted[0].lease, resumed.into())]).await.unwrap();
    let step = view().await;
    assert_eq!((step.step.rows_walked, step.step.rows_walked_before), (500, 500));
    assert!(step.rows_per_second < 0.001, "{step:?}");
    let resumed = Counted { rows: 450, rows_walked: 560, rows_walked_before: 500 };
    lab.store.renew(&[(granted[0].lease, resumed.into())]).await.unwrap();
    let step = view().await;
    assert_eq!((step.step.rows, step.step.rows_walked, step.step.rows_walked_before), (450, 560, 500));
    assert!(step.rows_per_second > 0.0);
    // And by a report.
    let done = Report::Done {
        counted: Counted { rows: 1000, rows_walked: 1000, rows_walked_before: 990 },
        already_done: false,
        applied: None,
    };
    lab.report(granted[1].lease, done).await;
    let step = view().await.step;
    assert_eq!((step.rows, step.rows_walked, step.rows_walked_before), (1450, 1560, 1490));
}

#[tokio::test]
async fn a_run_is_worked_on_only_while_a_task_of_it_is_leased_and_says_otherwise_what_it_waits_for() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("b").await;
    let view = async || lab.run(run).await;
    let begun = view().await;
    assert_eq!(
        (begun.leases, begun.steps[0].leases, begun.waits),
        (0, 0, vec![]),
        "it is given to an agent in a moment"
    );
    let later = "UPDATE dunlin_controller.tasks SET run_at = run_at - interval '5 s' WHERE state = 'ready'";
    lab.client.batch_execute(later).await.unwrap();
    assert_eq!(view().await.waits, [Wait::Slot]);

    let plan = lab.claim_one(&agent).await;
    let leased = view().await;
    assert_eq!((leased.leases, leased.steps[0].leases, leased.waits), (1, 1, vec![]));
    lab.report(plan.lease, failed(true)).await;
    let rests = "UPDATE dunlin_controller.tasks SET run_at = now() + interval '1 h' WHERE state = 'ready'";
    lab.client.batch_execute(rests).await.unwrap();
    let resting = view().await;
    assert_eq!((resting.state, resting.leases, resting.steps[0].leases), (State::Running, 0, 0));
    let [Wait::Retry { why, .. }] = &resting.waits[..] else { panic!("{:?}", resting.waits) };
    assert!(why.starts_with("waits 0.") && why.ends_with(" s before it is tried again: boom"), "{why}");

    lab.client.batch_execute("UPDATE dunlin_controller.tasks SET run_at = now()").await.unwrap();
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, released(ReleaseReason::TargetShort, counted(0))).await;
    lab.client.batch_execute(rests).await.unwrap();
    let [Wait::Retry { why, .. }] = &view().await.waits[..] else { panic!("{:?}", view().await.waits) };
    assert!(why.contains("tried again: the disk is full"), "{why}");
    lab.store.leave(&agent.id, agent.session, "it was stopped").await.unwrap();
    assert!(matches!(view().await.waits[..], [Wait::Agent { .. }]));
}

#[tokio::test]
async fn a_run_all_of_whose_leases_wait_says_for_what_and_has_no_speed() {
    let (lab, _agent, run, granted) = walking((1..=2).map(range).collect()).await;
    let waiting = |rows, waits: &str| Progress { waits: waits.to_owned(), ..counted(rows).into() };
    let tell = async |first: Progress, second: Progress| {
        let leases = [(granted[0].lease, first), (granted[1].lease, second)];
        lab.store.renew(&leases).await.unwrap().moved.len()
    };
    assert_eq!(tell(waiting(5, ""), waiting(5, "")).await, 1);
    assert_eq!(tell(waiting(5, ""), waiting(5, "")).await, 0, "nothing new");
    assert_eq!(tell(waiting(5, ""), waiting(5, "for a row of t")).await, 1);
    assert_eq!(lab.run(run).await.waits, [], "the other one works");
    assert!(lab.run(run).await.steps[0].rows_per_second > 0.0);
    tell(waiting(5, "for a row of t"), waiting(5, "for a row of t")).await;
    let view = lab.run(run).await;
    assert_eq!(view.waits, [Wait::Lock("for a row of t".to_owned())]);
    assert!(view.steps[0].rows_per_second < 0.001 && view.leases == 2);
    tell(waiting(6, ""), waiting(5, "for a row of t")).await;
    assert_eq!(lab.run(run).await.waits, []);
}

#[tokio::test]
async fn what_postgresql_says_of_its_progress_is_told_as_long_as_the_lease_is_held() {
    let (lab, _agent, run, granted) = walking(vec![range(1)]).await;
    let activity = Activity { phase: "sorting".to_owned(), done: 3, total: 7, unit: "blocks".to_owned() };
    let progress = Progress { activity: Some(activity.clone()), ..Progress::default() };
    lab.store.renew(&[(granted[0].lease, progress)]).await.unwrap();
    assert_eq!(lab.run(run).await.activity, Some(activity));
    lab.report(granted[0].lease, failed(true)).await;
    assert_eq!(lab.run(run).await.activity, None);
}
