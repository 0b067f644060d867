//! Long messages, many at a time, from clients that nobody trusts: a controller stays within the memory that `deploy/k8s` gives it.

use std::fs;
use std::time::Duration;

use dunlin_proto::client;
use dunlin_proto::codec::Codec;
use dunlin_proto::v1::work_request::Message as Say;
use dunlin_proto::v1::{self, WorkRequest, WorkResponse};
use dunlin_tests::fleet::Fleet;
use dunlin_tests::programs::repository;
use dunlin_tests::until::until;
use futures::future::join_all;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// The memory of a controller in `deploy/k8s`, in KiB.
fn limit() -> u64 {
    let manifest = fs::read_to_string(repository().join("deploy/k8s/base/controller.yaml")).unwrap();
    let (_, limits) = manifest.split_once("limits:").unwrap();
    let (_, memory) = limits.split_once("memory: ").unwrap();
    let (mebibytes, _) = memory.split_once("Mi").unwrap();
    mebibytes.parse::<u64>().unwrap() * 1024
}

/// The most memory that the controller has had, in KiB.
fn peak(fleet: &mut Fleet) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", fleet.controller(0).pid())).unwrap();
    let (_, peak) = status.split_once("VmHWM:").expect("the controller has ended");
    peak.split_whitespace().next().unwrap().parse().unwrap()
}

fn within_the_limit(fleet: &mut Fleet, what: &str) {
    let (peak, limit) = (peak(fleet), limit());
    eprintln!("{what}: {} MiB of {}", peak / 1024, limit / 1024);
    assert!(peak < limit, "{what}: {peak} KiB of memory, and the limit is {limit}");
}

/// Opens a stream of work with bytes in the place of a message; the end of the stream.
async fn said(channel: Channel, bytes: &str) -> Status {
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/dunlin.v1.AgentService/Work");
    // On the wire its only field is the `hello` of a `WorkRequest`.
    let first = v1::GetMigrationRequest { id: bytes.to_owned(), revision: 0 };
    let codec = Codec::<v1::GetMigrationRequest, WorkResponse>::default();
    let request = Request::new(tokio_stream::iter([first]));
    let mut stream = match client.streaming(request, path, codec).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return status,
    };
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_empty_entries_are_refused_before_they_are_built() {
    let mut fleet = Fleet::builder().agents(0).start().await;
    // 2 bytes each of `targets`, `transforms` and `leases`; the last are longer than a message may be.
    for (entry, length, expected) in [
        ("\"\0", 4 << 20, Code::InvalidArgument),
        ("*\0", 4 << 20, Code::InvalidArgument),
        ("2\0", 4 << 20, Code::InvalidArgument),
        ("\"\0", 64_000, Code::InvalidArgument),
        ("\"\0", 63 << 20, Code::OutOfRange),
    ] {
        let bytes = entry.repeat((length - 16) / 2);
        let answers = join_all((0..8).map(|_| said(fleet.channel(), &bytes))).await;
        for status in answers {
            // Whoever is refused while it still sends may see its connection end first.
            let ended = expected == Code::OutOfRange && status.code() != Code::Ok;
            assert!(status.code() == expected || ended, "{length} bytes of {entry:?}: {status:?}");
        }
    }
    within_the_limit(&mut fleet, "empty entries");
}

