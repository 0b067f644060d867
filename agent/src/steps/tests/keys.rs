use dunlin_proto::v1::{KeyColumn, PlanTask, grant};
use dunlin_shared::key::KeyBound;
use dunlin_shared::postgres::Session;

use crate::catalog::{self, Key, Sample, Table, Walk};
use crate::frame::Frame;
use crate::limits::Limits;
use crate::testing::{Lab, batch_step, plan_task, range_task, refusal};

/// Walks a table of the key `columns` filled by `rows` and changes every row once, in ranges, stripes and batches.
async fn walks(columns: &str, key: &str, rows: &str) {
    let mut lab = Lab::new().await;
    lab.sql(&format!("CREATE TABLE t ({columns}, n bigint NOT NULL DEFAULT 5, PRIMARY KEY ({key}))")).await;
    lab.sql(&format!("INSERT INTO t SELECT {rows} ON CONFLICT DO NOTHING")).await;
    let count = lab.number("SELECT count(*) FROM t").await;
    assert!(count > 100, "{count} rows");
    for (stripes, size) in [(1, 7), (3, 5)] {
        lab.sql("DELETE FROM dunlin.checkpoints; UPDATE t SET n = 5").await;
        let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", size, 60, stripes);
        assert_eq!(lab.work_through(&step).await, count, "{columns}");
        assert_eq!(lab.number("SELECT count(*) FROM t WHERE n <> 16").await, 0, "{columns}");
    }
}

async fn table_and_key(client: &Session) -> (Table, Key) {
    let table = catalog::find(client, "t").await.unwrap();
    let key = catalog::resolve(client, &table, &[]).await.unwrap();
    (table, key)
}

#[tokio::test]
async fn integers_are_walked_also_below_zero() {
    walks("id bigint", "id", "(random() * 1e6)::bigint - 500000 FROM generate_series(1, 300)").await;
    walks("id int", "id", "i - 150 FROM generate_series(1, 300) i").await;
    walks("id smallint", "id", "i * 100 - 15000 FROM generate_series(1, 300) i").await;
    walks("id bigint", "id", "9223372036854775807 - i * i FROM generate_series(0, 300) i").await;
}

#[tokio::test]
async fn uuids_are_walked() {
    walks("id uuid", "id", "gen_random_uuid() FROM generate_series(1, 300)").await;
}

#[tokio::test]
async fn texts_are_walked_in_the_order_of_their_collation() {
    let texts = "(ARRAY['a','B','ä','Z','_','-','é','ß',' ','''','\\','\"'])[1 + i % 12] || i || E'\\\\''\"' FROM generate_series(1, 300) i";
    walks("id text COLLATE \"und-x-icu\"", "id", texts).await;
    walks("id varchar(40)", "id", texts).await;
    walks("id text COLLATE \"C\"", "id", texts).await;
    walks("id char(12)", "id", "'k' || i FROM generate_series(1, 300) i").await;
}

#[tokio::test]
async fn times_are_walked_to_the_microsecond() {
    walks("id timestamptz", "id", "now() + i * interval '1 microsecond' FROM generate_series(1, 300) i").await;
    walks(
        "id timestamp",
        "id",
        "'2020-03-29 01:59:59.999999'::timestamp + i * interval '7 hours' FROM generate_series(1, 300) i",
    )
    .await;
    walks("id date", "id", "'0044-03-15 BC'::date + i * 1000 FROM generate_series(1, 300) i").await;
    walks("id interval", "id", "i * interval '-1 month 2 days 03:04:05.6' FROM generate_series(1, 300) i").await;
}

#[tokio::test]
async fn numbers_of_any_size_are_walked() {
    walks("id numeric", "id", "i * 12345678901234567890.123456789 - 1e20 FROM generate_series(1, 300) i").await;
    walks("id float8", "id", "i / 3.0 FROM generate_series(1, 300) i").await;
}

#[tokio::test]
async fn several_columns_are_walked_as_one_key() {
    walks(
        "a text COLLATE \"und-x-icu\", b int",
        "a, b",
        "(ARRAY['x','X','y'])[1 + i % 3], i FROM generate_series(1, 300) i",
    )
    .await;
    walks("b int, a text, c date", "a, c, b", "i % 5, 't' || i % 7, current_date + i FROM generate_series(1, 300) i")
        .await;
}

