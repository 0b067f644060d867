use dunlin_proto::status::Details;
use dunlin_proto::v1::work_request::Message as Say;
use dunlin_proto::v1::{self, RunState, WorkRequest};
use tonic::Code;

use crate::lab::{Agent, Controller, atomic, batched, database, hello};

#[tokio::test]
async fn a_stream_must_open_with_a_valid_hello() {
    let controller = Controller::start(&database().await).await;
    let mut odd = Agent::silent(&controller).await;
    odd.say(Say::Heartbeat(v1::Heartbeat::default())).await;
    assert_eq!(odd.ends().await.code(), Code::InvalidArgument);

    let mut no_slots = Agent::open(&controller, hello("a", 0)).await;
    let status = no_slots.ends().await;
    assert_eq!((status.code(), Details::of(&status).fields[0].field.as_str()), (Code::InvalidArgument, "hello.slots"));

    let mut nameless = Agent::open(&controller, hello("", 1)).await;
    assert_eq!(nameless.ends().await.code(), Code::InvalidArgument);

    let mut twice = Agent::connect(&controller, "a", 1).await;
    twice.say(Say::Hello(hello("a", 1))).await;
    assert_eq!(twice.ends().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn odd_messages_end_a_stream_at_most_and_never_the_controller() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let lease = Some(v1::Lease { task_id: i64::MIN, epoch: i64::MAX });
    let odd = [
        Say::Done(v1::TaskDone { lease, rows: i64::MIN, rows_walked: i64::MAX, ..Default::default() }),
        Say::Done(v1::TaskDone::default()),
        Say::Failed(v1::TaskFailed { lease, ..Default::default() }),
        Say::Released(v1::TaskReleased { lease, reason: 99, ..Default::default() }),
        Say::Stale(v1::TaskStale { lease, stored_epoch: -1, applications: -1 }),
        Say::Note(v1::TaskNote { lease, r#type: 77, message: "\0".repeat(10), ..Default::default() }),
        Say::RangesPlanned(v1::RangesPlanned { lease, ranges: vec![Default::default(); 2000], key: Vec::new() }),
        Say::Target(v1::TargetReport { name: "\0".to_owned(), ..Default::default() }),
        Say::Heartbeat(v1::Heartbeat { leases: vec![Default::default(); 20_000] }),
    ];
    for (number, message) in odd.into_iter().enumerate() {
        let agent = Agent::connect(&controller, &format!("odd-{number}"), 1).await;
        agent.say(message).await;
    }
    let mut agent = Agent::connect(&controller, "even", 2).await;
    agent.say(Say::Note(v1::TaskNote { lease, ..Default::default() })).await;
    let run = controller.run_one("b").await.unwrap().run.unwrap();
    let plan = agent.grant().await;
    let error = v1::RunError { message: "bad \0 text".to_owned(), detail: "x".repeat(1 << 20), ..Default::default() };
    agent.say(Say::Failed(v1::TaskFailed { lease: plan.lease, error: Some(error), ..v1::TaskFailed::default() })).await;
    agent.acknowledged(plan.lease).await;
    let failed = controller.reaches(run.id, RunState::Failed).await;
    assert_eq!(failed.error.unwrap().message, "bad \u{fffd} text");
}

#[tokio::test]
async fn a_gap_in_ranges_ends_the_stream_and_stores_nothing() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 1).await;
    let run = controller.run_one("b").await.unwrap().run.unwrap();
    let plan = agent.grant().await;
    let range = v1::PlannedRange { ordinal: 2, ..Default::default() };
    let planned = v1::RangesPlanned { lease: plan.lease, ranges: vec![range], key: Vec::new() };
    agent.say(Say::RangesPlanned(planned)).await;
    let status = agent.ends().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("range 1 was expected"), "{}", status.message());
    assert_eq!(controller.run(run.id).await.steps[0].ranges_total, 0);
}

#[tokio::test]
async fn a_key_that_is_none_ends_the_stream_and_goes_to_nobody() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut rogue = Agent::connect(&controller, "rogue", 1).await;
    let run = controller.run_one("b").await.unwrap().run.unwrap();
    for (name, r#type) in [
        ("id", "bigint AND false); CREATE TABLE stolen (); COMMIT; --"),
        ("id", ""),
        ("id", "bigint\0"),
        ("id", "integer; --"),
        ("", "bigint"),
        ("a\0", "bigint"),
    ] {
        let plan = rogue.grant().await;
        let key = vec![v1::KeyColumn { name: name.to_owned(), r#type: r#type.to_owned() }];
        let range =
            v1::PlannedRange { ordinal: 1, high: Some(v1::Key { values: vec!["1".to_owned()] }), ..Default::default() };
        rogue.say(Say::RangesPlanned(v1::RangesPlanned { lease: plan.lease, ranges: vec![range], key })).await;
        let status = rogue.ends().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?} {type:?}");
        assert_eq!(Details::of(&status).fields[0].field, "ranges_planned.key");
        assert_eq!(controller.run(run.id).await.steps[0].ranges_total, 0);
        // It comes back without the task, which it gets again.
        rogue = Agent::connect(&controller, "rogue", 1).await;
    }
}

#[tokio::test]
async fn a_key_that_changes_ends_the_stream_and_the_first_is_told_to_whoever_plans_on() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut first = Agent::connect(&controller, "first", 1).await;
    let run = controller.run_one("b").await.unwrap().run.unwrap();
    let plan = first.grant().await;
    first.planned(&plan, 1..=1).await;
    let other = v1::RangesPlanned {
        lease: plan.lease,
        ranges: Vec::new(),
        key: vec![v1::KeyColumn { name: "id".to_owned(), r#type: "text".to_owned() }],
    };
    first.say(Say::RangesPlanned(other)).await;
    let status = first.ends().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().contains("walked along (id bigint), and ranges were reported along (id text)"),
        "{status:?}"
    );
    assert_eq!(controller.run(run.id).await.steps[0].ranges_total, 1);
}

#[tokio::test]
async fn a_message_of_a_later_version_is_passed_over() {
    let controller = Controller::start(&database().await).await;
    let mut agent = Agent::connect(&controller, "a", 1).await;
    agent.say_nothing().await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    controller.run_one("a").await.unwrap();
    agent.grant().await;
}

impl Agent {
    async fn say_nothing(&self) {
        self.send(WorkRequest { message: None }).await;
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_by_field() {
    let controller = Controller::start(&database().await).await;
    let mut runs = controller.runs();
    let negative = v1::ListRunsRequest { page_size: -1, ..Default::default() };
    let token = v1::ListRunsRequest { page_token: "nonsense".to_owned(), ..Default::default() };
    let state = v1::ListRunsRequest { states: vec![99], ..Default::default() };
    let target = v1::ListRunsRequest { target: "no such\0name".to_owned(), ..Default::default() };
    for (request, field) in [(negative, "page_size"), (token, "page_token"), (state, "states"), (target, "target")] {
        let status = runs.list_runs(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(Details::of(&status).fields[0].field, field);
    }
    assert_eq!(runs.get_run(v1::GetRunRequest { id: -5 }).await.unwrap_err().code(), Code::NotFound);
    let status = controller.register(&[]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let file = v1::DefinitionFile { path: "x.toml".to_owned(), content: "id = 5\n".to_owned() };
    let status = controller.register(&[file]).await.unwrap_err();
    assert!(Details::of(&status).fields.iter().all(|field| field.field.starts_with("x.toml:")), "{status:?}");
}
