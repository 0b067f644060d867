//! What an operator does, from the first migration to the repeated one.

use dunlin_tests::fleet::Fleet;

use crate::definitions::{ADD_LEVEL, RENAME_ROLE, batched, create_platform, trivial, trivial_after};

#[tokio::test]
async fn a_new_field_is_added_and_the_version_is_that_of_the_migration() {
    let fleet = Fleet::start().await;
    create_platform(fleet.main(), 10).await;
    let version = fleet.dunlin(&["version", "--output", "json"]).await.ended(0);
    assert_eq!(version.stdout.trim_end(), r#"{"target":"main","version":0}"#);

    fleet.register(&[ADD_LEVEL]).await.says(&["add-course-level-field"]);
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);

    let levels: Vec<String> = fleet.main().values("SELECT DISTINCT level FROM courses").await;
    assert_eq!(levels, ["beginner"]);
    let version = fleet.dunlin(&["version", "--output", "json"]).await.ended(0);
    assert_eq!(version.stdout.trim_end(), r#"{"target":"main","version":4}"#);
    assert_eq!(version.stderr, "");
    let _table = fleet.dunlin(&["version"]).await.ended(0).says(&["4"]);
}

#[tokio::test]
async fn a_data_transform_changes_every_row_and_says_so_in_the_registry() {
    let fleet = Fleet::start().await;
    create_platform(fleet.main(), 6000).await;
    fleet.register(&[ADD_LEVEL, RENAME_ROLE]).await;
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0).says(&["update-user-roles"]);

    let roles = fleet.main().rows("SELECT role, count(*) FROM users GROUP BY 1 ORDER BY 1", &[]).await;
    let roles: Vec<(String, i64)> = roles.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(roles, [("instructor".to_owned(), 2000), ("student".to_owned(), 4000)]);

    let row = &fleet
        .main()
        .rows(
            "SELECT version, name, description, run_after, impacts, applications, rows, result, checksum, run_id
             FROM dunlin.migrations_registry WHERE id = 'update-user-roles'",
            &[],
        )
        .await[0];
    assert_eq!(row.get::<_, i64>("version"), 5);
    assert_eq!(row.get::<_, String>("name"), "Rename the teacher role");
    assert_eq!(row.get::<_, String>("description"), "Teachers are called instructors from now on.");
    assert_eq!(row.get::<_, Vec<String>>("run_after"), ["add-course-level-field"]);
    assert_eq!(row.get::<_, Vec<String>>("impacts"), ["users.role"]);
    assert_eq!(row.get::<_, i32>("applications"), 1);
    assert_eq!(row.get::<_, i64>("rows"), 2000);
    let result: serde_json::Value = row.get("result");
    assert_eq!((&result["success"], &result["rows"]), (&true.into(), &2000.into()), "{result}");
    assert!(result["message"].is_string(), "{result}");

    let run = fleet.last_run("update-user-roles").await.unwrap();
    assert_eq!(run.id, row.get::<_, i64>("run_id"));
    assert_eq!(run.checksum, row.get::<_, String>("checksum"));
    assert_eq!((run.rows, run.rows_walked, run.rows_total), (2000, 6000, 6000));
    let left: i64 = fleet.main().value("SELECT count(*) FROM dunlin.checkpoints").await;
    assert_eq!(left, 0, "checkpoints end with the migration");
}

