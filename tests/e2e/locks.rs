//! Locks that others hold: what the application notices of a step that waits for one, and how long is waited.

use std::time::Duration;

use dunlin_proto::v1::{EventType, RunState};
use dunlin_tests::fleet::Fleet;
use dunlin_tests::until::until;
use tokio::time::Instant;

use crate::definitions::trivial;

/// The events of a kind.
async fn told(fleet: &Fleet, kind: EventType) -> Vec<String> {
    let events = fleet.events().await;
    events.into_iter().filter(|event| event.r#type() == kind).map(|event| event.message).collect()
}

#[tokio::test]
async fn the_application_waits_for_less_than_a_tenth_of_the_time_for_a_step_that_waits_for_a_lock() {
    let fleet = Fleet::builder().environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "100ms").start().await;
    fleet.main().execute("CREATE TABLE orders (id int PRIMARY KEY, v int)").await;
    fleet.main().execute("INSERT INTO orders SELECT n, n FROM generate_series(1, 1000) n").await;
    fleet.register(&[("note.toml", &trivial("add-note", 1, "ALTER TABLE orders ADD COLUMN note text"))]).await;
    let report = fleet.main().again().await;
    report.execute("SET application_name = 'report'; BEGIN; SELECT count(*) FROM orders").await;
    let mut readers = tokio::task::JoinSet::new();
    for _reader in 0..3 {
        let reader = fleet.main().again().await;
        reader.execute("SET application_name = 'reader'").await;
        readers.spawn(async move {
            loop {
                let _v: i32 = reader.value("SELECT v FROM orders WHERE id = 7").await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    let watcher = fleet.main().again().await;
    let watch = tokio::spawn(async move {
        let (mut looks, mut waiting) = (0_u32, 0_u32);
        loop {
            let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                       AND application_name = 'reader' AND wait_event_type = 'Lock')";
            waiting += u32::from(watcher.value::<bool>(sql).await);
            looks += 1;
            if looks.is_multiple_of(50) && watcher.value::<bool>("SELECT to_regclass('enough') IS NOT NULL").await {
                return (looks, waiting);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let _started = fleet.dunlin(&["run", "add-note", "--detach"]).await.ended(0);
    let begun = Instant::now();
    until("it is tried again five times", async || {
        (told(&fleet, EventType::TaskRetried).await.len() >= 5).then_some(())
    })
    .await;
    fleet.main().execute("CREATE TABLE enough ()").await;
    let (looks, waiting) = watch.await.unwrap();
    assert!(waiting > 0, "the readers are in the queue behind it");
    assert!(waiting * 10 < looks, "the application waited in {waiting} of {looks} looks, in {:?}", begun.elapsed());

    let retried = told(&fleet, EventType::TaskRetried).await;
    assert!(retried.iter().any(|message| message.contains("pid ") && message.contains("\"report\"")), "{retried:?}");
    report.execute("COMMIT").await;
    let run = fleet.last_run("add-note").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    readers.shutdown().await;
}

#[tokio::test]
async fn a_lock_that_is_not_free_until_the_deadline_fails_the_run_and_says_who_had_it() {
    let builder = Fleet::builder().environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "50ms");
    let fleet = builder.environment("DUNLIN_RETRY_DEADLINE", "1500ms").start().await;
    fleet.main().execute("CREATE TABLE orders (id int PRIMARY KEY)").await;
    fleet.register(&[("note.toml", &trivial("add-note", 1, "ALTER TABLE orders ADD COLUMN note text"))]).await;
    let report = fleet.main().again().await;
    report.execute("SET application_name = 'report'; BEGIN; SELECT count(*) FROM orders").await;
    let _started = fleet.dunlin(&["run", "add-note", "--detach"]).await.ended(0);
    let run = until("the run has failed", async || {
        fleet.last_run("add-note").await.filter(|run| run.state() == RunState::Failed)
    })
    .await;
    let error = run.error.unwrap();
    assert_eq!(error.sqlstate, "55P03");
    assert!(error.message.contains("without progress"), "{error:?}");
    assert!(error.next.contains("--retry-deadline"), "{error:?}");
    report.execute("COMMIT").await;
    let _again = fleet.dunlin(&["run", "add-note"]).await.ended(0);
}
