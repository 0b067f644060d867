//! Statements that could change rows outside of their batch.

use dunlin_proto::v1::Step;

use crate::testing::{Lab, batch_step, connect, plan_task, range_task, refusal};

/// A tree of rows: each but the first ten has a parent, and some share a text.
async fn tree() -> Lab {
    let lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, parent bigint, email text, n bigint DEFAULT 5);
         INSERT INTO t SELECT i, CASE WHEN i > 10 THEN i / 10 END, 'm' || i % 150 FROM generate_series(1, 300) i;
         CREATE TABLE pair (b int, a int, n bigint DEFAULT 5, PRIMARY KEY (a, b));
         INSERT INTO pair SELECT i % 10, i / 10 FROM generate_series(1, 300) i;
         CREATE TABLE o (t bigint, v bigint); INSERT INTO o SELECT i, 1 FROM generate_series(1, 300) i",
    )
    .await;
    lab
}

async fn refused(lab: &Lab, table: &str, sql: &str) -> String {
    refusal(lab.work(1, plan_task(&batch_step(table, sql, 10, 100, 1), 0)).await).message
}

/// Works through the first range of a step, and returns why that fails.
async fn rolled_back(lab: &mut Lab, step: &Step) -> String {
    let planned = lab.plan(step).await;
    let range = planned.ranges.first().unwrap().clone();
    refusal(lab.work(2, range_task(step, &planned, &range)).await).message
}

#[tokio::test]
async fn a_change_that_is_joined_by_the_key_of_the_catalog_shows_nothing_and_changes_each_row_once() {
    let mut lab = tree().await;
    for (table, sql) in [
        (
            "t",
            "WITH u AS (SELECT id FROM t WHERE :batch FOR UPDATE) UPDATE t SET n = n * 3 + 1 FROM u WHERE t.id = u.id",
        ),
        ("t", "UPDATE t SET n = n * 3 + 1 WHERE id IN (SELECT id FROM t WHERE :batch)"),
        ("t", "UPDATE t SET n = t.n * 3 + 1 FROM t b LEFT JOIN o ON o.t = b.id WHERE t.id = b.id AND :batch(b)"),
        ("pair", "UPDATE pair SET n = pair.n * 3 + 1 FROM pair x WHERE pair.a = x.a AND x.b = pair.b AND :batch(x)"),
        (
            "pair",
            "WITH x AS (SELECT * FROM pair WHERE :batch) UPDATE pair p SET n = p.n * 3 + 1 WHERE (a, b) IN (SELECT a, b FROM x)",
        ),
    ] {
        lab.sql("DELETE FROM dunlin.checkpoints; UPDATE t SET n = 5; UPDATE pair SET n = 5").await;
        assert_eq!(lab.work_through(&batch_step(table, sql, 7, 60, 2)).await, 300, "{sql}");
        assert_eq!(lab.number(&format!("SELECT count(*) FROM {table} WHERE n = 16")).await, 300, "{sql}");
    }
}

#[tokio::test]
async fn a_change_that_is_not_joined_by_the_key_of_the_catalog_is_refused_before_it_begins() {
    let lab = tree().await;
    for (table, sql) in [
        ("t", "UPDATE t SET n = t.n + 1 FROM t b WHERE t.parent = b.id AND :batch(b)"),
        ("t", "UPDATE t SET n = t.n + 1 FROM t b WHERE :batch(b)"),
        ("t", "DELETE FROM t USING t b WHERE t.email = b.email AND :batch(b)"),
        ("t", "UPDATE t SET n = n + 1 WHERE parent IN (SELECT id FROM t WHERE :batch)"),
        ("pair", "UPDATE pair SET n = pair.n + 1 FROM pair x WHERE pair.a = x.a AND :batch(x)"),
        (
            "t",
            "WITH d AS (DELETE FROM t USING t b WHERE t.id = b.parent AND :batch(b) RETURNING 1) SELECT count(*) FROM d",
        ),
    ] {
        let message = refused(&lab, table, sql).await;
        assert!(message.contains("that need not be those of its batch"), "{sql}: {message}");
        assert!(message.contains("changes = \"elsewhere\""), "{sql}: {message}");
    }
    for (table, sql) in [
        ("t", "DELETE FROM o WHERE t IN (SELECT parent FROM t WHERE :batch)"),
        ("pair", "DELETE FROM o WHERE t IN (SELECT a FROM pair WHERE :batch)"),
    ] {
        let message = refused(&lab, table, sql).await;
        assert!(message.contains("does not select the key"), "{sql}: {message}");
    }
    let message = refused(&lab, "t", "UPDATE t SET n = 1\nWHERE n = 5 OR :batch").await;
    assert!(message.contains("under OR") && message.contains("line 2, column 16"), "{message}");
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 5").await, 300);
}

