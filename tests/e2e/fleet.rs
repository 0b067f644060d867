//! Several agents, agents that come and go politely, and controllers that come and go.

use dunlin_proto::v1::{RunState, WaitReason};
use dunlin_tests::fleet::Fleet;
use dunlin_tests::gate::Gate;
use dunlin_tests::numbers;
use dunlin_tests::programs::{Program, repository};
use dunlin_tests::until::until;

use crate::definitions::trivial;

const ROWS: u32 = 4000;

#[tokio::test]
async fn two_agents_share_one_migration() {
    let fleet = Fleet::builder().agents(2).slots(1).start().await;
    numbers::create(fleet.main(), ROWS).await;
    // With every batch standing still, the first agent cannot do it all before the second has begun.
    let gate = Gate::close(fleet.main(), "numbers", "true").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 100, range = 400"))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(2).await;
    assert_eq!(fleet.leases().await, [1, 1]);
    // One unfinished run of a migration at most.
    let run = fleet.last_run("triple").await.unwrap();
    let again = fleet.dunlin(&["run", "triple", "--detach", "--output", "json"]).await.ended(0).json();
    assert_eq!((&again["attached"], &again["run"]["id"]), (&true.into(), &run.id.to_string().into()), "{again}");
    gate.open().await;
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
}

#[tokio::test]
async fn an_agent_that_is_asked_to_stop_gives_its_leases_back_at_once() {
    // The lease would live for longer than the test may last: what goes on was given back.
    let mut fleet = Fleet::builder().agents(2).slots(1).lease_ttl("10min").start().await;
    numbers::create(fleet.main(), ROWS).await;
    let gate = Gate::close(fleet.main(), "numbers", "id % 400 > 200").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 400, stripes = 1"))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(2).await;
    fleet.agent(0).terminate();
    gate.open().await;
    let status = fleet.agent(0).ended().await;
    assert_eq!(status.code(), Some(0));

    let run = fleet.last_run("triple").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
}

#[tokio::test]
async fn an_idle_agent_and_a_controller_stop_politely() {
    let mut fleet = Fleet::start().await;
    fleet.agent(0).terminate();
    assert_eq!(fleet.agent(0).ended().await.code(), Some(0));
    fleet.controller(0).terminate();
    assert_eq!(fleet.controller(0).ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_controller_stops_politely_while_streams_are_open() {
    let mut fleet = Fleet::builder().agents(2).start().await;
    fleet.controller(0).terminate();
    assert_eq!(fleet.controller(0).ended().await.code(), Some(0));
    fleet.restart_controller(0);
    fleet.agents_connected(2).await;
}

#[tokio::test]
async fn an_agent_may_start_before_any_controller() {
    let mut fleet = Fleet::builder().controllers(0).agents(1).start().await;
    let waiting = until("the agent has tried", async || (!fleet.agent(0).log().is_empty()).then_some(())).await;
    let () = waiting;
    let unreachable = fleet.dunlin(&["version"]).await.ended(3);
    let _unreachable = unreachable.says(&[fleet.address(0)]);
    fleet.start_controller();
    fleet.agents_connected(1).await;
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
}

#[tokio::test]
async fn a_controller_killed_in_the_middle_is_not_missed() {
    let mut fleet = Fleet::builder().agents(2).start().await;
    numbers::create(fleet.main(), ROWS).await;
    let gate = Gate::close(fleet.main(), "numbers", "id > 2000").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 100, range = 500"))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(1).await;
    fleet.controller(0).kill();
    // Agents finish what they hold without a controller.
    gate.open().await;
    fleet.restart_controller(0);
    fleet.agents_connected(2).await;
    let run = fleet.last_run("triple").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    assert_eq!(fleet.last_run("triple").await.unwrap().state(), RunState::Succeeded);
}

#[tokio::test]
async fn several_controllers_are_equal() {
    let mut fleet = Fleet::builder().controllers(3).agents(2).start().await;
    numbers::create(fleet.main(), ROWS).await;
    let gate = Gate::close(fleet.main(), "numbers", "id > 2000").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 100, range = 500"))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    let run = fleet.last_run("triple").await.unwrap();
    gate.reached_by(1).await;
    fleet.controller(0).kill();
    gate.open().await;
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    let _version = fleet.dunlin(&["version"]).await.ended(0);
}

#[tokio::test]
async fn a_transform_waits_for_an_agent_that_has_its_code() {
    let mut fleet = Fleet::start().await;
    let example = repository().join("examples/agent");
    fleet.main().execute(&std::fs::read_to_string(example.join("sample-data.sql")).unwrap()).await;
    let _set = fleet.dunlin(&["register", example.join("migrations").to_str().unwrap()]).await.ended(0);
    let _first = fleet.dunlin(&["run", "add-authors"]).await.ended(0);
    let _started = fleet.dunlin(&["run", "link-books-to-authors", "--detach"]).await.ended(0);
    let waits = until("the run says what it waits for", async || {
        let run = fleet.last_run("link-books-to-authors").await?;
        (!run.waits.is_empty()).then_some(run.waits)
    })
    .await;
    assert_eq!(waits[0].reason(), WaitReason::Transform);
    assert!(waits[0].message.contains("link-books-to-authors"), "{waits:?}");

    fleet.start_agent_of(Program::ExampleAgent);
    let run = fleet.last_run("link-books-to-authors").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
}
