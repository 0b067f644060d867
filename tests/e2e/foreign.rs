//! Clients that are not ours: health and reflection by the standard protocols, `buf curl` and `grpcurl` with nothing but the
//! address, and a Python program with code generated from the protos.
//!
//! The tools are installed by `make setup-test`. Where they are missing these tests fail and say so; `grpcurl` is made with Go,
//! and where there is no Go its test is left out, and says that.

use std::process::Stdio;

use dunlin_tests::fleet::Fleet;
use dunlin_tests::numbers;
use dunlin_tests::programs::{repository, tool, tool_in};
use dunlin_tests::until::{DEADLINE, until};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::definitions::trivial;

const SERVICES: [&str; 4] =
    ["dunlin.v1.AgentService", "dunlin.v1.FleetService", "dunlin.v1.RegistryService", "dunlin.v1.RunService"];

#[tokio::test]
async fn health_follows_the_protocol() {
    let fleet = Fleet::start().await;
    let mut health = HealthClient::new(fleet.channel());
    for service in ["", "dunlin.v1.RegistryService", "dunlin.v1.RunService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest { service: "nobody".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_controller_without_its_database_says_that_it_does_not_serve_and_recovers() {
    let fleet = Fleet::start().await;
    let mut health = HealthClient::new(fleet.channel());
    let name: String = fleet.control().value("SELECT current_database()::text").await;
    // From the target's side: the controller is locked out of its own database, and let in again.
    let admin = fleet.main();
    admin.execute(&format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS false")).await;
    admin.execute(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")).await;
    for expected in [ServingStatus::NotServing, ServingStatus::Serving] {
        if expected == ServingStatus::Serving {
            admin.execute(&format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS true")).await;
        }
        until(&format!("health says {expected:?}"), async || {
            let answer = health.check(HealthCheckRequest::default()).await.ok()?.into_inner();
            (answer.status() == expected).then_some(())
        })
        .await;
    }
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
}

#[tokio::test]
async fn both_versions_of_reflection_list_the_services() {
    let fleet = Fleet::start().await;
    let mut names = reflection_v1(&fleet).await;
    names.retain(|name| name.starts_with("dunlin."));
    names.sort();
    assert_eq!(names, SERVICES);
    let mut names = reflection_v1alpha(&fleet).await;
    names.retain(|name| name.starts_with("dunlin."));
    names.sort();
    assert_eq!(names, SERVICES);
}

async fn reflection_v1(fleet: &Fleet) -> Vec<String> {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(fleet.channel());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response.unwrap() {
        MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|service| service.name).collect(),
        other => panic!("{other:?}"),
    }
}

async fn reflection_v1alpha(fleet: &Fleet) -> Vec<String> {
    use tonic_reflection::pb::v1alpha::ServerReflectionRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(fleet.channel());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response.unwrap() {
        MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|service| service.name).collect(),
        other => panic!("{other:?}"),
    }
}

/// Runs a program and returns its standard output.
async fn run(program: &std::path::Path, arguments: &[&str]) -> String {
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .current_dir(repository())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, child).await.expect("the client ends").expect("the client starts");
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} {arguments:?}: {}\n{out}\n{errors}", program.display(), output.status);
    out.into_owned()
}

#[tokio::test]
async fn buf_curl_needs_nothing_but_the_address() {
    let buf = tool("node/node_modules/.bin/buf");
    let fleet = Fleet::start().await;
    let url = |method: &str| format!("http://{}/{method}", fleet.address(0));
    let curl = ["curl", "--http2-prior-knowledge", "--protocol", "grpc"];
    let call = async |method: &str, data: &str| {
        let url = url(method);
        run(&buf, &[&curl[..], &["--data", data, &url]].concat()).await
    };

    for protocol in ["grpc-v1", "grpc-v1alpha"] {
        let address = format!("http://{}", fleet.address(0));
        let list = ["--reflect-protocol", protocol, "--list-services", &address];
        let services = run(&buf, &[&curl[..], &list].concat()).await;
        for service in SERVICES {
            assert!(services.lines().any(|line| line == service), "{protocol}: {services}");
        }
    }
    let content = trivial("by-curl", 3, "CREATE TABLE by_curl (id int)");
    let set = serde_json::json!({ "files": [{ "path": "by-curl.toml", "content": content }] }).to_string();
    let registered = call("dunlin.v1.RegistryService/RegisterMigrations", &set).await;
    assert!(registered.contains("REGISTER_OUTCOME_REGISTERED"), "{registered}");
    let _queued = call("dunlin.v1.RunService/RunPendingMigrations", r#"{"target":"main"}"#).await;
    until("the target has version 3", async || {
        let answer = call("dunlin.v1.RegistryService/GetSchemaVersion", r#"{"target":"main"}"#).await;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        (answer["version"] == "3").then_some(())
    })
    .await;
}

#[tokio::test]
async fn grpcurl_needs_nothing_but_the_address() {
    let Some(grpcurl) = tool_in("Go", "go/grpcurl") else { return };
    let fleet = Fleet::start().await;
    let address = fleet.address(0).to_owned();
    let services = run(&grpcurl, &["-plaintext", &address, "list"]).await;
    for service in SERVICES {
        assert!(services.lines().any(|line| line == service), "{services}");
    }
    let call = async |method: &str, data: &str| run(&grpcurl, &["-plaintext", "-d", data, &address, method]).await;
    let content = trivial("by-grpcurl", 4, "CREATE TABLE by_grpcurl (id int)");
    let set = serde_json::json!({ "files": [{ "path": "by-grpcurl.toml", "content": content }] }).to_string();
    let registered = call("dunlin.v1.RegistryService/RegisterMigrations", &set).await;
    assert!(registered.contains("REGISTER_OUTCOME_REGISTERED"), "{registered}");
    let queued = call("dunlin.v1.RunService/RunPendingMigrations", r#"{"target":"main"}"#).await;
    let queued: serde_json::Value = serde_json::from_str(&queued).unwrap();
    let watch = serde_json::json!({ "run_ids": [queued["runs"][0]["id"]] }).to_string();
    // The stream ends with the run.
    let watched = call("dunlin.v1.RunService/WatchRuns", &watch).await;
    assert!(watched.contains("RUN_STATE_SUCCEEDED"), "{watched}");
    let version = call("dunlin.v1.RegistryService/GetSchemaVersion", r#"{"target":"main"}"#).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&version).unwrap()["version"], "4");
}

#[tokio::test]
async fn a_python_client_made_from_the_protos_registers_runs_and_watches() {
    let python = tool("venv/bin/python");
    let fleet = Fleet::start().await;
    numbers::create(fleet.main(), 500).await;
    fleet.write("triple.toml", &numbers::migration("triple", 7, "size = 50, range = 100"));
    let client = repository().join("tests/foreign/client.py");
    let arguments =
        [client.to_str().unwrap(), fleet.address(0), fleet.migrations().to_str().unwrap()].map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let told = run(&python, &arguments).await;
    assert!(told.contains("1 runs") && told.contains("version 7"), "{told}");
    // Nothing is pending the second time, and it ends all the same.
    let told = run(&python, &arguments).await;
    assert!(told.contains("0 runs") && told.contains("version 7"), "{told}");
    numbers::assert_transformed_once(fleet.main(), 500).await;
}
