//! What the planner makes of a batch is asked before the first, told, and refused where the step insists.

use dunlin_proto::v1::{BatchPlan, Step};

use crate::testing::{Lab, batch_step, range_task, refusal};

/// A table that is large enough for its index to be worth something, and another to join it to.
async fn lab() -> Lab {
    let lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 5, filler text NOT NULL DEFAULT repeat('x', 150));
         INSERT INTO t SELECT i FROM generate_series(1, 20000) i; ANALYZE t",
    )
    .await;
    lab
}

fn strict(step: Step) -> Step {
    let mut step = step;
    step.batch.as_mut().unwrap().plan = BatchPlan::Strict.into();
    step
}

/// The condition of the batch is no more than a filter: the server cannot look into it.
const FILTERED: &str = "UPDATE t SET n = n * 3 + 1 WHERE (CASE WHEN :batch THEN true END)";

/// A step with it, which the step answers for.
fn filtered(size: i32, range: i32) -> Step {
    Step { batch_is_mine: true, changes_elsewhere: true, ..batch_step("t", FILTERED, size, range, 1) }
}

#[tokio::test]
async fn a_plan_that_reads_the_whole_table_for_each_batch_is_told_once() {
    let mut lab = lab().await;
    assert_eq!(lab.work_through(&filtered(5000, 10_000)).await, 20_000);
    assert_eq!(lab.sent().0.len(), 0, "batches are a large part of the table");
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let step = Step { checksum: "smaller".to_owned(), ..filtered(500, 10_000) };
    let planned = lab.plan(&step).await;
    for range in &planned.ranges {
        lab.work(1, range_task(&step, &planned, range)).await.unwrap();
    }
    let notes: Vec<String> = lab.sent().0.into_iter().map(|note| note.message).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    for part in ["the key (id)", "public.t", "Seq Scan on t", "ANALYZE \"public\".\"t\"", "strict"] {
        assert!(notes[0].contains(part), "{}", notes[0]);
    }
}

#[tokio::test]
async fn a_step_that_insists_is_refused_before_anything_is_changed() {
    let mut lab = lab().await;
    let step = strict(filtered(500, 10_000));
    let planned = lab.plan(&step).await;
    for range in &planned.ranges {
        let error = refusal(lab.work(1, range_task(&step, &planned, range)).await);
        assert!(error.message.contains("pages of public.t for each batch"), "{}", error.message);
        assert!(error.next.contains("strict"), "{}", error.next);
    }
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n <> 5").await, 0);
}

#[tokio::test]
async fn plans_that_use_the_key_are_neither_told_nor_refused() {
    let mut lab = lab().await;
    lab.sql(
        "CREATE TABLE o (t_id bigint, v bigint); INSERT INTO o SELECT 1 + i % 20000, i FROM generate_series(1, 40000) i; ANALYZE o;
         CREATE TABLE copy (id bigint)",
    )
    .await;
    for sql in [
        "UPDATE t SET n = n * 3 + 1 WHERE :batch",
        "UPDATE t SET n = o.v FROM (SELECT t_id, max(v) AS v FROM o GROUP BY t_id) o WHERE o.t_id = t.id AND :batch",
        "UPDATE t SET n = a.n FROM (SELECT max(id) AS n FROM t) a WHERE :batch",
        "INSERT INTO copy SELECT x.id FROM t x WHERE :batch(x)",
        "WITH moved AS (DELETE FROM t WHERE id % 50 = 0 AND :batch RETURNING id) INSERT INTO copy SELECT id FROM moved",
    ] {
        lab.sql("DELETE FROM dunlin.checkpoints").await;
        lab.work_through(&strict(batch_step("t", sql, 1000, 10_000, 1))).await;
        let notes = lab.sent().0;
        assert!(notes.is_empty(), "{sql}: {notes:?}");
    }
}

#[tokio::test]
async fn a_partition_that_is_read_whole_is_told() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint DEFAULT 5, filler text DEFAULT repeat('x', 150)) PARTITION BY RANGE (id);
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10001); CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10001) TO (99999);
         INSERT INTO t SELECT i FROM generate_series(1, 20000) i; ANALYZE t",
    )
    .await;
    let step = strict(batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 500, 20_000, 1));
    assert_eq!(lab.work_through(&step).await, 20_000);
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let step = filtered(500, 20_000);
    lab.work_through(&step).await;
    let notes = lab.sent().0;
    assert!(
        notes[0].message.contains("pages of public.t1") || notes[0].message.contains("pages of public.t2"),
        "{notes:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_explained_is_refused_only_where_the_step_insists() {
    let mut lab = lab().await;
    // Two statements are not explained, since the second would be executed.
    let sql = "UPDATE t SET n = n * 3 + 1 WHERE :batch; UPDATE t SET n = n WHERE id = 1 AND :batch";
    let step = strict(batch_step("t", sql, 5000, 20_000, 1));
    let planned = lab.plan(&step).await;
    let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
    assert!(error.message.contains("does not tell how it would execute"), "{}", error.message);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n <> 5").await, 0);
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    lab.work_through(&batch_step("t", sql, 5000, 20_000, 1)).await;
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 20_000);
}
