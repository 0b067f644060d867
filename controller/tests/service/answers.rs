//! The answer to one chosen commit is lost: the database has it, and the controller cannot know.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use dunlin_proto::v1::work_request::Message as Say;
use dunlin_proto::v1::{self, RunState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::lab::{Agent, Controller, SOON, atomic, batched, database};

/// A way to a database that loses the answer to one commit, and the connection with it: that of the transaction in which a text was
/// sent.
struct Lossy {
    address: SocketAddr,
    text: Arc<Mutex<Option<&'static str>>>,
}

impl Lossy {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let text = Arc::<Mutex<Option<&'static str>>>::default();
        let shared = Arc::clone(&text);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let (from_near, to_near) = near.into_split();
                let (from_far, to_far) = far.into_split();
                let (cut, is_cut) = watch::channel(false);
                tokio::spawn(requests(from_near, to_far, Arc::clone(&shared), cut));
                tokio::spawn(answers(from_far, to_near, is_cut));
            }
        });
        Self { address, text }
    }

    /// Loses the answer to the commit of the next transaction in which this text is sent.
    fn lose(&self, text: &'static str) {
        *self.text.lock().unwrap() = Some(text);
    }

    /// Waits until that has happened.
    async fn lost(&self) {
        let lost = async {
            while self.text.lock().unwrap().is_some() {
                sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, lost).await.expect("no answer was lost");
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    text: Arc<Mutex<Option<&'static str>>>,
    cut: watch::Sender<bool>,
) {
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let mut sent: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        sent.extend(&buffer[..length]);
        if has(&sent, "COMMIT\0") {
            let mut wanted = text.lock().unwrap();
            if wanted.is_some_and(|wanted| has(&sent, wanted)) {
                *wanted = None;
                cut.send_replace(true);
            }
            sent.clear();
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if *cut.borrow() {
            // The server has answered, so it has committed. Nobody hears it, and both ends close.
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// A controller whose database is behind such a way.
async fn start() -> (Controller, Lossy) {
    let url = database().await;
    let (_, rest) = url.split_once('@').unwrap();
    let place = rest.split('/').next().unwrap();
    let lossy = Lossy::to(place.rsplit(':').next().unwrap().parse().unwrap()).await;
    let controller = Controller::start(&url.replace(place, &lossy.address.to_string())).await;
    (controller, lossy)
}

#[tokio::test]
async fn a_lease_whose_grant_was_not_answered_is_granted_again_with_the_next_epoch() {
    let (controller, lossy) = start().await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 1).await;
    // As the claim names the stream of the agent that gets the task.
    lossy.lose("\"session\":");
    let run = controller.run_one("a").await.unwrap().run.unwrap();
    let grant = agent.grant().await;
    lossy.lost().await;
    assert_eq!(grant.lease.unwrap().epoch, 2, "nobody was told of the first");
    agent.done(&grant, 0).await;
    controller.reaches(run.id, RunState::Succeeded).await;
}

#[tokio::test]
async fn a_report_whose_commit_was_not_answered_has_its_effect_once() {
    let (controller, lossy) = start().await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 2).await;
    let run = controller.run_one("b").await.unwrap().run.unwrap();
    let plan = agent.grant().await;
    agent.planned(&plan, 1..=2).await;
    agent.done(&plan, 0).await;
    for rows in [7, 10] {
        let range = agent.grant().await;
        // As the tasks of a report are written.
        lossy.lose("\"attempts\":");
        let done = v1::TaskDone { lease: range.lease, rows, rows_walked: rows, ..Default::default() };
        agent.say(Say::Done(done)).await;
        agent.acknowledged(range.lease).await;
        lossy.lost().await;
    }
    let seal = agent.grant().await;
    lossy.lose("\"attempts\":");
    agent.done(&seal, 17).await;
    lossy.lost().await;
    let run = controller.reaches(run.id, RunState::Succeeded).await;
    assert_eq!(run.rows, 17);
    let request = v1::ListEventsRequest { run_id: run.id, ..Default::default() };
    let events = controller.runs().list_events(request).await.unwrap().into_inner().events;
    for kind in [v1::EventType::StepStarted, v1::EventType::StepSucceeded, v1::EventType::RunSucceeded] {
        assert_eq!(events.iter().filter(|event| event.r#type() == kind).count(), 1, "{kind:?}: {events:#?}");
    }
}

#[tokio::test]
async fn a_request_for_runs_that_was_not_answered_can_be_repeated_and_makes_no_second_run() {
    let (controller, lossy) = start().await;
    controller.register(&[atomic("a", 1, &[]), atomic("b", 2, &["a"])]).await.unwrap();
    let _agent = Agent::connect(&controller, "a", 1).await;
    // As runs are written.
    lossy.lose("\"in_order\":");
    let mut runs = controller.runs();
    let request = v1::RunPendingMigrationsRequest { wait_for_agent: true, ..Default::default() };
    let lost = runs.run_pending_migrations(request).await.unwrap_err();
    assert_eq!(lost.code(), Code::Unavailable);
    lossy.lost().await;
    let again = controller.run_pending().await;
    assert_eq!(again.iter().map(|run| run.migration_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let all = runs.list_runs(v1::ListRunsRequest::default()).await.unwrap().into_inner().runs;
    assert_eq!(all.len(), 2, "{all:#?}");
}

#[tokio::test]
async fn a_request_for_one_run_that_was_not_answered_finds_its_run_when_it_is_repeated() {
    let (controller, lossy) = start().await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 1).await;
    lossy.lose("\"in_order\":");
    let lost = controller.run_one("a").await.unwrap_err();
    assert_eq!(lost.code(), Code::Unavailable);
    lossy.lost().await;
    let again = controller.run_one("a").await.unwrap();
    assert!(again.attached, "{again:?}");
    let all = controller.runs().list_runs(v1::ListRunsRequest::default()).await.unwrap().into_inner().runs;
    assert_eq!(all.len(), 1, "{all:#?}");
    // And the run that nobody was told of goes on.
    let grant = agent.grant().await;
    agent.done(&grant, 0).await;
    controller.reaches(all[0].id, RunState::Succeeded).await;
}
