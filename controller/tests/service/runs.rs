use std::time::Duration;

use dunlin_proto::status::Details;
use dunlin_proto::v1::{self, RunState, grant};
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::lab::{Agent, Controller, atomic, batched, database, transform};

#[tokio::test]
async fn atomic_and_batched_migrations_run_to_the_end() {
    let controller = Controller::start(&database().await).await;
    let files = [atomic("add-table", 1, &[]), batched("fill", 2, &["add-table"])];
    let registered = controller.register(&files).await.unwrap();
    assert_eq!(registered[0].outcome(), v1::RegisterOutcome::Registered);
    let mut agent = Agent::connect(&controller, "a", 4).await;
    let runs = controller.run_pending().await;
    assert_eq!(runs.len(), 2);

    let whole = agent.grant().await;
    let Some(grant::Task::Statement(task)) = &whole.task else { panic!("{whole:?}") };
    assert_eq!((task.steps.len(), task.seal.is_some(), whole.applications), (1, true, 0));
    agent.done(&whole, 0).await;

    let plan = agent.grant().await;
    let Some(grant::Task::Plan(task)) = &plan.task else { panic!("{plan:?}") };
    assert_eq!(task.known_ranges, 0);
    agent.planned(&plan, 1..=3).await;
    for ordinal in 1..=3 {
        let granted = agent.grant().await;
        let Some(grant::Task::Range(task)) = &granted.task else { panic!("{granted:?}") };
        assert_eq!(task.range.as_ref().unwrap().ordinal, ordinal);
        assert_eq!(task.key[0].r#type, "bigint");
        agent.done(&granted, 10).await;
    }
    agent.done(&plan, 0).await;
    let seal = agent.grant().await;
    assert!(matches!(seal.task, Some(grant::Task::Seal(_))));
    agent.done(&seal, 30).await;

    let run = controller.reaches(runs[1].id, RunState::Succeeded).await;
    assert_eq!((run.rows, run.rows_walked, run.rows_total), (30, 30, 300));
    assert_eq!(run.steps[0].ranges_done, 3);
    assert!(run.start_time.is_some() && run.end_time.is_some() && run.result.is_some());
    let version = controller.registry().get_schema_version(v1::GetSchemaVersionRequest::default()).await.unwrap();
    assert_eq!(version.into_inner().version, 2);
    let request = v1::GetMigrationRequest { id: "fill".to_owned(), revision: 0 };
    let known = controller.registry().get_migration(request).await.unwrap().into_inner();
    assert_eq!(known.applied[0].run_id, runs[1].id);
    assert!(known.migration.unwrap().definition.contains("id = \"fill\""));
}

#[tokio::test]
async fn a_failure_stops_what_comes_later_and_is_mended_by_another_definition() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[atomic("a", 1, &[]), atomic("b", 2, &[]), atomic("c", 3, &["a"])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 2).await;
    let runs = controller.run_pending().await;
    let granted = agent.grant().await;
    agent.failed(&granted).await;
    let failed = controller.reaches(runs[0].id, RunState::Failed).await;
    let error = failed.error.unwrap();
    assert_eq!((error.message.as_str(), error.agent_id.as_str()), ("the column is missing", "a"));
    assert!(!error.next.is_empty());
    for run in &runs[1..] {
        controller.reaches(run.id, RunState::Cancelled).await;
    }
    let plan = controller.registry().plan_pending(v1::PlanPendingRequest::default()).await.unwrap().into_inner();
    assert_eq!(plan.pending[0].failed_run_id, runs[0].id);
    assert_eq!(plan.pending[0].waits, []);

    let mut mended = atomic("a", 1, &[]);
    mended.content = mended.content.replace("bigint", "int");
    assert_eq!(controller.register(&[mended]).await.unwrap()[0].outcome(), v1::RegisterOutcome::Changed);
    let again = controller.run_pending().await;
    for _migration in 0..3 {
        let granted = agent.grant().await;
        agent.done(&granted, 0).await;
    }
    for run in &again {
        controller.reaches(run.id, RunState::Succeeded).await;
    }
}

