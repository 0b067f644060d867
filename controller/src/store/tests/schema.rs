use std::time::Duration;

use dunlin_shared::postgres::throwaway;
use futures::future::try_join_all;

use super::super::Store;
use super::super::events::Filter;
use super::super::runs::RunFilter;
use super::lab::{Lab, atomic, batched, done, main};
use crate::domain::report::Counted;
use crate::domain::run::State;

#[tokio::test]
async fn replicas_that_start_at_once_bring_the_schema_up_to_date_once() {
    let url = throwaway::shared().await.database("schema").await.unwrap();
    let stores: Vec<Store> = (0..4).map(|_| Store::new(&url, 2, Duration::from_secs(1)).unwrap()).collect();
    try_join_all(stores.iter().map(Store::open)).await.unwrap();
    let (client, _connection) = dunlin_shared::postgres::connect(&url, "test").await.unwrap();
    let row = client.query_one("SELECT count(*) FROM dunlin_controller.schema_history", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_replica_leaves_alone_what_a_later_version_has_added_to_the_schema() {
    let url = throwaway::shared().await.database("schema").await.unwrap();
    let store = Store::new(&url, 2, Duration::from_secs(1)).unwrap();
    store.open().await.unwrap();
    let (client, _connection) = dunlin_shared::postgres::connect(&url, "test").await.unwrap();
    let sql = "INSERT INTO dunlin_controller.schema_history (version, name, applied_on, checksum)
               VALUES (999, 'of_the_future', '2030-01-01T00:00:00Z', '1')";
    client.batch_execute(sql).await.unwrap();
    store.open().await.unwrap();
}

/// Also connections on which everything is prepared already.
#[tokio::test]
async fn a_replica_works_on_while_a_later_version_adds_to_every_table() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[]), batched("b", 2), atomic("c", 3, &[])]).await;
    let agent = lab.agent("a").await;
    let round = async |migration: &str| {
        let run = lab.queue(migration).await;
        while lab.run(run).await.state == State::Running {
            let granted = lab.claim_one(&agent).await;
            lab.store.renew(&[(granted.lease, Counted::default().into())]).await.unwrap();
            lab.report(granted.lease, done(1)).await;
        }
        assert_eq!(lab.run(run).await.state, State::Succeeded);
        lab.store.list_runs(&RunFilter::default(), i64::MAX, 10).await.unwrap();
        lab.store.list_events(&Filter::default(), None, 100).await.unwrap();
        lab.store.list_targets("", 10).await.unwrap();
        lab.store.list_agents(None, "", 10).await.unwrap();
        lab.store.unfinished_runs(&main()).await.unwrap();
        lab.see(&agent, &lab.applied().await).await;
        lab.queue_pending().await
    };
    round("a").await;
    let tables = "SELECT tablename::text FROM pg_tables
                  WHERE schemaname = 'dunlin_controller' AND tablename <> 'schema_history'";
    let tables = lab.client.query(tables, &[]).await.unwrap();
    assert_eq!(tables.len(), 11);
    for table in tables {
        let table: &str = table.get(0);
        let sql = format!(
            "ALTER TABLE dunlin_controller.{table} ADD COLUMN of_the_future text, ADD COLUMN weight int NOT NULL DEFAULT 1"
        );
        lab.client.batch_execute(&sql).await.unwrap();
    }
    let sql = "INSERT INTO dunlin_controller.schema_history (version, name, applied_on, checksum)
               VALUES (2, 'of_the_future', '2030-01-01T00:00:00Z', '1')";
    lab.client.batch_execute(sql).await.unwrap();
    // What is pending now was queued behind the first run.
    let left = lab.store.list_runs(&RunFilter::default(), i64::MAX, 10).await.unwrap();
    assert_eq!(left.len(), 3);
    while let Some(granted) = lab.claim(&agent, 1).await.pop() {
        lab.report(granted.lease, done(1)).await;
    }
    let ids: Vec<i64> = left.iter().map(|run| run.id).collect();
    assert_eq!(lab.states(&ids).await, [State::Succeeded; 3]);
    lab.register(&[atomic("d", 4, &[])]).await;
    round("d").await;
    assert!(lab.replica().await.list_runs(&RunFilter::default(), i64::MAX, 10).await.unwrap().len() == 4);
}

#[tokio::test]
async fn an_event_of_a_type_that_only_a_later_version_knows_is_read() {
    let lab = Lab::new().await;
    lab.register(&[atomic("a", 1, &[])]).await;
    lab.agent("a").await;
    let run = lab.queue("a").await;
    lab.client
        .execute(
            "WITH drawn AS (
                 UPDATE dunlin_controller.targets SET last_sequence = last_sequence + 1 RETURNING name, last_sequence
             )
             INSERT INTO dunlin_controller.events (target, sequence, type, severity, run_id, step, message, details)
             SELECT name, last_sequence, 'run_blessed', 'info', $1, '', 'a blessing', '{}' FROM drawn",
            &[&run],
        )
        .await
        .unwrap();
    let events = lab.store.events_between(&main(), 0, i64::MAX, Some(&[run]), 10).await.unwrap();
    let last = events.last().unwrap();
    assert_eq!((last.event_type, last.message.as_str()), (None, "a blessing"));
}
