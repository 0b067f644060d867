//! Names of targets that nobody serves are asked for, by whoever can reach a controller: nothing stays of them.

use std::sync::Arc;

use dunlin_proto::v1;
use dunlin_proto::v1::fleet_service_server::FleetService;
use dunlin_proto::v1::registry_service_server::RegistryService;
use dunlin_proto::v1::run_service_server::RunService;
use dunlin_shared::ids::TargetName;
use dunlin_shared::postgres::{connect, throwaway};
use futures::{StreamExt, stream};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::{Fleet, Registry, Runs};
use crate::replica::Replica;
use crate::store::Store;

const NAMES: usize = 10_000;

/// The calls that take a target.
const CALLS: usize = 11;

async fn ask(call: usize, target: String, (fleet, registry, runs): (&Fleet, &Registry, &Runs)) -> Result<(), Status> {
    let migration_id = "a".to_owned();
    match call {
        0 => fleet.list_agents(Request::new(v1::ListAgentsRequest { target, ..Default::default() })).await.map(drop),
        1 => {
            let (kind, reason) = (v1::RebindKind::Moved.into(), "r".to_owned());
            let request = v1::RebindTargetRequest { target, kind, reason, ..Default::default() };
            fleet.rebind_target(Request::new(request)).await.map(drop)
        }
        2 => {
            fleet.forget_target(Request::new(v1::ForgetTargetRequest { target, ..Default::default() })).await.map(drop)
        }
        3 => registry.plan_pending(Request::new(v1::PlanPendingRequest { target })).await.map(drop),
        4 => {
            let request = v1::ListAppliedMigrationsRequest { target, ..Default::default() };
            registry.list_applied_migrations(Request::new(request)).await.map(drop)
        }
        5 => registry.get_schema_version(Request::new(v1::GetSchemaVersionRequest { target })).await.map(drop),
        6 => {
            let request = v1::RunPendingMigrationsRequest { target, wait_for_agent: true };
            runs.run_pending_migrations(Request::new(request)).await.map(drop)
        }
        7 => {
            let request = v1::RunMigrationRequest { target, migration_id, wait_for_agent: true, ..Default::default() };
            runs.run_migration(Request::new(request)).await.map(drop)
        }
        8 => runs.list_runs(Request::new(v1::ListRunsRequest { target, ..Default::default() })).await.map(drop),
        9 => {
            let request = v1::WatchRunsRequest { target, all: true, ..Default::default() };
            runs.watch_runs(Request::new(request)).await.map(drop)
        }
        _ => runs.list_events(Request::new(v1::ListEventsRequest { target, ..Default::default() })).await.map(drop),
    }
}

/// How many rows each table has, and how many advisory locks are held.
async fn rows(client: &Client) -> Vec<(String, i64)> {
    let tables = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'dunlin_controller' ORDER BY 1";
    let mut counts = Vec::new();
    for table in client.query(tables, &[]).await.unwrap() {
        let table: String = table.get(0);
        let count = format!("SELECT count(*) FROM dunlin_controller.{table}");
        counts.push((table, client.query_one(&count, &[]).await.unwrap().get(0)));
    }
    let locks = "SELECT count(*) FROM pg_locks
                 WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    counts.push(("locks".to_owned(), client.query_one(locks, &[]).await.unwrap().get(0)));
    counts
}

#[tokio::test]
async fn names_that_were_only_asked_for_leave_nothing_in_memory_and_nothing_in_the_database() {
    let url = throwaway::shared().await.database("bogus").await.unwrap();
    let store = Store::new(&url, 8, std::time::Duration::from_secs(30)).unwrap();
    store.open().await.unwrap();
    let (client, _connection) = connect(&url, "test").await.unwrap();
    let replica = Arc::new(Replica::new(store, std::time::Duration::ZERO));
    let fleet = Fleet::new(Arc::clone(&replica));
    let registry = Registry::new(Arc::clone(&replica));
    let runs = Runs::new(Arc::clone(&replica), CancellationToken::new());
    let content =
        "id = \"a\"\nname = \"a\"\ndescription = \"d\"\nversion = 1\n[[step]]\nname = \"s\"\nsql = \"SELECT 1\"";
    let file = v1::DefinitionFile { path: "a.toml".to_owned(), content: content.to_owned() };
    let request = v1::RegisterMigrationsRequest { files: vec![file], ..Default::default() };
    registry.register_migrations(Request::new(request)).await.unwrap();
    // What is kept of a target that is followed is seen below.
    let _news = replica.signals.follow(&TargetName::parse("followed").unwrap());
    let kept = || {
        let Replica { signals, hub, lanes, heartbeats, .. } = &*replica;
        format!("{signals:?} {hub:?} {lanes:?} {heartbeats:?}")
    };
    assert!(kept().contains("followed"));

    let before = rows(&client).await;
    let services = (&fleet, &registry, &runs);
    let refused: Vec<Code> = stream::iter(0..NAMES)
        .map(|number| async move {
            let answer = ask(number % CALLS, format!("bogus-{number}"), services).await;
            answer.expect_err("nobody serves it").code()
        })
        .buffered(8)
        .collect()
        .await;
    assert_eq!(refused.len(), NAMES);
    assert!(refused.iter().all(|code| *code == Code::NotFound));
    assert_eq!(rows(&client).await, before);
    assert!(!kept().contains("bogus"), "{}", kept());
}
