//! What is told of a task while it works: what it waits for, and how far PostgreSQL is.

use std::time::Duration;

use async_trait::async_trait;
use dunlin_proto::v1::{LeaseProgress, StepKind};
use dunlin_shared::postgres::throwaway::Server;
use tokio_postgres::Transaction;

use crate::testing::{Lab, batch_step, connect, range_task, sql_step, statement_task};
use crate::transform::{self, Batch, Outcome, Transform};
use crate::worker;

/// Waits until what would be told of the newest lease is so.
async fn told(lab: &Lab, so: impl Fn(&LeaseProgress) -> bool) {
    let newest = || lab.book().all().into_iter().max_by_key(|told| told.lease.map(|lease| lease.task_id));
    let wait = async {
        while !newest().is_some_and(|told| so(&told)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), wait).await;
    told.unwrap_or_else(|_| panic!("never told: {:?}", newest()));
}

fn phase(told: &LeaseProgress) -> &str {
    told.activity.as_ref().map_or("", |activity| activity.phase.as_str())
}

async fn filled() -> Lab {
    let lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 100) i",
    )
    .await;
    lab
}

#[tokio::test]
async fn a_concurrent_build_tells_its_phase_and_whom_it_waits_for() {
    let lab = filled().await;
    let writer = connect(&lab.url).await;
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (1000, 1)").await.unwrap();
    let build = dunlin_proto::v1::Step {
        kind: StepKind::SqlNoTransaction.into(),
        ..sql_step("CREATE INDEX CONCURRENTLY t_n ON t (n)")
    };
    let task = statement_task(build);
    let working = worker::work(lab.context_of(1, &task), task);
    let watching = async {
        told(&lab, |told| {
            let counted = told.activity.as_ref().map(|activity| (activity.total, activity.unit.as_str()));
            phase(told) == "waiting for writers before build" && counted == Some((1, "transactions"))
        })
        .await;
        told(&lab, |told| told.waits.starts_with("for the end of a transaction; in the way: pid ")).await;
        writer.batch_execute("COMMIT").await.unwrap();
    };
    tokio::join!(working, watching);
    assert_eq!(lab.number("SELECT count(*) FROM pg_index WHERE indisvalid AND indexrelid = 't_n'::regclass").await, 1);
}

#[tokio::test]
async fn a_vacuum_tells_how_much_of_the_table_it_has_scanned() {
    let lab = Lab::with_setting("vacuum_cost_delay", "100").await;
    lab.sql(
        "CREATE TABLE t (id bigint); INSERT INTO t SELECT generate_series(1, 200000); DELETE FROM t WHERE id % 2 = 0",
    )
    .await;
    let vacuum = dunlin_proto::v1::Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step("VACUUM t") };
    let task = statement_task(vacuum);
    let scanned = told(&lab, |told| {
        let activity = told.activity.clone().unwrap_or_default();
        activity.phase == "scanning heap"
            && activity.done > 0
            && activity.done < activity.total
            && activity.unit == "blocks"
    });
    tokio::select! {
        () = worker::work(lab.context_of(1, &task), task.clone()) => panic!("it was not seen"),
        () = scanned => {}
    }
}

struct Hangs;

