//! Messages that no correct program sends. Whatever comes, the controller goes on to serve, and an agent that behaves finishes its
//! work beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dunlin_proto::v1::work_request::Message as Say;
use dunlin_proto::v1::{self, RunState, grant};
use dunlin_shared::postgres::connect;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::time::{sleep, timeout};
use tonic::Code;

use crate::lab::{Agent, Controller, SOON, atomic, batched, database, hello, target};
use crate::raw;

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(0),
        Just(-1),
        Just(i64::MIN),
        Just(i64::MAX),
        Just(1 << 53),
        Just(1 << 50),
        1..20_i64,
        any::<i64>()
    ]
}

fn small() -> impl Strategy<Value = i32> {
    prop_oneof![Just(0), Just(-1), Just(i32::MIN), Just(i32::MAX), 1..5_i32, any::<i32>()]
}

/// Longer than any text that is kept, and not to be compressed.
fn long(seed: u64) -> String {
    let next =
        |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(seed), next).take(5_000).map(|state| format!("{state:016x}")).collect()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("\0".to_owned()),
        Just("main".to_owned()),
        Just("even".to_owned()),
        Just("'; DROP TABLE x; --".to_owned()),
        Just("\u{202e}é\u{10ffff}".to_owned()),
        any::<u64>().prop_map(long),
        any::<String>(),
    ]
}

fn lease() -> impl Strategy<Value = Option<v1::Lease>> {
    // The first tasks and epochs are those of the agent that behaves.
    let real = (1..30_i64, 1..4_i64);
    prop_oneof![Just(None), real.prop_map(Some), (number(), number()).prop_map(Some)]
        .prop_map(|pair| pair.map(|(task_id, epoch)| v1::Lease { task_id, epoch }))
}

