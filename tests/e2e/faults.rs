//! Agents that are killed or frozen in the middle. The transform is `n = n * 3 + 1`: a row that was done twice, or not at
//! all, shows.

use dunlin_proto::v1::{EventType, RunState};
use dunlin_tests::fleet::Fleet;
use dunlin_tests::gate::Gate;
use dunlin_tests::numbers;
use dunlin_tests::until::until;

use crate::definitions::trivial;

const ROWS: u32 = 4000;

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_a_batch_loses_and_repeats_nothing() {
    let mut fleet = Fleet::builder().agents(2).slots(1).lease_ttl("2s").start().await;
    numbers::create(fleet.main(), ROWS).await;
    // The batches are in key order, so the first half of each range is done when both agents stand at the gate.
    let gate = Gate::close(fleet.main(), "numbers", "id % 1000 > 500").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 1000, stripes = 1"))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(2).await;
    let (done, left, _) = numbers::count(fleet.main()).await;
    assert!(done > 0 && left > 0, "in the middle: {done} done, {left} left");

    fleet.agent(0).kill();
    gate.open().await;
    let run = fleet.last_run("triple").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    let run = fleet.last_run("triple").await.unwrap();
    assert_eq!((run.state(), run.rows), (RunState::Succeeded, i64::from(ROWS)));
    let expired = fleet.events().await.iter().filter(|event| event.r#type() == EventType::LeaseExpired).count();
    assert!(expired >= 1, "the history tells of the lost lease");
}

#[tokio::test]
async fn the_only_agent_killed_and_started_again_goes_on_where_it_was() {
    let mut fleet = Fleet::builder().lease_ttl("2s").start().await;
    numbers::create(fleet.main(), ROWS).await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 1000"))]).await;
    let gate = Gate::close(fleet.main(), "numbers", "id IN (700, 1700)").await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(1).await;
    fleet.agent(0).kill();
    fleet.restart_agent(0);
    gate.open().await;
    let run = fleet.last_run("triple").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
}

#[tokio::test]
async fn an_agent_frozen_for_longer_than_its_lease_changes_nothing_afterwards() {
    let mut fleet = Fleet::builder().slots(1).lease_ttl("1s").start().await;
    numbers::create(fleet.main(), ROWS).await;
    let gate = Gate::close(fleet.main(), "numbers", "id > 500").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 1000, stripes = 1"))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(1).await;
    let epoch = "SELECT epoch FROM dunlin.checkpoints WHERE kind = 'range' AND range = 1";
    let before: i64 = fleet.main().value(epoch).await;
    fleet.agent(0).pause();
    // Its transaction goes on in the server to the end of the statement, and stays open with the rows locked.
    gate.open().await;
    fleet.start_agent();
    until("the range is taken by the other agent", async || {
        (fleet.main().value::<i64>(epoch).await > before).then_some(())
    })
    .await;
    // Now the open transaction is stale: its checkpoint must not match any more.
    fleet.agent(0).resume();
    let run = fleet.last_run("triple").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;

    // And the agent that was frozen is of use again.
    fleet.agents_connected(2).await;
    fleet.agent(1).kill();
    let _again = fleet.dunlin(&["run", "triple", "--rerun", "--yes"]).await.ended(0);
    let expected: bool = fleet.main().value("SELECT bool_and(n = (was * 3 + 1) * 3 + 1) FROM numbers").await;
    assert!(expected, "the rerun has transformed every row once more");
}

#[tokio::test]
async fn an_agent_killed_in_an_atomic_migration_leaves_it_to_another_to_do_once() {
    let mut fleet = Fleet::builder().agents(1).lease_ttl("1s").start().await;
    numbers::create(fleet.main(), ROWS).await;
    let gate = Gate::close(fleet.main(), "numbers", "true").await;
    fleet.register(&[("whole.toml", &trivial("whole", 1, "UPDATE numbers SET n = n * 3 + 1"))]).await;
    let _started = fleet.dunlin(&["run", "whole", "--detach"]).await.ended(0);
    gate.reached_by(1).await;
    fleet.agent(0).kill();
    // The killed agent's transaction still stands at the gate, with every row changed and locked. Now two want to.
    fleet.start_agent();
    until("the migration is granted again", async || {
        let events = fleet.events().await;
        events.iter().any(|event| event.r#type() == EventType::LeaseExpired).then_some(())
    })
    .await;
    gate.open().await;
    let run = fleet.last_run("whole").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    let applications: i32 = fleet.main().value("SELECT applications FROM dunlin.migrations_registry").await;
    assert_eq!(applications, 1);
}

#[tokio::test]
async fn agents_killed_again_and_again_get_the_work_done_in_the_end() {
    let mut fleet = Fleet::builder().agents(2).lease_ttl("500ms").start().await;
    numbers::create(fleet.main(), ROWS).await;
    // Slow enough to be killed many times, and to get somewhere in between.
    fleet
        .main()
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END $$;
             CREATE TRIGGER slow AFTER UPDATE ON numbers FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        )
        .await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 20, range = 200"))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    let batches = "SELECT coalesce(sum(batches), 0)::bigint FROM dunlin.checkpoints WHERE kind = 'range'";
    for round in 0..6 {
        let before: i64 = fleet.main().value(batches).await;
        until("some batches more are done", async || {
            let ended = fleet.last_run("triple").await?.end_time.is_some();
            (ended || fleet.main().value::<i64>(batches).await >= before + 10).then_some(())
        })
        .await;
        fleet.agent(round % 2).kill();
        fleet.restart_agent(round % 2);
    }
    let run = fleet.last_run("triple").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    assert_eq!(fleet.last_run("triple").await.unwrap().rows, i64::from(ROWS));
}

#[tokio::test]
async fn a_lock_that_is_not_free_in_time_is_tried_again() {
    let fleet = Fleet::builder().environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "100ms").start().await;
    fleet.main().execute("CREATE TABLE busy (id int PRIMARY KEY)").await;
    fleet.register(&[("busy.toml", &trivial("busy", 1, "ALTER TABLE busy ADD COLUMN n int"))]).await;
    let reader = fleet.main().again().await;
    reader.execute("BEGIN; SELECT count(*) FROM busy").await;
    let _started = fleet.dunlin(&["run", "busy", "--detach"]).await.ended(0);
    let retried = until("the step is tried again", async || {
        let events = fleet.events().await;
        events.into_iter().find(|event| event.r#type() == EventType::TaskRetried)
    })
    .await;
    assert!(!retried.message.is_empty());
    reader.execute("COMMIT").await;
    let run = fleet.last_run("busy").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
}
