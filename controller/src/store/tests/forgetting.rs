use std::time::Duration;

use dunlin_shared::ids::{AgentId, TargetName};

use super::super::events::Filter;
use super::super::forgetting::{Dismissed, Forgotten, InUse, Removed};
use super::lab::{Lab, Worker, atomic, batched, done, failed, main};
use crate::domain::run::State;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

async fn number(lab: &Lab, sql: &str) -> i64 {
    lab.client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn leaves(lab: &Lab, agent: &Worker) {
    lab.store.leave(&agent.id, agent.session, "it was stopped").await.unwrap();
}

async fn refused(lab: &Lab) -> Vec<InUse> {
    match lab.store.forget_target(&main(), "", "").await.unwrap() {
        Forgotten::InUse(obstacles) => obstacles,
        other => panic!("not refused: {other:?}"),
    }
}

async fn forgotten(lab: &Lab) -> Removed {
    match lab.store.forget_target(&main(), "the database is gone", "ann@desk").await.unwrap() {
        Forgotten::Removed(removed, _) => removed,
        other => panic!("not forgotten: {other:?}"),
    }
}

/// Rows of every table that belong to the target, its events excepted.
async fn rows_of_main(lab: &Lab) -> Vec<i64> {
    let mut counts = Vec::new();
    for (table, condition) in [
        ("targets", "name = 'main'"),
        ("target_registry", "target = 'main'"),
        ("agent_targets", "target = 'main'"),
        ("runs", "target = 'main'"),
        ("tasks", "target = 'main'"),
        ("run_steps", "true"),
    ] {
        counts.push(number(lab, &format!("SELECT count(*) FROM dunlin_controller.{table} WHERE {condition}")).await);
    }
    counts
}

/// A target that has an applied migration, a failed run, and one that was cancelled behind that.
async fn with_history(lab: &Lab) -> Worker {
    lab.register(&[atomic("a", 1, &[]), batched("b", 2), atomic("c", 3, &["b"])]).await;
    let agent = lab.agent("x").await;
    let runs = lab.queue_pending().await;
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, done(0)).await;
    let granted = lab.claim_one(&agent).await;
    lab.report(granted.lease, failed(false)).await;
    assert_eq!(lab.states(&runs).await, [State::Succeeded, State::Failed, State::Cancelled]);
    agent
}

#[tokio::test]
async fn a_forgotten_target_leaves_its_events_and_nothing_else() {
    let lab = Lab::new().await;
    let agent = with_history(&lab).await;
    leaves(&lab, &agent).await;
    let before = rows_of_main(&lab).await;
    assert!(before.iter().all(|rows| *rows > 0), "{before:?}");
    let events = number(&lab, "SELECT count(*) FROM dunlin_controller.events").await;
    let removed = forgotten(&lab).await;
    let told = Removed { runs: 3, tasks: before[4], applied: 1, agents: vec!["x".to_owned()] };
    assert_eq!(removed, told);
    assert_eq!(rows_of_main(&lab).await, [0; 6]);
    assert_eq!(number(&lab, "SELECT count(*) FROM dunlin_controller.events").await, events + 1);
    let filter = Filter { target: Some("main".to_owned()), newest_first: true, ..Filter::default() };
    let last = lab.store.list_events(&filter, None, 1).await.unwrap().remove(0);
    assert_eq!(last.event_type.unwrap().as_str(), "target_forgotten");
    assert!(last.message.contains("ann@desk") && last.message.contains("the database is gone"), "{}", last.message);
    assert!(matches!(lab.store.forget_target(&main(), "", "").await.unwrap(), Forgotten::Unknown));
    assert!(!lab.store.knows_target(&main()).await.unwrap());
}

