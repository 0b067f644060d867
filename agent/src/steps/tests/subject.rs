//! Which table is walked, which is changed, and what becomes of keys.

use crate::steps::{Ended, Error};
use crate::testing::{Lab, batch_step, plan_task, range_task, refusal, until};

/// The refusal of a step when it is planned.
async fn refused(lab: &Lab, table: &str, sql: &str) -> String {
    let error = refusal(lab.work(1, plan_task(&batch_step(table, sql, 10, 100, 1), 0)).await);
    error.message
}

async fn two_schemas() -> Lab {
    let lab = Lab::with_setting("search_path", "two,one").await;
    lab.sql(
        "CREATE SCHEMA one; CREATE SCHEMA two;
         CREATE TABLE one.t (id bigint PRIMARY KEY, n bigint DEFAULT 5); INSERT INTO one.t SELECT generate_series(1, 300);
         CREATE TABLE two.t (id bigint PRIMARY KEY, n bigint DEFAULT 5); INSERT INTO two.t SELECT generate_series(1, 30);
         CREATE TABLE one.other (id bigint PRIMARY KEY, n bigint DEFAULT 5); INSERT INTO one.other SELECT generate_series(1, 70)",
    )
    .await;
    lab
}

#[tokio::test]
async fn the_table_is_read_as_sql_reads_it() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE users (id bigint PRIMARY KEY, n bigint DEFAULT 5); INSERT INTO users SELECT generate_series(1, 200);
         CREATE TABLE \"Users\" (id bigint PRIMARY KEY, n bigint DEFAULT 5); INSERT INTO \"Users\" SELECT generate_series(1, 50)",
    )
    .await;
    for (table, sql) in [
        ("Users", "UPDATE Users SET n = n + 1 WHERE :batch"),
        ("USERS", "UPDATE users u SET n = n + 1 WHERE :batch(u)"),
        ("public.Users", "UPDATE Public.users SET n = n + 1 WHERE :batch(USERS)"),
    ] {
        lab.sql("DELETE FROM dunlin.checkpoints").await;
        assert_eq!(lab.work_through(&batch_step(table, sql, 10, 100, 1)).await, 200, "{table}");
    }
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let quoted = batch_step("\"Users\"", "UPDATE \"Users\" SET n = n + 1 WHERE :batch", 10, 100, 1);
    assert_eq!(lab.work_through(&quoted).await, 50);
    assert_eq!(lab.number("SELECT count(*) FROM users WHERE n = 8").await, 200);
    assert_eq!(lab.number("SELECT count(*) FROM \"Users\" WHERE n = 6").await, 50);
}

#[tokio::test]
async fn a_step_that_walks_one_table_and_changes_another_is_refused() {
    let lab = two_schemas().await;
    for (table, sql, what) in [
        ("two.t", "UPDATE one.t SET n = 1 WHERE :batch", "another table"),
        ("t", "UPDATE one.t AS u SET n = 1 WHERE :batch(u)", "another table"),
        ("t", "UPDATE one.other SET n = 1 WHERE :batch(other)", "another table"),
        ("t", "UPDATE t AS u SET n = 1 WHERE :batch", "no table that is called `\"t\"`"),
        ("t", "UPDATE t SET n = 1 WHERE :batch(u)", "no table that is called `u`"),
        (
            "t",
            "WITH x AS (SELECT * FROM t) UPDATE one.other o SET n = 1 FROM x WHERE x.id = o.id AND :batch(x)",
            "called `x`",
        ),
        ("t", "UPDATE one.other o SET n = 1 FROM (SELECT * FROM t) x WHERE x.id = o.id AND :batch(x)", "called `x`"),
        ("t", "UPDATE t SET n = 1 FROM one.other WHERE :batch AND :batch(other)", "another table"),
    ] {
        let message = refused(&lab, table, sql).await;
        assert!(message.contains(what) && message.contains("\"two\".\"t\""), "{sql}: {message}");
    }
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.checkpoints").await, 0);
}

#[tokio::test]
async fn a_name_that_the_statement_gives_to_a_table_means_that_table() {
    let mut lab = two_schemas().await;
    assert_eq!(lab.work_through(&batch_step("t", "UPDATE one.t SET n = 6 WHERE :batch", 10, 100, 1)).await, 300);
    assert_eq!(lab.number("SELECT count(*) FROM one.t WHERE n = 6").await, 300);
    assert_eq!(lab.number("SELECT count(*) FROM two.t WHERE n = 6").await, 0);
}

