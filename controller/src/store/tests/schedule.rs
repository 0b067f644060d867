use futures::future::join_all;

use super::super::queueing::{All, Single};
use super::super::registering::{RegisterError, Request};
use super::super::reports::Filed;
use super::lab::{Lab, atomic, done, failed, id, main, set};
use crate::domain::register::{Outcome, Refusal};
use crate::domain::run::State;
use crate::domain::waits::Wait;

#[tokio::test]
async fn a_set_with_a_problem_leaves_nothing_behind() {
    let lab = Lab::new().await;
    let files = vec![atomic("a", 1, &[]), atomic("b", 2, &["missing"])];
    let Err(RegisterError::Problems(problems)) = lab.store.register(set(&files)).await else {
        panic!("it was registered");
    };
    assert_eq!(problems.len(), 1);
    assert!(lab.store.list_migrations(0, 10).await.unwrap().0.is_empty());

    lab.store.register(Request { validate_only: true, ..set(&[atomic("a", 1, &[])]) }).await.unwrap();
    assert!(lab.store.list_migrations(0, 10).await.unwrap().0.is_empty(), "only checked");
}

#[tokio::test]
async fn an_applied_definition_cannot_change_and_an_unchanged_one_is_left_alone() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let again = lab.store.register(set(&[atomic("a", 1, &[])])).await.unwrap();
    assert_eq!(again.migrations[0].outcome, Outcome::Unchanged);
    let agent = lab.agent("x").await;
    lab.queue("a").await;
    let mut changed = atomic("a", 1, &[]);
    changed.content = changed.content.replace("bigint", "int");
    let granted = lab.claim_one(&agent).await;
    let Err(RegisterError::Refused(refusals)) = lab.store.register(set(&[changed.clone()])).await else {
        panic!("it was registered while a run goes on");
    };
    assert!(matches!(refusals[0], Refusal::Running { .. }));

    lab.report(granted.lease, done(0)).await;
    let files = vec![changed, atomic("b", 2, &[])];
    let Err(RegisterError::Refused(refusals)) = lab.store.register(set(&files)).await else {
        panic!("it was registered although it is applied");
    };
    assert!(matches!(refusals[0], Refusal::Applied { .. }));
    assert_eq!(lab.store.list_migrations(0, 10).await.unwrap().0.len(), 1, "nothing of the set");
}

#[tokio::test]
async fn versions_can_be_swapped_within_a_set() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &[])]).await;
    lab.register(&[atomic("a", 2, &[]), atomic("b", 1, &[])]).await;
    let stored = lab.store.list_migrations(0, 10).await.unwrap().0;
    assert_eq!(stored[0].definition.id, id("b"));
}

#[tokio::test]
async fn a_migration_has_one_unfinished_run_however_many_ask() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    lab.agent("x").await;
    let target = main();
    let migration = id("a");
    let replica = lab.replica().await;
    let stores = [&lab.store, &replica];
    let asked = (0..8).map(|number: usize| stores[number % 2].queue_one(&target, &migration, false, false));
    let answers = join_all(asked).await;
    let queued = answers.iter().filter(|answer| matches!(answer, Ok(Single::Queued(_)))).count();
    let unfinished = answers.iter().filter(|answer| matches!(answer, Ok(Single::Attached(_)))).count();
    assert_eq!((queued, unfinished), (1, 7), "{answers:?}");
}