#[tokio::test]
async fn a_target_that_comes_again_begins_anew_and_its_history_goes_on() {
    let lab = Lab::new().await;
    let agent = with_history(&lab).await;
    leaves(&lab, &agent).await;
    forgotten(&lab).await;
    let last = number(&lab, "SELECT max(sequence) FROM dunlin_controller.events WHERE target = 'main'").await;
    // By a hello, and by what an agent sees.
    for name in ["y", "z"] {
        let (agent, _) = lab.hello(name, &[]).await;
        lab.see(&agent, &[]).await;
        let outlook = lab.store.outlook(&main()).await.unwrap().unwrap();
        assert!(outlook.applied.is_empty());
        assert!(outlook.pending.iter().all(|one| one.failed.is_none() && one.unfinished.is_none()));
        let runs = lab.queue_pending().await;
        assert_eq!(runs.len(), 3);
        for _begun in 0..3 {
            let granted = lab.claim_one(&agent).await;
            lab.report(granted.lease, failed(false)).await;
            if lab.run(runs[2]).await.state.ended() {
                break;
            }
        }
        leaves(&lab, &agent).await;
        forgotten(&lab).await;
    }
    let numbers = "SELECT (max(sequence) - count(*))::bigint FROM dunlin_controller.events WHERE target = 'main'";
    assert_eq!(number(&lab, numbers).await, 0, "gapless");
    assert!(number(&lab, "SELECT max(sequence) FROM dunlin_controller.events WHERE target = 'main'").await > last);
}

#[tokio::test]
async fn a_target_that_is_served_or_has_a_run_that_has_not_ended_is_not_forgotten() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("x").await;
    assert_eq!(refused(&lab).await, [InUse::Agent("x".to_owned())]);
    let run = lab.queue("a").await;
    let held = lab.claim_one(&agent).await;
    let unfinished = InUse::Run(run, "a".to_owned(), "running".to_owned());
    assert_eq!(refused(&lab).await, [InUse::Agent("x".to_owned()), unfinished.clone()]);
    leaves(&lab, &agent).await;
    assert_eq!(refused(&lab).await, [unfinished]);
    // As it is when a run fails while another of its tasks is held.
    let fail = "UPDATE dunlin_controller.runs SET state = 'failed', failure = '{}', ended_at = now() WHERE id = $1";
    lab.client.execute(fail, &[&run]).await.unwrap();
    assert_eq!(refused(&lab).await, [InUse::Held("x".to_owned(), run)]);
    assert!(rows_of_main(&lab).await.iter().take(1).all(|rows| *rows == 1));
    lab.client.execute("UPDATE dunlin_controller.tasks SET revoked = true WHERE run_id = $1", &[&run]).await.unwrap();
    lab.run_out(held.lease).await;
    lab.store.expire().await.unwrap();
    assert_eq!(forgotten(&lab).await.runs, 1);
}

/// Whichever comes first: an agent that is told that it is welcome serves a target that there is.
#[tokio::test]
async fn an_agent_that_says_hello_while_its_target_is_forgotten_has_a_target() {
    let lab = Lab::new().await;
    for round in 0..12 {
        let worker = lab.agent("x").await;
        leaves(&lab, &worker).await;
        let other = if round % 2 == 0 { "x" } else { "y" };
        let name = main();
        let (forgotten, (agent, _)) = tokio::join!(lab.store.forget_target(&name, "", ""), lab.hello(other, &[]));
        assert!(!matches!(forgotten.unwrap(), Forgotten::Unknown));
        let served = "SELECT count(*) FROM dunlin_controller.agent_targets s JOIN dunlin_controller.targets t ON t.name = s.target
                      JOIN dunlin_controller.agents a ON a.id = s.agent_id WHERE a.connected_until > now()";
        assert_eq!(number(&lab, served).await, 1, "round {round}");
        leaves(&lab, &agent).await;
    }
}

#[tokio::test]
async fn the_last_event_of_a_forgotten_target_goes_with_the_others() {
    let lab = Lab::new().await;
    let agent = lab.agent("x").await;
    leaves(&lab, &agent).await;
    forgotten(&lab).await;
    lab.client
        .batch_execute("UPDATE dunlin_controller.events SET created_at = created_at - interval '2 days'")
        .await
        .unwrap();
    lab.store.remove_older_than(Duration::from_secs(24 * 3600)).await.unwrap();
    assert_eq!(number(&lab, "SELECT count(*) FROM dunlin_controller.events WHERE target = 'main'").await, 0);
}