#[tokio::test]
async fn a_partition_is_not_the_table_that_it_belongs_to() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint DEFAULT 5) PARTITION BY RANGE (id);
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100); CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200);
         INSERT INTO t SELECT generate_series(1, 199)",
    )
    .await;
    let message = refused(&lab, "t", "UPDATE t1 SET n = 1 WHERE :batch(t1)").await;
    assert!(message.contains("another table"), "{message}");
    assert_eq!(lab.work_through(&batch_step("t1", "UPDATE t1 SET n = 1 WHERE :batch", 10, 100, 1)).await, 99);
}

#[tokio::test]
async fn a_range_refuses_a_table_that_took_the_place_of_the_one_that_was_planned() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint DEFAULT 5); INSERT INTO t SELECT generate_series(1, 200)")
        .await;
    let step = batch_step("t", "UPDATE t SET n = n + 1 WHERE :batch", 10, 100, 1);
    let planned = lab.plan(&step).await;
    lab.sql("ALTER TABLE t RENAME TO u; CREATE TABLE t (LIKE u INCLUDING ALL); INSERT INTO t SELECT * FROM u").await;
    let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
    assert!(error.message.contains("is not the table that the step began with"), "{}", error.message);
    lab.sql("DROP TABLE t; ALTER TABLE u RENAME TO t").await;
    let ended = lab.work(2, range_task(&step, &planned, &planned.ranges[0])).await;
    assert!(matches!(ended, Ok(Ended::Done { rows: 100, .. })), "{ended:?}");
}

#[tokio::test]
async fn a_range_refuses_a_session_in_which_the_statement_means_another_table() {
    let (mut lab, elsewhere) = Lab::seen_twice("search_path", "other,public").await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint DEFAULT 5); INSERT INTO t SELECT generate_series(1, 200);
         CREATE SCHEMA other; CREATE TABLE other.t (LIKE t INCLUDING ALL); INSERT INTO other.t SELECT * FROM t",
    )
    .await;
    let step = batch_step("t", "UPDATE t SET n = n + 1 WHERE :batch", 10, 100, 1);
    let planned = lab.plan(&step).await;
    let task = range_task(&step, &planned, &planned.ranges[0]);
    let here = std::mem::replace(&mut lab.target, elsewhere);
    let error = refusal(lab.work(1, task.clone()).await);
    assert!(error.message.contains("another table"), "{}", error.message);
    lab.target = here;
    assert!(matches!(lab.work(2, task).await, Ok(Ended::Done { rows: 100, .. })));
    assert_eq!(lab.number("SELECT count(*) FROM other.t WHERE n = 5").await, 200);
}

#[tokio::test]
async fn keys_that_move_with_what_is_assigned_are_refused() {
    let lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE a (n bigint NOT NULL, k bigint GENERATED ALWAYS AS (n * 10) STORED, x int, PRIMARY KEY (k));
         CREATE TABLE parent (code bigint PRIMARY KEY, x int);
         CREATE TABLE child (code bigint REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE, no int, x int, PRIMARY KEY (code, no));
         CREATE TABLE grandchild (code bigint, no int, x int, PRIMARY KEY (code, no),
             FOREIGN KEY (code, no) REFERENCES child ON UPDATE CASCADE ON DELETE SET DEFAULT);
         CREATE TABLE aside (id bigint PRIMARY KEY, code bigint REFERENCES parent ON UPDATE CASCADE, x int);
         CREATE VIEW seen AS SELECT k AS ident, n, x FROM a;
         CREATE TABLE ruled (id bigint PRIMARY KEY, x int); CREATE RULE twice AS ON UPDATE TO ruled DO ALSO NOTHING",
    )
    .await;
    for (table, sql, what) in [
        ("a", "UPDATE a SET n = n + 1 WHERE :batch", "column k is generated from n"),
        ("a", "UPDATE seen SET n = 1 WHERE ident IN (SELECT k FROM a WHERE :batch)", "is a view"),
        (
            "child",
            "UPDATE parent p SET code = 1 FROM child c WHERE p.code = c.code AND :batch(c)",
            "foreign key child_code_fkey",
        ),
        (
            "grandchild",
            "UPDATE parent p SET code = 1 FROM grandchild c WHERE p.code = c.code AND :batch(c)",
            "foreign key grandchild",
        ),
        (
            "grandchild",
            "DELETE FROM parent p USING grandchild c WHERE p.code = c.code AND :batch(c)",
            "foreign key grandchild",
        ),
        ("ruled", "UPDATE ruled SET x = 1 WHERE :batch", "the rule `twice`"),
        (
            "child",
            "WITH x AS (UPDATE child SET no = 1 RETURNING *) UPDATE child c SET x = 1 WHERE :batch(c)",
            "assigns the key column `no`",
        ),
        ("child", "DO $$ BEGIN UPDATE child SET no = 1; END $$ -- :batch", "cannot be told"),
    ] {
        let message = refused(&lab, table, sql).await;
        assert!(message.contains(what), "{sql}: {message}");
    }
    for (table, sql) in [
        ("a", "UPDATE a SET x = 1 WHERE :batch"),
        ("aside", "UPDATE parent p SET code = 1 FROM aside c WHERE p.code = c.code AND :batch(c)"),
        ("child", "UPDATE parent p SET x = 1 FROM child c WHERE p.code = c.code AND :batch(c)"),
        ("child", "DELETE FROM parent p USING child c WHERE p.code = c.code AND :batch(c)"),
    ] {
        lab.sql("DELETE FROM dunlin.checkpoints").await;
        let ended = lab.work(1, plan_task(&batch_step(table, sql, 10, 100, 1), 0)).await;
        assert!(matches!(ended, Ok(Ended::Done { .. } | Ended::Yielded)), "{sql}: {ended:?}");
    }
}

