//! What an agent that is dead or stopped has left open.

use dunlin_proto::v1::Step;

use crate::frame::{Durability, Frame};
use crate::limits::Limits;
use crate::steps::Ended;
use crate::target::Ground;
use crate::testing::{
    Lab, atomic_task, batch_step, connect, plan_task, range_task, seal, sql_step, statement_task, until,
};

const SETTING: &str = "client_connection_check_interval";

#[tokio::test]
async fn the_server_looks_after_the_agent_in_every_transaction() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE seen (value text)").await;
    let see = || sql_step(&format!("INSERT INTO seen VALUES (current_setting('{SETTING}'))"));
    let check = format!("SELECT current_setting('{SETTING}') = '1s'");
    lab.work(1, atomic_task(vec![see(), see()], &[&check, &check], &[&check, &check])).await.unwrap();
    lab.sql("DELETE FROM dunlin.checkpoints; DELETE FROM dunlin.migrations_registry").await;
    lab.work(1, statement_task(see())).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM seen WHERE value = '1s'").await, 3);
    lab.work(2, dunlin_proto::v1::grant::Task::Seal(seal(&[see()], &[&check, &check]))).await.unwrap();
    lab.sql("DELETE FROM dunlin.checkpoints; DELETE FROM dunlin.migrations_registry").await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n text); INSERT INTO t SELECT i FROM generate_series(1, 60) i")
        .await;
    let step = batch_step("t", &format!("UPDATE t SET n = current_setting('{SETTING}') WHERE :batch"), 10, 1000, 2);
    assert_eq!(lab.work_through(&step).await, 60);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = '1s'").await, 60);
}

#[test]
fn a_server_that_cannot_look_is_not_asked_to() {
    let frame = |looks| Frame::new(Limits::default(), "1.1".to_owned(), None).on(Ground { looks, ..Ground::default() });
    assert!(frame(true).begin(Durability::Later).contains(SETTING));
    assert!(!frame(false).begin(Durability::Later).contains(SETTING));
}

#[tokio::test]
async fn the_servers_side_of_a_session_of_the_agents_own_has_keepalives_in_each_batch() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n text); INSERT INTO t SELECT i FROM generate_series(1, 60) i")
        .await;
    let sql = "UPDATE t SET n = current_setting('tcp_keepalives_idle') || current_setting('tcp_keepalives_interval')
               || current_setting('tcp_keepalives_count') || current_setting('tcp_user_timeout') WHERE :batch";
    assert_eq!(lab.work_through(&batch_step("t", sql, 10, 1000, 2)).await, 60);
    let row = lab.row("SELECT string_agg(id || ' ' || n, ',' ORDER BY id) FROM t WHERE n <> '105325000'").await;
    assert_eq!(row.get::<_, Option<&str>>(0), None, "in all batches");
}

#[tokio::test]
async fn behind_a_pooler_nothing_is_left_in_its_sessions() {
    let (mut lab, pooler) = Lab::behind_a_pooler(1).await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n text); INSERT INTO t SELECT i FROM generate_series(1, 60) i")
        .await;
    let sql = format!("UPDATE t SET n = current_setting('{SETTING}') WHERE :batch");
    assert_eq!(lab.work_through(&batch_step("t", &sql, 10, 1000, 2)).await, 60);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = '1s'").await, 60);
    let beside = connect(&pooler.url(&lab.url)).await;
    let left = beside.simple_query("SHOW tcp_keepalives_idle; SHOW client_connection_check_interval").await.unwrap();
    let values: Vec<&str> = left
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_ne!(values[0], "10");
    assert_eq!(values[1], "0");
}

/// A step that a session of an earlier holder is in the way of.
async fn blocked(lab: &Lab) -> Step {
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 20) i")
        .await;
    sql_step("ALTER TABLE t ADD x int")
}

/// Waits until all open transactions have lasted for so long that they are not waited for.
async fn old_enough(lab: &Lab) {
    until(
        &lab.client,
        "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                            AND xact_start > clock_timestamp() - interval '3.1 s')",
    )
    .await;
}

#[tokio::test]
async fn the_next_holder_ends_the_sessions_of_earlier_ones_of_its_task_and_no_others() {
    let mut lab = Lab::new().await;
    let step = blocked(&lab).await;
    let task = statement_task(step);
    let context = lab.context_of(5, &task);
    let id = context.lease.id().task;
    let (server, _) = lab.url.rsplit_once('/').unwrap();
    let elsewhere = format!("{server}/postgres");
    let mut others = Vec::new();
    for (url, name) in [
        (&lab.url, format!("dunlin-agent {id}.5")),
        (&lab.url, format!("dunlin-agent {id}.6")),
        (&lab.url, format!("dunlin-agent {id}0.1")),
        (&lab.url, format!("dunlin-agent 9{id}.1")),
        (&lab.url, format!("dunlin-agent {id}.1x")),
        (&lab.url, format!("mine dunlin-agent {id}.1")),
        (&lab.url, format!("dunlin-agent {id}.99999999999999999999")),
        (&lab.url, "dunlin-agent".to_owned()),
        (&elsewhere, format!("dunlin-agent {id}.1")),
    ] {
        let other = connect(url).await;
        other.batch_execute(&format!("SET application_name = '{name}'")).await.unwrap();
        others.push((name, other));
    }
    // One that only another role could end is left alone.
    lab.sql("DO $$ BEGIN CREATE ROLE earlier LOGIN PASSWORD 'pw'; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
        .await;
    let (_, place) = lab.url.rsplit_once('@').unwrap();
    let stranger = connect(&format!("postgres://earlier:pw@{place}")).await;
    stranger.batch_execute(&format!("SET application_name = 'dunlin-agent {id}.2'")).await.unwrap();
    others.push(("of another role".to_owned(), stranger));
    let earlier = connect(&lab.url).await;
    let hold = format!("SET application_name = 'dunlin-agent {id}.4'; BEGIN; LOCK TABLE t");
    earlier.batch_execute(&hold).await.unwrap();
    old_enough(&lab).await;
    let ended = crate::steps::run(&context, &task, false).await;
    assert!(matches!(ended, Ok(Ended::Done { .. })), "{ended:?}");
    assert!(earlier.batch_execute("COMMIT").await.is_err());
    for (name, other) in others {
        assert!(other.batch_execute("SELECT 1").await.is_ok(), "{name}");
    }
    let notes = lab.sent().0;
    assert!(notes.iter().any(|note| note.message.starts_with("1 session of an earlier holder")), "{notes:?}");
}

#[tokio::test]
async fn the_next_holder_of_a_range_or_a_plan_ends_the_earlier_one_too() {
    let mut lab = Lab::new().await;
    let _step = blocked(&lab).await;
    let step = batch_step("t", "UPDATE t SET n = n + 1 WHERE :batch", 10, 1000, 1);
    let planned = lab.plan(&step).await;
    for task in [range_task(&step, &planned, &planned.ranges[0]), plan_task(&step, 1)] {
        let context = lab.context_of(9, &task);
        let earlier = connect(&lab.url).await;
        let hold = format!(
            "SET application_name = 'dunlin-agent {}.3'; BEGIN; LOCK TABLE t, dunlin.checkpoints",
            context.lease.id().task
        );
        earlier.batch_execute(&hold).await.unwrap();
        old_enough(&lab).await;
        let ended = crate::steps::run(&context, &task, false).await;
        assert!(matches!(ended, Ok(Ended::Done { .. })), "{ended:?}");
    }
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 1").await, 20);
}
