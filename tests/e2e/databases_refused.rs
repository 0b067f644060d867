//! Databases that answer and refuse: a full disk, no free connection, a missing privilege, a standby. The error says what
//! to do, nothing is left half done, and once the cause is gone the migration runs.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use dunlin_proto::v1::{EventType, RunState};
use dunlin_shared::postgres::throwaway::{self, Server};
use dunlin_tests::database::Database;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::numbers;
use dunlin_tests::until::until;

use crate::definitions::trivial;

const ROWS: u32 = 2000;

/// Lets every write to a table fail with a SQLSTATE for as long as the table `shortage` exists: what a server does whose disk
/// is full, without filling one.
async fn run_short(database: &Database, table: &str, sqlstate: &str) {
    database
        .execute(&format!(
            "CREATE TABLE public.shortage ();
             CREATE FUNCTION public.run_short() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF to_regclass('public.shortage') IS NOT NULL THEN
                     RAISE 'could not extend file: No space left on device' USING ERRCODE = '{sqlstate}';
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER run_short AFTER INSERT OR UPDATE OR DELETE ON {table}
                 FOR EACH STATEMENT EXECUTE FUNCTION public.run_short()"
        ))
        .await;
}

/// A role that owns the table of the test, and its URL.
async fn migrator(database: &Database, rights: &str) -> (String, String) {
    let name = database.url().rsplit('/').next().unwrap();
    let role = format!("migrator_{name}");
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'secret'; GRANT CREATE ON DATABASE \"{name}\" TO {role};
             GRANT USAGE, CREATE ON SCHEMA public TO {role}; {}",
            rights.replace("ROLE", &role)
        ))
        .await;
    let (_, place) = database.url().split_once('@').unwrap();
    (role.clone(), format!("postgres://{role}:secret@{place}"))
}

#[tokio::test]
async fn a_full_disk_is_told_waited_for_and_costs_nothing() {
    let fleet = Fleet::start().await;
    numbers::create(fleet.main(), ROWS).await;
    run_short(fleet.main(), "numbers", "53100").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 500"))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--wait-for-agent", "--detach"]).await.ended(0);
    let released = until("the lease is given back", async || {
        let events = fleet.events().await;
        events.into_iter().find(|event| event.r#type() == EventType::LeaseReleased)
    })
    .await;
    for text in ["53100", "make room on the target's disk", "it goes on by itself"] {
        assert!(released.message.contains(text), "{released:?}");
    }
    // It is tried again all the time, so a transaction can be open at any moment; but not for long.
    let open = "SELECT pid || ' ' || xact_start FROM pg_stat_activity
                WHERE datname = current_database() AND state LIKE 'idle in%'";
    let before: Vec<String> = fleet.main().values(open).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after: Vec<String> = fleet.main().values(open).await;
    assert!(before.iter().all(|one| !after.contains(one)), "{before:?} stay open");
    let run = fleet.last_run("triple").await.unwrap();
    assert_eq!(run.state(), RunState::Running);
    fleet.main().execute("DROP TABLE shortage").await;
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    let attempts: i32 = fleet.control().value("SELECT max(attempts) FROM dunlin_controller.tasks").await;
    assert_eq!(attempts, 0);
}

