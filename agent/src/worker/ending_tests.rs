//! Connections that are lost, by servers that crash, and by what is told to them.

use std::time::Duration;

use dunlin_proto::v1::work_request::Message;
use dunlin_proto::v1::{Ending, Step, StepKind, TaskDone, TaskFailed};
use dunlin_shared::postgres::Connector;
use dunlin_shared::postgres::throwaway::Server;
use tokio_postgres::Transaction;

use crate::testing::{Lab, atomic_task, batch_step, connect, range_task, sql_step, statement_task, until};
use crate::transform::{self, Batch, Outcome, Transform};

/// A function that crashes the process of the server that executes it, as long as it is told to.
const CRASH: &str = "
    CREATE TABLE armed (pid int);
    CREATE FUNCTION crash() RETURNS int LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT FROM armed) THEN
            EXECUTE format('COPY armed TO PROGRAM %L', 'kill -9 ' || pg_backend_pid());
        END IF;
        RETURN 1;
    END $$";

/// The failure that is reported.
fn failed(report: Message) -> TaskFailed {
    match report {
        Message::Failed(failed) => failed,
        report => panic!("{report:?}"),
    }
}

async fn crashing() -> (Server, Lab) {
    let server = Server::start().await.unwrap();
    let lab = Lab::on(&server).await;
    lab.sql(CRASH).await;
    lab.sql("INSERT INTO armed VALUES (1)").await;
    (server, lab)
}

/// A crash ends the laboratory's own connection, too.
async fn back(lab: &mut Lab) {
    let wait = async {
        loop {
            match Connector::new(&lab.url, "test").unwrap().session().await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    lab.client = tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}

#[tokio::test]
async fn a_statement_that_crashes_the_server_is_told_as_that() {
    let (_server, mut lab) = crashing().await;
    let outside = Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step("CALL outside()") };
    lab.sql("CREATE PROCEDURE outside() LANGUAGE sql AS 'SELECT crash()'").await;
    for task in [
        statement_task(sql_step("SELECT 1; SELECT crash()")),
        atomic_task(vec![sql_step("SELECT crash()")], &[], &[]),
        atomic_task(vec![sql_step("SELECT 1")], &[], &["SELECT crash() = 1"]),
        statement_task(outside),
    ] {
        let failed = failed(lab.perform(1, task).await);
        back(&mut lab).await;
        assert!(failed.retryable, "{failed:?}");
        assert_eq!(failed.ending(), Ending::ServerCrashed, "{failed:?}");
        let error = failed.error.unwrap();
        assert!(error.message.contains("the server crashed while this was executed"), "{error:?}");
        assert!(error.next.contains("server's log"), "{error:?}");
        assert!(failed.pause.is_some());
        lab.sql("DELETE FROM dunlin.checkpoints").await;
    }
}

#[tokio::test]
async fn a_batch_that_crashes_the_server_is_told_with_its_rows_and_goes_on_when_it_does_so_no_more() {
    let (_server, mut lab) = crashing().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 60) i",
    )
    .await;
    let sql = "UPDATE t SET n = n * 3 + 1 WHERE :batch AND (id < 30 OR crash() = 1)";
    let step = batch_step("t", sql, 10, 1000, 1);
    let planned = lab.plan(&step).await;
    let task = range_task(&step, &planned, &planned.ranges[0]);
    let failed = failed(lab.perform(1, task.clone()).await);
    back(&mut lab).await;
    assert_eq!(failed.ending(), Ending::ServerCrashed, "{failed:?}");
    assert!(failed.error.unwrap().rows.contains("> (20)"));
    lab.sql("DELETE FROM armed").await;
    let report = lab.perform(2, task).await;
    assert!(matches!(report, Message::Done(TaskDone { rows_walked: 60, .. })), "{report:?}");
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 60);
}

#[tokio::test]
async fn the_crash_of_another_process_and_a_server_that_is_stopped_at_once_are_not_counted() {
    let (server, mut lab) = crashing().await;
    lab.sql("CREATE TABLE tries (n int); DELETE FROM armed").await;
    let asleep =
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    for stopped in [false, true] {
        let task =
            statement_task(sql_step("SELECT pg_sleep(CASE WHEN EXISTS (SELECT FROM tries) THEN 0 ELSE 600 END)"));
        let url = lab.url.clone();
        let breaking = async {
            let client = connect(&url).await;
            until(&client, asleep).await;
            client.batch_execute("INSERT INTO tries VALUES (1)").await.unwrap();
            if stopped {
                server.crash().await.unwrap();
                server.start_again().await.unwrap();
            } else {
                client.batch_execute("INSERT INTO armed VALUES (1)").await.unwrap();
                let _gone = client.batch_execute("SELECT crash()").await;
            }
        };
        let (report, ()) = tokio::join!(lab.perform(1, task), breaking);
        assert!(matches!(report, Message::Done(_)), "{report:?}");
        back(&mut lab).await;
        lab.sql("DELETE FROM armed; DELETE FROM tries; DELETE FROM dunlin.checkpoints").await;
    }
}

