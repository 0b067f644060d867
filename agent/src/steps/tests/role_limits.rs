//! Limits that the role, the database or the server has: they hold where neither the operator nor the definition says another.

use std::time::Duration;

use dunlin_proto::v1::{Step, StepKind};

use crate::limits::Limits;
use crate::steps::{Ended, Error};
use crate::testing::{Lab, atomic_task, batch_step, refusal, sql_step, statement_task};

/// What the SQL of a step has as a setting.
const SEEN: &str = "CREATE TABLE IF NOT EXISTS seen (name text, value text)";

fn see(name: &str) -> Step {
    sql_step(&format!("{SEEN}; INSERT INTO seen VALUES ('{name}', current_setting('{name}'))"))
}

async fn seen(lab: &Lab, name: &str) -> String {
    let row = lab.row(&format!("SELECT string_agg(DISTINCT value, ',') FROM seen WHERE name = '{name}'")).await;
    row.get::<_, Option<String>>(0).unwrap_or_default()
}

/// A laboratory whose agent has a role of its own with a limit.
async fn with_limit(setting: &str, value: &str) -> Lab {
    let lab = Lab::new().await;
    let (server, name) = lab.url.rsplit_once('/').unwrap();
    let role = format!("limited_{name}_{}", setting.len());
    lab.sql(&format!(
        "CREATE ROLE \"{role}\" LOGIN SUPERUSER PASSWORD 'pw'; ALTER ROLE \"{role}\" SET {setting} = '{value}'"
    ))
    .await;
    let (_, place) = server.rsplit_once('@').unwrap();
    let url = format!("postgres://{role}:pw@{place}/{name}");
    lab.again_as(&url).await
}

#[tokio::test]
async fn a_statement_timeout_of_the_role_holds_unless_the_operator_or_the_definition_says_another() {
    let mut lab = with_limit("statement_timeout", "1s").await;
    let error = refusal(lab.work(1, statement_task(sql_step("SELECT pg_sleep(20)"))).await);
    assert_eq!(error.sqlstate, "57014");
    assert!(error.next.contains("role"), "{error:?}");
    lab.work(2, statement_task(see("statement_timeout"))).await.unwrap();
    assert_eq!(seen(&lab, "statement_timeout").await, "1s");
    assert!(lab.sent().0.is_empty(), "nothing is set aside");

    // The definition: for its own SQL alone.
    lab.sql("DELETE FROM dunlin.checkpoints; DELETE FROM seen").await;
    let own = sql_step("SET LOCAL statement_timeout = 0; SELECT pg_sleep(1.6)");
    lab.work(1, atomic_task(vec![own, see("statement_timeout")], &[], &[])).await.unwrap();
    assert_eq!(seen(&lab, "statement_timeout").await, "1s");

    // The operator, also with none.
    lab.sql("DELETE FROM dunlin.checkpoints; DELETE FROM dunlin.migrations_registry").await;
    lab.limits = Limits { statement_timeout: Some(Duration::ZERO), ..Limits::default() };
    lab.sent();
    lab.work(1, statement_task(sql_step("SELECT pg_sleep(1.6)"))).await.unwrap();
    let notes = lab.sent().0;
    assert_eq!(notes.len(), 1, "{notes:?}");
    let told = &notes[0].message;
    assert!(
        told.contains("--statement-timeout (none)") && told.contains("statement_timeout of its role (1s)"),
        "{told}"
    );
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    lab.work(1, statement_task(sql_step("SELECT pg_sleep(1.6)"))).await.unwrap();
    assert!(lab.sent().0.is_empty(), "it is told once for each run");
}

