//! An agent and a controller that is played by hand.

use dunlin_proto::v1::work_request::Message as Saying;
use dunlin_proto::v1::work_response::Message as Hearing;
use dunlin_proto::v1::{Look, ReleaseReason, Renewed, Revoke, grant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

use crate::Agent;
use crate::testing::{AgentStream, Controller, Lab, atomic_task, batch_step, range_task, sql_step, until};

struct Running {
    lab: Lab,
    controller: Controller,
    stop: oneshot::Sender<()>,
    agent: JoinHandle<Result<(), crate::RunError>>,
}

async fn start() -> Running {
    let lab = Lab::new().await;
    let controller = Controller::start().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let agent = Agent::builder()
        .controller(format!("http://127.0.0.1:1,{}", controller.url()))
        .target("main", &lab.url)
        .id("tester")
        .build()
        .unwrap();
    let agent = tokio::spawn(agent.run(async {
        let _stopped = stopped.await;
    }));
    Running { lab, controller, stop, agent }
}

fn create(table: &str) -> grant::Task {
    atomic_task(vec![sql_step(&format!("CREATE TABLE {table} (n int)"))], &[], &[])
}

#[tokio::test]
async fn an_agent_says_hello_works_on_a_grant_and_reports() {
    let mut running = start().await;
    let mut stream = running.controller.stream().await;
    let hello = &stream.hello;
    assert_eq!((hello.agent_id.as_str(), hello.slots, hello.leases.len()), ("tester", 2, 0));
    let target = &hello.targets[0];
    assert!(target.reachable && !target.server_version.is_empty(), "{target:?}");
    stream.welcome(Vec::new());
    let lease = stream.grant(7, create("a"));
    let Some(Saying::Done(done)) = stream.report().await else { panic!("not done") };
    assert_eq!(done.lease, Some(lease));
    assert_eq!(done.applied.unwrap().target, "main");
    stream.acknowledge(lease);
    running.stop.send(()).unwrap();
    running.agent.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_that_breaks_stops_no_work_and_the_report_comes_on_the_next() {
    let mut running = start().await;
    let stream = running.controller.stream().await;
    stream.welcome(Vec::new());
    let slow = atomic_task(vec![sql_step("CREATE TABLE a (n int); SELECT pg_sleep(0.5)")], &[], &[]);
    let lease = stream.grant(7, slow);
    until(
        &running.lab.client,
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
    )
    .await;
    drop(stream);

    let mut stream = running.controller.stream().await;
    assert_eq!(stream.hello.leases[0].lease, Some(lease), "it says what it holds");
    stream.welcome(vec![lease]);
    assert!(matches!(stream.report().await, Some(Saying::Done(done)) if done.lease == Some(lease)));
    // The acknowledgement is lost with this stream: the report comes again.
    drop(stream);
    let mut stream = running.controller.stream().await;
    assert_eq!(stream.hello.leases.len(), 1);
    stream.welcome(vec![lease]);
    assert!(matches!(stream.report().await, Some(Saying::Done(done)) if done.lease == Some(lease)));
    stream.acknowledge(lease);
    running.stop.send(()).unwrap();
    running.agent.await.unwrap().unwrap();
}

#[tokio::test]
async fn leases_that_are_not_kept_are_dropped_without_a_word() {
    let mut running = start().await;
    let stream = running.controller.stream().await;
    stream.welcome(Vec::new());
    stream.grant(7, atomic_task(vec![sql_step("CREATE TABLE a (n int); SELECT pg_sleep(60)")], &[], &[]));
    until(
        &running.lab.client,
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
    )
    .await;
    drop(stream);
    let mut stream = running.controller.stream().await;
    stream.welcome(Vec::new());
    // The statement is cancelled, and the agent is there for other work.
    until(
        &running.lab.client,
        "SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
    )
    .await;
    let lease = stream.grant(8, create("b"));
    assert!(matches!(stream.report().await, Some(Saying::Done(done)) if done.lease == Some(lease)));
    assert_eq!(running.lab.number("SELECT count(*) FROM pg_class WHERE relname = 'a'").await, 0);
    drop((running.stop, running.agent));
}

#[tokio::test]
async fn heartbeats_name_all_leases_until_they_are_lost() {
    let mut running = start().await;
    let mut stream = running.controller.stream().await;
    stream.welcome(Vec::new());
    let lease = stream.grant(7, atomic_task(vec![sql_step("SELECT pg_sleep(60)")], &[], &[]));
    while stream.heartbeat().await != [lease] {}
    stream.say(Hearing::Renewed(Renewed { kept: Vec::new(), lost: vec![lease] }));
    while !stream.heartbeat().await.is_empty() {}
}

async fn slow_range(running: &mut Running) -> grant::Task {
    running
        .lab
        .sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 2000) i")
        .await;
    let sql = "UPDATE t SET n = n * 3 + 1 FROM (SELECT pg_sleep(0.01)) AS s WHERE :batch";
    let step = batch_step("t", sql, 10, 10_000, 1);
    let planned = running.lab.plan(&step).await;
    range_task(&step, &planned, &planned.ranges[0])
}

const BEGUN: &str = "SELECT batches > 2 FROM dunlin.checkpoints WHERE range = 1";

#[tokio::test]
async fn an_agent_that_stops_gives_its_leases_back_and_waits_until_that_is_stored() {
    let mut running = start().await;
    let task = slow_range(&mut running).await;
    let mut stream = running.controller.stream().await;
    stream.welcome(Vec::new());
    let lease = stream.grant(7, task);
    until(&running.lab.client, BEGUN).await;
    running.stop.send(()).unwrap();
    let Some(Saying::Released(released)) = stream.report().await else { panic!("not released") };
    assert_eq!((released.lease, released.reason()), (Some(lease), ReleaseReason::Stopping));
    assert!(!running.agent.is_finished());
    stream.acknowledge(lease);
    running.agent.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lease_that_is_asked_for_is_given_back() {
    let mut running = start().await;
    let task = slow_range(&mut running).await;
    let mut stream = running.controller.stream().await;
    stream.welcome(Vec::new());
    let lease = stream.grant(7, task);
    until(&running.lab.client, BEGUN).await;
    stream.say(Hearing::Revoke(Revoke { lease: Some(lease), reason: "the run has failed".to_owned() }));
    let Some(Saying::Released(released)) = stream.report().await else { panic!("not released") };
    assert_eq!((released.reason(), released.message.as_str()), (ReleaseReason::Revoked, "the run has failed"));
}

#[tokio::test]
async fn a_target_that_is_away_is_told_and_told_again_when_it_is_back() {
    let controller = Controller::start().await;
    let mut controller = controller;
    let agent = Agent::builder()
        .controller(controller.url())
        .target("main", "postgres://app:secret@127.0.0.1:1/app")
        .build()
        .unwrap();
    let agent = tokio::spawn(agent.run(std::future::pending()));
    let mut stream = controller.stream().await;
    let report = &stream.hello.targets[0];
    assert!(!report.reachable && !report.error.is_empty() && !report.error.contains("secret"), "{report:?}");
    stream.welcome(Vec::new());
    assert!(matches!(stream.report().await, Some(Saying::Target(report)) if !report.reachable));
    agent.abort();
}

/// An agent of two controllers, and the stream that it opens first: at the first of those that are returned.
async fn start_at_two() -> (Lab, Controller, Controller, AgentStream) {
    let lab = Lab::new().await;
    let (mut one, mut other) = (Controller::start().await, Controller::start().await);
    let agent =
        Agent::builder().controller(format!("{},{}", one.url(), other.url())).target("main", &lab.url).build().unwrap();
    tokio::spawn(agent.run(std::future::pending()));
    tokio::select! {
        stream = one.stream() => (lab, one, other, stream),
        stream = other.stream() => (lab, other, one, stream),
    }
}

#[tokio::test]
async fn an_agent_whose_controller_is_gone_moves_to_another() {
    let (_lab, _here, mut other, stream) = start_at_two().await;
    stream.welcome(Vec::new());
    drop(stream);
    other.stream().await.welcome(Vec::new());
}

#[tokio::test]
async fn an_agent_whose_heartbeats_are_not_answered_moves_with_its_leases() {
    let (lab, here, mut other, stream) = start_at_two().await;
    stream.welcome(Vec::new());
    let slow = atomic_task(vec![sql_step("CREATE TABLE a (n int); SELECT pg_sleep(60)")], &[], &[]);
    let lease = stream.grant(7, slow);
    until(
        &lab.client,
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
    )
    .await;
    here.be_deaf();
    let moved = other.stream().await;
    assert_eq!(moved.hello.leases[0].lease, Some(lease), "the work went on meanwhile");
}

#[tokio::test]
async fn an_agent_that_is_not_welcomed_moves_on() {
    let (_lab, _here, mut other, _stream) = start_at_two().await;
    other.stream().await.welcome(Vec::new());
}

#[tokio::test]
async fn a_target_that_does_not_answer_keeps_no_hello_waiting_and_is_told_of_later() {
    let lab = Lab::new().await;
    let mut controller = Controller::start().await;
    // The kernel accepts, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://app@{}/app", silent.local_addr().unwrap());
    let agent = Agent::builder().controller(controller.url()).target("main", &lab.url).target("silent", url);
    tokio::spawn(agent.build().unwrap().run(std::future::pending()));
    let mut stream = controller.stream().await;
    assert!(stream.hello.targets.iter().all(|report| report.name == "main"), "{:?}", stream.hello);
    stream.welcome(Vec::new());
    let mut fastest = Duration::MAX;
    for _again in 0..3 {
        drop(stream);
        let lost = Instant::now();
        stream = controller.stream().await;
        fastest = fastest.min(lost.elapsed());
        stream.welcome(Vec::new());
    }
    assert!(fastest < Duration::from_millis(1900), "it took {fastest:?}");
    let told = stream.hello.targets.iter().find(|report| report.name == "silent").cloned();
    let told = match told {
        Some(report) => Some(Saying::Target(report)),
        None => stream.report().await,
    };
    assert!(matches!(&told, Some(Saying::Target(report)) if report.name == "silent" && !report.reachable), "{told:?}");
}

#[tokio::test]
async fn a_look_that_is_asked_for_is_told_with_its_name() {
    let mut running = start().await;
    let mut stream = running.controller.stream().await;
    stream.welcome(Vec::new());
    let time = Some(dunlin_proto::convert::timestamp(std::time::SystemTime::UNIX_EPOCH));
    stream.say(Hearing::Look(Look { target: "elsewhere".to_owned(), time }));
    stream.say(Hearing::Look(Look { target: "main".to_owned(), time }));
    let Some(Saying::Target(report)) = stream.report().await else { panic!("not told") };
    assert_eq!((report.name.as_str(), report.reachable, report.look_time), ("main", true, time));
}

#[tokio::test]
async fn a_grant_for_an_unknown_target_is_refused() {
    let mut running = start().await;
    let mut stream = running.controller.stream().await;
    stream.welcome(Vec::new());
    stream.say(Hearing::Grant(dunlin_proto::v1::Grant {
        lease: Some(dunlin_proto::v1::Lease { task_id: 1, epoch: 1 }),
        target: "elsewhere".to_owned(),
        migration_id: "sample".to_owned(),
        task: Some(create("a")),
        ..dunlin_proto::v1::Grant::default()
    }));
    let Some(Saying::Failed(failed)) = stream.report().await else { panic!("not failed") };
    assert!(failed.error.unwrap().message.contains("elsewhere"));
}

#[tokio::test]
async fn an_agent_takes_no_more_than_its_slots_whatever_it_is_granted() {
    let mut running = start().await;
    let mut stream = running.controller.stream().await;
    stream.welcome(Vec::new());
    let slow = || atomic_task(vec![sql_step("SELECT pg_sleep(20)")], &[], &[]);
    let (_first, _second) = (stream.grant(1, slow()), stream.grant(2, slow()));
    let third = stream.grant(3, slow());
    let Some(Saying::Released(released)) = stream.report().await else { panic!("not given back") };
    assert_eq!((released.lease, released.reason()), (Some(third), ReleaseReason::Busy));
    assert!(released.message.contains("2 slots"), "{released:?}");
}