#[async_trait]
impl Transform for Hangs {
    async fn apply(&self, _: &Batch, _: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_statement_that_postgresql_executes_is_a_sign_of_life_and_code_that_hangs_is_none() {
    let mut lab = filled().await;
    let sleeps = statement_task(sql_step("SELECT pg_sleep(60)"));
    tokio::select! {
        () = worker::work(lab.context_of(1, &sleeps), sleeps.clone()) => panic!("it sleeps"),
        () = told(&lab, |told| told.alive > 10) => {}
    }
    lab.transform("hangs", Hangs);
    let step = dunlin_proto::v1::Step {
        kind: StepKind::Transform.into(),
        transform: "hangs".to_owned(),
        ..batch_step("t", "", 10, 100, 0)
    };
    let planned = lab.plan(&step).await;
    let hangs = range_task(&step, &planned, &planned.ranges[0]);
    let alive =
        || lab.book().all().into_iter().max_by_key(|told| told.lease.map(|lease| lease.task_id)).map(|told| told.alive);
    let stands_still = async {
        loop {
            let before = alive();
            tokio::time::sleep(Duration::from_secs(2)).await;
            if before.is_some() && alive() == before {
                return;
            }
        }
    };
    tokio::select! {
        () = worker::work(lab.context_of(2, &hangs), hangs.clone()) => panic!("it hangs"),
        stands = tokio::time::timeout(Duration::from_secs(60), stands_still) => stands.unwrap(),
    }
}

#[tokio::test]
async fn an_index_in_a_transaction_tells_its_phase_too() {
    let lab = filled().await;
    lab.sql("CREATE FUNCTION slow(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN $1; END $$")
        .await;
    let task = statement_task(sql_step("CREATE INDEX t_slow ON t (slow(n))"));
    tokio::select! {
        () = worker::work(lab.context_of(1, &task), task.clone()) => panic!("it was not seen"),
        () = told(&lab, |told| phase(told) == "building index: scanning table") => {}
    }
}

#[tokio::test]
async fn a_batch_that_waits_for_a_row_tells_it_while_it_waits_and_no_longer() {
    let mut lab = filled().await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 FROM (SELECT pg_sleep(0.02)) s WHERE :batch", 1, 1000, 1);
    let planned = lab.plan(&step).await;
    let holder = connect(&lab.url).await;
    holder
        .batch_execute("SET application_name = 'holder'; BEGIN; SELECT FROM t WHERE id = 5 FOR UPDATE")
        .await
        .unwrap();
    let task = range_task(&step, &planned, &planned.ranges[0]);
    let working = worker::work(lab.context_of(1, &task), task);
    let watching = async {
        told(&lab, |told| {
            told.waits.starts_with("for a row of public.t; in the way: pid ") && told.waits.contains("holder")
        })
        .await;
        holder.batch_execute("COMMIT").await.unwrap();
        told(&lab, |told| told.waits.is_empty()).await;
    };
    tokio::join!(working, watching);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 100);
}

#[tokio::test]
async fn a_plan_that_waits_for_writers_of_before_tells_it() {
    let lab = filled().await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 10, 1000, 1);
    let writer = connect(&lab.url).await;
    writer.batch_execute("BEGIN; UPDATE t SET n = n WHERE id = 100").await.unwrap();
    let task = crate::testing::plan_task(&step, 0);
    let working = worker::work(lab.context_of(1, &task), task);
    let watching = async {
        told(&lab, |told| told.waits.starts_with("for transactions that wrote to ") && told.waits.contains("process "))
            .await;
        writer.batch_execute("COMMIT").await.unwrap();
    };
    tokio::join!(working, watching);
}

#[tokio::test]
async fn a_commit_that_waits_for_a_standby_is_told() {
    let server = Server::start().await.unwrap();
    let lab = Lab::on(&server).await;
    lab.sql("CREATE TABLE t (n bigint)").await;
    let task = statement_task(sql_step("INSERT INTO t VALUES (1)"));
    let watching = async {
        lab.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
        lab.sql("SELECT pg_reload_conf()").await;
        crate::testing::until(&lab.client, "SELECT current_setting('synchronous_standby_names') = 'nobody'").await;
        let working = worker::work(lab.context_of(1, &task), task.clone());
        let watching = async {
            told(&lab, |told| told.waits.contains("standby")).await;
            lab.sql("ALTER SYSTEM RESET synchronous_standby_names").await;
            lab.sql("SELECT pg_reload_conf()").await;
        };
        tokio::join!(working, watching)
    };
    watching.await;
    assert_eq!(lab.number("SELECT count(*) FROM t").await, 1);
}
