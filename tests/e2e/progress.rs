//! What is told of runs while they go on and once they have failed: it is what the target says.

use dunlin_proto::v1::{Run, RunState, RunStepState, WaitReason};
use dunlin_tests::fleet::Fleet;
use dunlin_tests::gate::Gate;
use dunlin_tests::numbers;
use dunlin_tests::until::until;

use crate::definitions::trivial;

/// The newest run of a migration, once it is so.
async fn run_that(fleet: &Fleet, migration: &str, what: &str, so: impl Fn(&Run) -> bool) -> Run {
    until(what, async || fleet.last_run(migration).await.filter(|run| so(run))).await
}

#[tokio::test]
async fn after_each_failure_the_rows_of_the_run_are_those_of_the_checkpoints() {
    let fleet = Fleet::builder().agents(2).slots(3).start().await;
    numbers::create(fleet.main(), 40_000).await;
    let bad = "UPDATE numbers SET n = 1000000, was = 1000000 WHERE id IN (12500, 21505, 33333)";
    fleet.main().execute(bad).await;
    fleet.main().execute("ALTER TABLE numbers ADD CONSTRAINT small CHECK (n <= 1000000)").await;
    let definition = numbers::migration("triple", 1, "size = 20, range = 1000, stripes = 1");
    fleet.register(&[("triple.toml", &definition)]).await;
    for _failure in 0..3 {
        let told = fleet.dunlin(&["run", "triple"]).await.ended(1);
        let run = run_that(&fleet, "triple", "nobody works on it", |run| run.leases == 0).await;
        assert_eq!((run.state(), run.steps[0].state()), (RunState::Failed, RunStepState::Failed));
        let sums = "SELECT sum(rows)::bigint, sum(rows_walked)::bigint FROM dunlin.checkpoints";
        let sums = fleet.main().rows(sums, &[]).await;
        let (rows, walked): (i64, i64) = (sums[0].get(0), sums[0].get(1));
        assert_eq!((run.rows, run.rows_walked), (rows, walked));
        assert_eq!((run.steps[0].rows, run.steps[0].rows_walked), (rows, walked));
        let (done, ..) = numbers::count(fleet.main()).await;
        assert_eq!(done, rows);
        let printed = format!("{},{:03}", rows / 1000, rows % 1000);
        assert!(told.stdout.contains(&printed), "{printed} in {}", told.stdout);
        // The one that it has met, whichever it was.
        let failed: String = run.error.unwrap().rows;
        let low: i64 = failed.split(['(', ')']).nth(3).unwrap().parse().unwrap();
        let mended = format!("UPDATE numbers SET n = 1, was = 1 WHERE id > {low} AND id <= {low} + 20");
        fleet.main().execute(&mended).await;
    }
    let _done = fleet.dunlin(&["run", "triple"]).await.ended(0);
    assert_eq!(run_that(&fleet, "triple", "it has ended", |run| run.leases == 0).await.rows, 40_000);
}

#[tokio::test]
async fn a_run_that_waits_for_a_row_says_so_and_has_no_speed_and_no_end() {
    let fleet = Fleet::builder().slots(1).start().await;
    numbers::create(fleet.main(), 4000).await;
    let gate = Gate::close(fleet.main(), "numbers", "id > 2000").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 20, range = 1000, stripes = 1"))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(1).await;
    let run = run_that(&fleet, "triple", "it says what it waits for", |run| {
        run.waits.iter().any(|wait| wait.reason() == WaitReason::Lock)
    })
    .await;
    assert_eq!((run.state(), run.leases), (RunState::Running, 1));
    assert!(run.waits[0].message.starts_with("waits for a lock"), "{:?}", run.waits);
    assert!(run.rows_per_second < 0.001 && run.eta.is_none(), "{run:?}");
    let status = fleet.dunlin(&["status"]).await.ended(0).stdout;
    assert!(status.contains("waits for a lock") && status.contains("50% of 4,000 rows"), "{status}");
    assert!(!status.contains("rows/s") && !status.contains("left"), "{status}");
    gate.open().await;
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
}

#[tokio::test]
async fn a_run_that_rests_is_waiting_and_says_for_how_long_and_why() {
    let fleet = Fleet::builder().environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "300ms").start().await;
    fleet.main().execute("CREATE TABLE busy (id int PRIMARY KEY)").await;
    fleet.register(&[("busy.toml", &trivial("busy", 1, "ALTER TABLE busy ADD COLUMN n int"))]).await;
    let reader = fleet.main().again().await;
    reader.execute("BEGIN; SELECT count(*) FROM busy").await;
    let _started = fleet.dunlin(&["run", "busy", "--detach"]).await.ended(0);
    let run =
        run_that(&fleet, "busy", "it rests", |run| run.waits.iter().any(|wait| wait.reason() == WaitReason::Retry))
            .await;
    assert_eq!((run.state(), run.leases), (RunState::Running, 0));
    assert_eq!(run.steps[0].state(), RunStepState::Waiting);
    let wait = &run.waits[0];
    assert!(wait.until_time.is_some() && wait.message.contains(" s before it is tried again: "), "{wait:?}");
    assert!(wait.message.contains("a lock on public.busy"), "{wait:?}");
    // It rests for ten times as long as it waits.
    let status = until("status tells it", async || {
        let status = fleet.dunlin(&["status"]).await.ended(0).stdout;
        status.contains("busy: waiting, ").then_some(status)
    })
    .await;
    assert!(status.contains("before it is tried again"), "{status}");
    reader.execute("COMMIT").await;
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
}

#[tokio::test]
async fn a_concurrent_build_shows_what_postgresql_says_of_it() {
    let fleet = Fleet::start().await;
    fleet.main().execute("CREATE TABLE orders (id int PRIMARY KEY, n int)").await;
    let writer = fleet.main().again().await;
    writer.execute("BEGIN; INSERT INTO orders VALUES (1, 1)").await;
    let build = trivial("index", 1, "CREATE INDEX CONCURRENTLY orders_n ON orders (n)");
    fleet.register(&[("index.toml", &format!("{build}transaction = false\n"))]).await;
    let _started = fleet.dunlin(&["run", "index", "--detach"]).await.ended(0);
    let run = run_that(&fleet, "index", "its progress is told", |run| run.activity.is_some()).await;
    let activity = run.activity.unwrap();
    assert_eq!(activity.phase, "waiting for writers before build");
    assert_eq!((activity.total, activity.unit.as_str()), (1, "transactions"));
    let status = fleet.dunlin(&["status"]).await.ended(0).stdout;
    assert!(status.contains("waiting for writers before build (0 of 1 transactions ended)"), "{status}");
    writer.execute("COMMIT").await;
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    let ended = fleet.last_run("index").await.unwrap();
    assert_eq!((ended.leases, ended.activity), (0, None));
}
