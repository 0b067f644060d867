use std::time::Duration;

use dunlin_proto::v1::{StatementTask, Step, grant};
use dunlin_shared::ids::RunId;

use crate::limits::Limits;
use crate::steps::{Ended, Error};
use crate::testing::{
    Lab, atomic_task, batch_step, checks, connect, plan_task, refusal, seal, sql_step, statement_task, until,
};

#[tokio::test]
async fn a_step_does_not_begin_on_a_target_that_lacks_the_steps_before_it() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int)").await;
    let named = |name: &str, step: Step| Step { name: name.to_owned(), ..step };
    let second = batch_step("t", "UPDATE t SET n = 1 WHERE :batch", 10, 10, 1);
    lab.steps = vec![named("first", sql_step("SELECT 1")), second.clone()];
    for task in [statement_task(sql_step("CREATE TABLE too_early (n int)")), plan_task(&second, 0)] {
        let refused = refusal(lab.work(1, task).await);
        assert!(refused.message.contains("finished: first") && refused.message.contains("put back"), "{refused:?}");
    }
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.checkpoints").await, 0);
    lab.sql(
        "INSERT INTO dunlin.checkpoints (migration, step, range, kind, epoch, checksum, run_id, state)
         VALUES ('sample', 'first', 0, 'statement', 1, 'SELECT 1', 1, 'done')",
    )
    .await;
    let ended = lab.work(1, statement_task(sql_step("CREATE TABLE in_time (n int)"))).await.unwrap();
    assert!(matches!(ended, Ended::Done { .. }), "{ended:?}");
}

#[tokio::test]
async fn a_target_put_back_before_the_first_visit_gets_the_ledger_again_once_it_is_known_to_be_the_target() {
    let lab = Lab::new().await;
    lab.sql("DROP SCHEMA dunlin CASCADE").await;
    let task = || statement_task(sql_step("CREATE TABLE t (n int)"));
    assert!(matches!(lab.work(1, task()).await, Err(Error::Moved)));
    assert!(matches!(lab.work(1, task()).await, Err(Error::Unreachable(_))));
    assert!(lab.target.trust(Duration::from_secs(20)).await.raised);
    assert!(matches!(lab.work(1, task()).await, Ok(Ended::Done { .. })));
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.checkpoints WHERE state = 'done'").await, 1);
}

#[tokio::test]
async fn an_atomic_migration_leaves_its_effect_and_its_registry_row() {
    let lab = Lab::new().await;
    let steps = vec![sql_step("CREATE TABLE a (n int)"), sql_step("INSERT INTO a VALUES (1), (2)")];
    let task = atomic_task(steps, &["SELECT to_regclass('a') IS NULL"], &["SELECT count(*) = 2 FROM a"]);
    let Ended::Done { rows, already_done, applied, .. } = lab.work(1, task).await.unwrap() else { panic!("not done") };
    assert_eq!((rows, already_done), (2, false));
    let applied = applied.unwrap();
    assert_eq!((applied.target.as_str(), applied.rows, applied.applications), ("main", 2, 1));
    let row = lab.row("SELECT result, (SELECT count(*) FROM dunlin.checkpoints) FROM dunlin.migrations_registry").await;
    let result: serde_json::Value = row.get(0);
    assert_eq!((result["success"].as_bool(), result["rows"].as_i64()), (Some(true), Some(2)));
    assert_eq!(row.get::<_, i64>(1), 0);
}

#[tokio::test]
async fn an_atomic_migration_leaves_nothing_behind_when_its_check_fails() {
    let lab = Lab::new().await;
    let task = atomic_task(vec![sql_step("CREATE TABLE a (n int)")], &[], &["SELECT count(*) = 2 FROM a"]);
    let error = refusal(lab.work(1, task).await);
    assert_eq!((error.check.as_str(), error.step.as_str()), ("it holds", ""));
    assert!(error.message.contains("returns false"), "{}", error.message);
    let nothing = "SELECT (SELECT count(*) FROM dunlin.checkpoints) + (SELECT count(*) FROM dunlin.migrations_registry)
                   + (to_regclass('a') IS NOT NULL)::int";
    assert_eq!(lab.number(nothing).await, 0);
}