#[tokio::test]
async fn names_in_mixed_case_and_with_quotes_are_walked() {
    let mut lab = Lab::new().await;
    lab.sql(
        r#"CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."User's" ("Id ""x" bigint PRIMARY KEY, n bigint DEFAULT 5);
           INSERT INTO "My Schema"."User's" SELECT i FROM generate_series(1, 300) i"#,
    )
    .await;
    let sql = r#"UPDATE "My Schema"."User's" SET n = n * 3 + 1 WHERE :batch"#;
    assert_eq!(lab.work_through(&batch_step("\"My Schema\".\"User's\"", sql, 10, 100, 2)).await, 300);
    assert_eq!(lab.number(r#"SELECT count(*) FROM "My Schema"."User's" WHERE n = 16"#).await, 300);
}

#[tokio::test]
async fn domains_and_enums_are_walked() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE DOMAIN code AS text CHECK (value <> ''); CREATE TYPE mood AS ENUM ('sad', 'ok', 'a b');
         CREATE TABLE t (c code, m mood, n bigint DEFAULT 5, PRIMARY KEY (m, c));
         INSERT INTO t SELECT 'c' || i, (ARRAY['sad','ok','a b'])[1 + i % 3]::mood FROM generate_series(1, 300) i",
    )
    .await;
    assert_eq!(lab.work_through(&batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 10, 70, 3)).await, 300);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 300);
}

#[tokio::test]
async fn a_partitioned_table_is_walked_through_its_parent() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint DEFAULT 5) PARTITION BY HASH (id);
         CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO t SELECT i FROM generate_series(1, 300) i",
    )
    .await;
    assert_eq!(lab.work_through(&batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 10, 70, 0)).await, 300);
}

#[tokio::test]
async fn a_unique_index_can_be_the_key() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (a int NOT NULL, b text NOT NULL, n bigint DEFAULT 5); CREATE UNIQUE INDEX ON t (b, a);
         INSERT INTO t SELECT i, 'x' || i % 9 FROM generate_series(1, 300) i",
    )
    .await;
    let mut step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 10, 70, 2);
    step.batch.as_mut().unwrap().key = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(lab.work_through(&step).await, 300);
    let key = lab.plan(&step).await.key;
    assert_eq!(key.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["b", "a"], "the index's order");
}

#[tokio::test]
async fn what_cannot_be_a_key_is_refused_with_the_way_out() {
    let lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE none (n int, a int, b int, c int NOT NULL, d int NOT NULL, e text NOT NULL);
         CREATE UNIQUE INDEX of_null ON none (a);
         CREATE UNIQUE INDEX partial ON none (c) WHERE c > 0;
         CREATE INDEX plain ON none (d);
         CREATE UNIQUE INDEX down ON none (c DESC, d);
         CREATE UNIQUE INDEX pattern ON none (e text_pattern_ops);
         CREATE VIEW view AS SELECT 1 AS id",
    )
    .await;
    for (table, key, what) in [
        ("none", "", "no primary key"),
        ("none", "a", "may be NULL"),
        ("none", "b", "CREATE UNIQUE INDEX"),
        ("none", "c", "only part"),
        ("none", "d", "not unique"),
        ("none", "c d", "descending"),
        ("none", "e", "another order"),
        ("none", "missing", "CREATE UNIQUE INDEX"),
        ("view", "", "a view"),
        ("nowhere", "", "no table"),
        ("not a name", "", "no table"),
    ] {
        let mut step = batch_step(table, "UPDATE none SET n = 1 WHERE :batch", 10, 10, 0);
        step.batch.as_mut().unwrap().key = key.split_whitespace().map(str::to_owned).collect();
        let error = refusal(lab.work(1, plan_task(&step, 0)).await);
        assert!(error.message.contains(what) && error.message.contains(table), "{table} ({key}): {}", error.message);
    }
}

#[tokio::test]
async fn a_step_that_assigns_its_key_is_refused() {
    let lab = Lab::new().await;
    lab.sql("CREATE TABLE \"T\" (id bigint PRIMARY KEY, n int)").await;
    let step = batch_step("\"T\"", "UPDATE \"T\" AS u SET n = 1, id = id + 1 WHERE :batch(u)", 10, 10, 0);
    let error = refusal(lab.work(1, plan_task(&step, 0)).await);
    assert!(error.message.contains("assigns the key column `id`"), "{}", error.message);
}

#[tokio::test]
async fn pages_are_those_of_the_rows_at_either_end() {
    let lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, filler text);
         INSERT INTO t SELECT i, repeat('x', CASE WHEN i > 2000 THEN 300 ELSE 700 END) FROM generate_series(1, 4000) i",
    )
    .await;
    let mut connection = lab.target.lend().await.unwrap();
    let (table, key) = table_and_key(&connection).await;
    let walk = Walk { table: &table, key: &key.columns, frame: &Frame::new(Limits::default(), String::new(), None) };
    let (low, high) = (KeyBound(vec!["100".to_owned()]), KeyBound(vec!["3900".to_owned()]));
    for (sample, rows) in [(Sample::First, 11), (Sample::Last, 24)] {
        let pages = walk.pages(&mut connection, Some(&low), &high, sample).await.unwrap().unwrap();
        assert_eq!((pages.rows, pages.keys), (rows, rows), "{sample:?}");
    }
}