#[tokio::test]
async fn a_statement_of_any_length_is_read() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE e (id bigint PRIMARY KEY, code int, n int); INSERT INTO e SELECT i, i % 900 FROM generate_series(1, 50) i").await;
    let cases: String = (0..2000).map(|code| format!(" WHEN {code} THEN {code} + 1")).collect();
    let moves = format!("UPDATE e SET n = CASE code{cases} END, id = id + 1000 WHERE :batch");
    assert!(refused(&lab, "e", &moves).await.contains("assigns the key column `id`"));
    let stays = format!("UPDATE e SET n = CASE code{cases} END WHERE :batch");
    assert_eq!(lab.work_through(&batch_step("e", &stays, 10, 100, 1)).await, 50);
}

const TOUCHED: &str =
    "CREATE TABLE t (id bigint PRIMARY KEY, at bigint NOT NULL, n bigint DEFAULT 5, x int, UNIQUE (at, id));
    INSERT INTO t SELECT i, i FROM generate_series(1, 300) i;";

fn by_at(sql: &str) -> dunlin_proto::v1::Step {
    let mut step = batch_step("t", sql, 10, 100, 2);
    step.batch.as_mut().unwrap().key = vec!["at".to_owned(), "id".to_owned()];
    step
}

#[tokio::test]
async fn a_trigger_that_moves_keys_rolls_the_batch_back() {
    for (when, body) in [
        ("BEFORE UPDATE", "NEW.at := NEW.at + 1000; RETURN NEW;"),
        ("BEFORE UPDATE OF n", "NEW.at := 0; RETURN NEW;"),
        ("AFTER UPDATE OF n", "UPDATE t SET at = at + 1000 WHERE id = NEW.id; RETURN NULL;"),
        ("AFTER UPDATE OF n", "DELETE FROM t WHERE id = NEW.id; RETURN NULL;"),
    ] {
        let mut lab = Lab::new().await;
        lab.sql(TOUCHED).await;
        lab.sql(&format!(
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
             CREATE TRIGGER touch {when} ON t FOR EACH ROW EXECUTE FUNCTION touch()"
        ))
        .await;
        let step = by_at("UPDATE t SET n = n + 1 WHERE :batch");
        let planned = lab.plan(&step).await;
        let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
        assert!(
            error.message.contains("(touch)") && error.message.contains("rolled back"),
            "{when}: {}",
            error.message
        );
        assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 5").await, 300, "{when}");
    }
}

