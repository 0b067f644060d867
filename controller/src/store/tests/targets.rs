use std::time::Duration;

use futures::future::{join, join_all};
use tokio::time::sleep;

use super::super::following::Sight;
use super::lab::{Lab, atomic, done, failed, id, main};
use crate::domain::report::{Counted, ReleaseReason, Report};
use crate::domain::run::State;

async fn followed(lab: &Lab) -> Vec<String> {
    let events = lab.store.list_events(&Default::default(), None, 1000).await.unwrap();
    events
        .into_iter()
        .filter(|event| event.event_type.map(|kind| kind.as_str()) == Some("registry_followed"))
        .map(|event| event.message)
        .collect()
}

#[tokio::test]
async fn the_word_of_a_restored_target_is_taken() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &[])]).await;
    let agent = lab.agent("x").await;
    lab.queue_pending().await;
    for _migration in 0..2 {
        let granted = lab.claim_one(&agent).await;
        lab.report(granted.lease, done(0)).await;
    }
    let all = lab.applied().await;
    lab.see(&agent, &all).await;
    assert!(followed(&lab).await.is_empty(), "nothing new");

    let asked = lab.look(&agent, &all[..1], None).await;
    assert!(asked.is_some(), "the agent is asked to look once more");
    assert_eq!(lab.applied().await.len(), 2, "nobody knows when the target was looked at");
    assert_eq!(lab.look(&agent, &all[..1], asked).await, None);
    assert_eq!(lab.store.schema_version(&main()).await.unwrap().unwrap().version, 1);
    let told = followed(&lab).await;
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("it does not have b"), "{told:?}");

    let again = lab.queue_pending().await;
    assert_eq!(lab.run(again[0]).await.migration, id("b"));
}

#[tokio::test]
async fn a_report_that_was_held_up_takes_nothing_away_however_long() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &[])]).await;
    let agent = lab.agent("x").await;
    lab.queue_pending().await;
    let apply = async || {
        let granted = lab.claim_one(&agent).await;
        lab.report(granted.lease, done(0)).await;
    };
    apply().await;
    // It was read before the first migration, and arrives after it; the answer is read before the second, and held up too.
    let asked = lab.look(&agent, &[], None).await;
    let first = lab.applied().await;
    apply().await;
    let again = lab.look(&agent, &first, asked).await;
    assert!(again.is_some() && again > asked, "the second row is newer than the question");
    assert_eq!(lab.look(&agent, &lab.applied().await, again).await, None);
    assert_eq!(lab.applied().await.len(), 2);
    assert!(followed(&lab).await.is_empty());
}

#[tokio::test]
async fn queued_runs_that_were_planned_upon_what_a_target_has_lost_are_cancelled() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("x").await;
    lab.queue("a").await;
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, done(0)).await;
    lab.register(&[atomic("b", 2, &[]), atomic("c", 3, &["a"]), atomic("d", 4, &[]), atomic("e", 5, &["c"])]).await;
    let runs = lab.queue_pending().await;
    let asked = lab.look(&agent, &[], None).await;
    lab.look(&agent, &[], asked).await;
    // c needs a, d comes behind c, e needs c; b is under way.
    assert_eq!(lab.states(&runs).await, [State::Running, State::Cancelled, State::Cancelled, State::Cancelled]);
    assert_eq!(lab.events(runs[1]).await, ["run_queued", "run_cancelled"]);
    // What is planned now begins with what was lost, and nothing waits in a circle.
    let again = lab.queue_pending().await;
    for _migration in 0..5 {
        let granted = lab.claim_one(&agent).await;
        lab.report(granted.lease, done(0)).await;
    }
    assert_eq!(lab.states(&again).await, vec![State::Succeeded; 5]);
}

#[tokio::test]
async fn tasks_that_waited_for_a_target_go_on_as_soon_as_it_is_reached_again() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("x").await;
    lab.queue("a").await;
    // Put off often enough that the rest is long.
    for _time in 0..10 {
        let granted = lab.claim_one(&agent).await;
        let (reason, message) = (ReleaseReason::TargetUnreachable, "no route".to_owned());
        lab.report(granted.lease, Report::Released { reason, message, counted: Counted::default() }).await;
        lab.client.batch_execute("UPDATE dunlin_controller.tasks SET run_at = now()").await.unwrap();
    }
    let granted = lab.claim_one(&agent).await;
    let (reason, message) = (ReleaseReason::TargetUnreachable, "no route".to_owned());
    lab.report(granted.lease, Report::Released { reason, message, counted: Counted::default() }).await;
    assert_eq!(lab.claim(&agent, 10).await.len(), 0, "it rests");
    let away = Sight {
        target: main(),
        error: Some("no route".to_owned()),
        server_version: String::new(),
        applied: Vec::new(),
        asked: None,
        held: None,
        identity: None,
        raised: false,
    };
    lab.store.see_target(&agent.id, &away, false).await.unwrap();
    assert_eq!(lab.claim(&agent, 10).await.len(), 0);
    lab.see(&agent, &[]).await;
    lab.claim_one(&agent).await;
}