#[tokio::test]
async fn a_batch_that_changes_rows_outside_of_it_is_rolled_back() {
    let mut lab = tree().await;
    for sql in [
        "UPDATE t SET n = t.n + 1 FROM t b WHERE t.id = b.parent AND :batch(b)",
        "UPDATE t x SET n = x.n + 1 FROM o JOIN t b ON o.t + 200 = b.id WHERE x.id = o.t AND :batch(b) RETURNING x.n, b.id",
        "DELETE FROM t USING t b WHERE t.id = b.parent AND :batch(b)",
        "UPDATE t SET n = n + 1 FROM (SELECT parent AS up FROM t WHERE :batch) b WHERE id = b.up",
    ] {
        lab.sql("DELETE FROM dunlin.checkpoints").await;
        // The parents of the second range lie in the first.
        let step = batch_step("t", sql, 50, 200, 1);
        let planned = lab.plan(&step).await;
        let range = planned.ranges.last().unwrap().clone();
        let error = refusal(lab.work(2, range_task(&step, &planned, &range)).await);
        assert!(error.message.contains("that are not its own"), "{sql}: {error:?}");
        assert!(error.next.contains("changes = \"elsewhere\""), "{error:?}");
        assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 5").await, 300, "{sql}");
    }
}

#[tokio::test]
async fn a_change_that_stays_in_its_batch_unproven_passes_by_its_keys() {
    let mut lab = tree().await;
    for sql in [
        "UPDATE t SET n = t.n * 3 + 1 FROM o JOIN t b ON o.t = b.id WHERE t.id = o.t AND :batch(b)",
        "UPDATE t SET n = n * 3 + 1 FROM (SELECT id + 0 AS up FROM t WHERE :batch) b WHERE id = b.up",
    ] {
        lab.sql("DELETE FROM dunlin.checkpoints; UPDATE t SET n = 5").await;
        assert_eq!(lab.work_through(&batch_step("t", sql, 20, 100, 2)).await, 300, "{sql}");
        assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 300, "{sql}");
    }
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let delete = "DELETE FROM t USING o JOIN t b ON o.t = b.id WHERE t.id = o.t AND :batch(b) RETURNING t.email";
    assert_eq!(lab.work_through(&batch_step("t", delete, 20, 100, 2)).await, 300);
    assert_eq!(lab.number("SELECT count(*) FROM t").await, 0);
}

#[tokio::test]
async fn rows_that_others_insert_into_a_batch_fail_nothing() {
    let mut lab = Lab::new().await;
    // For each row of a batch somebody is asked to insert another beside it, and waited for in the middle of the statement.
    lab.sql(
        "CREATE TABLE t (id numeric PRIMARY KEY, n bigint DEFAULT 5); INSERT INTO t SELECT generate_series(1, 100);
         CREATE TABLE o (t numeric); INSERT INTO o SELECT id FROM t;
         CREATE SEQUENCE asked MINVALUE 0; CREATE SEQUENCE done MINVALUE 0; SELECT setval('asked', 0), setval('done', 0)",
    )
    .await;
    lab.sql(
        "CREATE FUNCTION crowd(id numeric) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
             PERFORM setval('asked', id::bigint);
             WHILE (SELECT last_value FROM done) <> id LOOP PERFORM pg_sleep(0.001); END LOOP;
             RETURN 1; END $$",
    )
    .await;
    let other = connect(&lab.url).await;
    let crowd = tokio::spawn(async move {
        let mut done = 0;
        while done < 100 {
            let asked: i64 = other.query_one("SELECT last_value FROM asked", &[]).await.unwrap().get(0);
            if asked != done {
                done = asked;
                let insert = format!("INSERT INTO t (id) VALUES ({asked} - 0.5)");
                other.batch_execute(&insert).await.unwrap();
                other.batch_execute(&format!("SELECT setval('done', {asked})")).await.unwrap();
            }
        }
    });
    let sql = "UPDATE t SET n = t.n * 3 + crowd(b.id) FROM o JOIN t b ON o.t = b.id WHERE t.id = o.t AND :batch(b)";
    assert_eq!(lab.work_through(&batch_step("t", sql, 10, 50, 1)).await, 100);
    crowd.await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 100);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 5").await, 100, "rows were inserted into every batch");
}

