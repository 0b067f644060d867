use std::collections::BTreeSet;

use dunlin_proto::v1::{self, EventType, RunState, WatchRunsRequest, WatchRunsResponse};
use tokio::time::timeout;
use tonic::{Code, Streaming};

use crate::lab::{Agent, Controller, SOON, atomic, batched, database};

async fn watch(controller: &Controller, run_ids: Vec<i64>, after_sequence: i64) -> Streaming<WatchRunsResponse> {
    let request = WatchRunsRequest { all: run_ids.is_empty(), run_ids, after_sequence, ..Default::default() };
    controller.runs().watch_runs(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<WatchRunsResponse>) -> Option<WatchRunsResponse> {
    timeout(SOON, stream.message()).await.expect("nothing came").unwrap()
}

#[tokio::test]
async fn a_watcher_hears_every_event_once_and_the_end() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[atomic("a", 1, &[]), batched("b", 2, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 4).await;
    let runs: Vec<i64> = controller.run_pending().await.iter().map(|run| run.id).collect();
    let mut stream = watch(&controller, runs.clone(), 0).await;
    for id in &runs {
        let first = next(&mut stream).await.unwrap();
        assert_eq!((first.run.unwrap().id, first.event), (*id, None));
    }
    let work = async {
        let whole = agent.grant().await;
        agent.done(&whole, 0).await;
        let plan = agent.grant().await;
        agent.planned(&plan, 1..=1).await;
        let range = agent.grant().await;
        agent.beat(&range, 5).await;
        agent.done(&range, 10).await;
        agent.done(&plan, 0).await;
        let seal = agent.grant().await;
        agent.done(&seal, 10).await;
    };
    let watching = async {
        let mut events = Vec::new();
        let mut last = None;
        while let Some(response) = next(&mut stream).await {
            events.extend(response.event);
            last = response.run;
        }
        (events, last)
    };
    let ((), (events, last)) = tokio::join!(work, watching);
    assert_eq!(last.unwrap().state(), RunState::Succeeded);
    let types: Vec<EventType> = events.iter().map(v1::Event::r#type).collect();
    assert_eq!(
        types,
        [
            EventType::RunQueued,
            EventType::RunQueued,
            EventType::RunStarted,
            EventType::RunSucceeded,
            EventType::RunStarted,
            EventType::StepStarted,
            EventType::StepSucceeded,
            EventType::RunSucceeded,
        ]
    );
    let sequences: Vec<i64> = events.iter().map(|event| event.sequence).collect();
    assert!(sequences.is_sorted_by(|a, b| a < b));
}

#[tokio::test]
async fn a_stream_is_taken_up_at_another_replica_without_a_gap_or_a_repetition() {
    let url = database().await;
    let (here, there) = (Controller::start(&url).await, Controller::start(&url).await);
    here.register(&[atomic("a", 1, &[]), atomic("b", 2, &[])]).await.unwrap();
    let mut agent = Agent::connect(&here, "a", 1).await;
    let runs: Vec<i64> = there.run_pending().await.iter().map(|run| run.id).collect();
    let mut seen = Vec::new();
    let mut stream = watch(&there, runs.clone(), 0).await;
    let granted = agent.grant().await;
    agent.done(&granted, 0).await;
    let mut sequence = 0;
    while seen.len() < 4 {
        let response = next(&mut stream).await.unwrap();
        seen.extend(response.event.map(|event| event.sequence));
        sequence = response.sequence;
    }
    drop(stream);
    let mut stream = watch(&here, runs.clone(), sequence).await;
    let granted = agent.grant().await;
    agent.done(&granted, 0).await;
    while let Some(response) = next(&mut stream).await {
        seen.extend(response.event.map(|event| event.sequence));
    }
    let unique: BTreeSet<i64> = seen.iter().copied().collect();
    assert_eq!(unique.len(), seen.len(), "a repetition: {seen:?}");
    let request = v1::ListEventsRequest { target: "main".to_owned(), ..Default::default() };
    let all = here.runs().list_events(request).await.unwrap().into_inner().events;
    let of_runs: BTreeSet<i64> = all.iter().filter(|event| event.run_id > 0).map(|event| event.sequence).collect();
    assert_eq!(unique, of_runs, "a gap");
}

#[tokio::test]
async fn a_watcher_of_a_failed_run_hears_its_last_figures() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 3).await;
    let runs: Vec<i64> = controller.run_pending().await.iter().map(|run| run.id).collect();
    let plan = agent.grant().await;
    agent.planned(&plan, 1..=2).await;
    let (first, second) = (agent.grant().await, agent.grant().await);
    agent.done(&plan, 0).await;
    let mut stream = watch(&controller, runs, 0).await;
    agent.failed(&first).await;
    while next(&mut stream).await.unwrap().event.is_none_or(|event| event.r#type() != EventType::RunFailed) {}
    agent.released(&second, 12).await;
    let mut last = None;
    while let Some(response) = next(&mut stream).await {
        last = response.run;
    }
    let last = last.unwrap();
    assert_eq!((last.state(), last.leases, last.rows), (RunState::Failed, 0, 12));
}

#[tokio::test]
async fn progress_is_told_without_events() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 2).await;
    controller.run_pending().await;
    let plan = agent.grant().await;
    agent.planned(&plan, 1..=1).await;
    let range = agent.grant().await;
    agent.done(&plan, 0).await;
    let mut stream = watch(&controller, Vec::new(), 0).await;
    while next(&mut stream).await.unwrap().event.is_none_or(|event| event.r#type() != EventType::StepStarted) {}
    agent.beat(&range, 40).await;
    loop {
        let response = next(&mut stream).await.unwrap();
        if response.event.is_none() && response.run.as_ref().is_some_and(|run| run.rows == 40) {
            let run = response.run.unwrap();
            assert!(run.rows_per_second > 0.0 && run.eta.is_some());
            break;
        }
    }
}

#[tokio::test]
async fn runs_that_do_not_fit_together_cannot_be_followed() {
    let controller = Controller::start(&database().await).await;
    let request = WatchRunsRequest { run_ids: vec![7], ..Default::default() };
    let refused = controller.runs().watch_runs(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn everything_is_followed_only_when_it_is_asked_for() {
    let controller = Controller::start(&database().await).await;
    let code = async |request| controller.runs().watch_runs(request).await.unwrap_err().code();
    assert_eq!(
        code(WatchRunsRequest::default()).await,
        Code::InvalidArgument,
        "no runs may be a list that came out empty"
    );
    let both = WatchRunsRequest { run_ids: vec![1], all: true, ..Default::default() };
    assert_eq!(code(both).await, Code::InvalidArgument);
    let unknown = WatchRunsRequest { all: true, target: "never".to_owned(), ..Default::default() };
    assert_eq!(code(unknown).await, Code::NotFound);
}

#[tokio::test]
async fn a_watcher_of_a_run_that_is_removed_is_not_kept_waiting() {
    let url = database().await;
    let controller = Controller::start(&url).await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    let agent = Agent::connect(&controller, "a", 1).await;
    let (client, _connection) = dunlin_shared::postgres::connect(&url, "test").await.unwrap();
    let run = controller.run_pending().await[0].id;
    let mut stream = watch(&controller, vec![run], 0).await;
    let _first = next(&mut stream).await.unwrap();
    drop(agent);
    client
        .batch_execute(
            "DELETE FROM dunlin_controller.tasks; DELETE FROM dunlin_controller.run_steps; DELETE FROM dunlin_controller.runs",
        )
        .await
        .unwrap();
    while next(&mut stream).await.is_some() {}
}
