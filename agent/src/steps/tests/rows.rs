//! How many rows a step says that it has changed.

use crate::steps::Ended;
use crate::testing::{Lab, batch_step, sql_step, statement_task};

#[tokio::test]
async fn rows_that_are_changed_count_whether_or_not_they_are_returned_and_others_do_not() {
    let lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint); CREATE TABLE s (id bigint)").await;
    for (sql, expected) in [
        ("INSERT INTO t SELECT i, 5 FROM generate_series(1, 60) i RETURNING id", 60),
        ("UPDATE t SET n = 6 RETURNING id, n", 60),
        ("DELETE FROM t WHERE id > 50 RETURNING *", 10),
        ("SELECT * FROM t", 0),
        ("TABLE t; VALUES (1), (2)", 0),
        (
            "UPDATE t SET n = 7 WHERE id <= 5 RETURNING id; SELECT * FROM t; UPDATE t SET n = 8 WHERE id <= 3; -- the end",
            8,
        ),
        ("WITH u AS (UPDATE t SET n = 9 WHERE id <= 20 RETURNING id) SELECT count(*) FROM u", 20),
        ("WITH u AS (SELECT id FROM t WHERE id <= 4) UPDATE t SET n = 9 FROM u WHERE u.id = t.id RETURNING t.id", 4),
        ("WITH d AS (DELETE FROM t WHERE id > 45 RETURNING id) INSERT INTO s SELECT id FROM d RETURNING id", 5),
        ("PREPARE p AS UPDATE t SET n = 1 WHERE id <= 6 RETURNING id; EXECUTE p", 6),
        ("CREATE TABLE copy AS SELECT * FROM t", 45),
        ("SELECT * INTO second FROM t WHERE id <= 2", 2),
        ("DECLARE c CURSOR FOR SELECT * FROM t; MOVE 7 FROM c; FETCH 3 FROM c", 0),
        ("DO $$ BEGIN UPDATE t SET n = 1; END $$", 0),
    ] {
        let ended = lab.work(1, statement_task(sql_step(sql))).await.unwrap();
        assert!(matches!(ended, Ended::Done { rows, .. } if rows == expected), "{sql}: {ended:?}");
        lab.sql("DELETE FROM dunlin.checkpoints").await;
    }
}

#[tokio::test]
async fn rows_of_batches_count_whether_or_not_they_are_returned() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 60) i",
    )
    .await;
    for sql in [
        "UPDATE t SET n = n * 3 + 1 WHERE :batch RETURNING id",
        "WITH u AS (UPDATE t SET n = n * 3 + 1 WHERE :batch RETURNING id) SELECT count(*) FROM u -- the rows",
        "WITH u AS (SELECT id FROM t WHERE :batch) UPDATE t SET n = n * 3 + 1 FROM u WHERE t.id = u.id RETURNING 1",
    ] {
        lab.sql("UPDATE t SET n = 5").await;
        assert_eq!(lab.work_through(&batch_step("t", sql, 10, 25, 1)).await, 60, "{sql}");
        assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 60, "{sql}");
        lab.sql("DELETE FROM dunlin.checkpoints").await;
    }
}
