//! Targets that no agent reaches: nothing about them is told as if it were known, and nothing is queued for them by accident.

use dunlin_proto::v1::RunState;
use dunlin_tests::fleet::Fleet;

use crate::definitions::trivial;

#[tokio::test]
async fn a_target_that_is_gone_makes_no_command_succeed() {
    let mut fleet = Fleet::start().await;
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _done = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let _version = fleet.dunlin(&["version"]).await.ended(0).says(&["main is at schema version 1", "reported"]);
    fleet.agent(0).kill();
    fleet.agents_connected(0).await;

    let no_agent = "no connected agent serves target main";
    let pending = fleet.dunlin(&["run", "--pending"]).await.ended(3).says(&[no_agent, "--wait-for-agent"]);
    assert!(!pending.text().contains("Nothing is pending"), "{pending:?}");
    let plan = fleet.dunlin(&["plan"]).await.ended(3).says(&[no_agent, "when main was reported last"]);
    assert!(!plan.text().contains("Nothing is pending"), "{plan:?}");
    let _version = fleet.dunlin(&["version"]).await.ended(3).says(&[no_agent, "main was at schema version 1"]);
    let json = fleet.dunlin(&["version", "--output", "json"]).await.ended(3).json();
    assert!(json["unreached"].as_str().unwrap().contains(no_agent), "{json}");
    assert!(json["reportTime"].is_string(), "{json}");
    // It is applied, as far as anybody knows: that is no success either.
    let _one = fleet.dunlin(&["run", "one"]).await.ended(3).says(&[no_agent]);

    fleet.restart_agent(0);
    fleet.agents_connected(1).await;
    let _nothing = fleet.dunlin(&["run", "--pending"]).await.ended(0).says(&["Nothing is pending"]);
}

#[tokio::test]
async fn a_run_waits_for_an_agent_only_when_it_may_and_is_cancelled_before_one_comes() {
    let mut fleet = Fleet::start().await;
    fleet.agent(0).kill();
    fleet.agents_connected(0).await;
    fleet
        .register(&[
            ("1.toml", &trivial("one", 1, "CREATE TABLE one (id int)")),
            ("2.toml", &trivial("two", 2, "CREATE TABLE two (id int)")),
        ])
        .await;
    let _refused = fleet.dunlin(&["run", "one"]).await.ended(3);
    assert!(fleet.last_run("one").await.is_none());
    let _queued = fleet.dunlin(&["run", "--pending", "--wait-for-agent", "--detach"]).await.ended(0);
    let one = fleet.last_run("one").await.unwrap();
    let cancelled = fleet.dunlin(&["cancel", &one.id.to_string()]).await.ended(0);
    let _told = cancelled.says(&["one on main is cancelled", "two"]);
    for migration in ["one", "two"] {
        assert_eq!(fleet.last_run(migration).await.unwrap().state(), RunState::Cancelled);
    }
    let _ended = fleet.dunlin(&["cancel", &one.id.to_string()]).await.ended(4).says(&["has ended"]);
    fleet.restart_agent(0);
    fleet.agents_connected(1).await;
    assert!(!fleet.main().value::<bool>("SELECT to_regclass('one') IS NOT NULL").await);
    let _again = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    assert!(fleet.main().value::<bool>("SELECT to_regclass('two') IS NOT NULL").await);
}

#[tokio::test]
async fn a_name_that_was_never_served_is_refused_by_every_command() {
    let fleet = Fleet::start().await;
    for command in [
        &["list"][..],
        &["watch"],
        &["plan"],
        &["status"],
        &["version"],
        &["runs"],
        &["events"],
        &["agents"],
        &["run", "--pending"],
    ] {
        let arguments = [command, &["--target", "nobody-serves-this"]].concat();
        let _refused = fleet.dunlin(&arguments).await.ended(4).says(&["nobody-serves-this is not known"]);
    }
    let _list = fleet.dunlin(&["list"]).await.ended(0);
}
