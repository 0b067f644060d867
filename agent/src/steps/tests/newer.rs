//! What newer versions of PostgreSQL have that older ones lack. On a server that lacks it a test has nothing to show.

use std::time::Duration;

use dunlin_proto::v1::work_request::Message;
use dunlin_proto::v1::{Step, StepKind};
use tokio_postgres::Transaction;

use crate::steps::Ended;
use crate::testing::{Lab, batch_step, plan_task, range_task, refusal, sql_step, statement_task};
use crate::transform::{self, Batch, Outcome, Transform};

async fn version(lab: &Lab) -> i64 {
    lab.number("SELECT current_setting('server_version_num')::bigint").await
}

#[tokio::test]
async fn a_limit_of_transactions_that_the_database_has_ends_a_step_unless_its_sql_says_another() {
    let lab = Lab::new().await;
    if version(&lab).await < 170_000 {
        return;
    }
    let (_, name) = lab.url.rsplit_once('/').unwrap();
    lab.sql(&format!("ALTER DATABASE \"{name}\" SET transaction_timeout = '1s'")).await;
    let mut lab = lab.again_with_setting("application_name", "newer").await;
    let Message::Failed(failed) = lab.perform(1, statement_task(sql_step("SELECT pg_sleep(20)"))).await else {
        panic!("it succeeded")
    };
    let error = failed.error.unwrap();
    assert_eq!((failed.retryable, error.sqlstate.as_str()), (false, "25P04"), "{error:?}");
    assert!(error.next.contains("SET LOCAL transaction_timeout"), "{error:?}");
    let own = sql_step("SET LOCAL transaction_timeout = 0; SELECT pg_sleep(1.6)");
    let ended = lab.work(2, statement_task(own)).await;
    assert!(matches!(ended, Ok(Ended::Done { .. })), "{ended:?}");

    // Outside a transaction it is set aside, and that is said.
    lab.sql("DELETE FROM dunlin.checkpoints; CREATE PROCEDURE slow() LANGUAGE sql AS 'SELECT pg_sleep(1.6)'").await;
    lab.sent();
    let outside = Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step("CALL slow()") };
    let ended = lab.work(1, statement_task(outside)).await;
    assert!(matches!(ended, Ok(Ended::Done { .. })), "{ended:?}");
    let notes = lab.sent().0;
    assert!(notes.iter().any(|note| note.message.contains("transaction_timeout (1s)")), "{notes:?}");
}

/// Code that leaves its transaction alone until it is ended.
struct Sleeper;

#[async_trait::async_trait]
impl Transform for Sleeper {
    async fn apply(&self, _: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        while !transaction.client().is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        transaction.batch_execute("SELECT 1").await?;
        Ok(Outcome::rows(0))
    }
}

#[tokio::test]
async fn a_transaction_that_ran_out_of_time_while_nothing_was_executed_ends_the_step_as_well() {
    let mut lab = Lab::new().await;
    if version(&lab).await < 170_000 {
        return;
    }
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t VALUES (1, 1)").await;
    let step = Step {
        kind: StepKind::Transform.into(),
        transform: "sleeper".to_owned(),
        sql: String::new(),
        ..batch_step("t", "", 50, 1000, 1)
    };
    let planned = lab.plan(&step).await;
    let (_, name) = lab.url.rsplit_once('/').unwrap();
    lab.sql(&format!("ALTER DATABASE \"{name}\" SET transaction_timeout = '1s'")).await;
    // It holds for sessions that begin from now on.
    let mut lab = lab.again_with_setting("application_name", "newer").await;
    lab.transform("sleeper", Sleeper);
    let Message::Failed(failed) = lab.perform(1, range_task(&step, &planned, &planned.ranges[0])).await else {
        panic!("it succeeded")
    };
    assert_eq!((failed.retryable, failed.error.unwrap().sqlstate.as_str()), (false, "25P04"));
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
    step.batch = step.batch.map(|batch| dunlin_proto::v1::Batch { key: vec!["id".to_owned()], ..batch });
    let refused = refusal(lab.work(1, plan_task(&step, 0)).await);
    assert!(refused.message.contains("which may be NULL"), "{refused:?}");
    lab.sql("DELETE FROM t WHERE id IS NULL; ALTER TABLE t VALIDATE CONSTRAINT given").await;
    let planned = lab.work(2, plan_task(&step, 0)).await;
    assert!(planned.is_ok(), "{planned:?}");
}
