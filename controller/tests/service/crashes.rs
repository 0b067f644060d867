//! The controllers' database crashes. What was acknowledged, or told to a watcher, is there afterwards; what was not may be
//! gone, and comes again.

use dunlin_proto::v1::work_request::Message as Say;
use dunlin_proto::v1::{self, EventType, RunState, WatchRunsRequest};
use dunlin_shared::postgres::throwaway::Server;
use tokio::time::timeout;

use crate::lab::{Agent, Controller, SOON, atomic};

/// A server that writes its log only for commits that wait for that: a crash takes everything else.
async fn forgetful() -> (Server, String) {
    let settings =
        [("fsync", "off"), ("wal_writer_delay", "10s"), ("wal_writer_flush_after", "1GB"), ("autovacuum", "off")];
    let server = Server::start_with(&settings).await.unwrap();
    let url = server.database("crashing").await.unwrap();
    (server, url)
}

async fn crash(server: &Server, controller: &Controller) {
    server.crash().await.unwrap();
    controller.serving(false).await;
    server.start_again().await.unwrap();
    controller.serving(true).await;
}

#[tokio::test]
async fn an_acknowledged_report_survives_a_crash() {
    let (server, url) = forgetful().await;
    let controller = Controller::start(&url).await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 1).await;
    let run = controller.run_one("a").await.unwrap().run.unwrap();
    let granted = agent.grant().await;
    agent.done(&granted, 0).await;
    crash(&server, &controller).await;
    assert_eq!(controller.run(run.id).await.state(), RunState::Succeeded);
}

#[tokio::test]
async fn an_event_that_a_watcher_saw_survives_a_crash() {
    let (server, url) = forgetful().await;
    let controller = Controller::start(&url).await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 1).await;
    let run = controller.run_one("a").await.unwrap().run.unwrap();
    let granted = agent.grant().await;
    let request = WatchRunsRequest { run_ids: vec![run.id], ..Default::default() };
    let mut stream = controller.runs().watch_runs(request).await.unwrap().into_inner();
    // A note is not acknowledged, so nobody else waits for it to be safe.
    let message = "the index was repaired".to_owned();
    let note = v1::TaskNote {
        lease: granted.lease,
        r#type: EventType::AgentNote.into(),
        message: message.clone(),
        ..Default::default()
    };
    agent.say(Say::Note(note)).await;
    let seen = loop {
        let response = timeout(SOON, stream.message()).await.expect("the note was not told").unwrap().unwrap();
        match response.event {
            Some(event) if event.message == message => break event,
            _ => {}
        }
    };
    crash(&server, &controller).await;
    let listed = controller.runs().list_events(v1::ListEventsRequest { run_id: run.id, ..Default::default() }).await;
    let listed = listed.unwrap().into_inner().events;
    assert!(listed.iter().any(|event| event.sequence == seen.sequence && event.message == message), "{listed:?}");
}

#[tokio::test]
async fn a_lease_that_a_crash_has_taken_is_lost_and_the_task_is_granted_again() {
    let (server, url) = forgetful().await;
    let controller = Controller::start(&url).await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 1).await;
    let run = controller.run_one("a").await.unwrap().run.unwrap();
    let first = agent.grant().await;
    crash(&server, &controller).await;
    assert_eq!(agent.beat(&first, 0).await.lost, [first.lease.unwrap()]);
    let second = agent.grant().await;
    assert_eq!(second.lease.unwrap().task_id, first.lease.unwrap().task_id);
    agent.done(&second, 0).await;
    controller.reaches(run.id, RunState::Succeeded).await;
}
