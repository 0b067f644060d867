//! `dunlin dev`: everything on this machine, and nothing left afterwards.

use std::fs::Permissions;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use dunlin_tests::fleet::Fleet;
use dunlin_tests::process::Process;
use dunlin_tests::until::until;

use crate::definitions::trivial;

#[tokio::test]
async fn dev_starts_everything_and_takes_everything_away_again() {
    // A fleet without processes: an address that is free, and a place for files.
    let fleet = Fleet::builder().controllers(0).agents(0).start().await;
    let temporary = fleet.directory().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    // As /tmp is: a server that runs as another user puts its directory there, and removes it.
    std::fs::set_permissions(&temporary, Permissions::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(fleet.directory(), Permissions::from_mode(0o755)).unwrap();
    let mut command = fleet.dunlin_command(&["dev", "--listen", fleet.address(0), "--agents", "2", "--slots", "1"]);
    let env = fleet.directory().join("env");
    command.env("TMPDIR", &temporary).arg("--env-file").arg(&env);
    let mut dev = Process::start(command, "dev", fleet.directory());

    let _ready = fleet.dunlin(&["wait", "--timeout", "60s"]).await.ended(0);
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let version = fleet.dunlin(&["version", "--output", "json"]).await.ended(0);
    assert_eq!(version.stdout.trim_end(), r#"{"target":"main","version":1}"#);
    let agents = fleet.dunlin(&["agents", "--output", "json"]).await.ended(0).json();
    assert_eq!(agents["agents"].as_array().map(Vec::len), Some(2), "{agents}");

    // Nobody sees a password, and what is shown is enough to connect.
    let variables = std::fs::read_to_string(&env).unwrap();
    let url = variables.split('\'').find(|word| word.starts_with("postgres://")).unwrap();
    let password = url.split([':', '@']).nth(2).unwrap();
    assert!(password.len() >= 32 && !dev.log().contains(password), "{}", dev.log());
    for entry in std::fs::read_dir("/proc").unwrap() {
        let command = std::fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&command).contains(password));
    }
    let log = dev.log();
    let shown = log.split_whitespace().find(|word| word.starts_with("postgres://")).unwrap();
    let (client, _task) = dunlin_shared::postgres::connect(shown, "test").await.unwrap();
    let superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
    assert!(!client.query_one(superuser, &[]).await.unwrap().get::<_, bool>(0));

    dev.terminate();
    let status = dev.ended().await;
    assert_eq!(status.code(), Some(0), "{}", dev.log());
    until("the controller of `dunlin dev` is gone", async || {
        TcpStream::connect(fleet.address(0)).is_err().then_some(())
    })
    .await;
    until("the files of `dunlin dev` are gone", async || {
        std::fs::read_dir(&temporary).unwrap().next().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn dev_uses_a_database_of_ones_own_and_leaves_it_alone_afterwards() {
    let fleet = Fleet::builder().controllers(0).agents(0).start().await;
    let file = fleet.directory().join("url");
    std::fs::write(&file, fleet.main().url()).unwrap();
    let named = format!("@{}", file.display());
    let command = fleet.dunlin_command(&["dev", "--listen", fleet.address(0), "--postgres", &named]);
    let mut dev = Process::start(command, "dev", fleet.directory());
    let _ready = fleet.dunlin(&["wait", "--timeout", "60s"]).await.ended(0);
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    dev.terminate();
    assert_eq!(dev.ended().await.code(), Some(0), "{}", dev.log());
    let applied: i64 = fleet.main().value("SELECT count(*) FROM dunlin.migrations_registry").await;
    assert_eq!(applied, 1);
}
