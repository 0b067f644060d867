//! What is registered changes: files that are deleted, definitions that are mended after a target has them, runs that wait
//! for an agent meanwhile.

use std::fs;

use dunlin_proto::v1::RunState;
use dunlin_tests::fleet::Fleet;

use crate::definitions::{head, trivial};

#[tokio::test]
async fn a_migration_whose_file_was_deleted_does_not_run_and_is_taken_back() {
    let fleet = Fleet::start().await;
    fleet
        .register(&[
            ("keep.toml", &trivial("create-t", 1, "CREATE TABLE t (id int)")),
            ("bad.toml", &trivial("drop-everything", 2, "DROP TABLE t")),
        ])
        .await;
    let _done = fleet.dunlin(&["run", "create-t"]).await.ended(0);
    fs::remove_file(fleet.migrations().join("bad.toml")).unwrap();
    fleet.write("more.toml", &trivial("add-b", 3, "ALTER TABLE t ADD COLUMN b int"));

    let refused = fleet.dunlin(&["register", "migrations"]).await.ended(4);
    let refused = refused.says(&["drop-everything (version 2), registered at", "--withdraw", "--add", "@"]);
    assert!(!refused.text().contains("create-t"), "what is applied is nobody's business: {refused:?}");
    let _plan = fleet.dunlin(&["show", "add-b"]).await.ended(4);
    let _trial = fleet.dunlin(&["register", "migrations", "--withdraw", "--dry-run"]).await.ended(0);
    let _there = fleet.dunlin(&["show", "drop-everything"]).await.ended(0);
    let taken = fleet.dunlin(&["register", "migrations", "--withdraw"]).await.ended(0);
    let _told = taken.says(&["drop-everything  withdrawn", "1 withdrawn"]);
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    assert!(fleet.main().value::<bool>("SELECT to_regclass('t') IS NOT NULL").await);
    let _shown = fleet.dunlin(&["show", "drop-everything"]).await.ended(0).says(&["withdrawn:", "DROP TABLE t"]);
    let _gone = fleet.dunlin(&["run", "drop-everything"]).await.ended(4);

    // Another pipeline adds to what is registered, and takes nothing back.
    fs::create_dir(fleet.directory().join("other")).unwrap();
    fs::write(fleet.directory().join("other/one.toml"), trivial("theirs", 4, "SELECT 1")).unwrap();
    let _added = fleet.dunlin(&["register", "other", "--add"]).await.ended(0);
    let _refused = fleet.dunlin(&["register", "migrations"]).await.ended(4).says(&["theirs"]);
    let _added = fleet.dunlin(&["register", "migrations", "--add"]).await.ended(0);
    let _there = fleet.dunlin(&["show", "theirs"]).await.ended(0);
}

#[tokio::test]
async fn what_one_target_has_does_not_keep_another_from_being_mended() {
    let fleet = Fleet::builder().target("staging").start().await;
    let years = |expression: &str| {
        format!(
            "{}\n[[step]]\nname = \"fill\"\nbatch = {{ table = \"users\" }}\nsql = \"UPDATE users SET years = {expression} \
             WHERE :batch\"\n",
            head("years", 1)
        )
    };
    for target in ["main", "staging"] {
        let database = fleet.database(target);
        database.execute("CREATE TABLE users (id bigint PRIMARY KEY, age text, years int)").await;
        database.execute("INSERT INTO users SELECT n, (n % 90)::text FROM generate_series(1, 10) n").await;
    }
    fleet.main().execute("UPDATE users SET age = 'unknown'").await;
    fleet.register(&[("a.toml", &years("age::int"))]).await;
    let _staging = fleet.dunlin(&["run", "--pending", "-t", "staging"]).await.ended(0);
    let _main = fleet.dunlin(&["run", "--pending"]).await.ended(1);

    fleet.write("a.toml", &years("nullif(age, 'unknown')::int"));
    let mended = fleet.dunlin(&["register", "migrations"]).await.ended(0);
    let _told = mended.says(&["amended", "staging keeps revision 1"]);
    let _main = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    for (target, revision) in [("main", 2), ("staging", 1)] {
        let database = fleet.database(target);
        assert_eq!(database.value::<i32>("SELECT revision FROM dunlin.migrations_registry").await, revision);
        let _listed = fleet.dunlin(&["list", "-t", target]).await.ended(0).says(&["2; staging has 1"]);
    }
    let _nothing = fleet.dunlin(&["run", "--pending", "-t", "staging"]).await.ended(0).says(&["Nothing is pending"]);
    let _first =
        fleet.dunlin(&["show", "years", "--revision", "1", "--definition"]).await.ended(0).says(&["= age::int"]);

    // Nobody has failed by the next: it is amended on purpose, with a reason.
    fleet.write("a.toml", &years("NULL"));
    let _refused = fleet.dunlin(&["register", "migrations"]).await.ended(4).says(&["--amend years --reason"]);
    let _usage = fleet.dunlin(&["register", "migrations", "--amend", "years"]).await.ended(2);
    let amend = ["register", "migrations", "--amend", "years", "--reason", "ages are private"];
    let _amended = fleet.dunlin(&amend).await.ended(0).says(&["amended"]);
    let _why = fleet.dunlin(&["events", "-m", "years"]).await.ended(0).says(&["ages are private", "revision 3"]);
}

