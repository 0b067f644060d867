//! What the server says while steps are executed, and what IF NOT EXISTS has met.

use dunlin_proto::v1::{EventType, Severity, StepKind, TaskNote};

use crate::steps::Ended;
use crate::testing::{Lab, atomic_task, batch_step, range_task, refusal, sql_step, statement_task};

fn messages(notes: &[TaskNote]) -> Vec<(&str, Severity, &str)> {
    let said = notes.iter().filter(|note| note.r#type() == EventType::ServerMessage);
    said.map(|note| (note.step.as_str(), note.severity(), note.message.as_str())).collect()
}

#[tokio::test]
async fn notices_and_warnings_of_a_step_are_told_and_those_of_dunlin_are_not() {
    let mut lab = Lab::with_setting("client_min_messages", "error").await;
    let sql = "DO $$ BEGIN RAISE NOTICE '12 orphans'; RAISE WARNING 'left alone' USING HINT = 'look'; END $$; DROP TABLE IF EXISTS none";
    let checks = ["SELECT true"];
    lab.work(1, atomic_task(vec![sql_step(sql)], &checks, &checks)).await.unwrap();
    let (notes, _) = lab.sent();
    assert_eq!(
        messages(&notes),
        [
            ("change", Severity::Info, "NOTICE: 12 orphans"),
            ("change", Severity::Warning, "WARNING: left alone; HINT: look"),
            ("change", Severity::Info, "NOTICE: table \"none\" does not exist, skipping"),
        ]
    );
}

#[tokio::test]
async fn what_a_step_says_too_often_is_counted() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 300) i;
         CREATE FUNCTION say() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'again'; RETURN 1; END $$",
    )
    .await;
    let step = batch_step("t", "UPDATE t SET n = say() WHERE :batch", 50, 300, 1);
    let planned = lab.plan(&step).await;
    lab.sent();
    lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await.unwrap();
    let (notes, _) = lab.sent();
    let kept = notes.iter().filter(|note| note.message == "WARNING: again").count();
    let left_out: i64 = notes.iter().map(|note| note.left_out).sum();
    assert_eq!((kept, left_out), (100, 200));
}

async fn met(lab: &mut Lab, sql: &str) -> Result<String, String> {
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let mut step = sql_step(sql);
    if sql.contains("CONCURRENTLY") {
        step.kind = StepKind::SqlNoTransaction.into();
    }
    step.name = format!("step {}", sql.len());
    let ended = lab.work(1, statement_task(step)).await;
    let (notes, _) = lab.sent();
    match ended {
        Ok(Ended::Done { .. }) => Ok(messages(&notes).iter().map(|(_, _, text)| *text).collect::<Vec<_>>().join("\n")),
        ended => Err(refusal(ended).message),
    }
}

#[tokio::test]
async fn if_not_exists_that_met_an_index_like_its_own_is_done_and_another_one_fails() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE SCHEMA shop; CREATE TABLE shop.t (id bigint, a int, b text); CREATE INDEX one ON shop.t (a DESC, lower(b)) WHERE a > 0;
         CREATE TABLE shop.other (a int); CREATE INDEX elsewhere ON shop.other (a); CREATE TABLE shop.taken (a int);
         CREATE INDEX \"Broken\" ON shop.t (a); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'shop.\"Broken\"'::regclass",
    )
    .await;
    for how in ["", "CONCURRENTLY "] {
        let same = format!("CREATE INDEX {how}IF NOT EXISTS one ON shop.t USING btree (a DESC, lower(b)) WHERE a > 0");
        let said = met(&mut lab, &same).await.unwrap();
        assert!(said.contains("\"one\" already exists, skipping; what is there is what"), "{said}");
        for (index, on, found) in [
            ("one", "t (a, lower(b)) WHERE a > 0", "(a DESC, lower(b)) WHERE (a > 0). The step describes"),
            ("one", "t (a DESC, lower(b))", "WHERE (a > 0)"),
            ("elsewhere", "t (a)", "ON shop.other USING btree (a)"),
            ("taken", "t (a)", "There is: a table"),
            ("\"Broken\"", "t (a)", "half-built"),
        ] {
            let refused =
                met(&mut lab, &format!("CREATE INDEX {how}IF NOT EXISTS {index} ON shop.{on}")).await.unwrap_err();
            assert!(refused.contains(found), "{how}{index}: {refused}");
        }
        let unique = format!("CREATE UNIQUE INDEX {how}IF NOT EXISTS one ON shop.t (a DESC, lower(b)) WHERE a > 0");
        assert!(met(&mut lab, &unique).await.unwrap_err().contains("not what the step describes"));
    }
    assert_eq!(lab.number("SELECT count(*) FROM pg_class WHERE relname LIKE 'dunlin_compared%'").await, 0);
}

#[tokio::test]
async fn if_not_exists_compares_columns_and_tables_and_says_what_it_does_not_compare() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE o (id int PRIMARY KEY);
         CREATE TABLE t (id serial PRIMARY KEY, a numeric(10, 2) DEFAULT 0 NOT NULL, o int REFERENCES o, b text COLLATE \"C\");
         CREATE SCHEMA there",
    )
    .await;
    for (sql, said) in [
        (
            "ALTER TABLE t ADD COLUMN IF NOT EXISTS a numeric(10,2) NOT NULL DEFAULT 0, ADD IF NOT EXISTS n int",
            "what is there is what",
        ),
        (
            "ALTER TABLE t ADD COLUMN IF NOT EXISTS o integer REFERENCES o (id) ON DELETE CASCADE",
            "what is there is what",
        ),
        (
            "CREATE TABLE IF NOT EXISTS t (id serial PRIMARY KEY, n int, a decimal(10,2) DEFAULT 0 NOT NULL, o int REFERENCES o, b text COLLATE \"C\")",
            "what is there is what",
        ),
        ("CREATE SCHEMA IF NOT EXISTS there", "was not compared"),
        ("DO $$ BEGIN CREATE TABLE IF NOT EXISTS t (other text); END $$", "was not compared"),
        ("CREATE TABLE IF NOT EXISTS t AS SELECT 1 AS x", "was not compared"),
        (
            "CREATE INDEX IF NOT EXISTS i ON t (a); CREATE INDEX IF NOT EXISTS i ON t (a); ALTER TABLE t DROP COLUMN a",
            "could not be compared",
        ),
    ] {
        let text = met(&mut lab, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(text.contains("already exists, skipping") && text.contains(said), "{sql}: {text}");
    }
    for (sql, found) in [
        ("ALTER TABLE t ADD COLUMN IF NOT EXISTS o bigint", "There is: integer. The step describes: bigint"),
        ("ALTER TABLE t ADD COLUMN IF NOT EXISTS n int DEFAULT 7", "integer DEFAULT 7"),
        ("ALTER TABLE t ADD COLUMN IF NOT EXISTS n int NOT NULL", "integer NOT NULL"),
        ("CREATE TABLE IF NOT EXISTS t (id serial PRIMARY KEY)", "a table (id integer NOT NULL"),
        ("CREATE UNLOGGED TABLE IF NOT EXISTS o (id int PRIMARY KEY)", "an unlogged relation"),
        ("CREATE TABLE IF NOT EXISTS o (id int PRIMARY KEY) PARTITION BY RANGE (id)", "a partitioned table"),
    ] {
        let refused = met(&mut lab, sql).await.unwrap_err();
        assert!(refused.contains(found), "{sql}: {refused}");
    }
}
