use std::time::Duration;

use dunlin_proto::v1::{EventType, Step, StepKind};

use crate::limits::Limits;
use crate::steps::{Ended, Error};
use crate::testing::{Lab, connect, refusal, sql_step, statement_task, until};

fn outside(sql: &str) -> Step {
    Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step(sql) }
}

const BUILD: &str = "CREATE INDEX CONCURRENTLY t_n ON t (n)";

async fn lab() -> Lab {
    let lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t SELECT i, i FROM generate_series(1, 100) i")
        .await;
    lab
}

const VALID: &str = "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('t_n') AND indisvalid";

#[tokio::test]
async fn an_index_is_built_concurrently_once() {
    let lab = lab().await;
    let first = lab.work(1, statement_task(outside(BUILD))).await.unwrap();
    assert!(matches!(first, Ended::Done { already_done: false, .. }));
    assert_eq!(lab.number(VALID).await, 1);
    let second = lab.work(2, statement_task(outside(BUILD))).await.unwrap();
    assert!(matches!(second, Ended::Done { already_done: true, .. }));
}

/// An agent that waits so long for the transactions before a build.
fn hurried(lab: &mut Lab) {
    lab.limits = Limits { build_deadline: Duration::from_millis(300), ..Limits::default() };
}

#[tokio::test]
async fn a_build_that_could_not_be_finished_or_removed_says_so_and_is_removed_and_done_again() {
    let mut lab = lab().await;
    hurried(&mut lab);
    // A transaction that wrote the table: the build waits for it, in vain, and so does the removal.
    let writer = connect(&lab.url).await;
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (1000, 1)").await.unwrap();
    let error = refusal(lab.work(1, statement_task(outside(BUILD))).await);
    assert!(error.message.contains("--build-deadline") || error.next.contains("--build-deadline"), "{error:?}");
    assert!(error.message.contains("pid ") && error.message.contains("could not be removed"), "{error:?}");
    assert_eq!(lab.number("SELECT count(*) FROM pg_index WHERE NOT indisvalid").await, 1);
    writer.batch_execute("COMMIT").await.unwrap();
    lab.sent();
    lab.work(2, statement_task(outside(BUILD))).await.unwrap();
    assert_eq!(lab.number(VALID).await, 1);
    let notes = lab.sent().0;
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].r#type(), EventType::StepRepaired);
    assert!(notes[0].message.contains("t_n"), "{}", notes[0].message);
}