#[tokio::test]
async fn words_and_comments_of_an_applied_migration_are_corrected_without_ado() {
    let fleet = Fleet::start().await;
    let described = |description: &str, sql: &str| {
        trivial("described", 5, sql)
            .replace("description = \"For a test.\"", &format!("description = \"{description}\""))
    };
    let sql = "CREATE TABLE described (id int)";
    fleet.register(&[("c.toml", &described("Field case.", sql))]).await;
    let _run = fleet.dunlin(&["run", "described"]).await.ended(0);
    let registered = fleet.register(&[("c.toml", &described("A field case.", sql))]).await;
    let _told = registered.says(&["described  reworded", "1 reworded"]);
    let _shown = fleet.dunlin(&["show", "described"]).await.ended(0).says(&["A field case."]);
    let comment = format!("/* makes the table */ {sql}");
    let _told = fleet.register(&[("c.toml", &described("A field case.", &comment))]).await.says(&["1 reworded"]);
    let _nothing = fleet.dunlin(&["run", "--pending"]).await.ended(0).says(&["Nothing is pending"]);
}

#[tokio::test]
async fn runs_that_wait_for_an_agent_do_not_freeze_the_registry() {
    let mut fleet = Fleet::start().await;
    fleet.agent(0).kill();
    fleet.agents_connected(0).await;
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _queued = fleet.dunlin(&["run", "--pending", "--wait-for-agent", "--detach"]).await.ended(0);
    let registered = fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id bigint)"))]).await;
    let _told = registered.says(&["was cancelled", "another definition of one"]);
    let run = fleet.last_run("one").await.unwrap();
    assert_eq!(run.state(), RunState::Cancelled);
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(1).says(&["another definition of one"]);
    fleet.restart_agent(0);
    fleet.agents_connected(1).await;
    assert!(!fleet.main().value::<bool>("SELECT to_regclass('one') IS NOT NULL").await);
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let kind: String =
        fleet.main().value("SELECT data_type FROM information_schema.columns WHERE table_name = 'one'").await;
    assert_eq!(kind, "bigint");
}

#[tokio::test]
async fn versions_may_be_times() {
    let fleet = Fleet::start().await;
    fleet
        .register(&[
            ("a.toml", &trivial("a", 20_240_101_123_456, "CREATE TABLE a (id int)")),
            ("b.toml", &trivial("b", 9_007_199_254_740_991, "CREATE TABLE b (id int)")),
        ])
        .await;
    let _done = fleet.dunlin(&["run", "a"]).await.ended(0);
    let _version = fleet.dunlin(&["version"]).await.ended(0).says(&["main is at schema version 20240101123456"]);
    let _done = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let json = fleet.dunlin(&["version", "--output", "json"]).await.ended(0).json();
    assert_eq!(json["version"], 9_007_199_254_740_991_i64);
    let _list = fleet.dunlin(&["list"]).await.ended(0).says(&["20240101123456", "9007199254740991"]);
    let stored: Vec<i64> =
        fleet.main().value("SELECT array_agg(version ORDER BY version) FROM dunlin.migrations_registry").await;
    assert_eq!(stored, [20_240_101_123_456, 9_007_199_254_740_991]);
    fleet.write("c.toml", &trivial("c", 9_007_199_254_740_992, "SELECT 1"));
    let _refused =
        fleet.dunlin(&["check", "migrations"]).await.ended(2).says(&["c.toml", "9007199254740992 is not a version"]);
}