#[tokio::test]
async fn a_constraint_trigger_that_waits_for_the_commit_is_seen() {
    let mut lab = Lab::new().await;
    lab.sql(TOUCHED).await;
    lab.sql(
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET at = at + 1000 WHERE id = NEW.id AND at = NEW.at;
         RETURN NULL; END $$; CREATE CONSTRAINT TRIGGER touch AFTER UPDATE OF n ON t DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    .await;
    let step = by_at("UPDATE t SET n = n + 1 WHERE :batch");
    let planned = lab.plan(&step).await;
    let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
    assert!(error.message.contains("rolled back"), "{}", error.message);
}

#[tokio::test]
async fn triggers_that_leave_keys_alone_are_let_through_and_rows_that_they_drop_are_told() {
    let mut lab = Lab::new().await;
    lab.sql(TOUCHED).await;
    lab.sql(
        "CREATE TABLE log (id bigint);
         CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF OLD.id % 10 = 0 THEN RETURN NULL; END IF; NEW.x := 7; RETURN NEW; END $$;
         CREATE TRIGGER touch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
         CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER log AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION log()",
    )
    .await;
    lab.sent();
    let step = by_at(
        "UPDATE t AS u SET n = n + 1 FROM (VALUES (1), (2)) v(k) WHERE u.id % 2 = v.k - 1 AND :batch(u) RETURNING u.n, v.k",
    );
    let planned = lab.plan(&step).await;
    for range in &planned.ranges {
        lab.work(1, range_task(&step, &planned, range)).await.unwrap();
    }
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 6 AND x = 7").await, 270);
    assert_eq!(lab.number("SELECT count(*) FROM log").await, 270);
    assert_eq!(lab.number("SELECT sum(rows)::bigint FROM dunlin.checkpoints").await, 270);
    let counted = "SELECT sum((counters->>'rows_left_out_by_triggers')::bigint)::bigint FROM dunlin.checkpoints";
    assert_eq!(lab.number(counted).await, 30);
    let notes = lab.sent().0;
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[0].message.starts_with("10 rows of \"public\".\"t\" that match were not changed"), "{notes:?}");
}

#[tokio::test]
async fn keys_that_cannot_be_seen_are_refused() {
    let lab = Lab::new().await;
    lab.sql(TOUCHED).await;
    for sql in [
        "WITH x AS (INSERT INTO t (id, at) SELECT id + 1000, at FROM t WHERE :batch RETURNING id) SELECT 1 FROM x",
        "MERGE INTO t USING (SELECT id FROM t s WHERE :batch(s)) s ON false WHEN NOT MATCHED THEN INSERT (id, at) VALUES (s.id, 1)",
    ] {
        // PostgreSQL 14 has no MERGE.
        if sql.starts_with("MERGE")
            && lab.number("SELECT current_setting('server_version_num')::bigint").await < 150_000
        {
            continue;
        }
        let message = refused(&lab, "t", sql).await;
        assert!(message.contains("inserts into \"public\".\"t\""), "{sql}: {message}");
    }
    lab.sql(
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
         CREATE TRIGGER touch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    .await;
    let message = refused(&lab, "t", "WITH x AS (UPDATE t SET n = 1 WHERE :batch RETURNING id) SELECT 1 FROM x").await;
    assert!(message.contains("(touch) could move keys"), "{message}");
}

#[tokio::test]
async fn a_batch_that_inserts_into_the_table_that_it_walks_ends() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigserial PRIMARY KEY, a int, b int); INSERT INTO t (a, b) SELECT i, -i FROM generate_series(1, 500) i").await;
    let step = batch_step("t", "INSERT INTO t (a, b) SELECT b, a FROM t WHERE :batch", 10, 100, 1);
    assert_eq!(lab.work_through(&step).await, 500);
    assert_eq!(lab.number("SELECT count(*) FROM t").await, 1000);
}

#[tokio::test]
async fn inserted_rows_that_would_be_walked_again_roll_the_batch_back() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), a int); INSERT INTO t (a) SELECT generate_series(1, 500)").await;
    let step = batch_step("t", "INSERT INTO t (a) SELECT -a FROM t WHERE :batch RETURNING a", 50, 100, 1);
    let planned = lab.plan(&step).await;
    let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
    assert!(error.message.contains("they would be walked again"), "{}", error.message);
    assert_eq!(lab.number("SELECT count(*) FROM t").await, 500);
}

#[tokio::test]
async fn rows_that_are_taken_out_and_put_back_must_not_be_walked_again() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int DEFAULT 0); INSERT INTO t SELECT generate_series(2, 600, 2)")
        .await;
    let moved = |by: i32| {
        format!("WITH gone AS (DELETE FROM t WHERE :batch RETURNING *) INSERT INTO t SELECT id + {by}, n + 1 FROM gone")
    };
    let step = batch_step("t", &moved(1), 10, 100, 1);
    let planned = lab.plan(&step).await;
    let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
    assert!(error.message.contains("they would be walked again"), "{}", error.message);
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    assert_eq!(lab.work_through(&batch_step("t", &moved(601), 10, 100, 1)).await, 300);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 1").await, 300);
}

