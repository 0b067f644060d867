use std::time::Duration;

use futures::future::join_all;

use super::super::reports::Filed;
use super::lab::{Lab, atomic, batched, counted, done, failed, main};
use crate::domain::Verdict;
use crate::domain::ending::Ending;
use crate::domain::report::{Range, Report, Retry};
use crate::domain::run::State;
use crate::domain::step;

fn range(ordinal: i32, done: bool) -> Range {
    let (rows, rows_walked) = if done { (4, 10) } else { (0, 0) };
    Range { ordinal, low: None, high: vec![ordinal.to_string()], rows_total: 10, done, rows, rows_walked }
}

fn ranges(numbers: &[i32]) -> Report {
    Report::Ranges { ranges: numbers.iter().map(|number| range(*number, false)).collect(), key: Vec::new() }
}

#[tokio::test]
async fn a_batched_step_ends_with_its_plan_and_all_its_ranges() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, ranges(&[1, 2])).await;
    lab.report(plan.lease, ranges(&[1, 2, 3])).await;
    let granted = lab.claim(&agent, 10).await;
    assert_eq!(granted.len(), 3, "what is told twice is taken in once");
    for one in &granted {
        lab.report(one.lease, done(10)).await;
    }
    let step = lab.run(run).await.steps[0].step.clone();
    assert_eq!((step.ranges_done, step.ranges_total, step.rows, step.state), (3, 3, 30, step::State::Running));

    lab.report(plan.lease, done(0)).await;
    let seal = lab.claim_one(&agent).await;
    assert_eq!(lab.run(run).await.steps[0].step.state, step::State::Succeeded);
    lab.report(seal.lease, done(0)).await;
    let view = lab.run(run).await;
    assert_eq!(view.state, State::Succeeded);
    assert_eq!(view.result.unwrap()["rows"], 30);
    assert_eq!(lab.applied().await[0].applications, 1);
    let expected = ["run_queued", "run_started", "step_started", "step_succeeded", "run_succeeded"];
    assert_eq!(lab.events(run).await, expected);
}

#[tokio::test]
async fn a_report_that_contradicts_what_is_known_is_refused_alone() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    let filed = |report| Filed { lease: plan.lease, report };
    let stored = lab.store.store_reports(&[filed(ranges(&[1])), filed(ranges(&[3])), filed(ranges(&[2]))]).await;
    let verdicts = stored.unwrap().verdicts;
    assert_eq!(verdicts[0], Ok(Verdict::Effective));
    assert!(verdicts[1].as_ref().unwrap_err().contains("range 2 was expected, 3 was reported"));
    assert_eq!(verdicts[2], Ok(Verdict::Effective));
    assert_eq!(lab.run(run).await.steps[0].step.ranges_total, 2);
}

#[tokio::test]
async fn a_report_that_reaches_all_replicas_at_once_is_taken_in_once_and_starts_the_next_run_once() {
    let lab = Lab::new().await;
    let files: Vec<_> = (1..=10).map(|version| atomic(&format!("m{version}"), version, &[])).collect();
    lab.register(&files).await;
    let agent = lab.agent("a").await;
    let runs = lab.queue_pending().await;
    let replicas = [lab.replica().await, lab.replica().await, lab.store.clone()];
    for run in &runs {
        let granted = lab.claim_one(&agent).await;
        assert_eq!(granted.run.0, *run, "one at a time, in order");
        let filed = [Filed { lease: granted.lease, report: done(1) }];
        let stored = join_all(replicas.iter().map(|store| store.store_reports(&filed))).await;
        let verdicts: Vec<_> = stored.into_iter().flat_map(|stored| stored.unwrap().verdicts).collect();
        let effective = verdicts.iter().filter(|verdict| **verdict == Ok(Verdict::Effective)).count();
        let late = verdicts.iter().filter(|verdict| **verdict == Ok(Verdict::Late)).count();
        assert_eq!((effective, late), (1, 2), "{verdicts:?}");
        assert_eq!(lab.events(*run).await, ["run_queued", "run_started", "run_succeeded"]);
    }
    let tasks = lab.client.query_one("SELECT count(*) FROM dunlin_controller.tasks", &[]).await.unwrap();
    assert_eq!(tasks.get::<_, i64>(0), 10);
}

#[tokio::test]
async fn ranges_that_an_earlier_run_has_finished_are_counted_and_not_repeated() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    let report = Report::Ranges { ranges: vec![range(1, true), range(2, false)], key: Vec::new() };
    lab.report(plan.lease, report).await;
    lab.report(plan.lease, done(0)).await;
    let open = lab.claim_one(&agent).await;
    assert_eq!(open.range.unwrap().ordinal, 2);
    let view = lab.run(run).await.steps.remove(0).step;
    assert_eq!((view.rows, view.rows_walked, view.rows_total, view.ranges_done), (4, 10, 20, 1));
}