#[tokio::test]
async fn an_atomic_migration_whose_answer_was_lost_is_recognised_as_done() {
    let mut lab = Lab::new().await;
    let task = || atomic_task(vec![sql_step("CREATE TABLE a (n int)")], &[], &[]);
    lab.work(1, task()).await.unwrap();
    let Ended::Done { already_done, applied, .. } = lab.work(2, task()).await.unwrap() else { panic!("not done") };
    assert!(already_done && applied.is_some());
    lab.run = RunId(2);
    assert!(matches!(lab.work(3, task()).await, Err(Error::Stale(stale)) if stale.applications == 1));
}

#[tokio::test]
async fn a_rerun_marks_the_registry_row() {
    let mut lab = Lab::new().await;
    let task = || atomic_task(vec![sql_step("CREATE TABLE IF NOT EXISTS a (n int)")], &[], &[]);
    lab.work(1, task()).await.unwrap();
    (lab.run, lab.applications) = (RunId(2), 1);
    let Ended::Done { applied, .. } = lab.work(2, task()).await.unwrap() else { panic!("not done") };
    let applied = applied.unwrap();
    assert_eq!((applied.applications, applied.run_id), (2, 2));
    assert!(applied.apply_time != applied.last_apply_time);
}

#[tokio::test]
async fn a_finished_step_is_not_carried_out_again_and_cannot_change() {
    let lab = Lab::new().await;
    lab.sql("CREATE TABLE a (n int); INSERT INTO a VALUES (5)").await;
    let task = |sql: &str| statement_task(sql_step(sql));
    let first = lab.work(1, task("UPDATE a SET n = n * 3 + 1")).await.unwrap();
    assert!(matches!(first, Ended::Done { rows: 1, already_done: false, .. }));
    let second = lab.work(2, task("UPDATE a SET n = n * 3 + 1")).await.unwrap();
    assert!(matches!(second, Ended::Done { rows: 1, already_done: true, .. }));
    let error = refusal(lab.work(3, task("UPDATE a SET n = 0")).await);
    assert!(error.message.contains("another text"), "{}", error.message);
    assert_eq!(lab.number("SELECT n::bigint FROM a").await, 16);
}

#[tokio::test]
async fn checks_before_run_only_when_nothing_was_begun() {
    let mut lab = Lab::new().await;
    lab.steps = vec![sql_step("SELECT 1"), Step { name: "first".to_owned(), ..sql_step("SELECT 1") }];
    let task = |step: &str| {
        let mut step_of = sql_step("SELECT 1");
        step_of.name = step.to_owned();
        grant::Task::Statement(StatementTask { before: checks(&["SELECT false"]), steps: vec![step_of], seal: None })
    };
    refusal(lab.work(1, task("first")).await);
    lab.work(2, statement_task(sql_step("SELECT 1"))).await.unwrap();
    lab.work(3, task("first")).await.unwrap();
}

#[tokio::test]
async fn what_is_no_check_is_refused_with_what_it_returns() {
    let lab = Lab::new().await;
    for (sql, what) in [
        ("SELECT 1", "returns a int4"),
        ("SELECT 't'::text", "returns a text"),
        ("SELECT true FROM generate_series(1, 2)", "returns 2 rows"),
        ("SELECT true WHERE false", "returns 0 rows"),
        ("SELECT true, true", "returns 2 columns"),
        ("SELECT NULL::boolean", "returns NULL"),
    ] {
        let error = refusal(lab.work(1, atomic_task(vec![sql_step("SELECT 1")], &[sql], &[])).await);
        assert!(error.message.contains(what), "{sql}: {}", error.message);
        assert!(error.next.contains("dunlin run sample"), "{}", error.next);
    }
}

#[tokio::test]
async fn sql_that_ends_its_transaction_is_refused() {
    let lab = Lab::new().await;
    for task in [statement_task(sql_step("COMMIT; BEGIN")), atomic_task(vec![sql_step("COMMIT; BEGIN")], &[], &[])] {
        let error = refusal(lab.work(1, task).await);
        assert!(error.message.contains("ended the transaction"), "{}", error.message);
    }
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.migrations_registry").await, 0);
}