/// Code that lets a process of the server be killed while it asks for nothing.
struct Killed;

#[async_trait::async_trait]
impl Transform for Killed {
    async fn apply(&self, batch: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        let row = transaction.query_one("SELECT pg_backend_pid(), EXISTS (SELECT FROM armed)", &[]).await?;
        let (pid, armed): (i32, bool) = (row.get(0), row.get(1));
        if armed {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
            while !transaction.client().is_closed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let sql = format!("UPDATE {} AS t SET n = 1 WHERE {}", batch.table(), batch.predicate("t"));
        Ok(Outcome::rows(transaction.execute(&sql, &[]).await?))
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_while_nothing_is_executed_is_not_counted() {
    let (_server, mut lab) = crashing().await;
    lab.transform("killed", Killed);
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 5) i")
        .await;
    let step = Step {
        kind: StepKind::Transform.into(),
        transform: "killed".to_owned(),
        sql: String::new(),
        ..batch_step("t", "", 50, 1000, 1)
    };
    let planned = lab.plan(&step).await;
    let task = range_task(&step, &planned, &planned.ranges[0]);
    let url = lab.url.clone();
    let gone = connect(&url).await;
    let disarm = async {
        // Another client that comes through is behind the crash.
        while !gone.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        loop {
            if let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
                tokio::spawn(connection);
                if client.batch_execute("TRUNCATE armed").await.is_ok() {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (report, ()) = tokio::join!(lab.perform(1, task), disarm);
    assert!(matches!(report, Message::Done(TaskDone { rows: 5, .. })), "{report:?}");
}

/// Code that leaves its transaction alone.
struct Sleeper;

#[async_trait::async_trait]
impl Transform for Sleeper {
    async fn apply(&self, _: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        transaction.batch_execute("SET LOCAL idle_in_transaction_session_timeout = 50").await?;
        while !transaction.client().is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        transaction.batch_execute("SELECT 1").await?;
        Ok(Outcome::rows(0))
    }
}

#[tokio::test]
async fn a_transaction_that_stood_still_is_told_as_that() {
    let mut lab = Lab::new().await;
    lab.transform("sleeper", Sleeper);
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t VALUES (1, 1)").await;
    let step = Step {
        kind: StepKind::Transform.into(),
        transform: "sleeper".to_owned(),
        sql: String::new(),
        ..batch_step("t", "", 50, 1000, 1)
    };
    let planned = lab.plan(&step).await;
    let failed = failed(lab.perform(1, range_task(&step, &planned, &planned.ranges[0])).await);
    assert!(failed.retryable);
    assert_eq!(failed.ending(), Ending::StoodStill);
    let error = failed.error.unwrap();
    assert_eq!(error.sqlstate, "25P03");
    assert!(error.message.starts_with("the agent gets no CPU"), "{error:?}");
}

#[tokio::test]
async fn a_session_that_somebody_has_ended_is_told_with_what_stops_a_run() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE tries (n int)").await;
    let task = statement_task(sql_step("SELECT pg_sleep(CASE WHEN EXISTS (SELECT FROM tries) THEN 0 ELSE 600 END)"));
    let client = connect(&lab.url).await;
    let context = lab.context_of(1, &task);
    let ending = async {
        until(
            &client,
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
        )
        .await;
        let kill = "INSERT INTO tries VALUES (1); SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE wait_event = 'PgSleep' AND datname = current_database()";
        client.batch_execute(kill).await.unwrap();
    };
    tokio::join!(crate::worker::work(context, task), ending);
    let notes = lab.sent().0;
    let told = notes.iter().find(|note| note.message.contains("pg_terminate_backend"));
    let told = told.unwrap_or_else(|| panic!("{notes:?}"));
    assert!(told.message.contains("does not stop the run") && told.message.contains("\"change\""), "{told:?}");
}