fn set(body: &str) -> v1::RegisterMigrationsRequest {
    let content = format!("id = \"m\"\nname = \"m\"\ndescription = \"d\"\nversion = 1\n{body}");
    let files = vec![v1::DefinitionFile { path: "m.toml".to_owned(), content }];
    v1::RegisterMigrationsRequest { files, validate_only: true, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sets_that_take_long_to_read_are_refused_or_read_one_after_the_other() {
    let mut fleet = Fleet::builder().agents(0).start().await;
    let sql = |sql: String| format!("[[step]]\nname = \"s\"\nsql = '''{sql}'''\n");
    let length = (16 << 20) - 1000;
    for (what, body) in [
        ("commas", sql(format!("SELECT {}1", "1,".repeat(length / 2 - 100)))),
        ("statements", sql("SELECT 1;\n".repeat(length / 10))),
        ("values", format!("impacts = [{}]\n", "\"\",".repeat(length / 3))),
        ("a text", sql(format!("SELECT '{}'", "x".repeat(length - 200)))),
    ] {
        let request = set(&body);
        let answers = join_all((0..3).map(|_| {
            let (mut registry, request) = (client::registry(fleet.channel()), request.clone());
            async move { registry.register_migrations(request).await }
        }));
        for answer in answers.await {
            match answer {
                Ok(_) => assert_eq!(what, "a text"),
                Err(status) => {
                    let known = [Code::InvalidArgument, Code::Unavailable, Code::Internal];
                    assert!(known.contains(&status.code()), "{what}: {status:?}");
                }
            }
        }
        within_the_limit(&mut fleet, what);
    }
    let request = set(&format!("# {}", "x".repeat(63 << 20)));
    let answers = join_all((0..4).map(|_| {
        let (mut registry, request) = (client::registry(fleet.channel()), request.clone());
        async move { registry.register_migrations(request).await }
    }));
    assert!(answers.await.iter().all(Result::is_err));
    within_the_limit(&mut fleet, "more than a set may have");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_definitions_are_listed_and_shown_within_the_limit() {
    let mut fleet = Fleet::builder().agents(0).start().await;
    let names: Vec<String> = (1..=8).map(|version| format!("long-{version}")).collect();
    for (name, version) in names.iter().zip(1..) {
        let head = format!("id = \"{name}\"\nname = \"n\"\ndescription = \"d\"\nversion = {version}\n");
        fleet.write(&format!("{name}.toml"), &(head + "[[step]]\nname = \"s\"\nsql = \"SELECT 'long'\"\n"));
    }
    let _registered = fleet.register(&[]).await;
    // As if they had been registered so: one of 14 MB, and seven of 2 MB.
    let length = "CASE version WHEN 1 THEN 14000000 ELSE 2000000 END";
    fleet
        .control()
        .execute(&format!(
            "UPDATE dunlin_controller.definitions d SET text = repeat('x', {length}),
                 definition = replace(definition::text, 'long''', repeat('x', {length}) || '''')::jsonb
             FROM dunlin_controller.migrations m WHERE m.id = d.migration_id"
        ))
        .await;
    let listed = fleet.dunlin(&["list"]).await.ended(0).text();
    assert!(names.iter().all(|name| listed.contains(name)), "{listed}");
    within_the_limit(&mut fleet, "a list");
    let mut page_token = String::new();
    for name in &names[..2] {
        let request = v1::ListMigrationsRequest { page_size: 1000, page_token, with_sql: true };
        let page = client::registry(fleet.channel()).list_migrations(request).await.unwrap().into_inner();
        // One alone is longer than a page should be.
        assert_eq!(page.migrations.iter().map(|migration| &migration.id).collect::<Vec<_>>(), [name]);
        assert!(page.migrations[0].steps[0].sql.len() > 2_000_000);
        page_token = page.next_page_token;
    }
    let shown =
        join_all(
            [0, 0, 0, 1].map(|index| {
                let name = &names[index];
                let request = v1::GetMigrationRequest { id: name.clone(), revision: 0 };
                let mut registry = client::registry(fleet.channel());
                async move {
                    registry.get_migration(request).await.unwrap().into_inner().migration.unwrap().definition.len()
                }
            }),
        );
    assert_eq!(shown.await, [14_000_000, 14_000_000, 14_000_000, 2_000_000]);
    within_the_limit(&mut fleet, "some of them at a time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_of_ten_thousand_rows_is_told_in_pages() {
    const ROWS: usize = 10_000;
    let mut fleet = Fleet::start().await;
    fleet
        .main()
        .execute(&format!(
            "INSERT INTO dunlin.migrations_registry
                 (id, version, name, description, checksum, run_after, impacts, run_id, agent_id, rows, result, started_at)
             SELECT 'old-' || i, i, 'an old one', 'd', repeat('c', 64), '{{}}', '{{}}', 0, 'before', i,
                    jsonb_build_object('success', true, 'message', repeat('m', 300), 'rows', i), now()
             FROM generate_series(1, {ROWS}) AS i"
        ))
        .await;
    until("the controller has the whole registry", async || {
        let count: i64 = fleet.control().value("SELECT count(*) FROM dunlin_controller.target_registry").await;
        (count == 10_000).then_some(())
    })
    .await;
    // And so it is for an agent that has just come.
    fleet.control().execute("DELETE FROM dunlin_controller.target_registry WHERE version > 5").await;
    fleet.control().execute("UPDATE dunlin_controller.targets SET registry_digest = NULL").await;
    fleet.agent(0).kill();
    fleet.restart_agent(0);
    until("the controller has the whole registry again", async || {
        let count: i64 = fleet.control().value("SELECT count(*) FROM dunlin_controller.target_registry").await;
        (count == 10_000).then_some(())
    })
    .await;
    let listed = fleet.dunlin(&["version"]).await.ended(0).text();
    assert!(listed.contains("10000") || listed.contains("10,000"), "{listed}");

    // Reports that never end, from many at a time.
    let row = v1::AppliedMigration { id: "x".repeat(40), applications: 1, name: "n".repeat(400), ..Default::default() };
    let page = v1::TargetReport {
        name: "other".to_owned(),
        reachable: true,
        applied: vec![row; 2000],
        more_follows: true,
        ..Default::default()
    };
    let endless = join_all((0..8).map(|number| {
        let (channel, page) = (fleet.channel(), page.clone());
        async move {
            let hello = v1::Hello { agent_id: format!("endless-{number}"), slots: 1, ..Default::default() };
            let first = WorkRequest { message: Some(Say::Hello(hello)) };
            let pages = std::iter::repeat_with(move || WorkRequest { message: Some(Say::Target(page.clone())) });
            let said = tokio_stream::iter(std::iter::once(first).chain(pages));
            let mut stream = client::agent(channel).work(said).await.unwrap().into_inner();
            loop {
                match tokio::time::timeout(Duration::from_secs(60), stream.message())
                    .await
                    .expect("it is read on and on")
                {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the stream ended in order"),
                    Err(status) => return status.code(),
                }
            }
        }
    }));
    for code in endless.await {
        assert!(matches!(code, Code::InvalidArgument | Code::ResourceExhausted), "{code:?}");
    }
    within_the_limit(&mut fleet, "long reports");
}
