//! What newer versions of PostgreSQL have that older ones lack. On a server that lacks it a test has nothing to show.

use dunlin_proto::v1::Batch;

use crate::steps::Ended;
use crate::testing::{Lab, batch_step, plan_task, refusal, sql_step, statement_task};

async fn version(lab: &Lab) -> i64 {
    lab.number("SELECT current_setting('server_version_num')::bigint").await
}

#[tokio::test]
async fn a_limit_of_transactions_that_the_database_has_does_not_end_a_step() {
    let lab = Lab::new().await;
    if version(&lab).await < 170_000 {
        return;
    }
    let (_, name) = lab.url.rsplit_once('/').unwrap();
    lab.sql(&format!("ALTER DATABASE \"{name}\" SET transaction_timeout = 200")).await;
    let lab = lab.again_with_setting("application_name", "newer").await;
    let ended = lab.work(1, statement_task(sql_step("SELECT pg_sleep(0.6)"))).await;
    assert!(matches!(ended, Ok(Ended::Done { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_column_that_may_hold_null_since_its_constraint_was_never_validated_is_no_key() {
    let lab = Lab::new().await;
    if version(&lab).await < 180_000 {
        return;
    }
    lab.sql(
        "CREATE TABLE t (id bigint, n int);
         INSERT INTO t VALUES (1, 0), (NULL, 0);
         ALTER TABLE t ADD CONSTRAINT given NOT NULL id NOT VALID;
         CREATE UNIQUE INDEX ON t (id)",
    )
    .await;
    let mut step = batch_step("t", "UPDATE t SET n = 1 WHERE :batch", 10, 10, 1);
    step.batch = step.batch.map(|batch| Batch { key: vec!["id".to_owned()], ..batch });
    let refused = refusal(lab.work(1, plan_task(&step, 0)).await);
    assert!(refused.message.contains("which may be NULL"), "{refused:?}");
    lab.sql("DELETE FROM t WHERE id IS NULL; ALTER TABLE t VALIDATE CONSTRAINT given").await;
    let planned = lab.work(2, plan_task(&step, 0)).await;
    assert!(planned.is_ok(), "{planned:?}");
}
