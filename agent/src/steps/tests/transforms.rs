use async_trait::async_trait;
use dunlin_proto::v1::{EventType, Step, StepKind};
use tokio_postgres::Transaction;

use crate::steps::Error;
use crate::testing::{Lab, batch_step, range_task, refusal};
use crate::transform::{self, Batch, Outcome, Transform};

struct Count;

#[async_trait]
impl Transform for Count {
    async fn apply(&self, batch: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        let sql = format!("UPDATE {} AS x SET n = 1 WHERE {}", batch.table(), batch.predicate("x"));
        let rows = transaction.execute(&sql, &[]).await?;
        assert_eq!(batch.key().collect::<Vec<_>>(), ["id"]);
        Ok(Outcome::rows(rows).count("seen", rows).count("batches", 1))
    }
}

struct Panics;

#[async_trait]
impl Transform for Panics {
    async fn apply(&self, _: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        transaction.execute("UPDATE t SET n = 9", &[]).await?;
        panic!("out of cheese")
    }
}

struct Fails(&'static str);

#[async_trait]
impl Transform for Fails {
    async fn apply(&self, _: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        match self.0 {
            "words" => Err(transform::Error::other("no author is called that")),
            "sql" => {
                transaction.execute("SELECT 1 / 0", &[]).await?;
                Ok(Outcome::default())
            }
            "swallowed" => {
                let _lost = transaction.execute("SELECT 1 / 0", &[]).await;
                Ok(Outcome::default())
            }
            "reserved" => Ok(Outcome::rows(1).count("rows", 1)),
            _ => {
                transaction.batch_execute("UPDATE t SET n = 9; COMMIT; BEGIN").await?;
                Ok(Outcome::rows(1))
            }
        }
    }
}

fn step(name: &str) -> Step {
    Step { kind: StepKind::Transform.into(), transform: name.to_owned(), ..batch_step("t", "", 10, 100, 0) }
}

async fn lab() -> Lab {
    let lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t SELECT i, i FROM generate_series(1, 95) i")
        .await;
    lab
}

#[tokio::test]
async fn counters_add_up_over_batches() {
    let mut lab = lab().await;
    lab.transform("count", Count);
    lab.work_through(&step("count")).await;
    let counters: serde_json::Value = lab.row("SELECT counters FROM dunlin.checkpoints WHERE range = 1").await.get(0);
    assert_eq!(counters, serde_json::json!({"seen": 95, "batches": 10}));
}

#[tokio::test]
async fn the_server_has_nothing_to_say_of_how_batches_are_committed() {
    let mut lab = lab().await;
    lab.transform("count", Count);
    lab.work_through(&step("count")).await;
    let notes = lab.sent().0;
    let said: Vec<_> = notes.iter().filter(|note| note.r#type() == EventType::ServerMessage).collect();
    assert!(said.is_empty(), "{said:?}");
}

#[tokio::test]
async fn what_goes_wrong_in_code_fails_the_batch_and_leaves_no_trace() {
    for (name, what) in [
        ("panics", "out of cheese"),
        ("words", "no author is called that"),
        ("sql", "division by zero"),
        ("swallowed", "current transaction is aborted"),
        ("reserved", "\"rows\""),
        ("missing", "no transform `missing`"),
    ] {
        let mut lab = lab().await;
        lab.transform("panics", Panics);
        for name in ["words", "sql", "swallowed", "reserved"] {
            lab.transform(name, Fails(name));
        }
        let step = step(name);
        let planned = lab.plan(&step).await;
        let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
        assert!(error.message.contains(what), "{name}: {}", error.message);
        assert_eq!(lab.number("SELECT count(*) FROM t WHERE n <> id").await, 0, "{name}");
        assert_eq!(lab.number("SELECT sum(batches)::bigint FROM dunlin.checkpoints WHERE range = 1").await, 0);
    }
}

#[tokio::test]
async fn code_that_commits_by_itself_is_found_out() {
    let mut lab = lab().await;
    lab.transform("commits", Fails("commits"));
    let step = step("commits");
    let planned = lab.plan(&step).await;
    let ended = lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await;
    assert!(matches!(&ended, Err(Error::Final(error)) if error.message.contains("ended the transaction")), "{ended:?}");
}
