//! Targets and agents that are gone are forgotten, and what comes again under their names begins anew.

use dunlin_tests::fleet::Fleet;

use crate::definitions::trivial;

#[tokio::test]
async fn a_target_is_forgotten_and_one_that_comes_again_is_what_its_database_says() {
    let mut fleet = Fleet::builder().agents(1).target("other").start().await;
    fleet.register(&[("a.toml", &trivial("a", 1, "CREATE TABLE a (id bigint)"))]).await;
    let _applied = fleet.dunlin(&["run", "--pending", "-t", "other"]).await.ended(0);
    let _queued = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let served = ["agent agent-0 is connected and serves it", "stop the agent"];
    let _refused = fleet.dunlin(&["target", "forget", "other"]).await.ended(4).says(&served);
    let _refused =
        fleet.dunlin(&["agent", "forget", "agent-0"]).await.ended(4).says(&["is connected", "stop it first"]);

    fleet.agent(0).terminate();
    let _status = fleet.agent(0).ended().await;
    fleet.agents_connected(0).await;
    let _bad = fleet.dunlin(&["target", "forget", "other", "no name"]).await.ended(2);
    // What is refused holds up none of the others.
    let arguments = ["target", "forget", "nobody", "other", "--reason", "it was a test"];
    let told = [
        "Target other is forgotten: 1 of its runs with 1 tasks, 1 migrations in the copy of its registry",
        "target nobody is not known",
    ];
    let _told = fleet.dunlin(&arguments).await.ended(4).says(&told);
    let agent = fleet.dunlin(&["agent", "forget", "agent-0", "-o", "json"]).await.ended(0).json();
    assert_eq!(agent["forgotten"][0]["targets"], serde_json::json!(["main"]));
    assert!(!fleet.dunlin(&["targets"]).await.ended(0).text().contains("other"));
    assert!(!fleet.dunlin(&["agents"]).await.ended(0).text().contains("agent-0"));
    assert!(!fleet.dunlin(&["runs"]).await.ended(0).text().contains("other"));
    let history = ["target other is forgotten", "it was a test", "was queued"];
    let _told = fleet.dunlin(&["events", "-t", "other"]).await.ended(0).says(&history);
    let _unknown = fleet.dunlin(&["version", "-t", "other"]).await.ended(4).says(&["is not known"]);

    fleet.restart_agent(0);
    fleet.agents_connected(1).await;
    // The database was not touched, and says what it has.
    let _version = fleet.dunlin(&["version", "-t", "other"]).await.ended(0).says(&["schema version 1"]);
    let _nothing = fleet.dunlin(&["run", "--pending", "-t", "other"]).await.ended(0);
    fleet.register(&[("b.toml", &trivial("b", 2, "CREATE TABLE b (id bigint)"))]).await;
    let _applied = fleet.dunlin(&["run", "--pending", "-t", "other"]).await.ended(0);
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename IN ('a', 'b')";
    assert_eq!(fleet.database("other").value::<i64>(tables).await, 2);
}