#[tokio::test]
async fn rows_elsewhere_are_changed_where_the_step_says_so() {
    let mut lab = tree().await;
    let dedupe = "DELETE FROM t USING t b WHERE t.email = b.email AND t.id > b.id AND :batch(b)";
    let step = Step { changes_elsewhere: true, ..batch_step("t", dedupe, 20, 100, 1) };
    assert_eq!(lab.work_through(&step).await, 150);
    assert_eq!(lab.number("SELECT count(*) FROM t").await, 150);
}

#[tokio::test]
async fn rows_elsewhere_are_not_changed_where_triggers_could_move_keys() {
    let lab = tree().await;
    lab.sql(
        "CREATE FUNCTION stays() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER stays BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION stays()",
    )
    .await;
    let sql = "UPDATE t SET n = 1 FROM t b WHERE t.parent = b.id AND :batch(b)";
    let step = Step { changes_elsewhere: true, ..batch_step("t", sql, 20, 100, 1) };
    let message = refusal(lab.work(1, plan_task(&step, 0)).await).message;
    assert!(message.contains("could move keys") && message.contains("outside of its batch"), "{message}");
}

#[tokio::test]
async fn a_merge_finds_its_rows_by_the_key_or_is_refused() {
    let mut lab = tree().await;
    let version = lab.number("SELECT current_setting('server_version_num')::bigint").await;
    if version < 150_000 {
        return;
    }
    let merge = |on: &str| {
        format!(
            "MERGE INTO t USING (SELECT * FROM t WHERE :batch) s ON {on} WHEN MATCHED THEN UPDATE SET n = t.n * 3 + 1"
        )
    };
    for on in ["t.parent = s.id", "t.id = s.parent"] {
        let message = refused(&lab, "t", &merge(on)).await;
        assert!(message.contains("that need not be those of its batch"), "{on}: {message}");
    }
    assert_eq!(lab.work_through(&batch_step("t", &merge("t.id = s.id"), 20, 100, 1)).await, 300);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 300);
}

#[tokio::test]
async fn the_parents_and_parts_of_a_table_have_its_rows() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, up bigint, n bigint DEFAULT 5) PARTITION BY RANGE (id);
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (151);
         CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (151) TO (1000);
         INSERT INTO t SELECT i, i - 1 FROM generate_series(1, 300) i;
         CREATE TABLE base (id bigint, up bigint, n bigint DEFAULT 5);
         CREATE TABLE child (PRIMARY KEY (id)) INHERITS (base);
         INSERT INTO child SELECT i, i - 1 FROM generate_series(1, 300) i",
    )
    .await;
    for (table, sql) in [
        ("t1", "UPDATE t SET n = 6 FROM t1 WHERE t.up = t1.id AND :batch(t1)"),
        ("t", "UPDATE t1 SET n = 6 FROM t WHERE t1.up = t.id AND :batch(t)"),
        ("child", "UPDATE base SET n = 6 FROM child WHERE base.up = child.id AND :batch(child)"),
    ] {
        let message = refused(&lab, table, sql).await;
        assert!(message.contains("that need not be those of its batch"), "{sql}: {message}");
    }
    let up =
        batch_step("child", "UPDATE base SET n = 6 FROM child WHERE base.id = child.up AND :batch(child)", 20, 100, 1);
    assert!(rolled_back(&mut lab, &up).await.contains("that are not its own"));
}

#[tokio::test]
async fn who_vouches_for_the_place_of_the_batch_is_held_to_its_keys_all_the_same() {
    let mut lab = tree().await;
    let vouched = |sql: &str| Step { batch_is_mine: true, ..batch_step("t", sql, 50, 200, 1) };
    let ands = "UPDATE t SET n = n * 3 + 1 WHERE (:batch) IS TRUE";
    assert_eq!(lab.work_through(&vouched(ands)).await, 300);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 300);
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let any = "UPDATE t SET n = n + 1 WHERE (:batch) IS NOT NULL AND id = 5";
    let planned = lab.plan(&vouched(any)).await;
    let range = planned.ranges.last().unwrap().clone();
    let error = refusal(lab.work(2, range_task(&vouched(any), &planned, &range)).await);
    assert!(error.message.contains("that are not its own"));
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 300);
}