#[tokio::test]
async fn a_build_waits_for_older_transactions_whatever_the_role_and_the_agent_say_of_locks_and_tells_whom() {
    let mut lab = lab().await;
    let (_, name) = lab.url.rsplit_once('/').unwrap();
    lab.sql(&format!("ALTER DATABASE \"{name}\" SET lock_timeout = 50")).await;
    lab.limits = Limits { schema_lock_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    let reader = connect(&lab.url).await;
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t").await.unwrap();
    let context = lab.context(1);
    let task = statement_task(outside(BUILD));
    let building = crate::steps::run(&context, &task, false);
    let release = async {
        until(
            &lab.client,
            "SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             WHERE a.datname = current_database() AND l.locktype = 'virtualxid' AND NOT l.granted
             AND l.waitstart < clock_timestamp() - interval '2.5 s'",
        )
        .await;
        reader.batch_execute("COMMIT").await.unwrap();
    };
    let (ended, ()) = tokio::join!(building, release);
    ended.unwrap();
    assert_eq!(lab.number(VALID).await, 1);
    let notes = lab.sent().0;
    assert!(
        notes.iter().any(|note| note.message.contains("pid ") && note.message.contains("blocks nobody")),
        "{notes:?}"
    );
}

#[tokio::test]
async fn a_build_that_nobody_can_watch_goes_on_and_that_is_said_once() {
    let mut lab = lab().await;
    let (server, name) = lab.url.rsplit_once('/').unwrap();
    let admin = connect(&format!("{server}/postgres")).await;
    let allow = format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS");
    let writer = connect(&lab.url).await;
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (1000, 1)").await.unwrap();
    let mut context = lab.context(1);
    context.watch.look = Duration::from_millis(50);
    let task = statement_task(outside(BUILD));
    let building = crate::steps::run(&context, &task, false);
    let unwatched = async {
        let building = "a.datname = current_database() AND l.locktype = 'virtualxid' AND NOT l.granted";
        until(
            &lab.client,
            &format!("SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE {building}"),
        )
        .await;
        admin.batch_execute(&format!("{allow} false")).await.unwrap();
        let watching = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle' AND query LIKE '%pg_locks%'";
        let said = async {
            loop {
                // One that was about to connect may have been let in.
                lab.client.simple_query(watching).await.unwrap();
                if lab.sent().0.iter().any(|note| note.message.contains("goes on unwatched: for 300ms")) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), said).await.expect("it is said");
        writer.batch_execute("COMMIT").await.unwrap();
        admin.batch_execute(&format!("{allow} true")).await.unwrap();
    };
    let (ended, ()) = tokio::join!(building, unwatched);
    ended.unwrap();
    assert_eq!(lab.number(VALID).await, 1);
    assert!(!lab.sent().0.iter().any(|note| note.message.contains("unwatched")), "once");
}

#[tokio::test]
async fn a_build_that_stands_in_a_queue_gives_way_and_leaves_nothing() {
    let mut lab = lab().await;
    lab.limits = Limits { schema_lock_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    let other = connect(&lab.url).await;
    other.batch_execute("BEGIN; LOCK TABLE t IN SHARE MODE").await.unwrap();
    let blocked = lab.work(1, statement_task(outside(BUILD))).await;
    let Err(Error::Passing(error)) = blocked else { panic!("{blocked:?}") };
    assert_eq!(error.sqlstate, "55P03");
    assert!(
        error.detail.contains(" public.t (ShareUpdateExclusiveLock)") && error.detail.contains("pid "),
        "{error:?}"
    );
    assert_eq!(lab.number("SELECT count(*) FROM pg_class WHERE relname = 't_n'").await, 0);
    other.batch_execute("COMMIT").await.unwrap();
    lab.work(2, statement_task(outside(BUILD))).await.unwrap();
    assert_eq!(lab.number(VALID).await, 1);
}

#[tokio::test]
async fn an_index_whose_name_the_server_cuts_is_found_and_removed() {
    // Cut after 63 bytes, and not within a letter.
    for name in ["a".repeat(70), "ä".repeat(40)] {
        let lab = lab().await;
        lab.sql("INSERT INTO t VALUES (1000, 1)").await;
        let build = format!("CREATE UNIQUE INDEX CONCURRENTLY \"{name}\" ON t (n)");
        let error = refusal(lab.work(1, statement_task(outside(&build))).await);
        assert_eq!(error.sqlstate, "23505");
        assert_eq!(lab.number("SELECT count(*) FROM pg_index WHERE NOT indisvalid").await, 0, "{name}");
        lab.sql("DELETE FROM t WHERE id = 1000").await;
        lab.work(2, statement_task(outside(&build))).await.unwrap();
        let built = "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indisvalid AND NOT indisprimary";
        assert_eq!(lab.number(built).await, 1, "{name}");
    }
}

#[tokio::test]
async fn a_partition_that_an_interrupted_attempt_has_detached_by_half_is_detached() {
    let mut lab = Lab::new().await;
    hurried(&mut lab);
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE p PARTITION OF t FOR VALUES FROM (0) TO (10)",
    )
    .await;
    let detach = "ALTER TABLE t DETACH PARTITION p CONCURRENTLY";
    let reader = connect(&lab.url).await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM t").await.unwrap();
    let error = refusal(lab.work(1, statement_task(outside(detach))).await);
    assert!(error.message.contains("FINALIZE"), "{error:?}");
    assert_eq!(lab.number("SELECT count(*) FROM pg_inherits WHERE inhdetachpending").await, 1);
    reader.batch_execute("COMMIT").await.unwrap();
    lab.work(2, statement_task(outside(detach))).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM pg_inherits WHERE inhparent = 't'::regclass").await, 0);
    assert_eq!(lab.number("SELECT count(*) FROM pg_class WHERE relname = 'p'").await, 1);
}

#[tokio::test]
async fn an_index_that_was_built_without_being_recorded_counts_as_done() {
    let mut lab = lab().await;
    lab.sql(&format!(
        "INSERT INTO dunlin.checkpoints (migration, step, range, kind, epoch, checksum, run_id)
         VALUES ('sample', 'change', 0, 'statement', 1, '{BUILD}', 1)"
    ))
    .await;
    lab.sql(BUILD).await;
    lab.work(2, statement_task(outside(BUILD))).await.unwrap();
    assert!(lab.sent().0[0].message.contains("counts as done"));
}

#[tokio::test]
async fn an_index_of_somebody_else_is_not_taken_for_an_own() {
    let lab = lab().await;
    lab.sql(BUILD).await;
    let error = refusal(lab.work(1, statement_task(outside(BUILD))).await);
    assert_eq!(error.sqlstate, "42P07");
}

#[tokio::test]
async fn two_leases_never_build_at_the_same_time() {
    let lab = lab().await;
    let other = connect(&lab.url).await;
    other.batch_execute("SELECT pg_advisory_lock(hashtextextended('dunlin sample', 0))").await.unwrap();
    let context = lab.context(1);
    let task = statement_task(outside(BUILD));
    let building = crate::steps::run(&context, &task, false);
    let release = async {
        until(
            &lab.client,
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_catalog.pg_try%'",
        )
        .await;
        assert_eq!(lab.number("SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('t_n')").await, 0);
        other.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    };
    let (ended, ()) = tokio::join!(building, release);
    ended.unwrap();
    assert_eq!(lab.number(VALID).await, 1);
}

#[tokio::test]
async fn a_lease_that_was_overtaken_while_it_waited_does_nothing() {
    let lab = lab().await;
    let other = connect(&lab.url).await;
    other.batch_execute("SELECT pg_advisory_lock(hashtextextended('dunlin sample', 0))").await.unwrap();
    let context = lab.context(1);
    let task = statement_task(outside(BUILD));
    let building = crate::steps::run(&context, &task, false);
    let overtake = async {
        until(&lab.client, "SELECT count(*) = 1 FROM dunlin.checkpoints").await;
        lab.sql("UPDATE dunlin.checkpoints SET epoch = 2").await;
        other.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    };
    let (ended, ()) = tokio::join!(building, overtake);
    assert!(matches!(ended, Err(Error::Moved)), "{ended:?}");
    assert_eq!(lab.number("SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('t_n')").await, 0);
}

#[tokio::test]
async fn other_statements_outside_a_transaction_are_repeated() {
    let lab = lab().await;
    lab.work(1, statement_task(outside("VACUUM t"))).await.unwrap();
    assert_eq!(lab.row("SELECT state FROM dunlin.checkpoints").await.get::<_, &str>(0), "done");
}

#[tokio::test]
async fn an_interrupted_reindex_leaves_nothing_behind() {
    for (statement, left) in [
        ("REINDEX INDEX CONCURRENTLY t_pkey", "t_pkey_ccnew"),
        ("REINDEX TABLE CONCURRENTLY t", "t_pkey_ccnew"),
        ("REINDEX (CONCURRENTLY) SCHEMA public", "t_pkey_ccnew"),
    ] {
        let mut lab = lab().await;
        hurried(&mut lab);
        let writer = connect(&lab.url).await;
        writer.batch_execute("BEGIN; INSERT INTO t VALUES (1000, 1)").await.unwrap();
        let error = refusal(lab.work(1, statement_task(outside(statement))).await);
        assert!(error.message.contains(left) && error.message.contains("could not be removed"), "{error:?}");
        let half = format!("SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('{left}') AND NOT indisvalid");
        assert_eq!(lab.number(&half).await, 1, "{statement}: PostgreSQL leaves it");
        writer.batch_execute("COMMIT").await.unwrap();
        lab.work(2, statement_task(outside(statement))).await.unwrap();
        assert_eq!(lab.number("SELECT count(*) FROM pg_index WHERE NOT indisvalid").await, 0, "{statement}");
        assert_eq!(lab.number("SELECT count(*) FROM pg_class WHERE relname ~ '_cc(new|old)'").await, 0, "{statement}");
        let notes = lab.sent().0;
        assert!(notes.iter().any(|note| note.message.contains(left)), "{statement}: {notes:?}");
    }
}

#[tokio::test]
async fn a_build_that_fails_for_good_leaves_nothing_behind() {
    let mut lab = lab().await;
    lab.sql("INSERT INTO t VALUES (1000, 1)").await;
    let error = refusal(lab.work(1, statement_task(outside("CREATE UNIQUE INDEX CONCURRENTLY t_n ON t (n)"))).await);
    assert_eq!(error.sqlstate, "23505");
    assert_eq!(lab.number("SELECT count(*) FROM pg_index WHERE NOT indisvalid").await, 0);
    assert!(lab.sent().0[0].message.contains("t_n"));
}

#[tokio::test]
async fn a_build_that_fails_leaves_nothing_behind_whatever_kind_of_failure_it_is() {
    for (state, final_) in [("22012", true), ("57014", true), ("55P03", false), ("40001", false), ("53100", false)] {
        let lab = lab().await;
        lab.sql(&format!(
            "CREATE FUNCTION fail(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN IF n = 50 THEN RAISE 'no' USING ERRCODE = '{state}'; END IF; RETURN n; END $$"
        ))
        .await;
        let ended = lab.work(1, statement_task(outside("CREATE INDEX CONCURRENTLY t_n ON t (fail(n))"))).await;
        let kind = matches!(ended, Err(Error::Final(_)));
        assert!(kind == final_ && ended.is_err(), "{state}: {ended:?}");
        assert_eq!(lab.number("SELECT count(*) FROM pg_class WHERE relname = 't_n'").await, 0, "{state}");
    }
}

#[tokio::test]
async fn an_index_that_somebody_left_half_built_is_not_taken_for_one() {
    let lab = lab().await;
    lab.sql("INSERT INTO t VALUES (1000, 1)").await;
    lab.client.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY t_n ON t (n)").await.unwrap_err();
    // PostgreSQL says that it exists, and does nothing.
    let build = "CREATE INDEX CONCURRENTLY IF NOT EXISTS t_n ON t (n)";
    let error = refusal(lab.work(1, statement_task(outside(build))).await);
    assert!(error.next.starts_with(r#"DROP INDEX CONCURRENTLY "public"."t_n";"#), "{error:?}");
    lab.sql("DROP INDEX CONCURRENTLY t_n").await;
    lab.work(2, statement_task(outside(build))).await.unwrap();
    assert_eq!(lab.number(VALID).await, 1);
}
