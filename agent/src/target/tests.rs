//! Looks at targets to which things happen.

use std::sync::Arc;
use std::time::Duration;

use dunlin_shared::ids::TargetName;
use dunlin_shared::postgres::throwaway;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Target, pauses};
use crate::ledger;
use crate::testing::{Lab, connect, until};

const SOON: Duration = Duration::from_secs(20);

const LEDGER: &str = "SELECT count(*) FROM pg_namespace WHERE nspname = 'dunlin'";

#[tokio::test]
async fn a_look_finds_a_ledger_gone_and_does_not_make_it_again() {
    let lab = Lab::new().await;
    let first = lab.target.report(SOON).await;
    assert!(first.reachable && !first.server_version.is_empty(), "{first:?}");
    lab.sql("DROP SCHEMA dunlin CASCADE").await;
    let second = lab.target.report(SOON).await;
    assert!(second.reachable && second.applied.is_empty(), "{second:?}");
    assert_eq!(lab.number(LEDGER).await, 0, "it may be restored at this moment");
    // Nor does work: the controller has to say that this is the target.
    let refused = lab.target.lend().await.unwrap_err();
    assert!(refused.to_string().contains("no controller has said"), "{refused}");
    assert_eq!(lab.number(LEDGER).await, 0);
    assert!(lab.target.trust(SOON).await.raised);
    drop(lab.target.lend().await.unwrap());
    assert_eq!(lab.number(LEDGER).await, 1);
}

#[tokio::test]
async fn a_database_that_is_not_the_one_of_before_is_not_worked_on() {
    let lab = Lab::new().await;
    lab.sql("UPDATE dunlin.identity SET data = gen_random_uuid()").await;
    assert!(lab.target.fresh().await.is_err(), "other data");
    assert!(!lab.target.report(SOON).await.raised);
    assert!(lab.target.trust(SOON).await.raised);
    drop(lab.target.fresh().await.unwrap());
    // As of yesterday.
    lab.sql("UPDATE dunlin.identity SET line = line - 1").await;
    assert!(lab.target.fresh().await.is_err(), "an earlier state");
    assert!(!lab.target.report(SOON).await.raised);
    lab.sql("UPDATE dunlin.identity SET line = line + 1").await;
    assert!(lab.target.report(SOON).await.raised, "it is known again");
    drop(lab.target.lend().await.unwrap());
    lab.sql("UPDATE dunlin.identity SET mark = gen_random_uuid()").await;
    assert!(!lab.target.report(SOON).await.raised, "two have raised the line to one number");
}

#[tokio::test]
async fn half_a_ledger_is_no_empty_one() {
    let lab = Lab::new().await;
    lab.target.report(SOON).await;
    lab.sql("ALTER TABLE dunlin.migrations_registry RENAME TO away").await;
    let report = lab.target.report(SOON).await;
    assert!(!report.reachable && report.error.contains("migrations_registry"), "{report:?}");
    lab.sql("ALTER TABLE dunlin.away RENAME TO migrations_registry").await;
    assert!(lab.target.report(SOON).await.reachable);
}

