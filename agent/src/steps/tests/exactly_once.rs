//! Ranges, stripes and batches together transform each row exactly once, however often the work is cut short.

use std::time::Duration;

use dunlin_proto::v1::Step;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::steps::{Ended, Error};
use crate::testing::{Lab, batch_step, plan_task, range_task};
use crate::transform::{self, Batch, Outcome, Transform};

const UPDATE: &str = "UPDATE t SET n = n * 3 + 1 WHERE :batch";

/// Works on a task with one lease after the other; each is dropped after a random time, some right at the start.
async fn interrupted(lab: &Lab, rng: &mut StdRng, task: dunlin_proto::v1::grant::Task, longest: u64) -> (Ended, i64) {
    for epoch in 1.. {
        // The first lease never gets to the end; the later ones get more and more time, so that a slow machine does.
        let more: u64 = if epoch == 1 { 3_000 } else { longest + u64::try_from(epoch).unwrap() * 5_000 };
        let limit = Duration::from_micros(rng.random_range(0..more));
        // Dropping the future cuts the connection wherever the batch stands, also between COMMIT and its answer.
        match tokio::time::timeout(limit, lab.work(epoch, task.clone())).await {
            Err(_) | Ok(Err(Error::Moved | Error::Unreachable(_) | Error::Lost(_))) => {}
            Ok(Ok(ended)) => return (ended, epoch),
            Ok(Err(error)) => panic!("{error:?}"),
        }
    }
    unreachable!("epochs do not end")
}

async fn once(seed: u64, columns: &str, key: &str, rows: &str, step: &Step, lab: Lab) -> Lab {
    once_within(150_000, seed, columns, key, rows, step, lab).await
}

/// `longest` is the time of a lease in microseconds, to begin with.
async fn once_within(longest: u64, seed: u64, columns: &str, key: &str, rows: &str, step: &Step, mut lab: Lab) -> Lab {
    let mut rng = StdRng::seed_from_u64(seed);
    lab.sql(&format!("CREATE TABLE t ({columns}, n bigint NOT NULL DEFAULT 5, PRIMARY KEY ({key}))")).await;
    lab.sql(&format!("INSERT INTO t SELECT {rows} ON CONFLICT DO NOTHING")).await;
    let count = lab.number("SELECT count(*) FROM t").await;
    let planned = lab.plan(step).await;
    let (mut total, mut interruptions) = (0, 0);
    for range in &planned.ranges {
        let (ended, epochs) = interrupted(&lab, &mut rng, range_task(step, &planned, range), longest).await;
        let Ended::Done { rows, rows_walked, .. } = ended else { panic!("{ended:?}") };
        assert_eq!(rows_walked, range.rows_total, "seed {seed}");
        total += rows;
        interruptions += epochs - 1;
    }
    assert_eq!(total, count, "seed {seed}");
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n <> 16").await, 0, "seed {seed}");
    assert!(interruptions > 0, "nothing was interrupted: the test proves nothing");
    lab
}

#[tokio::test]
async fn integer_keys_with_gaps() {
    for (seed, stripes) in [(1, 1), (2, 4), (3, 8)] {
        let step = batch_step("t", UPDATE, 20, 1000, stripes);
        let rows = "(random() * 5000)::bigint - 2000 FROM generate_series(1, 3000)";
        once(seed, "id bigint", "id", rows, &step, Lab::new().await).await;
    }
}

#[tokio::test]
async fn dense_integer_keys() {
    let step = batch_step("t", UPDATE, 20, 1000, 5);
    once(4, "id bigint", "id", "i FROM generate_series(1, 2500) i", &step, Lab::new().await).await;
}

/// The agent's own choice.
#[tokio::test]
async fn stripes_of_pages_that_are_alike() {
    let step = batch_step("t", UPDATE, 20, 1000, 0);
    let lab = Lab::new().await;
    let columns = "id bigint, filler text DEFAULT repeat('x', 300)";
    let lab = once_within(600_000, 8, columns, "id", "i - 700 FROM generate_series(1, 2500) i", &step, lab).await;
    let fitted =
        "SELECT count(*) FROM dunlin.checkpoints WHERE cursor #>> '{window,stripes}' = '[5, 9, 13, 17, 20, 23]'";
    // A page has 23 rows. Where a lease ended late in its range, too few rows were left for the next one to tell.
    assert!(lab.number(fitted).await > 0, "no range ended with such stripes");
}

#[tokio::test]
async fn random_uuids() {
    for (seed, stripes) in [(5, 0), (6, 3)] {
        let step = batch_step("t", UPDATE, 20, 700, stripes);
        once(seed, "id uuid", "id", "gen_random_uuid() FROM generate_series(1, 2000)", &step, Lab::new().await).await;
    }
}

#[tokio::test]
async fn keys_of_several_columns() {
    let step = batch_step("t", UPDATE, 20, 700, 3);
    let rows = "chr(97 + (random() * 5)::int), (random() * 3000)::int FROM generate_series(1, 2000)";
    once(7, "a text, b int", "a, b", rows, &step, Lab::new().await).await;
}

/// The same in code.
struct Triple;

#[async_trait::async_trait]
impl Transform for Triple {
    async fn apply(
        &self,
        batch: &Batch,
        transaction: &tokio_postgres::Transaction<'_>,
    ) -> Result<Outcome, transform::Error> {
        let sql = format!("UPDATE {} AS x SET n = n * 3 + 1 WHERE {}", batch.table(), batch.predicate("x"));
        Ok(Outcome::rows(transaction.execute(&sql, &[]).await?))
    }
}

#[tokio::test]
async fn transforms_in_code() {
    let mut lab = Lab::new().await;
    lab.transform("triple", Triple);
    let mut step = batch_step("t", "", 20, 700, 2);
    step.kind = dunlin_proto::v1::StepKind::Transform.into();
    step.transform = "triple".to_owned();
    once(8, "id bigint", "id", "i * 3 FROM generate_series(1, 2000) i", &step, lab).await;
}

#[tokio::test]
async fn a_plan_that_is_interrupted_cuts_every_row_into_one_range() {
    let mut rng = StdRng::seed_from_u64(9);
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint DEFAULT 5); INSERT INTO t SELECT i FROM generate_series(1, 20000) i").await;
    let step = batch_step("t", UPDATE, 100, 100, 0);
    let mut epoch = 0;
    loop {
        epoch += 1;
        let limit = Duration::from_micros(rng.random_range(0..150_000));
        let ended = tokio::time::timeout(limit, lab.work(epoch, plan_task(&step, 0))).await;
        if let Ok(Ok(Ended::Done { .. })) = ended {
            break;
        }
    }
    lab.sent();
    lab.work(epoch + 1, plan_task(&step, 0)).await.unwrap();
    let planned = lab.sent().1;
    assert_eq!(planned.ranges.len(), 200);
    assert!(planned.ranges.iter().all(|range| range.rows_total == 100));
    assert!(planned.ranges.windows(2).all(|pair| pair[0].high == pair[1].low));
}
