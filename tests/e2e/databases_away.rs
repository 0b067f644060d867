//! Databases that are away for a while, or do not answer: what needs them waits, everything else goes on, and nothing is done
//! twice when they are back.

use dunlin_proto::v1::EventType;
use dunlin_tests::database::Database;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::gate::Gate;
use dunlin_tests::numbers;
use dunlin_tests::until::until;
use dunlin_tests::way::{Passage, Way};

use crate::definitions::trivial;

const ROWS: u32 = 4000;

/// A fleet of one agent of two slots, whose target `far` lies at the end of a way.
async fn far() -> (Fleet, Way) {
    let way = Way::open().await;
    let far = Database::create("far").await;
    let fleet = Fleet::builder()
        .lease_ttl("10min")
        .environment("DUNLIN_LOCK_TIMEOUT", "0s")
        .environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "0s")
        .target_at("far", &far, &way.url(far.url()))
        .start()
        .await;
    numbers::create(fleet.main(), ROWS).await;
    numbers::create(fleet.database("far"), ROWS).await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 1000, stripes = 1"))]).await;
    (fleet, way)
}

/// The run of `far`, which has no command of its own in the harness.
async fn watch_far(fleet: &Fleet) {
    let id: i64 = fleet.control().value("SELECT max(id) FROM dunlin_controller.runs WHERE target = 'far'").await;
    let _watched = fleet.dunlin(&["watch", &id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.database("far"), ROWS).await;
    let attempts: i32 = fleet.control().value("SELECT max(attempts) FROM dunlin_controller.tasks").await;
    assert_eq!(attempts, 0, "waiting costs no attempts");
}

#[tokio::test]
async fn a_target_that_does_not_answer_gives_the_slots_back_to_others() {
    let (fleet, way) = far().await;
    let gate = Gate::close(fleet.database("far"), "numbers", "id % 1000 > 500").await;
    let _started = fleet.dunlin(&["run", "triple", "--target", "far", "--detach"]).await.ended(0);
    gate.reached_by(2).await;
    // Both slots are taken, and from now on nothing is answered.
    way.set(Passage::Silent);
    gate.open().await;
    let _other = fleet.dunlin(&["run", "triple", "--target", "main"]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    until("the target is told to be away", async || {
        let targets = fleet.dunlin(&["status", "--target", "far"]).await.ended(0);
        targets.text().contains("unreachable: no answer").then_some(())
    })
    .await;
    let _targets = fleet.dunlin(&["targets"]).await.ended(0).says(&["no answer"]);
    way.set(Passage::Open);
    watch_far(&fleet).await;
}

#[tokio::test]
async fn a_target_that_is_away_is_waited_for_and_holds_up_nobody() {
    let (fleet, way) = far().await;
    let gate = Gate::close(fleet.database("far"), "numbers", "id > 500").await;
    let _started = fleet.dunlin(&["run", "triple", "--target", "far", "--detach"]).await.ended(0);
    gate.reached_by(1).await;
    way.set(Passage::Cut);
    gate.open().await;
    let _other = fleet.dunlin(&["run", "triple", "--target", "main"]).await.ended(0);
    until("the target is told to be away", async || {
        let status = fleet.dunlin(&["status", "--target", "far"]).await.ended(0);
        status.text().contains("unreachable").then_some(())
    })
    .await;
    way.set(Passage::Open);
    watch_far(&fleet).await;
}

#[tokio::test]
async fn agents_finish_what_they_hold_while_the_controllers_database_is_away_and_lose_no_lease() {
    let way = Way::open().await;
    let control = Database::create("control").await;
    let builder = Fleet::builder()
        .controllers(2)
        .agents(2)
        .slots(1)
        .lease_ttl("9s")
        .environment("DUNLIN_LOCK_TIMEOUT", "0s")
        .environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "0s");
    let fleet = builder.control_at(&control, &way.url(control.url())).start().await;
    numbers::create(fleet.main(), ROWS).await;
    let gate = Gate::close(fleet.main(), "numbers", "id % 1000 > 500").await;
    let one = numbers::migration("triple", 1, "size = 50, range = 1000, stripes = 1");
    fleet.register(&[("1.toml", &one), ("2.toml", &trivial("next", 2, "CREATE TABLE next (id int)"))]).await;
    let _started = fleet.dunlin(&["run", "--pending", "--detach"]).await.ended(0);
    gate.reached_by(2).await;
    way.set(Passage::Cut);
    until("the controllers say that they cannot serve", async || {
        let refused = fleet.dunlin(&["status"]).await;
        (refused.code == 3 && refused.text().contains("database")).then_some(())
    })
    .await;
    gate.open().await;
    let held = "SELECT count(*) FROM dunlin.checkpoints WHERE kind = 'range' AND state = 'done'";
    until("what was held is finished", async || (fleet.main().value::<i64>(held).await >= 2).then_some(())).await;
    let expired = "SELECT bool_and(expires_at < clock_timestamp() - interval '2 seconds') FROM dunlin_controller.tasks
                   WHERE state = 'leased'";
    until("every lease has run out", async || fleet.control().value::<bool>(expired).await.then_some(())).await;
    way.set(Passage::Open);
    // The first controller, that is: the one that is asked below. Each comes back by itself.
    fleet.agents_connected(2).await;
    let run = fleet.last_run("next").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    let lost: Vec<String> = fleet
        .events()
        .await
        .into_iter()
        .filter(|event| event.r#type() == EventType::LeaseExpired)
        .map(|event| event.message)
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
}