#[tokio::test]
async fn progress_is_counted_once_however_often_it_is_told() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, ranges(&[1])).await;
    let lease = lab.claim_one(&agent).await.lease;
    let told = |rows| (lease, counted(rows).into());
    for rows in [3, 7, 5] {
        let renewed = lab.store.renew(&[told(rows), told(rows)]).await.unwrap();
        assert_eq!(renewed.kept, [lease]);
    }
    let rows = async || lab.run(run).await.steps[0].step.rows;
    assert_eq!(rows().await, 7);
    lab.report(lease, done(10)).await;
    assert_eq!(rows().await, 10);
}

#[tokio::test]
async fn a_failure_cancels_what_waited_for_it_and_says_for_whom() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &[]), atomic("c", 3, &["a"])]).await;
    let agent = lab.agent("a").await;
    let runs = lab.queue_pending().await;
    let first = lab.claim_one(&agent).await;
    lab.report(first.lease, failed(false)).await;
    assert_eq!(lab.states(&runs).await, [State::Failed, State::Cancelled, State::Cancelled]);
    let events = lab.store.events_between(&main(), 0, i64::MAX, Some(&[runs[2]]), 10).await.unwrap();
    let last = events.last().unwrap();
    assert!(last.message.contains("it waited for run"), "{}", last.message);
    assert!(lab.claim(&agent, 10).await.is_empty());

    // Mended and run again.
    let mut mended = atomic("a", 1, &[]);
    mended.content = mended.content.replace("bigint", "int");
    lab.register(&[mended]).await;
    let again = lab.queue_pending().await;
    for _migration in 0..3 {
        let granted = lab.claim_one(&agent).await;
        lab.report(granted.lease, done(0)).await;
    }
    assert_eq!(lab.states(&again).await, [State::Succeeded; 3]);
}

#[tokio::test]
async fn an_error_that_passes_is_tried_again_and_not_for_ever() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("a").await;
    for _try in 0..20 {
        lab.client.batch_execute(NOW).await.unwrap();
        let granted = lab.claim_one(&agent).await;
        lab.report(granted.lease, failed(true)).await;
    }
    assert_eq!(lab.run(run).await.state, State::Running, "however often");
    lab.client.batch_execute(NOW).await.unwrap();
    lab.client.batch_execute(&passed("29 min")).await.unwrap();
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, failed(true)).await;
    assert_eq!(lab.run(run).await.state, State::Running);
    lab.client.batch_execute(NOW).await.unwrap();
    lab.client.batch_execute(&passed("1 min")).await.unwrap();
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, failed(true)).await;
    let view = lab.run(run).await;
    assert_eq!(view.state, State::Failed);
    let message = view.failure.unwrap().message;
    assert!(message.contains("tried 22 times in 30 min, without progress"), "{message}");
    assert_eq!(lab.events(run).await.iter().filter(|event| **event == "task_retried").count(), 21);
}

/// What rests is ready now.
const NOW: &str = "UPDATE dunlin_controller.tasks SET run_at = now()";

/// Time passes for tasks that meet errors which can pass.
fn passed(time: &str) -> String {
    format!("UPDATE dunlin_controller.tasks SET passing_since = passing_since - interval '{time}'")
}

#[tokio::test]
async fn progress_starts_the_time_anew_in_which_errors_may_pass() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, ranges(&[1])).await;
    lab.report(plan.lease, done(0)).await;
    let first = lab.claim_one(&agent).await.lease;
    lab.report(first, failed(true)).await;
    let later = async || {
        lab.client.batch_execute(NOW).await.unwrap();
        lab.client.batch_execute(&passed("31 min")).await.unwrap();
        lab.claim_one(&agent).await.lease
    };
    // Told by a heartbeat.
    let lease = later().await;
    lab.store.renew(&[(lease, counted(3).into())]).await.unwrap();
    lab.report(lease, failed(true)).await;
    assert_eq!(lab.run(run).await.state, State::Running);
    // Told with the error.
    let Report::Failed { failure, retry, .. } = failed(true) else { unreachable!() };
    let report = Report::Failed { failure, retry, counted: counted(7) };
    lab.report(later().await, report).await;
    assert_eq!(lab.run(run).await.state, State::Running);
    assert_eq!(lab.run(run).await.steps[0].step.rows_walked, 7);
    lab.report(later().await, failed(true)).await;
    assert_eq!(lab.run(run).await.state, State::Failed, "and it runs out where there is none");
}

/// A report of a connection that came to such an end.
fn ended(ending: Ending, rows_walked: i64) -> Report {
    let Report::Failed { failure, retry, .. } = failed(true) else { unreachable!() };
    let retry = retry.map(|retry| Retry { ending: Some(ending), ..retry });
    Report::Failed { failure, retry, counted: counted(rows_walked) }
}