#[tokio::test]
async fn an_error_names_the_step_and_has_what_postgresql_said() {
    let lab = Lab::new().await;
    lab.sql("CREATE TABLE a (n int PRIMARY KEY); INSERT INTO a VALUES (5)").await;
    let error = refusal(lab.work(1, statement_task(sql_step("INSERT INTO a VALUES (5)"))).await);
    assert_eq!(
        (error.migration_id.as_str(), error.step.as_str(), error.agent_id.as_str()),
        ("sample", "change", "tester")
    );
    assert_eq!(error.sqlstate, "23505");
    assert!(error.detail.contains("(n)=(5)"), "{}", error.detail);
    assert!(error.next.contains("`dunlin run sample`"), "{}", error.next);
}

#[tokio::test]
async fn a_lock_that_is_not_free_in_time_can_be_tried_again() {
    let mut lab = Lab::new().await;
    lab.limits = Limits { schema_lock_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    lab.sql("CREATE TABLE a (n int)").await;
    lab.sql("BEGIN; LOCK TABLE a").await;
    let blocked = lab.work(1, statement_task(sql_step("ALTER TABLE a ADD b int"))).await;
    assert!(matches!(&blocked, Err(Error::Passing(error)) if error.sqlstate == "55P03"), "{blocked:?}");
    lab.sql("COMMIT").await;
    lab.work(1, statement_task(sql_step("ALTER TABLE a ADD b int"))).await.unwrap();
}

#[tokio::test]
async fn what_sql_leaves_in_its_session_does_not_reach_the_next() {
    let lab = Lab::new().await;
    let sql = "SET lock_timeout = '1min'; CREATE TEMP TABLE left_over (n int); SELECT pg_advisory_lock(5)";
    lab.work(1, atomic_task(vec![sql_step(sql)], &[], &[])).await.unwrap();
    let connection = lab.target.lend().await.unwrap();
    let row = connection
        .query_typed_one(
            "SELECT current_setting('lock_timeout'), to_regclass('left_over') IS NULL,
                    NOT EXISTS (SELECT FROM pg_locks JOIN pg_database d ON d.oid = database
                                WHERE d.datname = current_database() AND locktype = 'advisory')",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1), row.get::<_, bool>(2)), ("0", true, true));
}

#[tokio::test]
async fn sql_that_removes_what_was_prepared_does_not_disturb_the_batches_behind_it() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint)").await;
    lab.sql("INSERT INTO t SELECT i, 5 FROM generate_series(1, 60) i").await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 10, 1000, 1);
    assert_eq!(lab.work_through(&step).await, 60);
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    lab.work(1, statement_task(sql_step("DEALLOCATE ALL"))).await.unwrap();
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    assert_eq!(lab.work_through(&step).await, 60);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 49").await, 60);
}

#[tokio::test]
async fn a_worker_that_is_dropped_leaves_no_transaction_open() {
    let lab = Lab::new().await;
    let client = connect(&lab.url).await;
    {
        let task = atomic_task(vec![sql_step("CREATE TABLE a (n int); SELECT pg_sleep(60)")], &[], &[]);
        tokio::select! {
            ended = lab.work(1, task) => panic!("{ended:?}"),
            () = until(&client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()") => {}
        }
    }
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE wait_event = 'PgSleep' AND datname = current_database()",
        )
        .await
        .unwrap();
    lab.work(1, atomic_task(vec![sql_step("CREATE TABLE a (n int)")], &[], &[])).await.unwrap();
}

#[tokio::test]
async fn a_seal_needs_every_step_to_be_finished() {
    let lab = Lab::new().await;
    let step = sql_step("SELECT 1");
    let error = refusal(lab.work(1, grant::Task::Seal(seal(std::slice::from_ref(&step), &[]))).await);
    assert!(error.message.contains("change"), "{}", error.message);
    lab.work(1, statement_task(step.clone())).await.unwrap();
    lab.work(2, grant::Task::Seal(seal(&[step], &[]))).await.unwrap();
}
