use super::super::cancelling::Cancel;
use super::super::queueing::{All, Single};
use super::lab::{Lab, atomic, batched, done, id, main};
use crate::domain::run::State;

#[tokio::test]
async fn a_run_that_nobody_has_begun_is_cancelled_with_what_waits_for_it() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &["a"]), atomic("c", 3, &[])]).await;
    let agent = lab.agent("x").await;
    let runs = lab.queue_pending().await;
    assert_eq!(lab.states(&runs).await, [State::Running, State::Queued, State::Queued]);

    // The first is to be worked on, but no agent has its task yet.
    let Cancel::Cancelled { behind, .. } = lab.store.cancel_run(runs[0], "ann@desk").await.unwrap() else {
        panic!("not cancelled");
    };
    assert_eq!(behind, runs[1..]);
    assert_eq!(lab.states(&runs).await, [State::Cancelled; 3]);
    assert!(lab.claim(&agent, 10).await.is_empty(), "nobody gets a task of a cancelled run");
    let events = lab.store.events_between(&main(), 0, i64::MAX, Some(&runs), 1000).await.unwrap();
    let told: Vec<&str> = events.iter().map(|event| event.message.as_str()).collect();
    assert!(told.contains(&format!("run {} of a was cancelled: on demand of ann@desk", runs[0]).as_str()), "{told:?}");
    assert!(matches!(lab.store.cancel_run(runs[0], "").await.unwrap(), Cancel::Ended(State::Cancelled)));
    assert!(matches!(lab.store.cancel_run(1_000_000, "").await.unwrap(), Cancel::NoRun));

    // What was cancelled holds nothing up.
    let again = lab.queue_pending().await;
    for _migration in 0..3 {
        let granted = lab.claim_one(&agent).await;
        lab.report(granted.lease, done(0)).await;
    }
    assert_eq!(lab.states(&again).await, [State::Succeeded; 3]);
}

#[tokio::test]
async fn a_run_in_the_middle_of_the_queue_takes_only_what_is_behind_it() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &[]), atomic("c", 3, &[])]).await;
    let agent = lab.agent("x").await;
    let runs = lab.queue_pending().await;
    let granted = lab.claim_one(&agent).await;
    assert!(matches!(lab.store.cancel_run(runs[1], "").await.unwrap(), Cancel::Cancelled { .. }));
    assert_eq!(lab.states(&runs).await, [State::Running, State::Cancelled, State::Cancelled]);
    lab.report(granted.lease, done(0)).await;
    assert_eq!(lab.run(runs[0]).await.state, State::Succeeded);
}

#[tokio::test]
async fn a_run_of_which_a_task_was_granted_is_not_cancelled() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("x").await;
    let run = lab.queue("b").await;
    let granted = lab.claim_one(&agent).await;
    assert!(matches!(lab.store.cancel_run(run, "").await.unwrap(), Cancel::Begun(State::Running)));
    // Also when nobody holds its task at this moment: the target may have something of it.
    lab.run_out(granted.lease).await;
    lab.store.expire().await.unwrap();
    assert!(matches!(lab.store.cancel_run(run, "").await.unwrap(), Cancel::Begun(State::Running)));
    assert_eq!(lab.run(run).await.state, State::Running);
}

#[tokio::test]
async fn nothing_is_queued_on_a_target_that_no_agent_reaches_unless_it_may_wait() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("x").await;
    lab.store.leave(&agent.id, agent.session, "it is gone").await.unwrap();
    assert!(matches!(lab.store.queue_pending(&main(), false).await.unwrap(), All::Unreached(_)));
    assert!(matches!(lab.store.queue_one(&main(), &id("a"), false, false).await.unwrap(), Single::Unreached(_)));
    let All::Queued(queued) = lab.store.queue_pending(&main(), true).await.unwrap() else { panic!("not queued") };
    let agent = lab.agent("x").await;
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, done(0)).await;
    assert_eq!(lab.states(&queued.runs).await, [State::Succeeded]);

    // That nothing is pending, or one is applied, is what a target says that is reached, and no other.
    lab.store.leave(&agent.id, agent.session, "it is gone").await.unwrap();
    assert!(matches!(lab.store.queue_pending(&main(), true).await.unwrap(), All::Unreached(_)));
    assert!(matches!(lab.store.queue_one(&main(), &id("a"), false, true).await.unwrap(), Single::Unreached(_)));
}
