//! Targets that are put back to an earlier state, and controllers that lose what they know. What a target says of itself is
//! right; nothing that it has is done again.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use dunlin_proto::v1::{EventType, RunState};
use dunlin_shared::postgres::throwaway;
use dunlin_tests::database::Database;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::gate::Gate;
use dunlin_tests::numbers;
use dunlin_tests::until::until;

use crate::definitions::trivial;

const ROWS: u32 = 4000;

const BATCHES: &str = "size = 50, range = 1000, stripes = 1";

/// A backup as an operator makes one.
struct Backup {
    file: PathBuf,
    /// The program that reads it.
    restore: PathBuf,
}

/// A client program of PostgreSQL, from beside the server or from the PATH. `None` where there is none as new as the server, which
/// is what `pg_dump` insists on: the test that needs it is left out, and says so.
async fn client(name: &str, database: &Database) -> Option<PathBuf> {
    let beside = throwaway::shared().await.binaries().join(name);
    if beside.is_file() {
        return Some(beside);
    }
    let major: i32 = database.value("SELECT current_setting('server_version_num')::integer / 10000").await;
    let told = tokio::process::Command::new(name).arg("--version").stdin(Stdio::null()).output().await;
    let text = told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    // "pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
    let version = text.split_once(") ").and_then(|(_, rest)| rest.split('.').next()?.parse::<i32>().ok());
    if version.is_some_and(|version| version >= major) {
        return Some(name.into());
    }
    let _unseen = writeln!(std::io::stderr(), "NOT TESTED: there is no {name} of PostgreSQL {major} or later here.");
    None
}

async fn execute(program: &Path, arguments: &[&str]) {
    let mut command = tokio::process::Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output().await.unwrap();
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
}

impl Backup {
    async fn of(database: &Database, directory: &Path) -> Option<Self> {
        Self::without(database, "no_such_schema", directory).await
    }

    /// A backup without a schema.
    async fn without(database: &Database, schema: &str, directory: &Path) -> Option<Self> {
        let (dump, restore) = (client("pg_dump", database).await?, client("pg_restore", database).await?);
        let file = directory.join("backup");
        let arguments =
            ["--format=custom", "--exclude-schema", schema, "--file", file.to_str().unwrap(), database.url()];
        execute(&dump, &arguments).await;
        Some(Self { file, restore })
    }