#[tokio::test]
async fn leases_of_a_failed_run_are_asked_back() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut one = Agent::connect(&controller, "one", 1).await;
    controller.run_pending().await;
    let plan = one.grant().await;
    one.planned(&plan, 1..=2).await;
    let mut other = Agent::connect(&controller, "other", 2).await;
    let (first, second) = (other.grant().await, other.grant().await);
    other.failed(&first).await;
    assert_eq!(one.revoked().await.lease, plan.lease);
    assert_eq!(other.revoked().await.lease, second.lease);
    // What they have done by then is counted.
    assert_eq!(other.beat(&second, 7).await.kept, [second.lease.unwrap()]);
    assert_eq!(other.revoked().await.lease, second.lease, "asked again");
    let run = controller.run(first.run_id).await;
    assert_eq!((run.state(), run.leases, run.rows), (RunState::Failed, 2, 7));
    other.released(&second, 9).await;
    one.released(&plan, 0).await;
    let run = controller.run(first.run_id).await;
    assert_eq!((run.state(), run.leases, run.rows), (RunState::Failed, 0, 9));
    assert_eq!(one.beat(&plan, 0).await.kept, []);
}

#[tokio::test]
async fn a_refusal_names_what_is_in_the_way() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[atomic("a", 1, &[]), atomic("b", 2, &["a"])]).await.unwrap();
    let unknown = controller.run_one("a").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("--target main=URL"), "{}", unknown.message());

    let _agent = Agent::connect(&controller, "a", 1).await;
    assert_eq!(controller.run_one("nothing").await.unwrap_err().code(), Code::NotFound);
    let missing = controller.run_one("b").await.unwrap_err();
    assert_eq!(missing.code(), Code::FailedPrecondition);
    assert_eq!(Details::of(&missing).obstacles[0].subject, "a");
    let run = controller.run_one("a").await.unwrap().run.unwrap();
    let again = controller.run_one("a").await.unwrap();
    assert_eq!((again.attached, again.run.unwrap().id), (true, run.id));
    let other = v1::RunMigrationRequest {
        migration_id: "a".to_owned(),
        redo_steps: vec!["s".to_owned()],
        wait_for_agent: true,
        ..Default::default()
    };
    let again = controller.runs().run_migration(other).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert_eq!(Details::of(&again).obstacles[0].subject, run.id.to_string());
}

#[tokio::test]
async fn a_run_that_goes_on_answers_a_cancellation_with_its_state() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[atomic("a", 1, &[]), atomic("b", 2, &["a"])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 1).await;
    let runs = controller.run_pending().await;
    let granted = agent.grant().await;
    let cancel = async |id, by: &str| {
        let request = v1::CancelRunRequest { id, cancelled_by: by.to_owned() };
        controller.runs().cancel_run(request).await.map(tonic::Response::into_inner)
    };
    let refused = cancel(runs[0].id, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let details = Details::of(&refused);
    assert_eq!((details.reason.as_str(), details.obstacles[0].kind.as_str()), ("RUN_BEGUN", "running"));
    assert_eq!(cancel(1_000_000, "").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(cancel(runs[1].id, &"x".repeat(201)).await.unwrap_err().code(), Code::InvalidArgument);
    let cancelled = cancel(runs[1].id, "ann@desk").await.unwrap();
    assert_eq!(cancelled.run.unwrap().state(), RunState::Cancelled);
    agent.done(&granted, 0).await;
    controller.reaches(runs[0].id, RunState::Succeeded).await;
    assert_eq!(Details::of(&cancel(runs[0].id, "").await.unwrap_err()).reason, "RUN_ENDED");
}

#[tokio::test]
async fn a_name_that_was_never_served_is_not_found_wherever_it_is_named() {
    let controller = Controller::start(&database().await).await;
    let _agent = Agent::connect(&controller, "a", 1).await;
    let target = || "never".to_owned();
    let (mut runs, mut registry) = (controller.runs(), controller.registry());
    let codes = [
        runs.list_runs(v1::ListRunsRequest { target: target(), ..Default::default() }).await.err(),
        runs.list_events(v1::ListEventsRequest { target: target(), ..Default::default() }).await.err(),
        runs.watch_runs(v1::WatchRunsRequest { all: true, target: target(), ..Default::default() }).await.err(),
        runs.run_pending_migrations(v1::RunPendingMigrationsRequest { target: target(), wait_for_agent: true })
            .await
            .err(),
        registry.plan_pending(v1::PlanPendingRequest { target: target() }).await.err(),
        registry.get_schema_version(v1::GetSchemaVersionRequest { target: target() }).await.err(),
        registry
            .list_applied_migrations(v1::ListAppliedMigrationsRequest { target: target(), ..Default::default() })
            .await
            .err(),
        controller.fleet().list_agents(v1::ListAgentsRequest { target: target(), ..Default::default() }).await.err(),
    ];
    let codes: Vec<Option<Code>> = codes.into_iter().map(|status| status.map(|status| status.code())).collect();
    assert_eq!(codes, [Some(Code::NotFound); 8]);
}

#[tokio::test]
async fn an_applied_migration_is_skipped_and_a_rerun_repeats_it() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 1).await;
    controller.run_one("a").await.unwrap();
    let granted = agent.grant().await;
    agent.done(&granted, 0).await;
    let skipped = controller.run_one("a").await.unwrap();
    assert!(skipped.skipped && skipped.run.is_none() && !skipped.message.is_empty());

    let request = v1::RunMigrationRequest {
        migration_id: "a".to_owned(),
        rerun: true,
        wait_for_agent: true,
        ..Default::default()
    };
    let run = controller.runs().run_migration(request).await.unwrap().into_inner().run.unwrap();
    assert!(run.rerun);
    let granted = agent.grant().await;
    assert_eq!(granted.applications, 1);
    agent.done(&granted, 0).await;
    controller.reaches(run.id, RunState::Succeeded).await;
}