#[tokio::test]
async fn a_task_that_crashes_the_server_for_the_third_time_ends_its_run_whichever_agents_had_it() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agents = [lab.agent("a").await, lab.agent("b").await, lab.agent("c").await];
    let run = lab.queue("a").await;
    for (time, agent) in agents.iter().enumerate() {
        assert_eq!(lab.run(run).await.state, State::Running, "{time}");
        lab.client.batch_execute(NOW).await.unwrap();
        // Another error that passes between is no progress.
        let granted = lab.claim_one(agent).await;
        lab.report(granted.lease, failed(true)).await;
        lab.client.batch_execute(NOW).await.unwrap();
        let granted = lab.claim_one(agent).await;
        lab.report(granted.lease, ended(Ending::ServerCrashed, 0)).await;
    }
    let view = lab.run(run).await;
    assert_eq!(view.state, State::Failed);
    let message = view.failure.unwrap().message;
    assert!(message.ends_with("(3 times, without progress between)"), "{message}");
    assert_eq!(lab.events(run).await.iter().filter(|event| **event == "task_retried").count(), 5);
}

#[tokio::test]
async fn the_fifth_transaction_that_stood_still_ends_the_run_and_progress_starts_the_count_anew() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, ranges(&[1])).await;
    lab.report(plan.lease, done(0)).await;
    for (time, walked) in [0, 0, 0, 0, 5, 5, 5, 5].into_iter().enumerate() {
        lab.client.batch_execute(NOW).await.unwrap();
        let granted = lab.claim_one(&agent).await;
        lab.report(granted.lease, ended(Ending::StoodStill, walked)).await;
        assert_eq!(lab.run(run).await.state, State::Running, "{time}");
    }
    // Crashes are counted apart, and progress that a heartbeat has told is progress, too.
    for walked in [5, 5, 6, 6] {
        lab.client.batch_execute(NOW).await.unwrap();
        let granted = lab.claim_one(&agent).await;
        lab.store.renew(&[(granted.lease, counted(walked).into())]).await.unwrap();
        lab.report(granted.lease, ended(Ending::ServerCrashed, 0)).await;
        assert_eq!(lab.run(run).await.state, State::Running, "{walked}");
    }
    for _time in 0..5 {
        assert_eq!(lab.run(run).await.state, State::Running);
        lab.client.batch_execute(NOW).await.unwrap();
        let granted = lab.claim_one(&agent).await;
        lab.report(granted.lease, ended(Ending::StoodStill, 6)).await;
    }
    assert_eq!(lab.run(run).await.state, State::Failed);
}

#[tokio::test]
async fn an_error_that_passes_waits_for_no_other_task_of_the_run() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    lab.queue("b").await;
    let plan = lab.claim_one(&agent).await;
    lab.report(plan.lease, ranges(&[1, 2, 3])).await;
    let range = lab.claim(&agent, 1).await.remove(0);
    // Whoever claims holds the others for a moment.
    let lock = "BEGIN; SELECT FROM dunlin_controller.tasks WHERE state = 'ready' FOR UPDATE";
    lab.client.batch_execute(lock).await.unwrap();
    let report = tokio::time::timeout(Duration::from_secs(5), lab.report(range.lease, failed(true)));
    assert_eq!(report.await.expect("it waits").verdicts, [Ok(Verdict::Effective)]);
    lab.client.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn events_of_a_target_are_numbered_without_gaps_under_concurrency() {
    let lab = Lab::new().await;
    let files: Vec<_> = (1..=20).map(|version| atomic(&format!("m{version}"), version, &[])).collect();
    lab.register(&files).await;
    let agent = lab.agent("a").await;
    for version in 1..=20 {
        lab.queue(&format!("m{version}")).await;
    }
    let granted = lab.claim(&agent, 50).await;
    assert_eq!(granted.len(), 20);
    let stores = [lab.replica().await, lab.replica().await, lab.store.clone()];
    let reports = granted.iter().zip(stores.iter().cycle()).map(|(granted, store)| async move {
        let report = if granted.lease.task.0 % 3 == 0 { failed(false) } else { done(1) };
        store.store_reports(&[Filed { lease: granted.lease, report }]).await.unwrap()
    });
    join_all(reports).await;
    let row = lab
        .client
        .query_one(
            "SELECT count(*), min(sequence), max(sequence), max(last_sequence)
             FROM dunlin_controller.events JOIN dunlin_controller.targets ON name = target",
            &[],
        )
        .await
        .unwrap();
    let (count, least, most, last): (i64, i64, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
    assert_eq!((least, most, last), (1, count, count));
    let disordered = lab
        .client
        .query_one(
            "SELECT count(*) FROM dunlin_controller.events a JOIN dunlin_controller.events b USING (target)
             WHERE a.sequence < b.sequence AND a.id > b.id",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(disordered.get::<_, i64>(0), 0);
}