#[tokio::test]
async fn a_queued_run_whose_migration_the_target_turns_out_to_have_is_cancelled_and_the_next_starts() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), atomic("b", 2, &[]), atomic("c", 3, &["b"])]).await;
    let agent = lab.agent("x").await;
    let runs = lab.queue_pending().await;
    let first = lab.claim_one(&agent).await;
    let mut applied = lab.applied().await;
    applied.push(crate::domain::report::Applied {
        id: "b".to_owned(),
        version: 2,
        name: String::new(),
        checksum: "other".to_owned(),
        revision: 1,
        applications: 1,
        run_id: 77,
        agent_id: String::new(),
        rows: 0,
        result: serde_json::Map::new(),
        applied_at: None,
        last_applied_at: None,
    });
    lab.see(&agent, &applied).await;
    assert_eq!(followed(&lab).await.len(), 1);
    lab.report(first.lease, done(0)).await;
    assert_eq!(lab.states(&runs).await, [State::Succeeded, State::Cancelled, State::Running]);
}

#[tokio::test]
async fn a_registry_that_contradicts_a_task_fails_its_run_clearly() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("x").await;
    let run = lab.queue("a").await;
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, Report::Stale { stored: 0.into(), applications: 1 }).await;
    let failure = lab.run(run).await.failure.unwrap();
    assert!(failure.message.contains("was applied 1 times"), "{}", failure.message);
}

#[tokio::test]
async fn a_stale_lease_is_followed_by_one_above_what_the_target_has() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("x").await;
    lab.queue("a").await;
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, Report::Stale { stored: 41.into(), applications: 0 }).await;
    assert_eq!(lab.claim_one(&agent).await.lease.epoch, 42.into());
}

#[tokio::test]
async fn a_target_is_reached_as_long_as_one_agent_reaches_it() {
    let lab = Lab::new().await;
    let (one, other) = (lab.agent("one").await, lab.agent("other").await);
    let away = Sight {
        target: main(),
        error: Some("no route".to_owned()),
        server_version: String::new(),
        applied: Vec::new(),
        asked: None,
        held: None,
        identity: None,
        raised: false,
    };
    lab.store.see_target(&one.id, &away, false).await.unwrap();
    let target = async || lab.store.list_targets("", 10).await.unwrap().remove(0);
    assert!(target().await.reachable);
    lab.store.see_target(&other.id, &away, false).await.unwrap();
    let told = target().await;
    assert_eq!((told.reachable, told.error.as_str()), (false, "no route"));
    assert_eq!(told.server_version, "15");
    let fleet = lab.store.fleet(&main()).await.unwrap();
    assert_eq!((fleet.reaching, fleet.error.as_str()), (0, "no route"));
}

#[tokio::test]
async fn an_agent_that_has_just_connected_is_waited_for_until_it_tells_what_it_sees() {
    let lab = Lab::new().await;
    let (agent, _welcomed) = lab.hello("x", &[]).await;
    let fleet = lab.store.fleet(&main()).await.unwrap();
    assert!(fleet.unreached(&main()).unwrap().contains("has just connected and looks at it now"), "{fleet:?}");
    let told = async {
        sleep(Duration::from_millis(100)).await;
        lab.see(&agent, &[]).await;
    };
    let (fleet, ()) = join(lab.store.settled_fleet(&main()), told).await;
    assert_eq!(fleet.unwrap().reaching, 1);
}

#[tokio::test]
async fn agents_that_come_in_a_crowd_leave_connections_to_leases_and_reports() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("a").await;
    lab.queue("a").await;
    // As if the database were slow with what every one of them writes.
    let lock = "BEGIN; LOCK TABLE dunlin_controller.agent_targets IN EXCLUSIVE MODE";
    lab.client.batch_execute(lock).await.unwrap();
    let sight = Sight {
        target: main(),
        error: None,
        server_version: "15".to_owned(),
        applied: Vec::new(),
        asked: None,
        held: None,
        identity: None,
        raised: false,
    };
    let crowd = (0..20).map(|_| lab.store.see_target(&agent.id, &sight, false));
    let work = async {
        let granted = lab.claim_one(&agent).await;
        lab.report(granted.lease, failed(true)).await;
        lab.client.batch_execute("COMMIT").await.unwrap();
    };
    join(join_all(crowd), work).await;
}
