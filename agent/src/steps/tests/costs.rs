//! Statements whose batches cost much whatever their rows.

use std::time::Duration;

use crate::testing::{Lab, batch_step};

/// A table, and a function that takes so many milliseconds once in each statement.
async fn with_fixed_cost(rows: u32, millis: u32) -> Lab {
    let lab = Lab::new().await;
    lab.sql(&format!(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 5);
         INSERT INTO t SELECT i FROM generate_series(1, {rows}) i; ANALYZE t;
         CREATE FUNCTION slow() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$ BEGIN PERFORM pg_sleep({millis} / 1000.0); RETURN 0; END $$"
    ))
    .await;
    lab
}

const SLOW: &str = "UPDATE t SET n = n * 3 + 1 FROM (SELECT slow() AS zero OFFSET 0) s WHERE :batch AND n <> s.zero";

#[tokio::test]
async fn a_large_fixed_cost_makes_batches_larger_and_is_told_once() {
    let mut lab = with_fixed_cost(60_000, 100).await;
    let step = batch_step("t", SLOW, 0, 0, 0);
    assert_eq!(lab.work_through(&step).await, 60_000);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 60_000);
    let batches = lab.number("SELECT sum(batches)::bigint FROM dunlin.checkpoints WHERE kind = 'range'").await;
    // In batches of 500 rows they would be 120, and ever smaller.
    assert!(batches < 20, "{batches} batches");
    let notes: Vec<String> = lab.sent().0.into_iter().map(|note| note.message).collect();
    let told: Vec<&String> = notes.iter().filter(|note| note.contains("large fixed cost")).collect();
    assert_eq!(told.len(), 1, "{notes:?}");
    for part in ["for 60,000 rows", "Its plan: Update on t > "] {
        assert!(told[0].contains(part), "{}", told[0]);
    }
}

#[tokio::test]
async fn the_size_that_is_given_is_kept_whatever_a_batch_costs() {
    let mut lab = with_fixed_cost(3000, 20).await;
    assert_eq!(lab.work_through(&batch_step("t", SLOW, 300, 0, 1)).await, 3000);
    assert_eq!(lab.number("SELECT count(DISTINCT xmin::text) FROM t").await, 10);
}

#[tokio::test]
async fn a_window_that_is_cut_anew_has_no_gap_and_no_overlap() {
    // Keys of several columns, and one that is not dense: their batches are cut by walking.
    for key in ["a, b", "b, a"] {
        let mut lab = Lab::new().await;
        lab.sql(&format!(
            "CREATE TABLE t (a int, b text, n bigint NOT NULL DEFAULT 5, PRIMARY KEY ({key}));
             INSERT INTO t SELECT i / 3000, md5(i::text) FROM generate_series(1, 20000) i; ANALYZE t;
             CREATE FUNCTION slow() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$ BEGIN PERFORM pg_sleep(0.04); RETURN 0; END $$"
        ))
        .await;
        assert_eq!(lab.work_through(&batch_step("t", SLOW, 0, 20_000, 0)).await, 20_000);
        assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 20_000);
        let batches = lab.number("SELECT sum(batches)::bigint FROM dunlin.checkpoints WHERE kind = 'range'").await;
        assert!((3..25).contains(&batches), "{batches} batches");
    }
}

#[tokio::test]
async fn rows_that_are_slow_have_small_batches_and_nothing_is_told() {
    let mut lab = with_fixed_cost(1200, 0).await;
    lab.sql("CREATE FUNCTION each() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$ BEGIN PERFORM pg_sleep(0.0005); RETURN 0; END $$")
        .await;
    assert_eq!(
        lab.work_through(&batch_step("t", "UPDATE t SET n = n * 3 + 1 + each() WHERE :batch", 0, 0, 1)).await,
        1200
    );
    let batches = lab.number("SELECT sum(batches)::bigint FROM dunlin.checkpoints WHERE kind = 'range'").await;
    assert!(batches >= 7, "{batches} batches");
    let notes = lab.sent().0;
    assert!(!notes.iter().any(|note| note.message.contains("fixed cost")), "{notes:?}");
}

#[tokio::test]
async fn who_goes_on_in_a_window_that_was_cut_anew_finds_its_place() {
    let mut lab = with_fixed_cost(10_000, 30).await;
    lab.limits.statement_timeout = Some(Duration::from_secs(20));
    lab.sql("ALTER TABLE t ADD CHECK (n <> 16 OR id <> 7000)").await;
    let step = batch_step("t", SLOW, 0, 0, 1);
    let planned = lab.plan(&step).await;
    let task = crate::testing::range_task(&step, &planned, &planned.ranges[0]);
    crate::testing::refusal(lab.work(1, task.clone()).await);
    let done = lab.number("SELECT count(*) FROM t WHERE n = 16").await;
    assert!(done > 500 && done < 10_000, "{done}");
    lab.sql("ALTER TABLE t DROP CONSTRAINT t_check").await;
    lab.work(2, task).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 10_000);
}

#[tokio::test]
async fn a_fixed_cost_that_the_planner_knows_takes_large_batches_from_the_first_one_on() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 5);
         INSERT INTO t SELECT i FROM generate_series(1, 60000) i;
         CREATE TABLE orders (account bigint NOT NULL, amount bigint NOT NULL);
         INSERT INTO orders SELECT 1 + i % 60000, i FROM generate_series(1, 600000) i; ANALYZE",
    )
    .await;
    let sql =
        "UPDATE t SET n = 16 + 0 * o.amount FROM (SELECT account, sum(amount) AS amount FROM orders GROUP BY account) o
               WHERE o.account = t.id AND :batch";
    assert_eq!(lab.work_through(&batch_step("t", sql, 0, 0, 0)).await, 60_000);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 60_000);
    let first = lab.number("SELECT count(*) FROM t WHERE xmin = (SELECT xmin FROM t WHERE id = 1)").await;
    // Where nothing is expected, they are 500.
    assert!(first >= 2000, "{first} rows in the first batch");
}
