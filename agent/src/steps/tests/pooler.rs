//! Work through PgBouncer in transaction mode, where each transaction can be in another process of the server, and other
//! clients leave things there.

use std::sync::Arc;

use async_trait::async_trait;
use dunlin_proto::v1::work_request::Message;
use dunlin_proto::v1::{Step, StepKind, TaskDone};
use tokio_postgres::Transaction;

use crate::steps::Ended;
use crate::target::Target;
use crate::testing::{Lab, atomic_task, batch_step, connect, range_task, refusal, sql_step, statement_task};
use crate::transform::{self, Batch, Outcome, Transform};

const TABLE: &str = "CREATE TYPE mood AS ENUM ('calm', 'cross');
    CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL, m mood NOT NULL);
    INSERT INTO t SELECT i, 5, 'calm' FROM generate_series(1, 200) i";

#[tokio::test]
async fn all_that_is_in_transactions_works_through_a_pooler() {
    let (mut lab, _pooler) = Lab::behind_a_pooler(3).await;
    assert!(lab.target.pooled());
    lab.sql(TABLE).await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 10, 100, 2);
    assert_eq!(lab.work_through(&step).await, 200);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 200);
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let task =
        atomic_task(vec![sql_step("UPDATE t SET n = n * 3 + 1")], &["SELECT true"], &["SELECT min(n) = 49 FROM t"]);
    let report = lab.perform(1, task).await;
    assert!(matches!(report, Message::Done(TaskDone { rows: 200, .. })), "{report:?}");
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 49").await, 200);
}

#[tokio::test]
async fn what_sql_leaves_in_its_session_is_not_handed_to_other_clients() {
    // One process of the server: whoever comes next gets it.
    let (lab, pooler) = Lab::behind_a_pooler(1).await;
    let sql = "SET search_path = nowhere; SET work_mem = '77MB'; CREATE TEMP TABLE left_behind (n int)";
    lab.work(1, statement_task(sql_step(sql))).await.unwrap();
    let other = connect(&pooler.url(&lab.url)).await;
    let told = other
        .simple_query(
            "SELECT current_setting('work_mem') <> '77MB' AND to_regclass('pg_temp.left_behind') IS NULL AS clean",
        )
        .await
        .unwrap();
    let clean = told.iter().any(
        |message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get("clean") == Some("t")),
    );
    assert!(clean, "{told:?}");
}

/// Uses prepared statements, and a type that the client library must look up.
struct Moody;

#[async_trait]
impl Transform for Moody {
    async fn apply(&self, batch: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        let sql = format!("SELECT id, m FROM {} AS x WHERE {}", batch.table(), batch.predicate("x"));
        let mut rows = 0;
        for row in transaction.query(&sql, &[]).await? {
            let id: i64 = row.get("id");
            rows += transaction.execute("UPDATE t SET n = n * 3 + 1 WHERE id = $1", &[&id]).await?;
        }
        Ok(Outcome::rows(rows))
    }
}

#[tokio::test]
async fn code_may_prepare_statements_behind_a_pooler_although_others_have_left_the_same_names() {
    let (mut lab, pooler) = Lab::behind_a_pooler(2).await;
    lab.sql(TABLE).await;
    lab.transform("moody", Moody);
    // Other agents have left their names in both processes of the server: those that the client library is about to use.
    let (one, other) = (connect(&pooler.url(&lab.url)).await, connect(&pooler.url(&lab.url)).await);
    let names: Vec<String> = (0..3000).map(|number| format!("PREPARE s{number} AS SELECT 1")).collect();
    for client in [&one, &other] {
        client.batch_execute(&format!("BEGIN; {}", names.join(";"))).await.unwrap();
    }
    for client in [&one, &other] {
        client.batch_execute("COMMIT").await.unwrap();
    }
    let step =
        Step { kind: StepKind::Transform.into(), transform: "moody".to_owned(), ..batch_step("t", "", 20, 100, 0) };
    let planned = lab.plan(&step).await;
    for range in &planned.ranges {
        // Somebody keeps one process of the server busy, now and then, so that batches are in different ones.
        let busy = connect(&pooler.url(&lab.url)).await;
        busy.batch_execute("BEGIN; SELECT 1").await.unwrap();
        let ended = lab.work(1, range_task(&step, &planned, range)).await.unwrap();
        assert!(matches!(ended, Ended::Done { .. }), "{ended:?}");
        busy.batch_execute("COMMIT").await.unwrap();
    }
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 200);
}

fn build() -> Step {
    Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step("CREATE INDEX CONCURRENTLY t_n ON t (n)") }
}

const BUILT: &str = "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('t_n')";

#[tokio::test]
async fn a_step_outside_a_transaction_is_refused_behind_a_pooler_and_leaves_nothing() {
    let (lab, _pooler) = Lab::behind_a_pooler(2).await;
    lab.sql(TABLE).await;
    let refused = refusal(lab.work(1, statement_task(build())).await);
    assert!(refused.message.contains("direct connection"), "{refused:?}");
    assert!(refused.next.contains("--direct"), "{refused:?}");
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.checkpoints").await, 0);
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                 WHERE d.datname = current_database() AND l.locktype = 'advisory'";
    assert_eq!(lab.number(locks).await, 0);
    assert_eq!(lab.number(BUILT).await, 0);
}

#[tokio::test]
async fn a_direct_connection_carries_a_step_outside_a_transaction_past_the_pooler() {
    let (mut lab, pooler) = Lab::behind_a_pooler(2).await;
    lab.sql(TABLE).await;
    let way = |direct: &str| {
        let target = Target::new(lab.target.name().clone(), &pooler.url(&lab.url), 2).unwrap();
        Arc::new(target.with_direct(direct).unwrap())
    };
    // The direct way must be one, and to the same database.
    let (through, elsewhere, past) = (
        way(&pooler.url(&lab.url)),
        way(&lab.url.replace("/pooled_", "/postgres?application_name=pooled_")),
        way(&lab.url),
    );
    for target in [&through, &elsewhere, &past] {
        target.trust(std::time::Duration::from_secs(20)).await;
    }
    lab.target = through;
    let refused = refusal(lab.work(1, statement_task(build())).await);
    assert!(refused.message.contains("direct connection"), "{refused:?}");
    lab.target = elsewhere;
    let refused = refusal(lab.work(2, statement_task(build())).await);
    assert!(refused.message.contains("another database"), "{refused:?}");
    lab.target = past;
    let ended = lab.work(3, statement_task(build())).await.unwrap();
    assert!(matches!(ended, Ended::Done { already_done: false, .. }), "{ended:?}");
    assert_eq!(lab.number(BUILT).await, 1);
}