#[tokio::test]
async fn rows_inserted_above_the_bound_are_not_walked_however_late_the_plan_goes_on() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigserial PRIMARY KEY, n int DEFAULT 0); INSERT INTO t (n) SELECT 0 FROM generate_series(1, 300)").await;
    let step = batch_step("t", "UPDATE t SET n = n + 1 WHERE :batch", 10, 100, 1);
    assert!(matches!(lab.work(1, plan_task(&step, 0)).await.unwrap(), Ended::Yielded));
    lab.sql("INSERT INTO t (n) SELECT 0 FROM generate_series(1, 300)").await;
    assert!(matches!(lab.work(2, plan_task(&step, 1)).await.unwrap(), Ended::Done { .. }));
    let planned = lab.sent().1;
    assert_eq!(planned.ranges.iter().map(|range| range.rows_total).sum::<i64>(), 300);
    for range in &planned.ranges {
        lab.work(3, range_task(&step, &planned, range)).await.unwrap();
    }
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 1 AND id <= 300").await, 300);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 0 AND id > 300").await, 300);
}

#[tokio::test]
async fn a_plan_waits_for_rows_below_the_bound_that_are_not_committed_yet() {
    let lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigserial PRIMARY KEY, n int DEFAULT 0) PARTITION BY RANGE (id);
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (1000); INSERT INTO t (n) SELECT 0 FROM generate_series(1, 99)",
    )
    .await;
    let late = crate::testing::connect(&lab.url).await;
    late.batch_execute("BEGIN; INSERT INTO t (n) VALUES (0)").await.unwrap();
    let reader = crate::testing::connect(&lab.url).await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM t").await.unwrap();
    lab.sql("INSERT INTO t (n) SELECT 0 FROM generate_series(1, 100)").await;
    let step = batch_step("t", "UPDATE t SET n = n + 1 WHERE :batch", 10, 1000, 1);
    let context = lab.context(1);
    let plan = tokio::spawn(async move { crate::steps::run(&context, &plan_task(&step, 0), false).await });
    until(&lab.client, "SELECT count(*) = 1 FROM dunlin.checkpoints WHERE cursor #>> '{bound,0}' = '200'").await;
    // The plan has asked twice at least whether the transaction is over.
    let asked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query ILIKE '%pg_prepared_xacts%' AND pid <> pg_backend_pid())";
    until(&lab.client, asked).await;
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.checkpoints WHERE range > 0").await, 0);
    late.batch_execute("COMMIT").await.unwrap();
    assert!(matches!(plan.await.unwrap(), Ok(Ended::Yielded | Ended::Done { .. })));
    assert_eq!(lab.number("SELECT rows_total FROM dunlin.checkpoints WHERE range = 1").await, 200);
}

#[tokio::test]
async fn a_table_that_others_inherit_from_is_walked_only_where_the_statement_says_only() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n int DEFAULT 0); INSERT INTO t SELECT generate_series(1, 200);
         CREATE TABLE child () INHERITS (t); INSERT INTO child VALUES (5), (5), (900);
         -- From PostgreSQL 18 on, what a child inherits is not null there either.
         DO $$ BEGIN
             IF current_setting('server_version_num')::int < 180000 THEN
                 ALTER TABLE child ALTER id DROP NOT NULL;
                 INSERT INTO child VALUES (NULL);
             ELSE
                 INSERT INTO child VALUES (901);
             END IF;
         END $$",
    )
    .await;
    let message = refused(&lab, "t", "UPDATE t SET n = n + 1 WHERE :batch").await;
    assert!(message.contains("say ONLY"), "{message}");
    let message = refused(&lab, "t", "UPDATE ONLY t SET n = u.n + 1 FROM t AS u WHERE :batch(u)").await;
    assert!(message.contains("say ONLY"), "{message}");
    assert_eq!(
        lab.work_through(&batch_step("t", "UPDATE ONLY t AS u SET n = n + 1 WHERE :batch(u)", 10, 100, 1)).await,
        200
    );
    assert_eq!(lab.number("SELECT count(*) FROM ONLY t WHERE n = 1").await, 200);
    assert_eq!(lab.number("SELECT count(*) FROM child WHERE n = 0").await, 4);
}

#[tokio::test]
async fn a_statement_that_the_server_does_not_understand_is_its_own_error() {
    let lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int)").await;
    for (sql, code) in [
        ("UPDATE t SET n = 'x' + true WHERE :batch", "42883"),
        ("UPDATE t SET n = 1 WHERE :batch AND missing = 1", "42703"),
        ("UPDATE t SET n = WHERE :batch", "42601"),
    ] {
        let ended = lab.work(1, plan_task(&batch_step("t", sql, 10, 100, 1), 0)).await;
        assert!(matches!(&ended, Err(Error::Final(error)) if error.sqlstate == code), "{sql}: {ended:?}");
    }
}