#[tokio::test]
async fn a_task_waits_for_an_agent_that_has_its_code() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[transform("t", 1, "parents")]).await.unwrap();
    let mut plain = Agent::connect(&controller, "plain", 1).await;
    let run = controller.run_one("t").await.unwrap().run.unwrap();
    // That the agent reaches the target is stored a moment after it has connected.
    let told = timeout(Duration::from_secs(10), async {
        while controller.run(run.id).await.waits.first().map(v1::Wait::reason) != Some(v1::WaitReason::Transform) {
            sleep(Duration::from_millis(5)).await;
        }
    });
    told.await.unwrap();
    let mut able = crate::lab::hello("able", 1);
    able.transforms = vec!["parents".to_owned()];
    let mut able = Agent::open(&controller, able).await;
    assert!(matches!(able.grant().await.task, Some(grant::Task::Plan(_))));
    assert!(controller.run(run.id).await.waits.is_empty());
    assert!(timeout(Duration::from_millis(50), plain.grant()).await.is_err());
}

#[tokio::test]
async fn an_agent_is_never_given_more_than_its_slots() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 2).await;
    controller.run_pending().await;
    let plan = agent.grant().await;
    agent.planned(&plan, 1..=5).await;
    let range = agent.grant().await;
    assert!(timeout(Duration::from_millis(100), agent.grant()).await.is_err(), "both slots are taken");
    agent.done(&range, 1).await;
    agent.grant().await;
}

#[tokio::test]
async fn a_request_to_register_says_what_it_means() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[atomic("a", 1, &[]), atomic("b", 2, &[])]).await.unwrap();
    let register = async |request: v1::RegisterMigrationsRequest| {
        let request = v1::RegisterMigrationsRequest { files: vec![atomic("a", 1, &[])], ..request };
        controller.registry().register_migrations(request).await.map(tonic::Response::into_inner)
    };
    let amend = || vec!["a".to_owned()];
    for unfit in [
        v1::RegisterMigrationsRequest { missing: 7, ..Default::default() },
        v1::RegisterMigrationsRequest { amend: amend(), ..Default::default() },
        v1::RegisterMigrationsRequest { reason: "no migration is named".to_owned(), ..Default::default() },
        v1::RegisterMigrationsRequest { registered_by: "ann\ndesk".to_owned(), ..Default::default() },
        v1::RegisterMigrationsRequest { amend: vec!["b".to_owned()], reason: "why".to_owned(), ..Default::default() },
    ] {
        let told = format!("{unfit:?}");
        assert_eq!(register(unfit).await.unwrap_err().code(), Code::InvalidArgument, "{told}");
    }
    let missing = register(v1::RegisterMigrationsRequest::default()).await.unwrap_err();
    assert_eq!(missing.code(), Code::FailedPrecondition);
    let details = Details::of(&missing);
    assert_eq!(details.reason, "MIGRATIONS_MISSING");
    assert_eq!((details.obstacles[0].kind.as_str(), details.obstacles[0].subject.as_str()), ("MISSING", "b"));
    let withdraw = v1::MissingPolicy::Withdraw.into();
    let request = v1::RegisterMigrationsRequest { missing: withdraw, ..Default::default() };
    let taken = register(request).await.unwrap().withdrawn;
    assert_eq!((taken[0].id.as_str(), taken[0].outcome()), ("b", v1::RegisterOutcome::Withdrawn));
}
