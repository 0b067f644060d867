//! Workers on a network that loses things.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dunlin_proto::convert::std_duration;
use dunlin_proto::v1::work_request::Message;
use dunlin_proto::v1::{ReleaseReason, Step, StepKind, TaskDone, grant};

use dunlin_shared::postgres::throwaway;
use tokio_postgres::Transaction;

use crate::session::Signal;
use crate::testing::{
    Lab, Proxy, atomic_task, batch_step, connect, plan_task, range_task, seal, sql_step, statement_task, until,
};
use crate::transform::{self, Batch, Outcome, Transform};

/// Lets a task be done again and again from the start, and each time the answer to another of its messages with BEGIN or COMMIT is
/// lost, and `check` must hold after each. Returns how many such messages the task has.
async fn losing_each_commit<'a>(
    lab: &mut Lab,
    proxy: &Proxy,
    task: grant::Task,
    reset: &'a str,
    check: &'a str,
) -> i64 {
    for number in 1.. {
        lab.sql(reset).await;
        proxy.faults.commits_until_cut.store(number, Ordering::SeqCst);
        let report = lab.perform(1, task.clone()).await;
        assert!(matches!(report, Message::Done(TaskDone { already_done: false, .. })), "{report:?}");
        assert!(lab.row(check).await.get::<_, bool>(0), "answer {number} was lost: {check}");
        if proxy.faults.commits_until_cut.load(Ordering::SeqCst) > 0 {
            return number - 1;
        }
    }
    unreachable!("a task has an end")
}

const EMPTY: &str = "DELETE FROM dunlin.checkpoints; DELETE FROM dunlin.migrations_registry;";

#[tokio::test]
async fn a_lost_answer_to_the_commit_of_an_atomic_migration_is_resolved() {
    let (mut lab, proxy) = Lab::behind_a_proxy().await;
    lab.sql("CREATE TABLE t (n bigint)").await;
    let task = atomic_task(vec![sql_step("UPDATE t SET n = n * 3 + 1")], &[], &[]);
    let reset = format!("{EMPTY} DELETE FROM t; INSERT INTO t VALUES (5)");
    let check = "SELECT (SELECT n = 16 FROM t) AND (SELECT applications = 1 FROM dunlin.migrations_registry)";
    // The first is of the session, which is new.
    assert_eq!(losing_each_commit(&mut lab, &proxy, task, &reset, check).await, 3);
}

#[tokio::test]
async fn a_lost_answer_to_the_commit_of_a_statement_is_resolved() {
    let (mut lab, proxy) = Lab::behind_a_proxy().await;
    lab.sql("CREATE TABLE t (n bigint)").await;
    let task = statement_task(sql_step("UPDATE t SET n = n * 3 + 1"));
    let reset = format!("{EMPTY} DELETE FROM t; INSERT INTO t VALUES (5)");
    assert_eq!(losing_each_commit(&mut lab, &proxy, task, &reset, "SELECT n = 16 FROM t").await, 3);
}

#[tokio::test]
async fn a_lost_answer_to_the_commit_of_a_seal_is_resolved() {
    let (mut lab, proxy) = Lab::behind_a_proxy().await;
    let check = "SELECT applications = 1 FROM dunlin.migrations_registry";
    let task = grant::Task::Seal(seal(&[], &[]));
    assert_eq!(losing_each_commit(&mut lab, &proxy, task, EMPTY, check).await, 2);
}

#[tokio::test]
async fn a_lost_answer_to_any_commit_of_a_range_is_resolved() {
    let (mut lab, proxy) = Lab::behind_a_proxy().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 30) i",
    )
    .await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 5, 1000, 2);
    let planned = lab.plan(&step).await;
    let reset = "UPDATE t SET n = 5;
                 UPDATE dunlin.checkpoints SET epoch = 0, state = 'open', cursor = NULL, batches = 0, rows = 0, rows_walked = 0
                 WHERE range = 1";
    let check = "SELECT count(*) = 30 FROM t WHERE n = 16";
    let task = range_task(&step, &planned, &planned.ranges[0]);
    let commits = losing_each_commit(&mut lab, &proxy, task, reset, check).await;
    assert!(commits >= 14, "the take, and each batch: {commits}");
}

struct Triple;

#[async_trait::async_trait]
impl Transform for Triple {
    async fn apply(&self, batch: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        let sql = format!("UPDATE {} AS t SET n = n * 3 + 1 WHERE {}", batch.table(), batch.predicate("t"));
        let rows = transaction.execute(&sql, &[]).await?;
        Ok(Outcome::rows(rows).count("tripled", rows))
    }
}