#[tokio::test]
async fn migrations_run_in_the_order_of_their_dependencies_and_versions() {
    let fleet = Fleet::builder().agents(2).start().await;
    fleet.main().execute("CREATE TABLE story (line bigint GENERATED ALWAYS AS IDENTITY, who text)").await;
    let tell = |who: &str| format!("INSERT INTO story (who) VALUES ('{who}')");
    // The names of the files say nothing about the order.
    fleet
        .register(&[
            ("1.toml", &trivial_after("walls", 20, &["ground"], &tell("walls"))),
            ("2.toml", &trivial_after("roof", 30, &["walls", "beams"], &tell("roof"))),
            ("3.toml", &trivial("ground", 10, &tell("ground"))),
            ("4.toml", &trivial_after("beams", 25, &["ground"], &tell("beams"))),
            ("5.toml", &trivial("garden", 5, &tell("garden"))),
        ])
        .await;
    let plan = fleet.dunlin(&["plan", "--output", "json"]).await.ended(0).json();
    let planned: Vec<&str> = plan["pending"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(planned, ["garden", "ground", "walls", "beams", "roof"]);

    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let story: Vec<String> = fleet.main().values("SELECT who FROM story ORDER BY line").await;
    assert_eq!(story, planned);
}

#[tokio::test]
async fn one_migration_runs_by_its_id_once_its_dependencies_are_there() {
    let fleet = Fleet::start().await;
    create_platform(fleet.main(), 300).await;
    fleet
        .register(&[ADD_LEVEL, RENAME_ROLE, ("other.toml", &trivial("other", 1, "CREATE TABLE other (id int)"))])
        .await;

    let refused = fleet.dunlin(&["run", "update-user-roles"]).await.ended(4);
    let _refused = refused.says(&["update-user-roles", "add-course-level-field"]);
    let runs = fleet.dunlin(&["runs", "--output", "json"]).await.ended(0).json();
    assert!(runs["runs"].as_array().is_none_or(Vec::is_empty), "a refused run is none: {runs}");

    let _first = fleet.dunlin(&["run", "add-course-level-field"]).await.ended(0);
    let _second = fleet.dunlin(&["run", "update-user-roles"]).await.ended(0);
    let teachers: i64 = fleet.main().value("SELECT count(*) FROM users WHERE role = 'teacher'").await;
    assert_eq!(teachers, 0);
    let applied: Vec<String> = fleet.main().values("SELECT id FROM dunlin.migrations_registry ORDER BY version").await;
    assert_eq!(applied, ["add-course-level-field", "update-user-roles"], "nobody asked for the other one");
}

#[tokio::test]
async fn a_run_of_what_is_not_registered_is_refused() {
    let fleet = Fleet::start().await;
    let unknown = fleet.dunlin(&["run", "nobody-knows-me"]).await;
    assert!(matches!(unknown.code, 2 | 4), "{unknown:?}");
    let _unknown = unknown.says(&["nobody-knows-me"]);
}

#[tokio::test]
async fn what_is_applied_is_skipped_and_repeated_only_on_demand() {
    let fleet = Fleet::start().await;
    fleet.main().execute("CREATE TABLE counted (n int); INSERT INTO counted VALUES (0)").await;
    fleet.register(&[("count.toml", &trivial("count", 1, "UPDATE counted SET n = n + 1"))]).await;
    let counted = async || fleet.main().value::<i32>("SELECT n FROM counted").await;

    let _first = fleet.dunlin(&["run", "count"]).await.ended(0);
    assert_eq!(counted().await, 1);
    let _skipped = fleet.dunlin(&["run", "count"]).await.ended(0).says(&["count", "applied"]);
    assert_eq!(counted().await, 1);
    let _again = fleet.dunlin(&["run", "count", "--rerun", "--yes"]).await.ended(0);
    assert_eq!(counted().await, 2);

    let rows = fleet
        .main()
        .rows("SELECT applications, last_applied_at > applied_at FROM dunlin.migrations_registry", &[])
        .await;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].get::<_, i32>(0), rows[0].get::<_, bool>(1)), (2, true));
}

#[tokio::test]
async fn a_batched_migration_can_be_repeated_deliberately() {
    let fleet = Fleet::start().await;
    fleet.main().execute("CREATE TABLE counted AS SELECT i AS id, 0 AS n FROM generate_series(1, 500) AS i").await;
    fleet.main().execute("ALTER TABLE counted ADD PRIMARY KEY (id)").await;
    let definition =
        batched("count", 1, "table = \"counted\", size = 50, range = 100", "UPDATE counted SET n = n + 1 WHERE :batch");
    fleet.register(&[("count.toml", &definition)]).await;
    for expected in 1..=3 {
        let arguments: &[&str] = if expected == 1 { &["run", "count"] } else { &["run", "count", "--rerun", "--yes"] };
        let _run = fleet.dunlin(arguments).await.ended(0);
        let counts: Vec<i32> = fleet.main().values("SELECT DISTINCT n FROM counted").await;
        assert_eq!(counts, [expected]);
        let applications: i32 = fleet.main().value("SELECT applications FROM dunlin.migrations_registry").await;
        assert_eq!(applications, expected);
    }
}

#[tokio::test]
async fn nothing_pending_is_not_a_failure() {
    let fleet = Fleet::start().await;
    let _nothing_known = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _first = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let _nothing_left = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let runs = fleet.dunlin(&["runs", "--output", "json"]).await.ended(0).json();
    assert_eq!(runs["runs"].as_array().map(Vec::len), Some(1), "{runs}");
}