#[tokio::test]
async fn a_full_disk_of_the_controllers_is_told_and_loses_no_lease() {
    let fleet = Fleet::builder()
        .lease_ttl("6s")
        .environment("DUNLIN_LOCK_TIMEOUT", "0s")
        .environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "0s")
        .start()
        .await;
    numbers::create(fleet.main(), ROWS).await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 500"))]).await;
    let gate = dunlin_tests::gate::Gate::close(fleet.main(), "numbers", "true").await;
    let _started = fleet.dunlin(&["run", "triple", "--wait-for-agent", "--detach"]).await.ended(0);
    gate.reached_by(2).await;
    run_short(fleet.control(), "dunlin_controller.tasks", "53100").await;
    fleet
        .control()
        .execute(
            "CREATE TRIGGER run_short AFTER INSERT OR UPDATE OR DELETE ON dunlin_controller.agents
                 FOR EACH STATEMENT EXECUTE FUNCTION public.run_short();
             CREATE TRIGGER run_short AFTER INSERT OR UPDATE OR DELETE ON dunlin_controller.definitions
                 FOR EACH STATEMENT EXECUTE FUNCTION public.run_short()",
        )
        .await;
    fleet.write("other.toml", &trivial("other", 2, "CREATE TABLE other (id int)"));
    let _refused = fleet.dunlin(&["register", "migrations"]).await.ended(3).says(&["No space left", "53100"]);
    gate.open().await;
    let expired = "SELECT bool_and(expires_at < clock_timestamp() - interval '2 seconds') FROM dunlin_controller.tasks
                   WHERE state = 'leased'";
    until("every lease has run out", async || fleet.control().value::<bool>(expired).await.then_some(())).await;
    fleet.control().execute("DROP TABLE shortage").await;
    let run = fleet.last_run("triple").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    let lost = fleet.events().await.iter().filter(|event| event.r#type() == EventType::LeaseExpired).count();
    assert_eq!(lost, 0);
    let _registered = fleet.dunlin(&["register", "migrations"]).await.ended(0);
}

#[tokio::test]
async fn a_missing_privilege_is_named_and_the_migration_runs_once_it_is_granted() {
    let main = Database::create("main").await;
    numbers::create(&main, ROWS).await;
    let (role, url) = migrator(&main, "GRANT SELECT ON numbers TO ROLE").await;
    let fleet = Fleet::builder().target_at("main", &main, &url).start().await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 500"))]).await;
    let failed = fleet.dunlin(&["run", "triple"]).await.ended(1);
    let _failed = failed.says(&["42501", "permission denied", "Grant the missing privilege to the agent's role"]);
    let leased: i64 =
        fleet.control().value("SELECT count(*) FROM dunlin_controller.tasks WHERE state IN ('leased', 'ready')").await;
    assert_eq!(leased, 0);
    assert_eq!(numbers::count(&main).await, (0, i64::from(ROWS), 0));
    main.execute(&format!("GRANT UPDATE ON numbers TO {role}")).await;
    let _run = fleet.dunlin(&["run", "triple"]).await.ended(0);
    numbers::assert_transformed_once(&main, ROWS).await;
}

#[tokio::test]
async fn a_target_without_a_free_connection_is_away_until_there_is_one() {
    let main = Database::create("main").await;
    numbers::create(&main, ROWS).await;
    let (role, url) = migrator(&main, "ALTER TABLE numbers OWNER TO ROLE").await;
    let fleet = Fleet::builder().target_at("main", &main, &url).start().await;
    main.execute(&format!(
        "ALTER ROLE {role} CONNECTION LIMIT 0;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
    ))
    .await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 500"))]).await;
    until("the target is told to be away", async || {
        let status = fleet.dunlin(&["status"]).await.ended(0);
        (status.text().contains("unreachable: too many connections") && status.text().contains("53300")).then_some(())
    })
    .await;
    let _started = fleet.dunlin(&["run", "triple", "--wait-for-agent", "--detach"]).await.ended(0);
    let run = fleet.last_run("triple").await.unwrap();
    assert!(run.waits.iter().any(|wait| wait.message.contains("53300")), "{run:?}");
    main.execute(&format!("ALTER ROLE {role} CONNECTION LIMIT -1")).await;
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(&main, ROWS).await;
}

/// A standby of a server. Stopped when dropped.
struct Standby {
    bin: PathBuf,
    data: PathBuf,
    owner: (u32, u32),
    port: u16,
}

