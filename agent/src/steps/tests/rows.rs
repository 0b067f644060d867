//! How many rows a step says that it has changed.

use dunlin_proto::v1::{Step, StepKind};

use crate::steps::Ended;
use crate::testing::{Lab, batch_step, sql_step, statement_task};

#[tokio::test]
async fn rows_that_are_changed_count_whether_or_not_they_are_returned_and_others_do_not() {
    let lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint); CREATE TABLE s (id bigint);
             CREATE FUNCTION set_n(new int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET n = new; RETURN new; END $$;
             CREATE PROCEDURE p() LANGUAGE sql AS 'UPDATE t SET n = 6'").await;
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
        ("DO $$ BEGIN UPDATE t SET n = 1; END $$", 45),
        ("SELECT set_n(7)", 45),
        ("SELECT set_n(7) AS dunlin_set", 45),
        ("(SELECT set_n(id::int) FROM t WHERE id <= 2)", 90),
        ("SELECT n FROM t WHERE set_n(8) = 0", 45 * 45),
        ("CALL p(); SELECT 1", 45),
        ("(WITH d AS (DELETE FROM s RETURNING id) SELECT id FROM d)", 5),
        ("EXPLAIN ANALYZE UPDATE t SET n = 3 WHERE id <= 9", 9),
        ("EXPLAIN UPDATE t SET n = 3", 0),
        (
            "INSERT INTO t SELECT i, 1 FROM generate_series(41, 50) i ON CONFLICT (id) DO UPDATE SET n = 2 RETURNING id",
            10,
        ),
        ("INSERT INTO t SELECT i, 1 FROM generate_series(46, 55) i ON CONFLICT (id) DO NOTHING RETURNING id", 5),
        ("WITH i AS (SELECT 1) INSERT INTO s SELECT * FROM i ON CONFLICT DO NOTHING", 1),
        ("COPY (UPDATE t SET n = 4 WHERE id <= 3 RETURNING id) TO '/dev/null'", 3),
        ("TRUNCATE s", 0),
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
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 60) i;
         CREATE FUNCTION triple(of bigint) RETURNS void LANGUAGE plpgsql AS
         $$ BEGIN UPDATE t SET n = n * 3 + 1 WHERE id = of; END $$",
    )
    .await;
    for sql in [
        "UPDATE t SET n = n * 3 + 1 WHERE :batch RETURNING id",
        "WITH u AS (UPDATE t SET n = n * 3 + 1 WHERE :batch RETURNING id) SELECT count(*) FROM u -- the rows",
        "WITH u AS (SELECT id FROM t WHERE :batch) UPDATE t SET n = n * 3 + 1 FROM u WHERE t.id = u.id RETURNING 1",
        "SELECT triple(id) FROM t WHERE :batch",
    ] {
        lab.sql("UPDATE t SET n = 5").await;
        assert_eq!(lab.work_through(&batch_step("t", sql, 10, 25, 1)).await, 60, "{sql}");
        assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 60, "{sql}");
        lab.sql("DELETE FROM dunlin.checkpoints").await;
    }
}

#[tokio::test]
async fn rows_of_a_merge_count_whether_or_not_they_are_returned() {
    let lab = Lab::new().await;
    let version = lab.number("SELECT current_setting('server_version_num')::bigint / 10000").await;
    if version < 15 {
        return;
    }
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 60) i",
    )
    .await;
    let merge =
        "MERGE INTO t USING generate_series(41, 70) AS s(id) ON s.id = t.id WHEN MATCHED AND t.id > 50 THEN DELETE
        WHEN MATCHED THEN UPDATE SET n = 6 WHEN NOT MATCHED AND s.id <= 65 THEN INSERT VALUES (s.id, 7)";
    let mut forms = vec![merge.to_owned(), format!("WITH x AS (SELECT 1) {merge}")];
    if version >= 17 {
        forms.push(format!("{merge} RETURNING merge_action(), t.*"));
        forms.push(format!("WITH m AS ({merge} RETURNING t.id) SELECT count(*) FROM m"));
    }
    for sql in forms {
        lab.sql(
            "DELETE FROM dunlin.checkpoints; DELETE FROM t; INSERT INTO t SELECT i, 5 FROM generate_series(1, 60) i",
        )
        .await;
        let ended = lab.work(1, statement_task(sql_step(&sql))).await.unwrap();
        assert!(matches!(ended, Ended::Done { rows: 25, .. }), "{sql}: {ended:?}");
    }
}

#[tokio::test]
async fn rows_that_nobody_counts_are_said_to_be_unknown() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await;
    let outside =
        Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step("DO $$ BEGIN UPDATE t SET n = 2; COMMIT; END $$") };
    let ended = lab.work(1, statement_task(outside)).await.unwrap();
    assert!(matches!(ended, Ended::Done { rows: 0, .. }), "{ended:?}");
    let notes = lab.sent().0;
    assert!(notes.iter().any(|note| note.message.contains("is not known")), "{notes:?}");
    assert_eq!(lab.number("SELECT sum(n) FROM t").await, 2);
}