#[tokio::test]
async fn a_role_that_may_not_use_the_ledger_is_told_what_it_lacks() {
    let lab = Lab::new().await;
    let role = format!(
        "stranger_{}",
        lab.number("SELECT oid::bigint FROM pg_database WHERE datname = current_database()").await
    );
    lab.sql(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'")).await;
    let (_, place) = lab.url.split_once('@').unwrap();
    let target = Target::new(TargetName::default(), &format!("postgres://{role}:pw@{place}"), 1).unwrap();
    let refused = target.trust(SOON).await;
    assert!(!refused.reachable, "{refused:?}");
    assert!(refused.error.contains(&format!("GRANT USAGE ON SCHEMA dunlin TO {role}")), "{refused:?}");
    lab.sql(&format!(
        "GRANT USAGE ON SCHEMA dunlin TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dunlin TO {role}"
    ))
    .await;
    let report = target.trust(SOON).await;
    assert!(report.reachable, "{report:?}");
    drop(target);
    lab.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_target_without_a_ledger_that_the_role_may_make_says_so() {
    let url = throwaway::shared().await.database("bare").await.unwrap();
    let admin = connect(&url).await;
    admin.batch_execute("CREATE ROLE nobody_special LOGIN PASSWORD 'pw'").await.unwrap();
    let (_, place) = url.split_once('@').unwrap();
    let target = Target::new(TargetName::default(), &format!("postgres://nobody_special:pw@{place}"), 1).unwrap();
    let refused = target.trust(SOON).await;
    assert!(refused.error.contains("GRANT CREATE ON DATABASE"), "{refused:?}");
    drop(target);
    admin.batch_execute("DROP ROLE nobody_special").await.unwrap();
}

#[tokio::test]
async fn a_look_connection_that_is_lost_has_the_target_looked_at_at_once() {
    let lab = Lab::new().await;
    let target = Arc::clone(&lab.target);
    let (sender, mut told) = mpsc::unbounded_channel();
    target.report(SOON).await;
    let watching = tokio::spawn(async move {
        target
            .watch(|report| {
                let _gone = sender.send(report);
            })
            .await;
    });
    // A row appears while the server ends all connections: as after a restore.
    lab.sql(
        "INSERT INTO dunlin.migrations_registry (id, version, name, description, checksum, run_after, impacts, run_id, agent_id,
             rows, result, started_at)
         VALUES ('restored', 1, 'n', 'd', 'c', '{}', '{}', 1, 'a', 0, '{}', now())",
    )
    .await;
    let kill = "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    until(&lab.client, kill).await;
    let report = timeout(SOON, told.recv()).await.unwrap().unwrap();
    assert_eq!(report.applied[0].id, "restored");
    watching.abort();
}

#[tokio::test]
async fn what_has_not_changed_is_not_told_and_what_has_is_told_once() {
    let lab = Lab::new().await;
    lab.target.report(SOON).await;
    let look = async || lab.target.look(SOON, false).await.0;
    assert_eq!(look().await, None);
    lab.sql(
        "INSERT INTO dunlin.migrations_registry (id, version, name, description, checksum, run_after, impacts, run_id,
                 agent_id, rows, result, started_at)
             VALUES ('new', 1, 'n', 'd', 'c', '{}', '{}', 1, 'a', 0, '{\"a\": 1}', now())",
    )
    .await;
    assert_eq!(look().await.map(|report| report.applied.len()), Some(1));
    assert_eq!(look().await, None);
    lab.sql("UPDATE dunlin.migrations_registry SET applications = 2").await;
    assert_eq!(look().await.map(|report| report.applied[0].applications), Some(2));
}

#[tokio::test]
async fn a_look_that_is_given_up_while_the_ledger_is_made_holds_up_nobody() {
    let url = throwaway::shared().await.database("target").await.unwrap();
    let slow = connect(&url).await;
    slow.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({})", ledger::PREPARE_LOCK)).await.unwrap();
    let hasty = Target::new(TargetName::default(), &url, 2).unwrap();
    let report = hasty.trust(Duration::from_millis(500)).await;
    assert!(!report.reachable, "it waits for whoever makes the ledger");
    // Its session waits no more, long before a time limit of PostgreSQL would end it.
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted";
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while slow.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(tokio::time::Instant::now() < deadline, "a session that nobody holds still waits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    slow.batch_execute("ROLLBACK").await.unwrap();
    let report = hasty.trust(Duration::from_secs(60)).await;
    assert!(report.reachable, "{}", report.error);
}

#[test]
fn pauses_grow_to_their_limit_and_are_never_all_the_same() {
    let longest = Duration::from_secs(5);
    let many: Vec<Vec<Duration>> = (0..200).map(|_| pauses(longest).take(12).collect()).collect();
    for place in 0..12 {
        let mut at: Vec<Duration> = many.iter().map(|one| one[place]).collect();
        at.sort();
        assert!(at[0] >= Duration::from_millis(100) && at[199] <= longest, "{at:?}");
        assert!(at[199] > at[0].mul_f32(1.5), "the pauses of place {place} lie too close together: {at:?}");
    }
    assert!(many.iter().all(|one| one[0] <= Duration::from_millis(200)), "the first comes soon");
    assert!(many.iter().all(|one| one[11] >= longest / 2), "the last are long");
}

#[tokio::test]
async fn a_database_without_an_encoding_is_refused_when_it_is_met() {
    let server = throwaway::shared().await;
    let name = "without_encoding";
    server
        .command(&format!("CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
        .await
        .unwrap();
    let target = Target::new(TargetName::default(), &server.url(name), 1).unwrap();
    let report = target.report(SOON).await;
    assert!(!report.reachable && report.error.contains("SQL_ASCII"), "{report:?}");
    let client = connect(&server.url(name)).await;
    let schemas: i64 = client.query_one(LEDGER, &[]).await.unwrap().get(0);
    assert_eq!(schemas, 0, "nothing is made in it");
}