impl Standby {
    async fn of(server: &Server) -> Self {
        let metadata = fs::metadata(server.directory()).unwrap();
        let data = server.directory().join("standby");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let standby = Self {
            bin: server.binaries().to_owned(),
            data: data.clone(),
            owner: (metadata.uid(), metadata.gid()),
            port,
        };
        let target = data.to_str().unwrap();
        // While the server is down its files are a backup. It takes no client program, which not every package of a server has.
        server.crash().await.unwrap();
        let copied = Command::new("cp").arg("-a").args([&server.directory().join("data"), &data]).status();
        assert!(copied.unwrap().success());
        server.start_again().await.unwrap();
        fs::write(data.join("standby.signal"), "").unwrap();
        let settings = data.join("postgresql.auto.conf");
        let text = fs::read_to_string(&settings).unwrap();
        fs::write(&settings, format!("{text}\nport = {port}\n")).unwrap();
        for file in [data.join("standby.signal"), settings] {
            chown(&file, Some(metadata.uid()), Some(metadata.gid())).unwrap();
        }
        let log = data.join("log");
        standby.execute("pg_ctl", &["-D", target, "-w", "-t", "60", "-l", log.to_str().unwrap(), "start"]);
        standby
    }

    fn execute(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(self.bin.join(program));
        command.args(arguments).current_dir("/").stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        if nix::unistd::geteuid().is_root() {
            command.uid(self.owner.0).gid(self.owner.1);
        }
        assert!(command.status().unwrap().success(), "{program} {arguments:?}");
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let stop = || self.execute("pg_ctl", &["-D", self.data.to_str().unwrap(), "-m", "immediate", "stop"]);
        // A test that fails already must still stop it, and must not panic twice.
        if std::thread::panicking() {
            let _failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(stop));
        } else {
            stop();
        }
    }
}

#[tokio::test]
async fn a_standby_is_told_apart_and_worked_on_once_it_is_promoted() {
    let server = Server::start().await.unwrap();
    let url = server.database("main").await.unwrap();
    numbers::create(&Database::connect(&url).await, ROWS).await;
    let standby = Standby::of(&server).await;
    let url = url.replace(&format!(":{}/", server.port()), &format!(":{}/", standby.port));
    let main = Database::connect(&url).await;
    let fleet = Fleet::builder().target_at("main", &main, &url).start().await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 500"))]).await;
    until("the target is told to be a standby", async || {
        let status = fleet.dunlin(&["status"]).await.ended(0);
        status.text().contains("read-only standby: give the agent the URL of the primary").then_some(())
    })
    .await;
    let _started = fleet.dunlin(&["run", "triple", "--wait-for-agent", "--detach"]).await.ended(0);
    let run = fleet.last_run("triple").await.unwrap();
    assert!(run.waits.iter().any(|wait| wait.message.contains("read-only standby")), "{run:?}");

    main.execute("SELECT pg_promote()").await;
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(&main, ROWS).await;
    drop(standby);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_target_that_is_made_read_only_says_how_to_end_that() {
    let fleet = Fleet::start().await;
    numbers::create(fleet.main(), ROWS).await;
    let name = fleet.main().url().rsplit('/').next().unwrap().to_owned();
    let server = throwaway::shared().await;
    server
        .command(&format!(
            "ALTER DATABASE \"{name}\" SET default_transaction_read_only = on;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND application_name LIKE 'dunlin%'"
        ))
        .await
        .unwrap();
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 500"))]).await;
    until("the target is told to be read-only", async || {
        let status = fleet.dunlin(&["status"]).await.ended(0);
        status.text().contains("default_transaction_read_only is on").then_some(())
    })
    .await;
    let _started = fleet.dunlin(&["run", "triple", "--wait-for-agent", "--detach"]).await.ended(0);
    let run = fleet.last_run("triple").await.unwrap();
    server
        .command(&format!(
            "ALTER DATABASE \"{name}\" RESET default_transaction_read_only;
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND application_name LIKE 'dunlin%'"
        ))
        .await
        .unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
}