#[tokio::test]
async fn a_lost_answer_to_any_commit_of_a_range_of_code_is_resolved() {
    let (mut lab, proxy) = Lab::behind_a_proxy().await;
    lab.transform("triple", Triple);
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 30) i",
    )
    .await;
    let step = Step {
        kind: StepKind::Transform.into(),
        transform: "triple".to_owned(),
        sql: String::new(),
        ..batch_step("t", "", 5, 1000, 1)
    };
    let planned = lab.plan(&step).await;
    let reset = "UPDATE t SET n = 5;
                 UPDATE dunlin.checkpoints SET epoch = 0, state = 'open', cursor = NULL, batches = 0, rows = 0, rows_walked = 0,
                     counters = '{}'
                 WHERE range = 1";
    let check = "SELECT (SELECT count(*) = 30 FROM t WHERE n = 16)
                     AND (SELECT rows = 30 AND counters->>'tripled' = '30' FROM dunlin.checkpoints WHERE range = 1)";
    let task = range_task(&step, &planned, &planned.ranges[0]);
    let commits = losing_each_commit(&mut lab, &proxy, task, reset, check).await;
    assert!(commits >= 2 + 2 * 6, "the take, and each batch: {commits}");
}

#[tokio::test]
async fn a_lost_answer_to_any_commit_of_a_plan_is_resolved() {
    let (mut lab, proxy) = Lab::behind_a_proxy().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 30) i",
    )
    .await;
    let step = batch_step("t", "UPDATE t SET n = 1 WHERE :batch", 5, 1000, 2);
    let check = "SELECT count(*) = 1 AND min(rows_total) = 30 FROM dunlin.checkpoints WHERE range > 0";
    let commits = losing_each_commit(&mut lab, &proxy, plan_task(&step, 0), EMPTY, check).await;
    assert!(commits >= 4, "{commits}");
}

#[tokio::test]
async fn a_lost_answer_to_any_commit_outside_a_transaction_is_resolved() {
    let (mut lab, proxy) = Lab::behind_a_proxy().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint)").await;
    let build = "CREATE INDEX CONCURRENTLY t_n ON t (n)";
    let step = Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step(build) };
    let reset = format!("{EMPTY} DROP INDEX IF EXISTS t_n");
    let check = "SELECT indisvalid FROM pg_index WHERE indexrelid = 't_n'::regclass";
    let commits = losing_each_commit(&mut lab, &proxy, statement_task(step), &reset, check).await;
    assert!(commits >= 4, "{commits}");
}

#[tokio::test]
async fn connections_that_are_ended_again_and_again_cost_no_row() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 10000) i",
    )
    .await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 20, 10_000, 3);
    let planned = lab.plan(&step).await;
    let murderer = crate::testing::connect(&lab.url).await;
    let murder = tokio::spawn(async move {
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name LIKE 'dunlin-agent %'";
        let mut killed = 0_i64;
        loop {
            let Ok(row) = murderer.query_one(kill, &[]).await else { return killed };
            killed += row.get::<_, i64>(0);
            if killed >= 5 {
                return killed;
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    });
    let report = lab.perform(1, range_task(&step, &planned, &planned.ranges[0])).await;
    assert!(matches!(report, Message::Done(TaskDone { rows: 10_000, rows_walked: 10_000, .. })), "{report:?}");
    assert!(murder.is_finished(), "it went on after each");
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 10_000);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_not_waited_for() {
    let (mut lab, proxy) = Lab::behind_a_proxy().await;
    lab.sql("CREATE TABLE t (n bigint); INSERT INTO t VALUES (5)").await;
    let task = atomic_task(vec![sql_step("SELECT pg_sleep(0.2); UPDATE t SET n = n * 3 + 1")], &[], &[]);
    let client = crate::testing::connect(&lab.url).await;
    let faults = std::sync::Arc::clone(&proxy.faults);
    let lose = async move {
        until(
            &client,
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
        )
        .await;
        faults.swallow.store(true, Ordering::SeqCst);
        // The network is whole again once the connection is lost to the agent.
        until(
            &client,
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
        )
        .await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        faults.swallow.store(false, Ordering::SeqCst);
    };
    let (report, ()) = tokio::join!(lab.perform(1, task), lose);
    assert!(matches!(report, Message::Done(_)), "{report:?}");
    assert_eq!(lab.number("SELECT n FROM t").await, 16);
}

#[tokio::test]
async fn an_error_that_passes_is_tried_a_few_times_and_then_told() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE FUNCTION fail() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '40001'; END $$").await;
    let report = lab.perform(1, statement_task(sql_step("SELECT fail()"))).await;
    let Message::Failed(failed) = report else { panic!("{report:?}") };
    assert!(failed.retryable);
    assert_eq!(failed.error.unwrap().sqlstate, "40001");
}

