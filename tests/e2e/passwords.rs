//! Ways to databases that are not safe enough, and passwords that change: told once, with the way out, and found again once they are
//! mended, while everything goes on running.

use std::fs;

use dunlin_tests::database::Database;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::until::until;

use crate::definitions::trivial;

/// The URL of a database at an address that is this machine on Linux, and none of the loopback interface.
fn elsewhere(database: &Database) -> String {
    database.url().replace("127.0.0.1", "0.0.0.0")
}

/// A role that may do everything in a database, and the database's URL for it with a password.
async fn role(database: &Database, name: &str) -> impl Fn(&str) -> String {
    let own = database.url().rsplit('/').next().unwrap().to_owned();
    let role = format!("{name}_{own}");
    let sql = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'first'; GRANT CREATE ON DATABASE \"{own}\" TO {role};
         GRANT USAGE, CREATE ON SCHEMA public TO {role}"
    );
    database.execute(&sql).await;
    let (_, place) = database.url().split_once('@').unwrap();
    let place = place.to_owned();
    move |password| format!("postgres://{role}:{password}@{place}")
}

/// Gives a role another password and ends its sessions.
async fn change(database: &Database, url: &str, password: &str) {
    let role = url.split_once("://").unwrap().1.split(':').next().unwrap();
    database.execute(&format!("ALTER ROLE {role} PASSWORD '{password}'")).await;
    let end = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'");
    let _ended: i64 = database.value(&end).await;
}

#[tokio::test]
async fn a_target_without_tls_is_told_with_the_way_out_and_found_when_its_file_is_mended() {
    let (main, dir) = (Database::create("main").await, tempfile::tempdir().unwrap());
    let file = dir.path().join("main");
    fs::write(&file, elsewhere(&main)).unwrap();
    let mut fleet = Fleet::builder().target_at("main", &main, &format!("@{}", file.display())).start().await;
    let _targets = fleet.dunlin(&["targets"]).await.ended(0).says(&["verify-full", "no TLS", "sslmode=disable"]);
    assert_eq!(fleet.agent(0).log().matches("the target cannot be worked on").count(), 1);
    fs::write(&file, elsewhere(&main) + "?sslmode=disable").unwrap();
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    until("the target is reached", async || fleet.agent(0).log().contains("the target is reached").then_some(())).await;
    let _done = fleet.dunlin(&["run", "--pending", "--wait-for-agent"]).await.ended(0);
}

#[tokio::test]
async fn a_controller_whose_database_is_not_safe_enough_ends_with_the_way_out() {
    let control = Database::create("control").await;
    let mut fleet = Fleet::builder().controllers(0).agents(0).control_at(&control, &elsewhere(&control)).start().await;
    fleet.start_controller();
    assert_eq!(fleet.controller(0).ended().await.code(), Some(1));
    let log = fleet.controller(0).log();
    for text in ["--database-url", "verify-full", "no TLS", "sslmode=disable"] {
        assert!(log.contains(text), "{log}");
    }
}

#[tokio::test]
async fn passwords_change_while_controllers_and_agents_run() {
    let (main, control) = (Database::create("main").await, Database::create("control").await);
    let (of_main, of_control) = (role(&main, "agent").await, role(&control, "controller").await);
    let dir = tempfile::tempdir().unwrap();
    let (main_file, control_file) = (dir.path().join("main"), dir.path().join("control"));
    fs::write(&main_file, of_main("first")).unwrap();
    fs::write(&control_file, of_control("first")).unwrap();
    let mut fleet = Fleet::builder()
        .target_at("main", &main, &format!("@{}", main_file.display()))
        .control_at(&control, &format!("@{}", control_file.display()))
        .start()
        .await;
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _done = fleet.dunlin(&["run", "--pending", "--wait-for-agent"]).await.ended(0);

    change(&main, &of_main("first"), "second").await;
    change(&control, &of_control("first"), "second").await;
    until("both are told that they are not let in", async || {
        let told = |log: String| log.contains("28P01");
        (told(fleet.agent(0).log()) && told(fleet.controller(0).log())).then_some(())
    })
    .await;
    // A file that leads astray ends no controller that was at work.
    fs::write(&control_file, elsewhere(&control)).unwrap();
    until("the controller says so", async || fleet.controller(0).log().contains("no TLS").then_some(())).await;
    fs::write(&main_file, of_main("second")).unwrap();
    fs::write(&control_file, of_control("second")).unwrap();
    until("the controller is back", async || {
        let registered = fleet.dunlin(&["list"]).await;
        (registered.code == 0).then_some(())
    })
    .await;
    fleet.register(&[("two.toml", &trivial("two", 2, "CREATE TABLE two (id int)"))]).await;
    let _done = fleet.dunlin(&["run", "--pending", "--wait-for-agent"]).await.ended(0);
    for log in [fleet.agent(0).log(), fleet.controller(0).log()] {
        assert!(!log.contains(":first@") && !log.contains(":second@"), "{log}");
    }
}

#[tokio::test]
async fn a_role_with_what_is_printed_for_it_and_nothing_else_migrates_its_own_tables() {
    let main = Database::create("main").await;
    let name = main.url().rsplit('/').next().unwrap().to_owned();
    let role = format!("Own role of {name}");
    let sql = format!(
        "REVOKE ALL ON DATABASE \"{name}\" FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE SCHEMA \"App\";
         CREATE ROLE \"{role}\"; CREATE ROLE login_{name} LOGIN NOINHERIT PASSWORD 'first' IN ROLE \"{role}\"; \
         GRANT CONNECT ON DATABASE \"{name}\" TO login_{name}"
    );
    main.execute(&sql).await;
    let (_, place) = main.url().split_once('@').unwrap();
    let url = format!("postgres://login_{name}:first@{place}");
    let fleet = Fleet::builder().target_at("main", &main, &url).agent_arguments(&["--role", &role]).start().await;
    let _refused = fleet.dunlin(&["targets"]).await.ended(0).says(&["dunlin"]);
    let grants = fleet.dunlin(&["target", "grants", "--role", &role, "--schema", "App"]).await.ended(0);
    main.execute(&grants.stdout).await;
    // Twice is as good as once.
    main.execute(&grants.stdout).await;
    let definition = "id = \"own\"\nname = \"own\"\ndescription = \"own\"\nversion = 1\nimpacts = [\"t\"]
[[step]]
name = \"table\"
sql = 'CREATE TABLE \"App\".t (id bigint PRIMARY KEY, n int); INSERT INTO \"App\".t SELECT i, i FROM generate_series(1, 2000) AS i'
[[step]]
name = \"rows\"
batch = { table = '\"App\".t' }
sql = 'UPDATE \"App\".t SET n = n + 1 WHERE :batch'
[[step]]
name = \"index\"
transaction = false
sql = 'CREATE INDEX CONCURRENTLY t_n ON \"App\".t (n)'
";
    fleet.register(&[("own.toml", definition)]).await;
    let _done = fleet.dunlin(&["run", "--pending", "--wait-for-agent"]).await.ended(0);
    let sum: i64 = main.value("SELECT sum(n) FROM \"App\".t").await;
    assert_eq!(sum, 2000 * 2001 / 2 + 2000);
    let owner: String = main.value("SELECT tableowner FROM pg_tables WHERE schemaname = 'App'").await;
    assert_eq!(owner, role);
}