#[tokio::test]
async fn an_agent_is_forgotten_once_it_is_gone_and_holds_nothing() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let agent = lab.agent("x").await;
    let dismissed = async || lab.store.forget_agent(&agent.id, "ann@desk").await.unwrap();
    assert_eq!(dismissed().await, Dismissed::Connected);
    lab.queue("a").await;
    let held = lab.claim_one(&agent).await;
    leaves(&lab, &agent).await;
    assert_eq!(dismissed().await, Dismissed::Holding(1));
    lab.run_out(held.lease).await;
    lab.store.expire().await.unwrap();
    assert_eq!(dismissed().await, Dismissed::Removed(vec!["main".to_owned()]));
    assert_eq!(dismissed().await, Dismissed::Unknown);
    assert_eq!(number(&lab, "SELECT count(*) FROM dunlin_controller.agent_targets").await, 0);
    let told = "SELECT count(*) FROM dunlin_controller.events WHERE type = 'agent_forgotten' AND agent_id = 'x'";
    assert_eq!(number(&lab, told).await, 1);
}

#[tokio::test]
async fn a_stream_from_before_an_agent_was_forgotten_is_none_of_its_own() {
    let lab = Lab::new().await;
    let (old, _) = lab.hello("x", &[]).await;
    leaves(&lab, &old).await;
    lab.store.forget_agent(&old.id, "").await.unwrap();
    let (new, _) = lab.hello("x", &[]).await;
    assert!(new.session > old.session, "{} after {}", new.session, old.session);
    leaves(&lab, &old).await;
    assert!(lab.store.list_agents(None, "", 10).await.unwrap()[0].connected);
}

#[tokio::test]
async fn agents_that_were_gone_for_a_week_go_by_themselves() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    let holder = lab.agent("holds").await;
    lab.queue("a").await;
    let _held = lab.claim_one(&holder).await;
    leaves(&lab, &holder).await;
    for name in ["connected", "lately", "gone"] {
        let (agent, _) = lab.hello(name, &[]).await;
        if name != "connected" {
            leaves(&lab, &agent).await;
        }
    }
    // More than a batch.
    lab.client
        .batch_execute(
            "INSERT INTO dunlin_controller.agents (id, version, slots, transforms, session)
             SELECT 'dead-' || n, '1', 1, '{}', 1 FROM generate_series(1, 1200) AS n;
             UPDATE dunlin_controller.agents SET last_seen_at = now() - interval '7 days 1 hour' WHERE id <> 'lately';
             UPDATE dunlin_controller.agents SET last_seen_at = now() - interval '6 days 23 hours' WHERE id = 'lately';
             -- It was lost with its controller.
             UPDATE dunlin_controller.agents SET connected_until = now() - interval '7 days' WHERE id = 'gone'",
        )
        .await
        .unwrap();
    assert_eq!(lab.store.forget_agents_gone_for(WEEK).await.unwrap(), 1201);
    let left: Vec<String> =
        lab.store.list_agents(None, "", 10).await.unwrap().into_iter().map(|agent| agent.id).collect();
    assert_eq!(left, ["connected", "holds", "lately"]);
    let told = "SELECT count(*) FROM dunlin_controller.events WHERE type = 'agent_forgotten'";
    assert_eq!(number(&lab, told).await, 1201);
    assert_eq!(lab.store.forget_agents_gone_for(WEEK).await.unwrap(), 0);
}

#[tokio::test]
async fn another_name_is_not_touched() {
    let lab = Lab::new().await;
    let agent = with_history(&lab).await;
    leaves(&lab, &agent).await;
    let before = rows_of_main(&lab).await;
    let other = TargetName::parse("other").unwrap();
    assert!(matches!(lab.store.forget_target(&other, "", "").await.unwrap(), Forgotten::Unknown));
    let nobody = AgentId::parse("nobody").unwrap();
    assert_eq!(lab.store.forget_agent(&nobody, "").await.unwrap(), Dismissed::Unknown);
    assert_eq!(rows_of_main(&lab).await, before);
}
