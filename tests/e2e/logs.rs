//! What the logs of controllers and agents tell whoever has nothing but them, and what an agent tells a probe.

use dunlin_tests::fleet::Fleet;
use dunlin_tests::ports::free_port;
use dunlin_tests::until::until;
use serde_json::Value;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::definitions::trivial;

/// The lines of a log in JSON. Each key stands once in a line: parsers differ in what they make of one that comes twice.
fn lines(log: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| {
            let value: Value = serde_json::from_str(line).unwrap();
            for key in value.as_object().unwrap().keys() {
                assert_eq!(line.matches(&format!("\"{key}\":")).count(), 1, "{key} in {line}");
            }
            value
        })
        .collect()
}

#[tokio::test]
async fn the_logs_tell_of_runs_with_their_migration_and_target_and_why_they_fail() {
    let mut fleet = Fleet::builder().environment("DUNLIN_LOG_FORMAT", "json").start().await;
    fleet
        .register(&[
            ("1.toml", &trivial("one", 1, "CREATE TABLE one (id int)")),
            ("2.toml", &trivial("two", 2, "SELECT 1 / 0")),
        ])
        .await;
    let _failed = fleet.dunlin(&["run", "--pending"]).await.ended(1);
    let told = |log: &str, event: &str, migration: &str| {
        lines(log).into_iter().find(|line| line["event"] == event && line["migration"] == migration)
    };
    for (event, migration, level) in [
        ("run_queued", "one", "INFO"),
        ("run_started", "one", "INFO"),
        ("run_succeeded", "one", "INFO"),
        ("run_failed", "two", "ERROR"),
    ] {
        let line = until(&format!("the controller logs {event} of {migration}"), async || {
            told(&fleet.controller(0).log(), event, migration)
        })
        .await;
        assert!(line["run"].is_i64() && line["target"] == "main" && line["level"] == level, "{line}");
    }
    let line = until("the agent logs the error", async || {
        lines(&fleet.agent(0).log()).into_iter().find(|line| line["level"] == "ERROR")
    })
    .await;
    assert!(line["message"].as_str().unwrap().contains("division by zero"), "{line}");
    assert!(line["migration"] == "two" && line["sqlstate"] == "22012" && line["run"].is_i64(), "{line}");
}

#[tokio::test]
async fn an_agent_that_its_target_refuses_says_so_and_is_not_ready() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let main = dunlin_tests::database::Database::create("main").await;
    main.execute("CREATE ROLE locked_out LOGIN PASSWORD 'right'").await;
    let (_, place) = main.url().split_once('@').unwrap();
    let url = format!("postgres://locked_out:wrong@{place}");
    let builder = Fleet::builder().target_at("main", &main, &url);
    let mut fleet = builder.environment("DUNLIN_HEALTH_LISTEN", &address).start().await;
    let mut health = HealthClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy());
    let mut status = async || Some(health.check(HealthCheckRequest::default()).await.ok()?.into_inner().status());
    until("the agent is not ready", async || (status().await == Some(ServingStatus::NotServing)).then_some(())).await;
    until("its log says why", async || {
        let log = fleet.agent(0).log();
        (log.contains("WARN") && log.contains("password authentication failed")).then_some(())
    })
    .await;
    let (_, name) = place.rsplit_once('/').unwrap();
    main.execute(&format!("GRANT CREATE ON DATABASE \"{name}\" TO locked_out; ALTER ROLE locked_out PASSWORD 'wrong'"))
        .await;
    until("the agent is ready", async || (status().await == Some(ServingStatus::Serving)).then_some(())).await;
}

#[tokio::test]
async fn a_controller_that_its_database_refuses_says_so_once_in_its_log_and_to_everybody_who_asks() {
    let control = dunlin_tests::database::Database::create("control").await;
    let (_, place) = control.url().split_once('@').unwrap();
    let url = format!("postgres://postgres:wrong@{place}");
    let mut fleet = Fleet::builder().controllers(0).agents(0).control_at(&control, &url).start().await;
    fleet.start_controller();
    until("it listens", async || fleet.controller(0).log().contains("listening on").then_some(())).await;
    for arguments in [&["wait", "--timeout", "3s"][..], &["status"], &["run", "--pending"]] {
        let _refused = fleet.dunlin(arguments).await.ended(3).says(&["password authentication failed", "28P01"]);
    }
    let log = fleet.controller(0).log();
    let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains("password authentication failed"));
    assert_eq!(warnings.count(), 1, "{log}");
}
