//! What steps write, and what a crash of the server empties.

use dunlin_proto::v1::Step;
use dunlin_shared::postgres::throwaway::Server;

use crate::steps::Ended;
use crate::testing::{Lab, atomic_task, batch_step, plan_task, range_task, refusal, seal, sql_step, statement_task};

fn named(name: &str, step: Step) -> Step {
    Step { name: name.to_owned(), ..step }
}

#[tokio::test]
async fn an_unlogged_table_is_refused_whatever_writes_it() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE UNLOGGED TABLE staged (n int); CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1), (150, 1);
         CREATE FUNCTION stage() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO staged VALUES (NEW.n); RETURN NEW; END $$;
         CREATE TABLE watched (n int); CREATE TRIGGER stage AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION stage();
         CREATE TABLE parts (id bigint PRIMARY KEY, n int) PARTITION BY RANGE (id);
         CREATE TABLE logged PARTITION OF parts FOR VALUES FROM (0) TO (100);
         CREATE UNLOGGED TABLE \"Not logged\" PARTITION OF parts FOR VALUES FROM (100) TO (200)",
    )
    .await;
    for (number, (sql, table)) in [
        ("INSERT INTO staged VALUES (1)", "public.staged"),
        ("INSERT INTO watched VALUES (1)", "public.staged"),
        ("INSERT INTO parts VALUES (150, 1)", "public.\"Not logged\""),
        ("CREATE UNLOGGED TABLE made AS SELECT 1 AS n", "public.made"),
    ]
    .into_iter()
    .enumerate()
    {
        let step = named(&number.to_string(), sql_step(sql));
        for task in [statement_task(step.clone()), atomic_task(vec![step], &[], &[])] {
            let refused = refusal(lab.work(1, task).await);
            assert!(refused.message.contains(&format!("the unlogged table {table}:")), "{sql}: {refused:?}");
            assert!(refused.next.contains("unlogged = true"), "{refused:?}");
        }
    }
    for sql in ["CREATE UNLOGGED TABLE empty (n int)", "SELECT * FROM staged", "INSERT INTO parts VALUES (50, 1)"] {
        lab.sql("DELETE FROM dunlin.checkpoints").await;
        lab.work(1, statement_task(named(sql, sql_step(sql)))).await.unwrap();
    }
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let step = named("batches", batch_step("t", "INSERT INTO parts SELECT id, n FROM t WHERE :batch", 1, 10, 1));
    let planned = lab.plan(&step).await;
    let refused = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
    assert!(refused.message.contains("\"Not logged\""), "{refused:?}");
    assert_eq!(lab.number("SELECT count(*) FROM logged").await, 2, "the batch before it stays");
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let walk = named("walk", batch_step("parts", "UPDATE parts SET n = 2 WHERE :batch", 1, 10, 1));
    let refused = refusal(lab.work(1, plan_task(&walk, 0)).await);
    assert!(refused.message.contains("walks the unlogged table public.\"Not logged\""), "{refused:?}");
}

#[tokio::test]
async fn a_foreign_table_is_refused_unless_the_step_permits_it() {
    let lab = Lab::new().await;
    lab.sql(
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
         CREATE FOREIGN TABLE far (n int) SERVER nowhere",
    )
    .await;
    // A table of a server that is nowhere cannot be written, but is locked for it.
    let sql = "PREPARE write AS INSERT INTO far VALUES (1)";
    let mut step = sql_step(sql);
    let refused = refusal(lab.work(1, statement_task(step.clone())).await);
    assert!(
        refused.message.contains("the foreign table public.far") && refused.next.contains("foreign = true"),
        "{refused:?}"
    );
    step.foreign = true;
    lab.work(2, statement_task(step)).await.unwrap();
}