#[tokio::test]
async fn an_error_that_stays_is_told_at_once() {
    let mut lab = Lab::new().await;
    let report = lab.perform(1, statement_task(sql_step("SELECT nothing FROM nowhere"))).await;
    assert!(matches!(&report, Message::Failed(failed) if !failed.retryable), "{report:?}");
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_ends_its_batch_and_gives_the_lease_back() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 1000) i",
    )
    .await;
    let sql = "UPDATE t SET n = n * 3 + 1 FROM (SELECT pg_sleep(0.01)) AS s WHERE :batch";
    let step = batch_step("t", sql, 10, 10_000, 1);
    let planned = lab.plan(&step).await;
    let stopper = crate::testing::connect(&lab.url).await;
    let book = std::sync::Arc::clone(lab.book());
    let stop = async move {
        until(&stopper, "SELECT batches > 2 FROM dunlin.checkpoints WHERE range = 1").await;
        book.stop();
    };
    let task = range_task(&step, &planned, &planned.ranges[0]);
    let (report, ()) = tokio::join!(lab.perform(1, task.clone()), stop);
    let Message::Released(released) = report else { panic!("{report:?}") };
    assert_eq!(released.reason(), ReleaseReason::Stopping);
    let state = "SELECT count(*) FROM t WHERE n = 16 AND (SELECT state = 'open' AND rows = (SELECT count(*) FROM t WHERE n = 16)
                 FROM dunlin.checkpoints WHERE range = 1)";
    assert!(lab.number(state).await > 0, "what was done is counted, and the rest is open");
}

#[tokio::test]
async fn a_lease_that_is_lost_ends_without_a_report() {
    let lab = Lab::new().await;
    let context = lab.context(1);
    let id = context.lease.id();
    lab.book().lost([id]);
    assert_eq!(context.lease.signal(), Signal::Lost);
    let task = atomic_task(vec![sql_step("CREATE TABLE t (n int)")], &[], &[]);
    crate::worker::work(context, task).await;
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.migrations_registry").await, 0);
    assert!(lab.book().all().is_empty());
}

#[tokio::test]
async fn a_step_that_meets_a_lock_is_given_back_with_who_holds_it_and_a_pause_ten_times_as_long() {
    let mut lab = Lab::new().await;
    lab.limits.schema_lock_timeout = Some(Duration::from_millis(400));
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY)").await;
    lab.sql("SET application_name = 'report of the month'; BEGIN; SELECT count(*) FROM t").await;
    let pid = lab.number("SELECT pg_backend_pid()::bigint").await;
    let report = lab.perform(1, statement_task(sql_step("ALTER TABLE t ADD note text"))).await;
    let Message::Failed(failed) = report else { panic!("{report:?}") };
    assert!(failed.retryable);
    let pause = std_duration(&failed.pause.unwrap()).unwrap();
    assert!(pause >= Duration::from_secs(4), "{pause:?}");
    assert_eq!(std_duration(&failed.deadline.unwrap()).unwrap(), Duration::from_secs(1800));
    let error = failed.error.unwrap();
    assert_eq!(error.sqlstate, "55P03");
    for part in [&format!("pid {pid}"), "report of the month", "a lock on public.t", "in its transaction since 2"] {
        assert!(error.detail.contains(part), "{part}: {}", error.detail);
    }
}

#[tokio::test]
async fn a_batch_that_meets_a_locked_row_says_who_holds_it() {
    let mut lab = Lab::new().await;
    lab.limits.lock_timeout = Some(Duration::from_secs(1));
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 30) i",
    )
    .await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 10, 1000, 1);
    let planned = lab.plan(&step).await;
    lab.sql("SET application_name = 'holder'; BEGIN; SELECT FROM t WHERE id = 15 FOR UPDATE").await;
    let report = lab.perform(1, range_task(&step, &planned, &planned.ranges[0])).await;
    let Message::Failed(failed) = report else { panic!("{report:?}") };
    assert!(failed.retryable);
    assert!(std_duration(&failed.pause.unwrap()).unwrap() >= Duration::from_secs(1));
    let error = failed.error.unwrap();
    assert!(error.detail.contains("a row of public.t") && error.detail.contains("\"holder\""), "{}", error.detail);
    lab.sql("COMMIT").await;
    let report = lab.perform(2, range_task(&step, &planned, &planned.ranges[0])).await;
    assert!(matches!(report, Message::Done(_)), "{report:?}");
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 30);
}