#[tokio::test]
async fn the_definition_of_an_applied_migration_can_not_change() {
    let fleet = Fleet::start().await;
    let original = trivial("one", 1, "CREATE TABLE one (id int)");
    fleet.register(&[("one.toml", &original)]).await;
    // Until it is applied somewhere, it can.
    let changed = trivial("one", 1, "CREATE TABLE one (id bigint)");
    fleet.register(&[("one.toml", &changed)]).await;
    let _run = fleet.dunlin(&["run", "one"]).await.ended(0);
    let kind: String =
        fleet.main().value("SELECT data_type FROM information_schema.columns WHERE table_name = 'one'").await;
    assert_eq!(kind, "bigint");

    // Comments and layout are not the definition.
    fleet.register(&[("one.toml", &format!("# A comment.\n\n{changed}"))]).await;
    fleet.write("one.toml", &original);
    fleet.write("two.toml", &trivial("two", 2, "CREATE TABLE two (id int)"));
    let _refused = fleet.dunlin(&["register", "migrations"]).await.ended(4).says(&["one", "main"]);
    let list = fleet.dunlin(&["list", "--output", "json"]).await.ended(0).json();
    assert_eq!(list["migrations"].as_array().map(Vec::len), Some(1), "all or nothing: {list}");
}

#[tokio::test]
async fn all_problems_of_a_set_are_told_at_once_and_nothing_is_registered() {
    let fleet = Fleet::start().await;
    fleet.write("good.toml", &trivial("good", 1, "CREATE TABLE good (id int)"));
    let stray = trivial("unknown-field", 2, "SELECT 1").replace("run_after = []", "colour = \"red\"");
    fleet.write("unknown-field.toml", &stray);
    fleet.write("missing.toml", &trivial_after("missing", 3, &["not-there"], "SELECT 1"));
    fleet.write("same-version.toml", &trivial("same-version", 1, "SELECT 1"));
    fleet.write("no-batch.toml", &batched("no-batch", 6, "table = \"t\"", "UPDATE t SET a = 1"));
    for arguments in [["register", "migrations"], ["check", "migrations"]] {
        let problems = fleet.dunlin(&arguments).await.ended(2);
        let _problems = problems.says(&[
            "unknown-field.toml:5:1",
            "colour",
            "missing.toml:5",
            "not-there",
            "same-version.toml",
            "no-batch.toml",
            ":batch",
        ]);
    }
    let list = fleet.dunlin(&["list", "--output", "json"]).await.ended(0).json();
    assert!(list["migrations"].as_array().is_none_or(Vec::is_empty), "{list}");
}

#[tokio::test]
async fn a_cycle_is_printed() {
    let fleet = Fleet::start().await;
    fleet.write("a.toml", &trivial_after("chicken", 1, &["egg"], "SELECT 1"));
    fleet.write("b.toml", &trivial_after("egg", 2, &["chicken"], "SELECT 1"));
    let _cycle = fleet.dunlin(&["register", "migrations"]).await.ended(2).says(&["chicken", "egg"]);
}

#[tokio::test]
async fn two_hundred_small_migrations_are_brought_up_in_one_go() {
    let fleet = Fleet::start().await;
    for i in 1..=100_i64 {
        fleet.write(&format!("t{i}.toml"), &trivial(&format!("table-{i}"), i, &format!("CREATE TABLE t{i} (id int)")));
        let id = format!("column-{i}");
        let sql = format!("ALTER TABLE t{i} ADD COLUMN n int");
        fleet.write(&format!("c{i}.toml"), &trivial_after(&id, 100 + i, &[&format!("table-{i}")], &sql));
    }
    let _registered = fleet.dunlin(&["register", "migrations"]).await.ended(0);
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let columns: i64 = fleet
        .main()
        .value("SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public' AND column_name = 'n'")
        .await;
    assert_eq!(columns, 100);
    let version = fleet.dunlin(&["version", "--output", "json"]).await.ended(0);
    assert_eq!(version.stdout.trim_end(), r#"{"target":"main","version":200}"#);
}

#[tokio::test]
async fn each_target_has_a_version_of_its_own() {
    let fleet = Fleet::builder().target("second").start().await;
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _run = fleet.dunlin(&["run", "--pending", "--target", "second"]).await.ended(0);
    for (target, version) in [("main", 0), ("second", 1)] {
        let answer = fleet.dunlin(&["version", "--target", target, "--output", "json"]).await.ended(0);
        assert_eq!(answer.stdout.trim_end(), format!(r#"{{"target":"{target}","version":{version}}}"#));
    }
    let there: bool = fleet.main().value("SELECT to_regclass('one') IS NOT NULL").await;
    assert!(!there);
}