#[tokio::test]
async fn a_lock_timeout_of_the_role_holds_where_it_is_shorter_than_what_nobody_has_written_down() {
    for (value, batches, others) in [("200ms", "200ms", "200ms"), ("1min", "5s", "500ms"), ("2s", "2s", "500ms")] {
        let mut lab = with_limit("lock_timeout", value).await;
        lab.work(1, statement_task(see("lock_timeout"))).await.unwrap();
        assert_eq!(seen(&lab, "lock_timeout").await, others, "{value}");
        lab.sql("DELETE FROM seen; DELETE FROM dunlin.checkpoints").await;
        lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n text); INSERT INTO t SELECT i FROM generate_series(1, 40) i")
            .await;
        let step = batch_step("t", "UPDATE t SET n = current_setting('lock_timeout') WHERE :batch", 10, 1000, 1);
        assert_eq!(lab.work_through(&step).await, 40);
        let row = lab.row("SELECT string_agg(DISTINCT n, ',') FROM t").await;
        assert_eq!(row.get::<_, &str>(0), batches, "{value}");
        // What is written down holds, longer or shorter.
        lab.limits = Limits {
            lock_timeout: Some(Duration::from_secs(7)),
            schema_lock_timeout: Some(Duration::from_secs(8)),
            ..Limits::default()
        };
        lab.sql("DELETE FROM seen; DELETE FROM dunlin.checkpoints").await;
        lab.sent();
        assert_eq!(lab.work_through(&step).await, 40);
        lab.sql("DELETE FROM dunlin.checkpoints").await;
        lab.work(1, statement_task(see("lock_timeout"))).await.unwrap();
        assert_eq!(seen(&lab, "lock_timeout").await, "8s");
        assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = '7s'").await, 40);
    }
}

#[tokio::test]
async fn a_limit_that_a_transaction_may_stand_still_for_holds_where_it_is_shorter() {
    for (value, statement, batch) in [("1500ms", "1500ms", "1500ms"), ("5s", "2s", "5s"), ("0", "2s", "10s")] {
        let mut lab = with_limit("idle_in_transaction_session_timeout", value).await;
        let name = "idle_in_transaction_session_timeout";
        // Behind the SQL of a step, and of a check, it is the same: the second of each sees what the first has left.
        let check = format!("SELECT current_setting('{name}') = '{statement}'");
        let again = see(name);
        lab.work(1, atomic_task(vec![see(name), again], &[&check, &check], &[&check, &check])).await.unwrap();
        assert_eq!(seen(&lab, name).await, statement, "{value}");
        lab.sql("DELETE FROM dunlin.checkpoints").await;
        lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n text); INSERT INTO t SELECT i FROM generate_series(1, 40) i")
            .await;
        lab.applications = 1;
        let step = batch_step("t", &format!("UPDATE t SET n = current_setting('{name}') WHERE :batch"), 10, 1000, 1);
        assert_eq!(lab.work_through(&step).await, 40);
        let row = lab.row("SELECT string_agg(DISTINCT n, ',') FROM t").await;
        assert_eq!(row.get::<_, &str>(0), batch, "{value}");
    }
}

#[tokio::test]
async fn a_step_outside_a_transaction_is_limited_by_the_operator_alone_and_that_is_said() {
    let mut lab = with_limit("statement_timeout", "1s").await;
    lab.sql("CREATE PROCEDURE slow() LANGUAGE sql AS 'SELECT pg_sleep(1.6)'").await;
    let slow = || statement_task(Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step("CALL slow()") });
    let ended = lab.work(1, slow()).await;
    assert!(matches!(ended, Ok(Ended::Done { .. })), "{ended:?}");
    let notes = lab.sent().0;
    let told = notes.iter().find(|note| note.message.contains("statement_timeout (1s)"));
    assert!(told.is_some_and(|note| note.message.contains("set aside")), "{notes:?}");
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    lab.limits = Limits { statement_timeout: Some(Duration::from_millis(100)), ..Limits::default() };
    let stopped = lab.work(1, slow()).await;
    assert!(matches!(&stopped, Err(Error::Final(error)) if error.sqlstate == "57014"), "{stopped:?}");
}

#[tokio::test]
async fn a_limit_that_is_changed_holds_from_the_next_session_on() {
    let lab = with_limit("statement_timeout", "1min").await;
    lab.work(1, statement_task(see("lock_timeout"))).await.unwrap();
    assert_eq!(seen(&lab, "lock_timeout").await, "500ms");
    lab.sql("DELETE FROM seen; DELETE FROM dunlin.checkpoints").await;
    lab.sql("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET lock_timeout = 123', current_database()); END $$").await;
    lab.work(1, statement_task(see("lock_timeout"))).await.unwrap();
    assert_eq!(seen(&lab, "lock_timeout").await, "123ms");
}