/// A lab whose server vacuums the table `t`, slowly.
async fn vacuumed(server: &throwaway::Server) -> Lab {
    let lab = Lab::on(server).await;
    lab.sql(
        "CREATE TABLE t (id bigint) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0,
             autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
         INSERT INTO t SELECT generate_series(1, 100000); DELETE FROM t WHERE id % 2 = 0",
    )
    .await;
    until(
        &lab.client,
        "SELECT EXISTS (SELECT FROM pg_stat_activity a JOIN pg_locks l USING (pid)
                        WHERE a.backend_type = 'autovacuum worker' AND a.query LIKE 'autovacuum: %'
                        AND l.relation = 't'::regclass AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted)",
    )
    .await;
    lab
}

#[tokio::test]
async fn an_attempt_that_autovacuum_alone_was_in_the_way_of_is_made_again_for_so_long_that_it_yields() {
    let server = throwaway::Server::start_with(&[("fsync", "off"), ("autovacuum_naptime", "1s")]).await.unwrap();
    let mut lab = vacuumed(&server).await;
    lab.limits.schema_lock_timeout = Some(Duration::from_millis(200));
    super::work(lab.context(1), statement_task(sql_step("ALTER TABLE t ADD note text"))).await;
    let notes = lab.sent().0;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].message.contains("autovacuum") && notes[0].message.contains("deadlock_timeout"), "{notes:?}");
    let added = "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'note'";
    assert_eq!(lab.number(added).await, 1);
}

#[tokio::test]
async fn autovacuum_is_known_also_to_a_role_that_may_not_see_the_sessions_of_others() {
    let server = throwaway::Server::start_with(&[("fsync", "off"), ("autovacuum_naptime", "1s")]).await.unwrap();
    let lab = vacuumed(&server).await;
    lab.sql(
        "CREATE ROLE plain LOGIN PASSWORD 'pw'; ALTER ROLE plain SET deadlock_timeout = '1min'; GRANT ALL ON TABLE t TO plain",
    )
    .await;
    let (_, place) = lab.url.split_once('@').unwrap();
    let url = format!("postgres://plain:pw@{place}");
    let (looker, waiter) = (connect(&url).await, connect(&url).await);
    let row = waiter.query_one(crate::waits::WHO, &[]).await.unwrap();
    let backend = crate::waits::Backend { pid: row.get(0), since: row.get(1) };
    let locking = async { waiter.batch_execute("BEGIN; LOCK TABLE t").await };
    let looking = async {
        loop {
            if let Some(wait) = crate::waits::look(&looker, backend).await.unwrap() {
                return wait;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let wait = tokio::select! {
        done = locking => panic!("autovacuum was not in the way: {done:?}"),
        wait = looking => wait,
    };
    assert!(wait.of_autovacuum_alone(), "{wait:?}");
}

#[tokio::test]
async fn the_last_word_of_a_range_that_fails_is_what_the_target_has_of_it() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint CHECK (n < 1000));
         INSERT INTO t SELECT i, CASE i WHEN 505 THEN 999 ELSE 5 END FROM generate_series(1, 1000) i",
    )
    .await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 10, 10_000, 1);
    let planned = lab.plan(&step).await;
    let task = range_task(&step, &planned, &planned.ranges[0]);
    // Batches commit without waiting for the disk: most of them are not known to be there when the last one fails.
    let Message::Failed(failed) = lab.perform(1, task.clone()).await else { panic!("it did not fail") };
    assert_eq!((failed.rows, failed.rows_walked, failed.rows_walked_before), (500, 500, 0));
    lab.sql("UPDATE t SET n = 5 WHERE id = 505").await;
    let Message::Done(done) = lab.perform(2, task).await else { panic!("it is not done") };
    assert_eq!((done.rows, done.rows_walked, done.rows_walked_before), (1000, 1000, 500));
}

#[tokio::test]
async fn the_last_word_of_a_range_that_is_given_back_is_what_the_target_has_of_it() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 5000) i",
    )
    .await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 5, 10_000, 1);
    let planned = lab.plan(&step).await;
    let stopper = connect(&lab.url).await;
    let book = std::sync::Arc::clone(lab.book());
    let stop = async move {
        until(&stopper, "SELECT batches > 20 FROM dunlin.checkpoints WHERE range = 1").await;
        for told in book.all() {
            book.revoke(told.lease.unwrap().into(), "the run has ended".to_owned());
        }
    };
    let (report, ()) = tokio::join!(lab.perform(1, range_task(&step, &planned, &planned.ranges[0])), stop);
    let Message::Released(released) = report else { panic!("{report:?}") };
    assert_eq!(released.reason(), ReleaseReason::Revoked);
    assert!(released.rows >= 100 && released.rows < 5000, "in the middle: {released:?}");
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, released.rows);
    assert_eq!(lab.number("SELECT rows FROM dunlin.checkpoints WHERE range = 1").await, released.rows);
}
