use std::time::Duration;

use dunlin_shared::postgres::throwaway;
use futures::future::try_join_all;

use super::super::Store;

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