#[tokio::test]
async fn pages_that_the_role_may_not_see_are_not_known() {
    let lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, filler text DEFAULT repeat('x', 300));
         INSERT INTO t SELECT i FROM generate_series(1, 300) i",
    )
    .await;
    let mut connection = lab.target.lend().await.unwrap();
    let (table, key) = table_and_key(&connection).await;
    let walk = Walk { table: &table, key: &key.columns, frame: &Frame::new(Limits::default(), String::new(), None) };
    let high = KeyBound(vec!["300".to_owned()]);
    assert!(walk.pages(&mut connection, None, &high, Sample::First).await.unwrap().is_some());
    let role = lab.row("SELECT 'narrow_' || current_database()").await.get::<_, String>(0);
    lab.sql(&format!("CREATE ROLE {role}; GRANT SELECT (id) ON t TO {role}")).await;
    let narrow = Frame::new(Limits::default(), String::new(), Some(role.clone()));
    let walk = Walk { frame: &narrow, ..walk };
    assert_eq!(walk.pages(&mut connection, None, &high, Sample::First).await.unwrap(), None);
    assert!(walk.nth(&mut connection, None, Some(&high), 1).await.unwrap().is_some());
    lab.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

const TRIPLE: &str = "UPDATE t SET n = n * 3 + 1 WHERE :batch";

fn told(name: &str, r#type: &str) -> Vec<KeyColumn> {
    vec![KeyColumn { name: name.to_owned(), r#type: r#type.to_owned() }]
}

#[tokio::test]
async fn what_a_controller_says_of_a_key_is_compared_and_put_into_no_statement() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE DOMAIN number AS bigint; CREATE TABLE t (id number PRIMARY KEY, n bigint NOT NULL);
         INSERT INTO t SELECT i, 5 FROM generate_series(1, 100) i",
    )
    .await;
    let step = batch_step("t", TRIPLE, 10, 50, 1);
    let planned = lab.plan(&step).await;
    assert_eq!(planned.key, told("id", "bigint"));
    let attacks = [
        ("id", "bigint AND false); CREATE TABLE stolen (); COMMIT; --"),
        ("id\" = 1; CREATE TABLE stolen (); COMMIT; --", "bigint"),
        ("id", "integer"),
        ("id", "number"),
        ("n", "bigint"),
    ];
    for (epoch, (name, r#type)) in (100..).zip(attacks) {
        let mut other = planned.clone();
        other.key = told(name, r#type);
        let error = refusal(lab.work(epoch, range_task(&step, &other, &planned.ranges[0])).await);
        assert!(error.message.contains("the controller has another key of the step"), "{error:?}");
        assert!(error.message.contains("than the target (id bigint)"), "{error:?}");
        let plan =
            PlanTask { step: Some(step.clone()), known_ranges: 1, key: told(name, r#type), ..PlanTask::default() };
        let error = refusal(lab.work(epoch, grant::Task::Plan(plan)).await);
        assert!(error.message.contains("the controller has another key of the step"), "{error:?}");
    }
    let both = [told("id", "bigint"), told("n", "bigint")].concat();
    let mut other = planned.clone();
    other.key = both;
    let error = refusal(lab.work(200, range_task(&step, &other, &planned.ranges[0])).await);
    assert!(error.message.contains("whose keys do not have the columns of the key"), "{error:?}");
    assert_eq!(lab.number("SELECT count(*) FROM pg_class WHERE relname = 'stolen'").await, 0);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n <> 5").await, 0);
    for range in &planned.ranges {
        lab.work(300, range_task(&step, &planned, range)).await.unwrap();
    }
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n <> 16").await, 0);
}

#[tokio::test]
async fn a_key_whose_column_has_become_another_is_refused_with_both_ways_out() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL); INSERT INTO t SELECT i, 5 FROM generate_series(1, 100) i").await;
    let step = batch_step("t", TRIPLE, 10, 50, 1);
    let planned = lab.plan(&step).await;
    lab.sql("ALTER TABLE t ALTER id TYPE text").await;
    let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
    let expected = "the column `id` of the key of \"public\".\"t\" was of the type bigint when the step began, and now it is of the type text";
    assert!(error.message.contains(expected), "{error:?}");
    assert!(error.next.contains("Restore the column") && error.next.contains("--redo change"), "{error:?}");
    lab.sql("ALTER TABLE t RENAME id TO key").await;
    let error = refusal(lab.work(2, range_task(&step, &planned, &planned.ranges[0])).await);
    assert!(error.message.contains("and now it is not there"), "{error:?}");
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n <> 5").await, 0);
}
