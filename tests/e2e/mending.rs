//! A migration fails; the operator reads why, mends it, and runs it again.

use dunlin_proto::v1::RunState;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::numbers;

use crate::definitions::{head, trivial, trivial_after};

#[tokio::test]
async fn a_failed_migration_is_read_mended_and_run_again() {
    let fleet = Fleet::start().await;
    fleet.main().execute("CREATE TABLE people (id int PRIMARY KEY, born text, year int)").await;
    fleet.main().execute("INSERT INTO people SELECT i, (1950 + i % 50)::text FROM generate_series(1, 400) AS i").await;
    fleet.main().execute("UPDATE people SET born = 'unknown' WHERE id = 333").await;
    let years = |expression: &str| {
        format!(
            "{}run_after = [\"before\"]\n\n[[step]]\nname = \"fill the year\"\n\
             batch = {{ table = \"people\", size = 50, range = 100 }}\n\
             sql = \"UPDATE people SET year = {expression} WHERE :batch\"\n",
            head("years", 2)
        )
    };
    fleet
        .register(&[
            ("1.toml", &trivial("before", 1, "CREATE TABLE first (id int)")),
            ("2.toml", &years("born::int")),
            ("3.toml", &trivial_after("behind", 3, &["years"], "CREATE TABLE last (id int)")),
        ])
        .await;

    // Read: which migration, which step, what PostgreSQL said, about which rows.
    let failed = fleet.dunlin(&["run", "--pending"]).await.ended(1);
    let _failed = failed.says(&["years", "fill the year", "unknown", "22P02"]);
    let run = fleet.last_run("years").await.unwrap();
    assert_eq!(run.state(), RunState::Failed);
    let error = run.error.as_ref().unwrap();
    assert_eq!((error.migration_id.as_str(), error.step.as_str()), ("years", "fill the year"));
    assert_eq!((error.sqlstate.as_str(), error.agent_id.as_str()), ("22P02", "agent-0"));
    assert!(error.rows.contains("id"), "{error:?}");
    assert!(!error.next.is_empty(), "{error:?}");
    // What was before it is applied, what is behind it is not.
    let version = fleet.dunlin(&["version", "--output", "json"]).await.ended(0);
    assert_eq!(version.stdout.trim_end(), r#"{"target":"main","version":1}"#);
    assert_eq!(fleet.last_run("behind").await.unwrap().state(), RunState::Cancelled);
    let _refused = fleet.dunlin(&["run", "behind"]).await.ended(4).says(&["years"]);

    // Mend, register, run again: by its id.
    fleet.register(&[("2.toml", &years("nullif(born, 'unknown')::int"))]).await;
    let runs: i64 = fleet.control().value("SELECT count(*) FROM dunlin_controller.runs").await;
    for arguments in [&["run", "years"][..], &["run", "--pending"]] {
        let refused = fleet.dunlin(arguments).await.ended(4);
        let _ways = refused.says(&["fill the year", "rows were walked", "--redo 'fill the year'", "--continue"]);
    }
    assert_eq!(
        fleet.control().value::<i64>("SELECT count(*) FROM dunlin_controller.runs").await,
        runs,
        "no run is made"
    );
    let _unknown = fleet.dunlin(&["run", "years", "--redo", "fill the yaer"]).await.ended(2).says(&["no step"]);
    let _mended = fleet.dunlin(&["run", "years", "--redo", "fill the year"]).await.ended(0);
    let wrong: i64 = fleet
        .main()
        .value("SELECT count(*) FROM people WHERE year IS DISTINCT FROM nullif(born, 'unknown')::int")
        .await;
    assert_eq!(wrong, 0);
    let _rest = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let version = fleet.dunlin(&["version", "--output", "json"]).await.ended(0);
    assert_eq!(version.stdout.trim_end(), r#"{"target":"main","version":3}"#);
}

#[tokio::test]
async fn a_run_after_a_failed_one_repeats_no_range_that_is_done() {
    const ROWS: u32 = 4000;
    let fleet = Fleet::builder().agents(2).start().await;
    numbers::create(fleet.main(), ROWS).await;
    // The range with row 2500 can not be done until the row is mended.
    fleet.main().execute("ALTER TABLE numbers ADD CHECK (id <> 2500 OR n = was) NOT VALID").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 100, range = 500"))]).await;
    let _failed = fleet.dunlin(&["run", "--pending"]).await.ended(1).says(&["triple", "23514"]);
    let (done, _, wrong) = numbers::count(fleet.main()).await;
    assert_eq!(wrong, 0);
    assert!(done < i64::from(ROWS), "the range with the bad row is not done");

    fleet.main().execute("ALTER TABLE numbers DROP CONSTRAINT numbers_check").await;
    let _again = fleet.dunlin(&["run", "triple"]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    let rows: i64 = fleet.main().value("SELECT rows FROM dunlin.migrations_registry").await;
    assert_eq!(rows, i64::from(ROWS), "the rows of both runs count");
}

#[tokio::test]
async fn steps_that_are_done_are_skipped_and_may_not_change() {
    let fleet = Fleet::start().await;
    let migration = |first: &str, second: &str| {
        format!(
            "{}\n[[step]]\nname = \"first\"\ntransaction = false\nsql = \"{first}\"\n\n\
             [[step]]\nname = \"second\"\nsql = \"{second}\"\n",
            head("two-steps", 1)
        )
    };
    fleet.main().execute("CREATE TABLE told (what text)").await;
    let first = "INSERT INTO told VALUES ('first')";
    fleet.register(&[("m.toml", &migration(first, "SELECT 1 / 0"))]).await;
    let _failed = fleet.dunlin(&["run", "two-steps"]).await.ended(1).says(&["second", "22012"]);

    // The first step has happened. Another text for it would be a lie.
    fleet.register(&[("m.toml", &migration("INSERT INTO told VALUES ('other')", "SELECT 1"))]).await;
    let _refused = fleet.dunlin(&["run", "two-steps"]).await.ended(4).says(&["first", "--redo first", "new step"]);
    fleet.register(&[("m.toml", &migration(first, "INSERT INTO told VALUES ('second')"))]).await;
    let _mended = fleet.dunlin(&["run", "two-steps"]).await.ended(0);
    let told: Vec<String> = fleet.main().values("SELECT what FROM told").await;
    assert_eq!(told, ["first", "second"]);
    let events = fleet.events().await;
    let skipped: Vec<&str> = events
        .iter()
        .filter(|event| event.r#type() == dunlin_proto::v1::EventType::StepSkipped)
        .map(|event| event.step.as_str())
        .collect();
    assert_eq!(skipped, ["first"]);
}

#[tokio::test]
async fn an_atomic_migration_leaves_nothing_behind_when_its_check_fails() {
    let fleet = Fleet::start().await;
    fleet.main().execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await;
    let definition = r#"
        id = "atomic"
        version = 1
        name = "A test"
        description = "For a test."
        [[step]]
        name = "table"
        sql = "CREATE TABLE made (id int)"
        [[step]]
        name = "row"
        sql = "UPDATE kept SET n = 2"
        [[after]]
        name = "never so"
        sql = "SELECT n = 3 FROM kept"
    "#;
    fleet.register(&[("atomic.toml", definition)]).await;
    let _failed = fleet.dunlin(&["run", "atomic"]).await.ended(1).says(&["atomic", "never so"]);
    assert_eq!(fleet.main().value::<i32>("SELECT n FROM kept").await, 1);
    assert!(!fleet.main().value::<bool>("SELECT to_regclass('made') IS NOT NULL").await);
    let left: i64 = fleet
        .main()
        .value("SELECT (SELECT count(*) FROM dunlin.migrations_registry) + (SELECT count(*) FROM dunlin.checkpoints)")
        .await;
    assert_eq!(left, 0);
    let error = fleet.last_run("atomic").await.unwrap().error.unwrap();
    assert_eq!((error.check.as_str(), error.step.as_str()), ("never so", ""));
}

#[tokio::test]
async fn a_check_that_fails_before_keeps_the_first_step_from_running() {
    let fleet = Fleet::start().await;
    fleet
        .main()
        .execute("CREATE TABLE users (id int PRIMARY KEY, role text); INSERT INTO users VALUES (1, 'pirate')")
        .await;
    let definition = r#"
        id = "roles"
        version = 1
        name = "A test"
        description = "For a test."
        [[before]]
        name = "only known roles"
        sql = "SELECT NOT EXISTS (SELECT FROM users WHERE role NOT IN ('student', 'teacher'))"
        [[step]]
        name = "upper"
        batch = { table = "users" }
        sql = "UPDATE users SET role = upper(role) WHERE :batch"
    "#;
    fleet.register(&[("roles.toml", definition)]).await;
    let _failed = fleet.dunlin(&["run", "roles"]).await.ended(1).says(&["only known roles"]);
    assert_eq!(fleet.main().value::<String>("SELECT role FROM users").await, "pirate");
    fleet.main().execute("UPDATE users SET role = 'student'").await;
    let _again = fleet.dunlin(&["run", "roles"]).await.ended(0);
    assert_eq!(fleet.main().value::<String>("SELECT role FROM users").await, "STUDENT");
}

#[tokio::test]
async fn a_step_that_is_renamed_while_another_is_mended_is_not_done_twice() {
    let fleet = Fleet::start().await;
    numbers::create(fleet.main(), 300).await;
    let migration = |first: &str, second: &str| {
        format!(
            "{}\n[[step]]\n{first}\nbatch = {{ table = \"numbers\", size = 50, range = 100 }}\n\
             sql = \"UPDATE numbers SET n = n * 3 + 1 WHERE :batch\"\n\n[[step]]\nname = \"check column\"\nsql = \"{second}\"\n",
            head("triple", 1)
        )
    };
    let right = "ALTER TABLE numbers ADD CONSTRAINT whole CHECK (n > 0)";
    fleet.register(&[("m.toml", &migration("name = \"tripel\"", "ALTER TABLE numbers ADD CHECK (m > 0)"))]).await;
    let _failed = fleet.dunlin(&["run", "triple"]).await.ended(1).says(&["check column", "42703"]);

    fleet.register(&[("m.toml", &migration("name = \"triple\"", right))]).await;
    let _refused = fleet.dunlin(&["run", "triple"]).await.ended(4).says(&["\"tripel\"", "was = \"tripel\""]);
    // The controllers lose what they know of the target: it has the last word.
    fleet.control().execute("UPDATE dunlin_controller.targets SET held = '[]'").await;
    let _refused = fleet.dunlin(&["run", "triple"]).await.ended(1).says(&["\"tripel\"", "was = \"tripel\""]);
    numbers::assert_transformed_once(fleet.main(), 300).await;

    fleet.register(&[("m.toml", &migration("name = \"triple\"\nwas = \"tripel\"", right))]).await;
    let _mended = fleet.dunlin(&["run", "triple"]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), 300).await;
}

#[tokio::test]
async fn a_wrong_step_that_a_check_shows_is_mended_and_carried_out_again() {
    let fleet = Fleet::start().await;
    fleet.main().execute("CREATE TABLE people (id int PRIMARY KEY, born int, age int)").await;
    fleet.main().execute("INSERT INTO people SELECT i, 1950 + i % 50 FROM generate_series(1, 400) AS i").await;
    let migration = |expression: &str| {
        format!(
            "{}\n[[step]]\nname = \"fill\"\nbatch = {{ table = \"people\", size = 50, range = 100 }}\n\
             sql = \"UPDATE people SET age = {expression} WHERE :batch\"\n\n\
             [[after]]\nname = \"nobody is unborn\"\nsql = \"SELECT NOT EXISTS (SELECT FROM people WHERE age < 0)\"\n",
            head("ages", 1)
        )
    };
    fleet.register(&[("m.toml", &migration("born - 2026"))]).await;
    let _failed = fleet.dunlin(&["run", "ages"]).await.ended(1).says(&["nobody is unborn", "--redo"]);
    fleet.register(&[("m.toml", &migration("2026 - born"))]).await;
    let _refused = fleet.dunlin(&["run", "ages"]).await.ended(4).says(&["fill", "--redo fill", "new step"]);
    let arguments = ["run", "ages", "--redo", "fill", "--reason", "the difference was the wrong way round"];
    let _mended = fleet.dunlin(&arguments).await.ended(0);
    let wrong: i64 = fleet.main().value("SELECT count(*) FROM people WHERE age <> 2026 - born").await;
    assert_eq!(wrong, 0);
    let story = "SELECT result #>> '{mended,0,step}' || ': ' || (result #>> '{mended,0,reason}') FROM dunlin.migrations_registry";
    assert_eq!(fleet.main().value::<String>(story).await, "fill: the difference was the wrong way round");
    let queued = fleet.events().await.into_iter().rev().find(|event| event.message.contains("was queued")).unwrap();
    assert!(queued.message.contains("carries out again the step \"fill\""), "{queued:?}");
    assert!(queued.message.contains("the wrong way round") && queued.message.contains("asked for by"), "{queued:?}");
    let _applied = fleet.dunlin(&["run", "ages", "--redo", "fill"]).await.ended(4).says(&["is applied"]);
}

#[tokio::test]
async fn a_repetition_of_steps_that_do_not_say_that_they_may_be_repeated_is_asked_for_twice() {
    let fleet = Fleet::start().await;
    let migration = |id: &str, version: i64, more: &str| {
        format!("{}\n[[step]]\nname = \"insert\"\n{more}sql = \"SELECT 1\"\n", head(id, version))
    };
    fleet
        .register(&[("a.toml", &migration("plain", 1, "")), ("b.toml", &migration("safe", 2, "idempotent = true\n"))])
        .await;
    let _first = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let _asked = fleet.dunlin(&["run", "plain", "--rerun"]).await.ended(4).says(&["\"insert\"", "--yes"]);
    let _again = fleet.dunlin(&["run", "plain", "--rerun", "--yes"]).await.ended(0);
    let _safe = fleet.dunlin(&["run", "safe", "--rerun"]).await.ended(0);
    let applications =
        fleet.main().values::<i32>("SELECT applications FROM dunlin.migrations_registry ORDER BY id").await;
    assert_eq!(applications, [2, 2]);
}