#[tokio::test]
async fn a_temporary_table_is_for_one_transaction_and_not_for_batches() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1);
         CREATE FUNCTION aside(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
             CREATE TEMP TABLE IF NOT EXISTS aside (n int); INSERT INTO aside VALUES (n); RETURN n; END $$",
    )
    .await;
    let once = "CREATE TEMP TABLE few AS SELECT 1 AS n; INSERT INTO few VALUES (2)";
    lab.work(1, statement_task(named("once", sql_step(once)))).await.unwrap();
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let step = batch_step("t", "UPDATE t SET n = aside(n) WHERE :batch", 1, 10, 1);
    let planned = lab.plan(&step).await;
    let refused = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
    assert!(refused.message.contains("the temporary table"), "{refused:?}");
}

#[tokio::test]
async fn what_a_crash_has_emptied_is_noticed_and_what_a_restart_keeps_is_not() {
    let server = Server::start().await.unwrap();
    let mut lab = Lab::on(&server).await;
    lab.sql(
        "CREATE UNLOGGED TABLE staged (id bigint PRIMARY KEY, n int); CREATE TABLE t (id bigint PRIMARY KEY, n int);
         INSERT INTO t SELECT i, i FROM generate_series(1, 30) i",
    )
    .await;
    let mut fill = named("fill", batch_step("t", "INSERT INTO staged SELECT id, n FROM t WHERE :batch", 10, 10, 1));
    fill.unlogged = true;
    let keep = named("keep", sql_step("SELECT 1"));
    lab.steps = vec![fill.clone(), keep.clone()];
    let planned = lab.plan(&fill).await;
    for range in &planned.ranges[..2] {
        lab.work(1, range_task(&fill, &planned, range)).await.unwrap();
    }
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.unlogged_witness").await, 1);
    // What was written is on disk before the server crashes.
    lab.sql("CHECKPOINT").await;
    server.crash().await.unwrap();
    server.start_again().await.unwrap();
    lab.client = crate::testing::connect(&lab.url).await;
    assert_eq!(lab.number("SELECT count(*) FROM staged").await, 0);
    let mut epoch = 10;
    let end = || dunlin_proto::v1::grant::Task::Seal(seal(&[], &[]));
    for task in [range_task(&fill, &planned, &planned.ranges[2]), plan_task(&fill, 3)] {
        let refused = loop {
            epoch += 1;
            match lab.work(epoch, task.clone()).await {
                // The connections of before the crash.
                Err(crate::steps::Error::Unreachable(_) | crate::steps::Error::Lost(_)) => {}
                ended => break refusal(ended),
            }
        };
        assert!(refused.message.contains("emptied") && refused.message.contains("public.staged"), "{refused:?}");
        assert!(refused.next.contains("DELETE FROM dunlin.checkpoints"), "{refused:?}");
    }
    // The way out.
    lab.sql("DELETE FROM dunlin.checkpoints WHERE migration = 'sample' AND step = 'fill'").await;
    assert_eq!(lab.work_through(&fill).await, 30);
    assert_eq!(lab.number("SELECT count(*) FROM staged").await, 30);
    // As after one more crash, and as if there had been none.
    lab.sql("TRUNCATE dunlin.unlogged_witness").await;
    let refused = refusal(lab.work(90, statement_task(keep.clone())).await);
    assert!(refused.message.contains("emptied"), "{refused:?}");
    lab.sql("INSERT INTO dunlin.unlogged_witness VALUES ('sample')").await;
    lab.work(91, statement_task(keep)).await.unwrap();
    lab.sql("TRUNCATE dunlin.unlogged_witness").await;
    let refused = refusal(lab.work(92, end()).await);
    assert!(refused.message.contains("emptied"), "{refused:?}");
    // What is logged by now was not lost.
    lab.sql("ALTER TABLE staged SET LOGGED").await;
    let ended = lab.work(99, end()).await.unwrap();
    assert!(matches!(ended, Ended::Done { .. }));
    assert_eq!(lab.number("SELECT count(*) FROM staged").await, 30);
}
