//! Steps under another isolation level.

use std::sync::Arc;

use async_trait::async_trait;
use dunlin_proto::v1::{Isolation, StatementTask, Step, StepKind, grant};
use dunlin_shared::ids::RunId;
use tokio_postgres::Transaction;

use crate::steps::{Ended, Error};
use crate::testing::{Lab, atomic_task, batch_step, checks, refusal, sql_step, statement_task, until};
use crate::transform::{self, Batch, Outcome, Transform};

fn serializable(step: Step) -> Step {
    Step { isolation: Isolation::Serializable.into(), ..step }
}

const NOTES: &str = "INSERT INTO seen SELECT current_setting('transaction_isolation')";

struct Notes;

#[async_trait]
impl Transform for Notes {
    async fn apply(&self, _: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        Ok(Outcome::rows(transaction.execute(NOTES, &[]).await?))
    }
}

#[tokio::test]
async fn steps_of_every_kind_have_the_isolation_that_they_say() {
    let mut lab = Lab::new().await;
    lab.transform("notes", Notes);
    lab.sql("CREATE TABLE seen (level text); CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let mut whole = atomic_task(vec![sql_step(NOTES), sql_step(NOTES)], &["SELECT true"], &["SELECT true"]);
    if let grant::Task::Statement(StatementTask { seal: Some(seal), .. }) = &mut whole {
        seal.migration.as_mut().unwrap().isolation = Isolation::Serializable.into();
    }
    lab.work(1, whole).await.unwrap();
    lab.sql("DELETE FROM dunlin.migrations_registry").await;
    lab.work(1, statement_task(serializable(sql_step(NOTES)))).await.unwrap();
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let notes = format!("{NOTES} FROM t WHERE :batch");
    lab.work_through(&serializable(batch_step("t", &notes, 10, 100, 1))).await;
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let code =
        Step { kind: StepKind::Transform.into(), transform: "notes".to_owned(), ..batch_step("t", "", 10, 100, 1) };
    lab.work_through(&serializable(code)).await;
    assert_eq!(lab.number("SELECT count(*) FROM seen WHERE level = 'serializable'").await, 5);
    assert_eq!(lab.number("SELECT count(*) FROM seen").await, 5);
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let repeatable = Step { isolation: Isolation::RepeatableRead.into(), ..sql_step(NOTES) };
    lab.work(1, statement_task(repeatable)).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM seen WHERE level = 'repeatable read'").await, 1);
}

#[tokio::test]
async fn a_level_that_this_agent_does_not_know_is_refused() {
    let lab = Lab::new().await;
    let refused = refusal(lab.work(1, statement_task(Step { isolation: 99, ..sql_step("SELECT 1") })).await);
    assert!(refused.message.contains("99 is not known"), "{refused:?}");
}

#[tokio::test]
async fn a_serializable_step_that_failed_is_begun_anew_with_its_checks() {
    let lab = Lab::new().await;
    let task = |sql: &str, check: &str| {
        grant::Task::Statement(StatementTask {
            before: checks(&[check]),
            steps: vec![serializable(sql_step(sql))],
            seal: None,
        })
    };
    refusal(lab.work(1, task("SELECT 1 / 0", "SELECT true")).await);
    let refused = refusal(lab.work(2, task("SELECT 1 / 0", "SELECT false")).await);
    assert_eq!(refused.check, "it holds", "{refused:?}");
    lab.work(3, task("SELECT 1", "SELECT true")).await.unwrap();
}

/// A serializable transaction does not see what is committed after its beginning: not that another lease took the task either.
#[tokio::test]
async fn a_serializable_step_whose_lease_was_taken_meanwhile_cannot_commit() {
    for atomic in [false, true] {
        let lab = Arc::new(Lab::new().await);
        lab.sql("CREATE TABLE t (n bigint); INSERT INTO t VALUES (5); CREATE TABLE gate (n int)").await;
        let sql = "LOCK TABLE gate IN ROW SHARE MODE; UPDATE t SET n = n * 3 + 1";
        let task = move || {
            let step = serializable(sql_step(sql));
            if atomic { atomic_task(vec![step], &[], &[]) } else { statement_task(step) }
        };
        lab.sql("BEGIN; LOCK TABLE gate").await;
        let older = tokio::spawn({
            let lab = Arc::clone(&lab);
            async move { lab.work(1, task()).await }
        });
        until(&lab.client, "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = 'gate'::regclass").await;
        // The newer lease takes the task and stands still, as if its statement lasted long.
        lab.sql("UPDATE dunlin.checkpoints SET epoch = 2; COMMIT").await;
        let ended = older.await.unwrap();
        assert!(matches!(ended, Err(Error::Passing(_) | Error::Moved)), "{ended:?}");
        assert_eq!(lab.number("SELECT n FROM t").await, 5, "nothing of it was committed");
        let newer = lab.work(3, task()).await.unwrap();
        assert!(matches!(newer, Ended::Done { .. }), "{newer:?}");
        assert_eq!(lab.number("SELECT n FROM t").await, 16);
        assert_eq!(lab.run, RunId(1));
    }
}