    /// Puts the database back, under its name, while agents are connected to it.
    async fn restore(&self, database: &Database) -> Database {
        let name = database.url().rsplit('/').next().unwrap();
        let server = throwaway::shared().await;
        server.command(&format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await.unwrap();
        server.command(&format!("CREATE DATABASE \"{name}\" TEMPLATE template0")).await.unwrap();
        let arguments = ["--exit-on-error", "--dbname", database.url(), self.file.to_str().unwrap()];
        execute(&self.restore, &arguments).await;
        Database::connect(database.url()).await
    }
}

/// Waits until nothing runs on the target since it is at an earlier state than before, and says that it was put back.
pub(crate) async fn put_back(fleet: &Fleet) {
    until("the target can be said to have been put back", async || {
        // While it is restored, it looks like another state every time.
        let said = fleet.dunlin(&["target", "rebind", "main", "--restored", "--reason", "the disk was lost"]).await;
        let refused = "SELECT count(*) FROM dunlin_controller.events WHERE type = 'target_refused' AND target = 'main'";
        assert!(said.code != 0 || fleet.control().value::<i64>(refused).await > 0, "nobody had asked");
        (said.code == 0).then_some(())
    })
    .await;
}

async fn version(fleet: &Fleet) -> i64 {
    let version = fleet.dunlin(&["version", "--output", "json"]).await;
    // Right after a restart no agent may reach the target: the answer is then that of its last report.
    let code = if version.json()["unreached"].is_string() { 3 } else { 0 };
    version.ended(code).json()["version"].as_i64().unwrap()
}

/// Waits until the controllers have followed the registry of the target in a way that an event tells of.
async fn followed(fleet: &Fleet, text: &str) {
    until(&format!("an event says: {text}"), async || {
        let events = fleet.events().await;
        events
            .iter()
            .any(|event| event.r#type() == EventType::RegistryFollowed && event.message.contains(text))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_target_put_back_while_nobody_works_is_noticed_and_brought_to_date_again() {
    let fleet = Fleet::start().await;
    numbers::create(fleet.main(), 100).await;
    fleet.register(&[("1.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _one = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let Some(backup) = Backup::of(fleet.main(), fleet.directory()).await else { return };
    fleet.register(&[("2.toml", &trivial("two", 2, "UPDATE numbers SET n = n * 3 + 1"))]).await;
    let _two = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    assert_eq!(version(&fleet).await, 2);

    let restored = backup.restore(fleet.main()).await;
    // Nobody asks for anything: the agent looks by itself. It may be a copy, so nothing runs until somebody has said what it is.
    put_back(&fleet).await;
    followed(&fleet, "it does not have").await;
    until("the version is that of the backup", async || (version(&fleet).await == 1).then_some(())).await;
    let _plan = fleet.dunlin(&["plan"]).await.ended(0).says(&["two"]);
    let _again = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    numbers::assert_transformed_once(&restored, 100).await;
    assert_eq!(restored.values::<i32>("SELECT applications FROM dunlin.migrations_registry").await, [1, 1]);
}

#[tokio::test]
async fn a_backup_from_the_middle_of_a_migration_goes_on_from_its_checkpoints() {
    let fleet = Fleet::builder()
        .slots(1)
        .environment("DUNLIN_LOCK_TIMEOUT", "0s")
        .environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "0s")
        .start()
        .await;
    numbers::create(fleet.main(), ROWS).await;
    let gate = Gate::close(fleet.main(), "numbers", "id > 2500").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, BATCHES))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(1).await;
    let Some(backup) = Backup::of(fleet.main(), fleet.directory()).await else { return };
    gate.open().await;
    let run = fleet.last_run("triple").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);

    let restored = backup.restore(fleet.main()).await;
    let (done, left, _) = numbers::count(&restored).await;
    assert!(done > 0 && left > 0, "the backup is from the middle: {done} done, {left} left");
    put_back(&fleet).await;
    followed(&fleet, "it does not have triple").await;
    let _again = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    numbers::assert_transformed_once(&restored, ROWS).await;
}

#[tokio::test]
async fn a_target_put_back_under_a_run_fails_it_clearly_and_is_brought_to_date_by_the_next() {
    let fleet = Fleet::builder()
        .slots(1)
        .environment("DUNLIN_LOCK_TIMEOUT", "0s")
        .environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "0s")
        .start()
        .await;
    numbers::create(fleet.main(), ROWS).await;
    let steps = format!(
        "{}\n[[step]]\nname = \"add\"\nsql = \"ALTER TABLE numbers ADD COLUMN note text\"\n\n[[step]]\nname = \"triple\"\n\
         batch = {{ table = \"numbers\", {BATCHES} }}\nsql = \"UPDATE numbers SET n = n * 3 + 1, note = 'x' WHERE :batch\"\n",
        crate::definitions::head("both", 1)
    );
    fleet.register(&[("both.toml", &steps)]).await;
    // Before Dunlin's first visit, as far as the backup is concerned.
    let Some(backup) = Backup::without(fleet.main(), "dunlin", fleet.directory()).await else { return };
    let gate = Gate::close(fleet.main(), "numbers", "id > 2500").await;
    let _started = fleet.dunlin(&["run", "both", "--detach"]).await.ended(0);
    gate.reached_by(1).await;

    let restored = backup.restore(fleet.main()).await;
    put_back(&fleet).await;
    let failed = until("the run fails", async || {
        let run = fleet.last_run("both").await?;
        (run.state() == RunState::Failed).then_some(run)
    })
    .await;
    let error = failed.error.unwrap();
    assert!(error.message.contains("put back to an earlier state"), "{error:?}");
    let _again = fleet.dunlin(&["run", "both"]).await.ended(0);
    numbers::assert_transformed_once(&restored, ROWS).await;
    drop(gate);
}

#[tokio::test]
async fn controllers_that_lose_their_database_learn_from_the_targets_what_is_applied() {
    let fleet = Fleet::builder().controllers(2).start().await;
    numbers::create(fleet.main(), ROWS).await;
    let definitions: [(&str, &str); 2] = [
        ("1.toml", &trivial("one", 1, "CREATE TABLE one (id int)")),
        ("2.toml", &numbers::migration("triple", 2, "size = 500, range = 1000")),
    ];
    fleet.register(&definitions).await;
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);

    // Under running controllers: they make their schema again, and agents come back. A DROP would lock one table after the other, and
    // so meet what controllers do at this moment.
    fleet
        .control()
        .execute(
            "ALTER SCHEMA dunlin_controller RENAME TO gone;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    until("the controllers serve, and the agents are back", async || {
        // It ends so only where an agent reaches the target.
        (fleet.dunlin(&["plan"]).await.code == 0 && version(&fleet).await == 2).then_some(())
    })
    .await;
    fleet.register(&definitions).await;
    let _nothing = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    assert_eq!(fleet.main().values::<i32>("SELECT applications FROM dunlin.migrations_registry").await, [1, 1]);
    followed(&fleet, "it has one, triple").await;

    // And what comes next comes once.
    fleet.register(&[("3.toml", &trivial("three", 3, "CREATE TABLE three (id int)"))]).await;
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0).says(&["three"]);
}
