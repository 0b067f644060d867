use std::net::SocketAddr;
use std::time::Duration;

use dunlin_proto::v1::work_request::Message as Say;
use dunlin_proto::v1::{self, RunState};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Code;

use crate::lab::{Agent, Controller, SOON, atomic, batched, database, hello};

/// A way to a database that can be cut.
struct Way {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Way {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, state) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut state = state.clone();
                tokio::spawn(async move {
                    if !*state.borrow_and_update() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.changed() => {}
                    }
                });
            }
        });
        Self { address, open }
    }
}

/// A database behind a way that can be cut.
async fn cuttable() -> (String, Way) {
    let url = database().await;
    let (_, rest) = url.split_once('@').unwrap();
    let place = rest.split('/').next().unwrap();
    let way = Way::to(place.rsplit(':').next().unwrap().parse().unwrap()).await;
    (url.replace(place, &way.address.to_string()), way)
}

#[tokio::test]
async fn a_database_that_goes_away_comes_back_by_itself_and_loses_no_report() {
    let (url, way) = cuttable().await;
    let controller = Controller::start(&url).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 2).await;
    let run = controller.run_one("b").await.unwrap().run.unwrap();
    let plan = agent.grant().await;
    agent.planned(&plan, 1..=1).await;
    let range = agent.grant().await;

    way.open.send_replace(false);
    controller.serving(false).await;
    let refused = controller.run_one("b").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let done = v1::TaskDone { lease: range.lease, rows: 10, rows_walked: 10, ..Default::default() };
    agent.say(Say::Done(done)).await;

    way.open.send_replace(true);
    agent.acknowledged(range.lease).await;
    controller.serving(true).await;
    agent.done(&plan, 0).await;
    let seal = agent.grant().await;
    agent.done(&seal, 10).await;
    let run = controller.reaches(run.id, RunState::Succeeded).await;
    assert_eq!(run.rows, 10);
}

#[tokio::test]
async fn a_controller_that_starts_before_its_database_waits_for_it() {
    let (url, way) = cuttable().await;
    way.open.send_replace(false);
    let controller = Controller::start_with(&url, Duration::from_secs(30)).await;
    controller.serving(false).await;
    let mut agent = Agent::open(&controller, hello("a", 1)).await;
    let refused = agent.ends().await;
    assert_eq!(refused.code(), Code::Unavailable);
    let sentence = "the controller's database is not available";
    assert_eq!(refused.message().matches(sentence).count(), 1, "{}", refused.message());
    way.open.send_replace(true);
    controller.serving(true).await;
    Agent::connect(&controller, "a", 1).await;
}

#[tokio::test]
async fn an_agent_that_is_silent_loses_its_lease_and_another_gets_the_next_epoch() {
    let url = database().await;
    let controller = Controller::start_with(&url, Duration::from_millis(600)).await;
    controller.serving(true).await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    let mut silent = Agent::connect(&controller, "silent", 1).await;
    let run = controller.run_one("a").await.unwrap().run.unwrap();
    let first = silent.grant().await;
    let mut lively = Agent::connect(&controller, "lively", 1).await;
    let second = lively.grant().await;
    assert_eq!(second.lease.unwrap().task_id, first.lease.unwrap().task_id);
    assert_eq!(second.lease.unwrap().epoch, first.lease.unwrap().epoch + 1);
    silent.done(&first, 0).await;
    assert_eq!(controller.run(run.id).await.state(), RunState::Running, "the stale report has no effect");
    lively.done(&second, 0).await;
    controller.reaches(run.id, RunState::Succeeded).await;
}

#[tokio::test]
async fn a_stream_moves_to_another_replica_with_its_leases() {
    let url = database().await;
    let (here, there) = (Controller::start(&url).await, Controller::start(&url).await);
    here.register(&[atomic("a", 1, &[]), atomic("b", 2, &[])]).await.unwrap();
    let mut agent = Agent::connect(&here, "a", 1).await;
    let runs = here.run_pending().await;
    let granted = agent.grant().await;
    here.stop.cancel();
    assert_eq!(agent.ends().await.code(), Code::Unavailable);
    let ended = timeout(SOON, here.ended).await.expect("it does not stop");
    ended.unwrap().unwrap();

    let mut said = hello("a", 1);
    said.leases = vec![v1::LeaseProgress { lease: granted.lease, ..Default::default() }];
    let mut agent = Agent::open(&there, said).await;
    assert_eq!(agent.welcome().await.kept, [granted.lease.unwrap()]);
    agent.done(&granted, 0).await;
    let next = agent.grant().await;
    agent.done(&next, 0).await;
    there.reaches(runs[1].id, RunState::Succeeded).await;
}

#[tokio::test]
async fn what_one_replica_makes_ready_another_dispatches_at_once() {
    let url = database().await;
    let (here, there) = (Controller::start(&url).await, Controller::start(&url).await);
    here.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut one = Agent::connect(&here, "one", 1).await;
    let mut other = Agent::connect(&there, "other", 1).await;
    there.run_one("b").await.unwrap();
    let plan = tokio::select! {
        plan = one.grant() => { one.planned(&plan, 1..=2).await; other.grant().await; plan }
        plan = other.grant() => { other.planned(&plan, 1..=2).await; one.grant().await; plan }
    };
    assert!(plan.lease.is_some());
}

#[tokio::test]
async fn a_newer_stream_of_an_agent_ends_the_older_one_wherever_it_is() {
    let url = database().await;
    let (here, there) = (Controller::start(&url).await, Controller::start(&url).await);
    let mut old = Agent::connect(&here, "a", 1).await;
    let _new = Agent::connect(&there, "a", 1).await;
    old.say(Say::Heartbeat(v1::Heartbeat::default())).await;
    assert_eq!(old.ends().await.code(), Code::Aborted);
}

#[tokio::test]
async fn the_services_describe_themselves() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let controller = Controller::start(&database().await).await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(controller.channel.clone());
    let mut stream = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = stream.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["dunlin.v1.RunService", "dunlin.v1.AgentService", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
}
