//! Where an error is said to be.

use dunlin_proto::v1::{RunError, StepKind};

use crate::testing::{Lab, atomic_task, batch_step, plan_task, range_task, refusal, sql_step, statement_task};

/// Line, column, text and statement.
fn place(error: &RunError) -> (i32, i32, &str, i32) {
    let position = error.position.as_ref().unwrap_or_else(|| panic!("no place: {error:?}"));
    (position.line, position.column, position.text.as_str(), position.statement)
}

#[tokio::test]
async fn an_error_names_its_line_and_statement_and_what_postgresql_names() {
    let lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n int CONSTRAINT small CHECK (n < 10)); INSERT INTO t VALUES (1, 1)",
    )
    .await;
    let syntax = "SELECT 1;\n-- é: two bytes\nSELECT 'é' FROM t WHERE nn = 1;\nSELECT 3";
    let error = refusal(lab.work(1, statement_task(sql_step(syntax))).await);
    assert_eq!(place(&error), (3, 25, "SELECT 'é' FROM t WHERE nn = 1;", 2));

    // PostgreSQL points at nothing here: the statement is known by the answers before it.
    let violated = "UPDATE t SET n = 2;\n\n  UPDATE t\n  SET n = 20;\nSELECT 1";
    let error = refusal(lab.work(1, statement_task(sql_step(violated))).await);
    assert_eq!(place(&error), (3, 3, "  UPDATE t", 2));
    assert_eq!((error.constraint.as_str(), error.table.as_str()), ("small", "public.t"));

    let inside = "CREATE FUNCTION deep() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  RETURN (SELECT none FROM t);\nEND $$;\nSELECT deep()";
    let error = refusal(lab.work(1, atomic_task(vec![sql_step(inside)], &[], &[])).await);
    assert_eq!(place(&error), (5, 1, "SELECT deep()", 2));
    assert!(error.context.contains("function deep() line 3"), "{error:?}");
    assert!(error.context.contains("line 1 of that statement: "), "{error:?}");
}

#[tokio::test]
async fn errors_of_batches_checks_and_steps_outside_a_transaction_have_their_place_too() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t SELECT i, 5 - i FROM generate_series(1, 9) i",
    )
    .await;
    let sql = "UPDATE t SET n = 1\nWHERE :batch AND :batch AND none = 1";
    let step = batch_step("t", sql, 2, 10, 1);
    let error = refusal(lab.work(1, plan_task(&step, 0)).await);
    assert_eq!(place(&error), (1, 1, "UPDATE t SET n = 1", 1));
    let step = batch_step("t", "-- which fails in the third batch\nUPDATE t SET n = 1 / n WHERE :batch", 2, 10, 1);
    let planned = lab.plan(&step).await;
    let error = refusal(lab.work(2, range_task(&step, &planned, &planned.ranges[0])).await);
    assert_eq!((error.sqlstate.as_str(), place(&error).0), ("22012", 2), "{error:?}");
    assert!(error.rows.contains("(4)"), "{error:?}");

    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let error = refusal(lab.work(3, atomic_task(vec![sql_step("SELECT 1")], &[], &["SELECT true\n  AND none"])).await);
    assert_eq!(place(&error), (2, 7, "  AND none", 1));
    let mut outside = sql_step("VACUUM\n  none");
    outside.kind = StepKind::SqlNoTransaction.into();
    outside.name = "outside".to_owned();
    let error = refusal(lab.work(1, statement_task(outside)).await);
    assert_eq!(place(&error).3, 1, "{error:?}");
}
