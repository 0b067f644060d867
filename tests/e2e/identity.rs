//! Who is who: two processes under the id of one agent, and databases that are not the target that their name says.

use dunlin_tests::fleet::Fleet;
use dunlin_tests::gate::Gate;
use dunlin_tests::numbers;
use dunlin_tests::until::until;

const ROWS: u32 = 4000;

/// How many streams the agent has opened, and how often the history says that its id is taken.
async fn streams(fleet: &Fleet) -> (i64, i64) {
    let told = "SELECT count(*) FROM dunlin_controller.events WHERE type = 'agent_id_taken'";
    let session = "SELECT session FROM dunlin_controller.agents WHERE id = 'agent-0'";
    (fleet.control().value(session).await, fleet.control().value(told).await)
}

#[tokio::test]
async fn a_second_agent_under_one_id_waits_for_the_first_and_says_so_and_goes_on_when_that_is_gone() {
    let mut fleet = Fleet::builder().controllers(2).slots(1).start().await;
    numbers::create(fleet.main(), ROWS).await;
    let gate = Gate::close(fleet.main(), "numbers", "id > 2000").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 100, range = 500"))]).await;
    let before = streams(&fleet).await;
    let second = fleet.agent_beside("agent-0", "twin", &[("main", fleet.main().url())]);
    let first = fleet.agent(0).pid();
    until("the second says for whom it waits", async || {
        second.log().contains(&format!("process {first} on ")).then_some(())
    })
    .await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(1).await;
    // It knocks again and again; the first keeps its stream and its lease, and the history is told once.
    assert_eq!(streams(&fleet).await, (before.0, before.1 + 1));
    assert_eq!(fleet.leases().await, [1]);

    fleet.agent(0).kill();
    gate.open().await;
    let run = fleet.last_run("triple").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    assert_eq!(streams(&fleet).await.0, before.0 + 1, "the second has the id now");
}

#[tokio::test]
async fn an_agent_that_stands_still_for_longer_than_a_lease_lives_gives_its_id_to_a_second_and_then_waits_itself() {
    let mut fleet = Fleet::builder().lease_ttl("1s").start().await;
    fleet.agent(0).pause();
    let second = fleet.agent_beside("agent-0", "twin", &[("main", fleet.main().url())]);
    until("the second is connected", async || second.log().contains("connected to a controller").then_some(())).await;
    let pid = second.pid();
    fleet.agent(0).resume();
    until("the first waits for the second", async || {
        fleet.agent(0).log().contains(&format!("process {pid} on ")).then_some(())
    })
    .await;
}
