//! What counts as the index that a step builds: one of the same definition, and nothing else of that name.

use dunlin_proto::v1::{Step, StepKind};

use crate::testing::{Lab, refusal, sql_step, statement_task};

fn outside(sql: &str) -> Step {
    Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step(sql) }
}

async fn lab() -> Lab {
    let lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE whole (id bigint PRIMARY KEY, n int, m int, b text) PARTITION BY RANGE (id);
         CREATE TABLE t PARTITION OF whole FOR VALUES FROM (0) TO (1000);
         INSERT INTO t SELECT i, i, -i, i FROM generate_series(1, 100) i",
    )
    .await;
    lab
}

/// An attempt at a step has begun, and nobody knows how it ended.
async fn begun(lab: &Lab, sql: &str) {
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let checkpoint = "INSERT INTO dunlin.checkpoints (migration, step, range, kind, epoch, checksum, run_id)
                      VALUES ('sample', 'change', 0, 'statement', 1, $1, 1)";
    lab.client.execute(checkpoint, &[&sql]).await.unwrap();
}

#[tokio::test]
async fn only_an_index_with_the_definition_of_the_step_counts_as_built_by_an_attempt_whose_end_was_not_recorded() {
    let mut lab = lab().await;
    for (wanted, other) in [
        ("INDEX CONCURRENTLY i ON t (n)", "INDEX i ON t (m)"),
        ("INDEX CONCURRENTLY i ON t (n, m)", "INDEX i ON t (m, n)"),
        ("UNIQUE INDEX CONCURRENTLY i ON t (n)", "INDEX i ON t (n)"),
        ("INDEX CONCURRENTLY i ON t (n) WHERE n > 10", "INDEX i ON t (n) WHERE n > 11"),
        ("INDEX CONCURRENTLY i ON t (lower(b))", "INDEX i ON t (upper(b))"),
        ("INDEX CONCURRENTLY i ON t (n) INCLUDE (m)", "INDEX i ON t (n, m)"),
        ("INDEX CONCURRENTLY i ON t (b text_pattern_ops)", "INDEX i ON t (b)"),
        ("INDEX CONCURRENTLY i ON t (b COLLATE \"C\")", "INDEX i ON t (b)"),
        ("INDEX CONCURRENTLY i ON t USING hash (n)", "INDEX i ON t (n)"),
        ("INDEX CONCURRENTLY i ON t (n DESC NULLS LAST)", "INDEX i ON t (n)"),
        ("INDEX CONCURRENTLY i ON t (n) WITH (fillfactor = 70)", "INDEX i ON t (n)"),
    ] {
        let wanted = format!("CREATE {wanted}");
        begun(&lab, &wanted).await;
        lab.sql(&format!("CREATE {other}")).await;
        lab.sent();
        let error = refusal(lab.work(2, statement_task(outside(&wanted))).await);
        for said in ["There is: CREATE ", "The step describes: CREATE "] {
            assert!(error.message.contains(said), "{wanted}: {error:?}");
        }
        assert!(error.next.contains(r#"DROP INDEX CONCURRENTLY "public"."i""#), "{wanted}: {error:?}");
        assert!(lab.sent().0.is_empty(), "{wanted}");

        lab.sql("DROP INDEX i").await;
        lab.work(3, statement_task(outside(&wanted))).await.unwrap();
        begun(&lab, &wanted).await;
        lab.sent();
        lab.work(4, statement_task(outside(&wanted))).await.unwrap();
        let notes = lab.sent().0;
        assert!(notes[0].message.ends_with("counts as done"), "{wanted}: {notes:?}");
        lab.sql("DROP INDEX i").await;
    }
    assert_eq!(lab.number("SELECT count(*) FROM pg_class WHERE relname LIKE 'dunlin_compared%'").await, 0);
}

#[tokio::test]
async fn an_index_that_cannot_be_compared_counts_as_built_and_that_is_said() {
    let mut lab = lab().await;
    lab.sql("CREATE FUNCTION whole_row(t) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1.n'").await;
    let build = "CREATE INDEX CONCURRENTLY i ON t (whole_row(t.*))";
    lab.work(1, statement_task(outside(build))).await.unwrap();
    assert!(lab.sent().0.is_empty(), "nobody else can have built it");
    begun(&lab, build).await;
    lab.work(2, statement_task(outside(build))).await.unwrap();
    let notes = lab.sent().0;
    assert!(notes[0].message.contains("could not be compared"), "{notes:?}");
}

#[tokio::test]
async fn an_index_of_an_earlier_text_is_not_taken_for_that_of_a_step_that_is_carried_out_again() {
    let mut lab = lab().await;
    lab.work(1, statement_task(outside("CREATE INDEX CONCURRENTLY i ON t (n)"))).await.unwrap();
    lab.mending.redo_steps = vec!["change".to_owned()];
    lab.mending.request_id = "again".to_owned();
    let other = outside("CREATE INDEX CONCURRENTLY i ON t (m)");
    let error = refusal(lab.work(11, statement_task(other.clone())).await);
    assert!(error.message.contains("ON public.t USING btree (n). The step describes"), "{error:?}");
    lab.sql("DROP INDEX i").await;
    lab.work(12, statement_task(other)).await.unwrap();
    assert!(lab.row("SELECT pg_get_indexdef('i'::regclass)").await.get::<_, &str>(0).contains("(m)"));
}

#[tokio::test]
async fn an_index_that_a_reindex_has_left_out_fails_the_step() {
    let lab = lab().await;
    lab.sql("INSERT INTO t VALUES (900, 1)").await;
    lab.client.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY i ON t (n)").await.unwrap_err();
    for (epoch, table) in [(1, "t"), (2, "whole")] {
        let task = statement_task(outside(&format!("REINDEX TABLE CONCURRENTLY {table}")));
        let error = refusal(lab.work(epoch, task).await);
        assert!(error.message.contains(r#""public"."i" is not valid"#), "{table}: {error:?}");
        assert!(error.next.contains(r#"DROP INDEX CONCURRENTLY "public"."i""#), "{table}: {error:?}");
        lab.sql("DELETE FROM dunlin.checkpoints").await;
    }
    let build = statement_task(outside("REINDEX INDEX CONCURRENTLY i"));
    assert_eq!(refusal(lab.work(3, build.clone()).await).sqlstate, "23505");
    lab.sql("DELETE FROM t WHERE id = 900").await;
    lab.work(4, build).await.unwrap();
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    lab.work(5, statement_task(outside("REINDEX TABLE CONCURRENTLY t"))).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM pg_index WHERE NOT indisvalid").await, 0);
}