fn key() -> impl Strategy<Value = Option<v1::Key>> {
    prop::option::of(prop::collection::vec(text(), 0..3).prop_map(|values| v1::Key { values }))
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        text().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((text(), inner), 0..4)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn applied() -> impl Strategy<Value = v1::AppliedMigration> {
    let time =
        prop::option::of((number(), small()).prop_map(|(seconds, nanos)| pbjson_types::Timestamp { seconds, nanos }));
    let result = prop::collection::vec((text(), value()), 0..3);
    (text(), (number(), small()), text(), small(), number(), time, result).prop_map(
        |(id, (version, revision), name, applications, rows, time, result)| {
            let result = serde_json::Value::Object(result.into_iter().collect());
            v1::AppliedMigration {
                id,
                version,
                checksum: name.clone(),
                name,
                target: "main".to_owned(),
                revision,
                applications,
                run_id: rows,
                rows,
                agent_id: "odd".to_owned(),
                apply_time: time,
                last_apply_time: time,
                result: dunlin_proto::convert::to_struct(&result).ok(),
            }
        },
    )
}

fn held() -> impl Strategy<Value = v1::HeldStep> {
    (text(), text(), text(), any::<i32>(), -1..5, number(), any::<bool>()).prop_map(
        |(migration_id, name, redo, ordinal, state, rows, walks)| v1::HeldStep {
            migration_id,
            was: name.clone(),
            checksum: redo.clone(),
            name,
            ordinal,
            walks,
            state,
            rows,
            rows_walked: rows,
            redo,
        },
    )
}

fn report() -> impl Strategy<Value = v1::TargetReport> {
    // Never `main`, whose registry is that of the agent that behaves.
    (
        prop_oneof![Just("odd".to_owned()), text().prop_filter("main", |name| name != "main")],
        any::<bool>(),
        text(),
        prop::collection::vec(applied(), 0..3),
        prop::option::of((any::<i64>(), any::<i32>())),
        prop::collection::vec(held(), 0..3),
        prop::option::of((text(), any::<u32>(), text(), any::<i64>(), text(), any::<bool>())),
    )
        .prop_map(|(name, reachable, error, applied, time, held, seen)| v1::TargetReport {
            raised: seen.as_ref().is_some_and(|seen| seen.5),
            more_follows: error.len() % 5 == 1,
            identity: seen.map(|(system, database, data, line, mark, _)| v1::TargetIdentity {
                system,
                database,
                data,
                line,
                mark,
            }),
            name,
            reachable,
            server_version: error.clone(),
            error,
            applied,
            look_time: time.map(|(seconds, nanos)| pbjson_types::Timestamp { seconds, nanos }),
            held,
            held_time: time.map(|(seconds, nanos)| pbjson_types::Timestamp { seconds, nanos }),
        })
}

fn heartbeat() -> impl Strategy<Value = v1::Heartbeat> {
    let activity = (text(), number(), number(), text()).prop_map(|(phase, done, total, unit)| v1::Activity {
        phase,
        done,
        total,
        unit,
    });
    let progress = (lease(), number(), number(), number(), text(), prop::option::of(activity), number()).prop_map(
        |(lease, rows, rows_walked, rows_walked_before, waits, activity, alive)| v1::LeaseProgress {
            lease,
            rows,
            rows_walked,
            rows_walked_before,
            waits,
            activity,
            alive,
        },
    );
    prop::collection::vec(progress, 0..40).prop_map(|leases| v1::Heartbeat { leases })
}

fn planned() -> impl Strategy<Value = v1::RangesPlanned> {
    let range = (small(), key(), key(), number(), any::<bool>(), number()).prop_map(
        |(ordinal, low, high, rows_total, done, rows)| v1::PlannedRange {
            ordinal,
            low,
            high,
            rows_total,
            done,
            rows,
            rows_walked: rows,
        },
    );
    let column = (text(), text()).prop_map(|(name, r#type)| v1::KeyColumn { name, r#type });
    (lease(), prop::collection::vec(range, 0..4), prop::collection::vec(column, 0..40))
        .prop_map(|(lease, ranges, key)| v1::RangesPlanned { lease, ranges, key })
}

fn said() -> impl Strategy<Value = Say> {
    prop_oneof![
        1 => (text(), small(), prop::collection::vec(report(), 0..3), prop::collection::vec(text(), 0..3)).prop_map(
            |(agent_id, slots, targets, transforms)| Say::Hello(v1::Hello {
                // Nobody takes the stream of the agent that behaves.
                agent_id: if agent_id == "even" { "odd".to_owned() } else { agent_id },
                slots,
                targets,
                transforms,
                ..Default::default()
            })
        ),
        2 => heartbeat().prop_map(Say::Heartbeat),
        2 => report().prop_map(Say::Target),
        3 => planned().prop_map(Say::RangesPlanned),
        3 => (lease(), number(), number(), any::<bool>(), prop::option::of(applied())).prop_map(
            |(lease, rows, rows_walked, already_done, applied)| Say::Done(v1::TaskDone {
                lease,
                rows,
                rows_walked,
                already_done,
                applied,
                rows_walked_before: rows,
            })
        ),
        2 => (lease(), text(), text(), any::<bool>()).prop_map(|(lease, message, detail, retryable)| {
            let error = v1::RunError { step: detail.clone(), message, detail, ..Default::default() };
            Say::Failed(v1::TaskFailed { lease, error: Some(error), retryable, ..v1::TaskFailed::default() })
        }),
        2 => (lease(), small(), text(), number()).prop_map(|(lease, reason, message, rows)| {
            Say::Released(v1::TaskReleased { lease, reason, message, rows, rows_walked: rows, rows_walked_before: rows })
        }),
        2 => (lease(), number(), small()).prop_map(|(lease, stored_epoch, applications)| {
            Say::Stale(v1::TaskStale { lease, stored_epoch, applications })
        }),
        2 => (lease(), small(), text())
            .prop_map(|(lease, r#type, message)| Say::Note(v1::TaskNote { lease, r#type, message, ..Default::default() })),
    ]
}

/// What agents say one after the other. Trees of strategies take more stack than a test has.
fn conversations(count: usize) -> Vec<Vec<Say>> {
    let made = std::thread::Builder::new().stack_size(256 << 20).spawn(move || {
        let mut runner = TestRunner::default();
        let conversation = prop::collection::vec(said(), 1..10);
        (0..count).map(|_| conversation.new_tree(&mut runner).unwrap().current()).collect()
    });
    made.unwrap().join().unwrap()
}

/// Does what it is granted, until a run has succeeded.
async fn behave(controller: &Controller, agent: &mut Agent, run: i64) {
    let worked = timeout(SOON, async {
        while controller.run(run).await.state() != RunState::Succeeded {
            let grant = agent.grant().await;
            let task = grant.task.as_ref().unwrap();
            if matches!(task, grant::Task::Plan(_)) {
                agent.planned(&grant, 1..=2).await;
            }
            agent.done(&grant, 7).await;
        }
    });
    worked.await.expect("the agent that behaves cannot finish");
}

/// Waits until no transaction is left open in the controller's database.
async fn nothing_is_open(url: &str) {
    let (client, _connection) = connect(url, "test").await.unwrap();
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'";
    let reached = timeout(SOON, async {
        while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    reached.await.expect("a transaction stays open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_agents_say_an_agent_that_behaves_finishes_beside_them() {
    let url = database().await;
    let controller = Controller::start(&url).await;
    let mut even = Agent::connect(&controller, "even", 2).await;
    let mut conversations = conversations(72).into_iter();
    for round in 1..=12 {
        let id = format!("m{round}");
        controller.register(&[batched(&id, round, &[])]).await.unwrap();
        let run = controller.run_one(&id).await.unwrap().run.unwrap();
        let mut odd = Vec::new();
        for number in 0..6 {
            let agent = if number == 0 {
                Agent::silent(&controller).await
            } else {
                // On a target of its own, where nothing is to be done.
                let greeting =
                    v1::Hello { targets: vec![target("odd", Vec::new())], ..hello(&format!("odd-{number}"), 3) };
                Agent::open(&controller, greeting).await
            };
            for message in conversations.next().unwrap() {
                agent.say(message).await;
            }
            odd.push(agent);
        }
        behave(&controller, &mut even, run.id).await;
        let run = controller.run(run.id).await;
        assert_eq!((run.rows, run.steps[0].ranges_total), (14, 2), "others have counted for it");
    }
    nothing_is_open(&url).await;
}

#[tokio::test]
async fn nobody_reports_or_renews_what_is_not_its_own() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut even = Agent::connect(&controller, "even", 1).await;
    let run = controller.run_one("b").await.unwrap().run.unwrap();
    let plan = even.grant().await;
    let mut odd = Agent::open(&controller, v1::Hello { targets: Vec::new(), ..hello("odd", 1) }).await;
    odd.welcome().await;
    let lease = plan.lease;
    for message in [
        Say::Done(v1::TaskDone { lease, ..Default::default() }),
        Say::Failed(v1::TaskFailed { lease, ..Default::default() }),
        Say::Released(v1::TaskReleased { lease, ..Default::default() }),
        Say::Stale(v1::TaskStale { lease, stored_epoch: 9, applications: 0 }),
        Say::RangesPlanned(v1::RangesPlanned { lease, ranges: vec![Default::default()], key: Vec::new() }),
    ] {
        odd.say(message).await;
        odd.acknowledged(lease).await;
    }
    assert_eq!(odd.beat(&plan, 1_000_000).await.lost, [lease.unwrap()]);
    assert_eq!(even.beat(&plan, 0).await.kept, [lease.unwrap()]);
    behave_from(&controller, &mut even, plan, run.id).await;
}

/// As [`behave`], with a grant that has come already.
async fn behave_from(controller: &Controller, agent: &mut Agent, plan: v1::Grant, run: i64) {
    agent.planned(&plan, 1..=2).await;
    agent.done(&plan, 0).await;
    behave(controller, agent, run).await;
}

#[tokio::test]
async fn an_epoch_that_no_lease_leads_to_fails_its_run_and_stops_no_other() {
    let controller = Controller::start(&database().await).await;
    controller.register(&[atomic("a", 1, &[]), batched("b", 2, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 1).await;
    let run = controller.run_one("a").await.unwrap().run.unwrap();
    let grant = agent.grant().await;
    agent.say(Say::Stale(v1::TaskStale { lease: grant.lease, stored_epoch: i64::MAX, applications: 0 })).await;
    agent.acknowledged(grant.lease).await;
    let failed = controller.reaches(run.id, RunState::Failed).await.error.unwrap();
    assert!(failed.message.contains("which Dunlin never comes to"), "{}", failed.message);
    assert!(failed.next.contains("dunlin.checkpoints"), "{}", failed.next);
    let run = controller.run_one("b").await.unwrap().run.unwrap();
    behave(&controller, &mut agent, run.id).await;
}

#[tokio::test]
async fn figures_that_cannot_be_added_end_the_stream_that_they_came_by() {
    let url = database().await;
    let controller = Controller::start(&url).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 2).await;
    controller.run_one("b").await.unwrap();
    let plan = agent.grant().await;
    agent.planned(&plan, 1..=1).await;
    let range = agent.grant().await;
    let (client, _connection) = connect(&url, "test").await.unwrap();
    client.batch_execute("UPDATE dunlin_controller.run_steps SET rows = 9223372036854775807").await.unwrap();
    let leases = vec![v1::LeaseProgress { lease: range.lease, rows: 1 << 40, ..Default::default() }];
    agent.say(Say::Heartbeat(v1::Heartbeat { leases })).await;
    assert_eq!(agent.ends().await.code(), Code::Internal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_talks_while_the_database_is_stuck_is_not_read_without_end() {
    const NOTES: usize = 40_000;
    let url = database().await;
    let controller = Controller::start(&url).await;
    controller.register(&[batched("b", 1, &[])]).await.unwrap();
    let mut agent = Agent::connect(&controller, "a", 1).await;
    controller.run_one("b").await.unwrap();
    let lease = agent.grant().await.lease;
    let agent = Arc::new(agent);
    let (client, _connection) = connect(&url, "test").await.unwrap();
    client.batch_execute("BEGIN; LOCK TABLE dunlin_controller.tasks IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let talk = tokio::spawn({
        let (agent, told) = (Arc::clone(&agent), Arc::clone(&told));
        async move {
            for _ in 0..NOTES {
                agent.say(Say::Note(v1::TaskNote { lease, message: "x".repeat(1024), ..Default::default() })).await;
                told.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let stands_still = timeout(SOON, async {
        let mut before = usize::MAX;
        let mut times = 0;
        while times < 20 {
            sleep(Duration::from_millis(50)).await;
            let now = told.load(Ordering::Relaxed);
            times = if now == before && now > 0 { times + 1 } else { 0 };
            before = now;
        }
        before
    });
    let read = stands_still.await.expect("it is read on and on");
    assert!(read < NOTES, "all of it was taken in");
    client.batch_execute("ROLLBACK").await.unwrap();
    timeout(SOON * 3, talk).await.expect("it is read no more").unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_messages_are_refused() {
    let controller = Controller::start(&database().await).await;
    let mut runner = TestRunner::default();
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    for path in [
        "/dunlin.v1.AgentService/Work",
        "/dunlin.v1.RegistryService/RegisterMigrations",
        "/dunlin.v1.RunService/ListRuns",
        "/dunlin.v1.RunService/WatchRuns",
        "/dunlin.v1.FleetService/ListAgents",
    ] {
        for _ in 0..20 {
            // There is no seventh wire type: what begins like this is never a message, such as one that begins a watch.
            let mut sent = vec![0x07];
            sent.extend(bytes.new_tree(&mut runner).unwrap().current());
            let answered = timeout(SOON, raw::say(controller.channel.clone(), path, vec![sent])).await;
            assert!(answered.expect("no answer").is_err(), "{path}");
        }
        // A field that never ends, and groups in groups.
        for sent in [vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], vec![0x0b; 100_000]] {
            let status =
                timeout(SOON, raw::say(controller.channel.clone(), path, vec![sent])).await.expect("no answer");
            assert!(status.is_err(), "{path}");
        }
    }
    Agent::connect(&controller, "a", 1).await;
}

#[tokio::test]
async fn requests_beyond_the_limits_are_refused() {
    let controller = Controller::start(&database().await).await;
    let file = |content: String| v1::DefinitionFile { path: "a.toml".to_owned(), content };
    let large = controller.register(&[file("# ".to_owned() + &"x".repeat(16 << 20))]).await.unwrap_err();
    assert_eq!(large.code(), Code::InvalidArgument);
    let many = vec![file(String::new()); 10_001];
    assert_eq!(controller.register(&many).await.unwrap_err().code(), Code::InvalidArgument);
    let watch = v1::WatchRunsRequest { run_ids: (0..100_000).collect(), ..Default::default() };
    assert_eq!(controller.runs().watch_runs(watch).await.unwrap_err().code(), Code::InvalidArgument);

    let mut runner = TestRunner::default();
    let asked = (text(), number(), small(), prop::collection::vec(small(), 0..5));
    for _ in 0..60 {
        let (text, number, small, states) = asked.new_tree(&mut runner).unwrap().current();
        let (mut runs, mut registry, mut fleet) = (controller.runs(), controller.registry(), controller.fleet());
        let list = v1::ListRunsRequest {
            target: text.clone(),
            migration_id: text.clone(),
            states,
            page_size: small,
            page_token: text.clone(),
        };
        let events =
            v1::ListEventsRequest { run_id: number, page_size: small, page_token: text.clone(), ..Default::default() };
        let run = v1::RunMigrationRequest {
            target: text.clone(),
            migration_id: text.clone(),
            rerun: true,
            wait_for_agent: true,
            ..Default::default()
        };
        let codes = [
            runs.list_runs(list).await.err(),
            runs.list_events(events).await.err(),
            runs.get_run(v1::GetRunRequest { id: number }).await.err(),
            runs.run_migration(run).await.err(),
            runs.run_pending_migrations(v1::RunPendingMigrationsRequest { target: text.clone(), wait_for_agent: true })
                .await
                .err(),
            registry.get_migration(v1::GetMigrationRequest { id: text.clone(), revision: small }).await.err(),
            registry.plan_pending(v1::PlanPendingRequest { target: text.clone() }).await.err(),
            registry
                .list_migrations(v1::ListMigrationsRequest {
                    page_size: small,
                    page_token: text.clone(),
                    with_sql: small % 2 == 0,
                })
                .await
                .err(),
            fleet
                .list_agents(v1::ListAgentsRequest { target: text.clone(), page_size: small, page_token: text })
                .await
                .err(),
        ];
        for status in codes.into_iter().flatten() {
            let known = [Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition];
            assert!(known.contains(&status.code()), "{status:?}");
        }
    }
}

#[tokio::test]
async fn an_agent_that_only_renews_its_leases_loses_them_to_one_that_works() {
    let url = database().await;
    // For the time of some heartbeats after its start a controller excuses everybody.
    let controller = Controller::start_with(&url, Duration::from_secs(3)).await;
    controller.serving(true).await;
    controller.register(&[atomic("a", 1, &[])]).await.unwrap();
    let mut idle = Agent::connect(&controller, "idle", 1).await;
    let run = controller.run_one("a").await.unwrap().run.unwrap();
    let held = idle.grant().await;
    let mut honest = Agent::connect(&controller, "honest", 1).await;
    let granted = timeout(SOON, async {
        loop {
            idle.beat(&held, 0).await;
            honest.say(Say::Heartbeat(v1::Heartbeat::default())).await;
            if let Ok(granted) = timeout(Duration::from_millis(300), honest.grant()).await {
                return granted;
            }
        }
    });
    let granted = granted.await.expect("the lease goes to the other agent");
    assert_eq!(granted.lease.unwrap().epoch, held.lease.unwrap().epoch + 1);
    let told = async { while idle.beat(&held, 0).await.lost != [held.lease.unwrap()] {} };
    timeout(SOON, told).await.expect("it is told");
    honest.done(&granted, 0).await;
    controller.reaches(run.id, RunState::Succeeded).await;
}