#[tokio::test]
async fn requests_for_all_that_is_pending_queue_each_migration_once_and_keep_their_order() {
    let lab = Lab::new().await;
    lab.register(&[atomic("c", 3, &["a"]), atomic("a", 1, &[]), atomic("b", 2, &[])]).await;
    let agent = lab.agent("x").await;
    let replica = lab.replica().await;
    let target = main();
    let (first, second) =
        futures::join!(lab.store.queue_pending(&target, false), replica.queue_pending(&target, false));
    let (All::Queued(first), All::Queued(second)) = (first.unwrap(), second.unwrap()) else { panic!("not queued") };
    let runs = first.runs;
    assert_eq!(runs, second.runs);
    assert_eq!(lab.states(&runs).await, [State::Running, State::Queued, State::Queued]);
    assert_eq!(lab.run(runs[1]).await.waits, [Wait::Order(id("a"))]);
    assert_eq!(lab.run(runs[2]).await.waits, [Wait::Order(id("b")), Wait::Dependency(id("a"))]);

    lab.register(&[atomic("d", 4, &[])]).await;
    let all = lab.queue_pending().await;
    assert_eq!(all[..3], runs);
    for run in &all {
        let granted = lab.claim_one(&agent).await;
        assert_eq!(granted.run.0, *run);
        lab.report(granted.lease, done(0)).await;
    }
    assert_eq!(lab.states(&all).await, [State::Succeeded; 4]);
    assert!(lab.queue_pending().await.is_empty());
    assert_eq!(lab.store.schema_version(&main()).await.unwrap().unwrap().version, 4);
}

#[tokio::test]
async fn a_migration_is_refused_with_the_names_of_what_is_missing_and_skipped_when_applied() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &["a"])]).await;
    let target = main();
    assert!(matches!(lab.store.queue_one(&target, &id("a"), false, false).await, Ok(Single::NoTarget)));
    let agent = lab.agent("x").await;
    assert!(matches!(lab.store.queue_one(&target, &id("zz"), false, false).await, Ok(Single::NoMigration)));
    match lab.store.queue_one(&target, &id("b"), false, false).await {
        Ok(Single::Lacking(missing)) => assert_eq!(missing, [id("a")]),
        other => panic!("{other:?}"),
    }
    lab.queue("a").await;
    let granted = lab.claim_one(&agent).await;
    assert_eq!(granted.applications, 0);
    lab.report(granted.lease, done(0)).await;
    assert!(matches!(lab.store.queue_one(&target, &id("a"), false, false).await, Ok(Single::Applied)));
    assert!(matches!(lab.store.queue_one(&target, &id("a"), true, false).await, Ok(Single::Queued(_))));
    let granted = lab.claim_one(&agent).await;
    assert_eq!(granted.applications, 1, "a rerun supposes one application");
    lab.report(granted.lease, done(0)).await;
    assert_eq!(lab.applied().await[0].applications, 2);
}

#[tokio::test]
async fn a_run_that_waits_for_two_starts_when_both_end_at_once() {
    for _round in 0..5 {
        let lab = Lab::new().await;
        lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &[]), atomic("c", 3, &["a", "b"])]).await;
        let agent = lab.agent("x").await;
        lab.queue("a").await;
        lab.queue("b").await;
        let waiting = lab.queue_pending().await;
        assert_eq!(lab.run(waiting[2]).await.state, State::Queued);
        let granted = lab.claim(&agent, 10).await;
        assert_eq!(granted.len(), 2);
        let filed = |index: usize| [Filed { lease: granted[index].lease, report: done(0) }];
        let replica = lab.replica().await;
        let (left, right) = (filed(0), filed(1));
        let (one, other) = futures::join!(lab.store.store_reports(&left), replica.store_reports(&right));
        one.unwrap();
        other.unwrap();
        assert_eq!(lab.run(waiting[2]).await.state, State::Running);
    }
}

#[tokio::test]
async fn a_failed_rerun_leaves_what_depends_on_it_alone() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &["a"])]).await;
    let agent = lab.agent("x").await;
    lab.queue("a").await;
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, done(0)).await;
    let Single::Queued(again) = lab.store.queue_one(&main(), &id("a"), true, false).await.unwrap() else { panic!() };
    let granted = lab.claim_one(&agent).await;
    let pending = lab.queue_pending().await;
    lab.report(granted.lease, failed(false)).await;
    assert_eq!(lab.states(&[again.runs[0], pending[0]]).await, [State::Failed, State::Running]);
}
