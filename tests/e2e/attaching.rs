//! Who asks for a migration whose run has not ended follows that run, where it does what is asked for.

use dunlin_proto::v1::RunMigrationRequest;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::gate::Gate;
use dunlin_tests::numbers;
use dunlin_tests::process::Process;
use dunlin_tests::until::until;

/// A fleet with a run that stands in the middle.
async fn half_way() -> (Fleet, Gate) {
    let fleet = Fleet::start().await;
    numbers::create(fleet.main(), 100).await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 100"))]).await;
    let gate = Gate::close(fleet.main(), "numbers", "id > 50").await;
    let _begun = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(1).await;
    (fleet, gate)
}

#[tokio::test]
async fn who_runs_a_migration_that_runs_already_follows_its_run() {
    let (fleet, gate) = half_way().await;
    let mut second = Process::start(fleet.dunlin_command(&["run", "triple"]), "second", fleet.directory());
    until("the second follows the run of the first", async || {
        let told = "No new run: run 1 of triple on target main has not ended, and does what is asked for.";
        second.log().contains(told).then_some(())
    })
    .await;
    let third = fleet.dunlin(&["run", "triple", "--detach", "--output", "json"]).await.ended(0).json();
    assert_eq!((&third["attached"], &third["run"]["id"]), (&true.into(), &"1".into()), "{third}");
    let request = RunMigrationRequest { migration_id: "triple".to_owned(), ..RunMigrationRequest::default() };
    let answer = fleet.runs().run_migration(request).await.unwrap().into_inner();
    assert!(answer.attached && !answer.skipped && answer.message.contains("run 1 of triple"), "{answer:?}");
    gate.open().await;
    assert!(second.ended().await.success(), "{}", second.log());
    numbers::assert_transformed_once(fleet.main(), 100).await;
    assert_eq!(fleet.last_run("triple").await.unwrap().id, 1);
}

#[tokio::test]
async fn who_asks_for_something_else_than_the_run_does_is_refused() {
    let (fleet, gate) = half_way().await;
    let _refused = fleet.dunlin(&["run", "triple", "--redo", "triple"]).await.ended(4).says(&[
        "run 1 of triple on target main has not ended, and does not carry out again the step \"triple\"",
        "`dunlin watch 1`",
        "`dunlin cancel 1`",
    ]);
    gate.open().await;
    let _watched = fleet.dunlin(&["watch", "1"]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), 100).await;
}
