//! The rules of the ledger, each against a real PostgreSQL.

use dunlin_proto::v1::grant;
use dunlin_shared::ids::{Epoch, MigrationId, RunId, StepName};
use dunlin_shared::postgres::Session;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::*;
use crate::failpoint::RANGE;
use crate::frame::{Durability, Frame};
use crate::limits::Limits;
use crate::steps::Ended;
use crate::testing::{Lab, MIGRATION, connect, seal, until};

fn address() -> Address {
    Address {
        migration: MigrationId::parse(MIGRATION).unwrap(),
        step: Some(StepName::parse("change").unwrap()),
        range: 1,
    }
}

pub(super) fn claim(epoch: i64, again: bool) -> Claim {
    Claim {
        address: address(),
        kind: Kind::Range,
        epoch: Epoch(epoch),
        run: RunId(1),
        applications: 0,
        checksum: "c".to_owned(),
        ordinal: None,
        redo: None,
        keys: None,
        again,
    }
}

/// A database with a table of one row and the checkpoint of one range.
pub(super) async fn lab() -> Lab {
    let lab = Lab::new().await;
    lab.sql("CREATE TABLE t (n bigint); INSERT INTO t VALUES (5)").await;
    lab.sql(
        "INSERT INTO dunlin.checkpoints (migration, step, range, kind, epoch, checksum, high, run_id)
         VALUES ('sample', 'change', 1, 'range', 0, 'c', '{9}', 1)",
    )
    .await;
    lab
}

pub(super) async fn begin(client: &Session) {
    let sql = Frame::new(Limits::default(), "mark".to_owned(), None).begin(Durability::Later);
    client.batch_execute(&sql).await.unwrap();
}

pub(super) async fn take_and_commit(client: &Session, claim: &Claim) -> Taken {
    begin(client).await;
    let taken = take(client, claim).await.unwrap();
    client.batch_execute(if matches!(taken, Taken::Mine(_)) { "COMMIT" } else { "ROLLBACK" }).await.unwrap();
    taken
}

async fn change(client: &Session) {
    begin(client).await;
    client.batch_execute("UPDATE public.t SET n = n * 3 + 1").await.unwrap();
}

/// How an advance is sent.
#[derive(Debug, Clone, Copy)]
enum Sent {
    /// With its values in it, and the transaction stays open.
    Open,
    /// With its values in it and the commit behind it.
    Written,
    /// Prepared, and the commit behind it.
    Prepared,
}

async fn advance(client: &Session, epoch: i64, batches: i64, sent: Sent) -> Result<Advanced, Error> {
    let address = address();
    let seen = Map::from_iter([("seen".to_owned(), Value::from(2))]);
    let none = Map::new();
    let advance = Advance {
        address: &address,
        epoch: Epoch(epoch),
        mark: "mark",
        batches,
        cursor: Some(json!({"by": epoch})),
        rows: 2,
        rows_walked: 3,
        rows_total: 4,
        counters: if matches!(sent, Sent::Prepared) { &none } else { &seen },
        state: State::Open,
        measured: None,
        prepared: matches!(sent, Sent::Prepared),
    };
    let advanced = match sent {
        Sent::Open => advance.execute(client, "", "").await,
        Sent::Written => advance.execute(client, "", ";COMMIT").await,
        Sent::Prepared => {
            client.batch_execute(&to_prepare()).await.unwrap();
            advance.commit(client, RANGE, "", "").await
        }
    };
    if advanced.is_err() {
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    advanced
}

async fn value(lab: &Lab) -> i64 {
    lab.number("SELECT n FROM t").await
}

#[tokio::test]
async fn an_epoch_that_is_not_newer_cannot_take() {
    let lab = lab().await;
    assert!(matches!(take_and_commit(&lab.client, &claim(2, false)).await, Taken::Mine(_)));
    for epoch in [1, 2] {
        let taken = take_and_commit(&lab.client, &claim(epoch, false)).await;
        assert!(matches!(taken, Taken::Stale(Stale { stored: Some(2), applications: 0 })), "{taken:?}");
    }
}

#[tokio::test]
async fn the_same_lease_can_take_again_and_an_older_one_cannot() {
    let lab = lab().await;
    take_and_commit(&lab.client, &claim(2, false)).await;
    assert!(matches!(take_and_commit(&lab.client, &claim(2, true)).await, Taken::Mine(_)));
    assert!(matches!(take_and_commit(&lab.client, &claim(1, true)).await, Taken::Stale(_)));
}

#[tokio::test]
async fn a_lease_of_another_run_with_the_same_epoch_cannot_take_again() {
    let lab = lab().await;
    for kind in [Kind::Range, Kind::Statement, Kind::Plan, Kind::Seal] {
        let with = |run, again| {
            let mut claim = Claim { kind, run: RunId(run), ..claim(2, again) };
            if kind != Kind::Range {
                claim.address.range = 0;
                claim.address.step = StepName::parse(format!("{kind:?}").to_lowercase()).ok();
            }
            claim
        };
        assert!(matches!(take_and_commit(&lab.client, &with(2, false)).await, Taken::Mine(_)), "{kind:?}");
        let taken = take_and_commit(&lab.client, &with(1, true)).await;
        assert!(matches!(taken, Taken::Stale(Stale { stored: Some(2), .. })), "{kind:?}: {taken:?}");
        assert!(matches!(take_and_commit(&lab.client, &with(2, true)).await, Taken::Mine(_)), "{kind:?}");
    }
}

#[tokio::test]
async fn neither_can_it_take_a_step_or_a_seal() {
    let lab = Lab::new().await;
    for (kind, step) in
        [(Kind::Statement, address().step), (Kind::Plan, StepName::parse("walk").ok()), (Kind::Seal, None)]
    {
        let with = |epoch, again| {
            let mut claim = Claim { kind, ..claim(epoch, again) };
            claim.address = Address { step: step.clone(), range: 0, ..address() };
            claim
        };
        assert!(matches!(take_and_commit(&lab.client, &with(2, false)).await, Taken::Mine(found) if found.fresh));
        for (epoch, again) in [(1, false), (2, false), (1, true)] {
            let taken = take_and_commit(&lab.client, &with(epoch, again)).await;
            assert!(
                matches!(taken, Taken::Stale(Stale { stored: Some(2), .. })),
                "{kind:?} {epoch} {again}: {taken:?}"
            );
        }
        assert!(matches!(take_and_commit(&lab.client, &with(2, true)).await, Taken::Mine(found) if !found.fresh));
    }
}

#[tokio::test]
async fn a_range_that_no_plan_has_written_cannot_be_taken() {
    let lab = lab().await;
    let mut claim = claim(5, false);
    claim.address.range = 2;
    assert!(matches!(take_and_commit(&lab.client, &claim).await, Taken::Stale(Stale { stored: None, .. })));
}

#[tokio::test]
async fn a_stale_epoch_cannot_commit() {
    for sent in [Sent::Written, Sent::Prepared] {
        let lab = lab().await;
        let newer = connect(&lab.url).await;
        take_and_commit(&lab.client, &claim(1, false)).await;
        change(&lab.client).await;
        // It has changed rows and not advanced: nothing makes the newer lease wait.
        take_and_commit(&newer, &claim(2, false)).await;
        assert!(matches!(advance(&lab.client, 1, 0, sent).await, Err(Error::Moved)));
        assert_eq!(value(&lab).await, 5);
        change(&newer).await;
        advance(&newer, 2, 0, sent).await.unwrap();
        assert_eq!(value(&lab).await, 16);
    }
}

#[tokio::test]
async fn a_take_waits_for_an_open_transaction_that_has_advanced() {
    let lab = lab().await;
    let older = connect(&lab.url).await;
    take_and_commit(&older, &claim(1, false)).await;
    change(&older).await;
    advance(&older, 1, 0, Sent::Open).await.unwrap();

    let newer = connect(&lab.url).await;
    let taking = tokio::spawn(async move { take_and_commit(&newer, &claim(2, false)).await });
    until(
        &lab.client,
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .await;
    older.batch_execute("COMMIT").await.unwrap();
    let Taken::Mine(checkpoint) = taking.await.unwrap() else { panic!("stale") };
    assert_eq!(checkpoint.cursor, Some(json!({"by": 1})), "it goes on where the older one has committed");
    assert_eq!(checkpoint.batches, 1);
}

#[tokio::test]
async fn the_ghost_of_an_own_transaction_cannot_double_a_batch() {
    for sent in [Sent::Written, Sent::Prepared] {
        let lab = lab().await;
        // The connection of this transaction is cut for the agent, and the server has not noticed.
        let ghost = connect(&lab.url).await;
        take_and_commit(&ghost, &claim(1, false)).await;
        begin(&ghost).await;

        let again = connect(&lab.url).await;
        let Taken::Mine(checkpoint) = take_and_commit(&again, &claim(1, true)).await else { panic!("stale") };
        change(&again).await;
        advance(&again, 1, checkpoint.batches, sent).await.unwrap();

        ghost.batch_execute("UPDATE public.t SET n = n * 3 + 1").await.unwrap();
        assert!(matches!(advance(&ghost, 1, 0, sent).await, Err(Error::Moved)));
        assert_eq!(value(&lab).await, 16, "the batch was done once");
    }
}

#[tokio::test]
async fn a_transaction_that_sql_has_ended_cannot_advance() {
    for sent in [Sent::Written, Sent::Prepared] {
        let lab = lab().await;
        take_and_commit(&lab.client, &claim(1, false)).await;
        change(&lab.client).await;
        lab.sql("COMMIT; BEGIN").await;
        assert!(matches!(advance(&lab.client, 1, 0, sent).await, Err(Error::Moved)));
    }
}

#[tokio::test]
async fn an_advance_writes_the_same_whether_it_is_prepared_or_not() {
    let mut found = Vec::new();
    for sent in [Sent::Written, Sent::Prepared] {
        let lab = lab().await;
        take_and_commit(&lab.client, &claim(1, false)).await;
        change(&lab.client).await;
        advance(&lab.client, 1, 0, sent).await.unwrap();
        let row = "SELECT to_jsonb(c) - 'counters' - 'updated_at' - 'created_at' FROM dunlin.checkpoints c";
        found.push(lab.client.query_one(row, &[]).await.unwrap().get::<_, Value>(0));
    }
    assert_eq!(
        (&found[0]["rows"], &found[0]["rows_walked"], &found[0]["rows_total"]),
        (&json!(2), &json!(3), &json!(4))
    );
    assert_eq!(found[0], found[1]);
}

#[tokio::test]
async fn counters_add_up_over_advances() {
    let lab = lab().await;
    take_and_commit(&lab.client, &claim(1, false)).await;
    for batches in 0..3 {
        begin(&lab.client).await;
        advance(&lab.client, 1, batches, Sent::Written).await.unwrap();
    }
    let sums = sums(&lab.client, &address().migration).await.unwrap();
    assert_eq!((sums.rows, &sums.counters["seen"]), (6, &Value::from(6)));
}

#[tokio::test]
async fn a_sealed_migration_cannot_be_begun_again_by_a_stale_lease() {
    let lab = Lab::new().await;
    lab.work(3, grant::Task::Seal(seal(&[], &[]))).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.checkpoints").await, 0);
    // The checkpoints are gone, and with them every epoch: only the registry tells.
    let mut statement = claim(9, false);
    statement.address.range = 0;
    statement.kind = Kind::Statement;
    let taken = take_and_commit(&lab.client, &Claim { run: RunId(2), ..statement.clone() }).await;
    assert!(matches!(taken, Taken::Stale(Stale { stored: None, applications: 1 })), "{taken:?}");
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.checkpoints").await, 0);
    // A rerun may.
    let rerun = Claim { run: RunId(2), applications: 1, ..statement };
    assert!(matches!(take_and_commit(&lab.client, &rerun).await, Taken::Mine(_)));
}

#[tokio::test]
async fn a_take_that_waited_for_a_seal_sees_it() {
    let lab = Lab::new().await;
    // An open transaction that seals: it has inserted the registry row and deleted the checkpoint.
    lab.sql(
        "INSERT INTO dunlin.checkpoints (migration, step, range, kind, epoch, checksum, run_id)
         VALUES ('sample', 'change', 0, 'statement', 1, 'c', 1)",
    )
    .await;
    let sealing = connect(&lab.url).await;
    sealing
        .batch_execute(
            "BEGIN;
             INSERT INTO dunlin.migrations_registry
                 (id, version, name, description, checksum, run_after, impacts, run_id, agent_id, rows, result, started_at)
             VALUES ('sample', 1, '', '', '', '{}', '{}', 1, 'a', 0, '{}', now());
             DELETE FROM dunlin.checkpoints",
        )
        .await
        .unwrap();
    let other = connect(&lab.url).await;
    let taking = tokio::spawn(async move {
        let mut claim = Claim { run: RunId(2), ..claim(2, false) };
        claim.address.range = 0;
        claim.kind = Kind::Statement;
        take_and_commit(&other, &claim).await
    });
    until(
        &lab.client,
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .await;
    sealing.batch_execute("COMMIT").await.unwrap();
    let taken = taking.await.unwrap();
    assert!(matches!(taken, Taken::Stale(Stale { applications: 1, .. })), "{taken:?}");
}

#[tokio::test]
async fn a_seal_whose_answer_was_lost_is_recognised_as_done() {
    let lab = Lab::new().await;
    lab.work(1, grant::Task::Seal(seal(&[], &[]))).await.unwrap();
    // The same run tries again, by the same lease or the next.
    let Ended::Done { already_done, applied, .. } = lab.work(2, grant::Task::Seal(seal(&[], &[]))).await.unwrap()
    else {
        panic!("not done")
    };
    assert!(already_done);
    assert_eq!(applied.unwrap().applications, 1);
    assert_eq!(lab.number("SELECT applications::bigint FROM dunlin.migrations_registry").await, 1);
}

#[tokio::test]
async fn many_agents_prepare_a_target_at_the_same_time() {
    let lab = Lab::new().await;
    lab.sql("DROP SCHEMA dunlin CASCADE").await;
    let clients = futures::future::join_all((0..8).map(|_| connect(&lab.url))).await;
    let prepared = futures::future::join_all(clients.iter().map(|client| prepare(client, None, Uuid::new_v4()))).await;
    for facts in prepared {
        facts.unwrap();
    }
}

#[tokio::test]
async fn a_role_that_may_not_create_the_schema_is_told_what_to_grant_and_can_use_it() {
    let lab = Lab::new().await;
    lab.sql("DROP SCHEMA dunlin CASCADE; CREATE ROLE plain; SET ROLE plain").await;
    let error = prepare(&lab.client, None, Uuid::new_v4()).await.unwrap_err();
    assert!(error.to_string().contains("GRANT CREATE ON DATABASE"), "{error}");
    lab.sql("RESET ROLE").await;
    prepare(&lab.client, None, Uuid::new_v4()).await.unwrap();
    lab.sql("SET ROLE plain").await;
    let error = prepare(&lab.client, None, Uuid::new_v4()).await.unwrap_err();
    assert!(error.to_string().contains("GRANT USAGE ON SCHEMA dunlin TO plain"), "{error}");
    lab.sql(
        "RESET ROLE; GRANT USAGE ON SCHEMA dunlin TO plain;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dunlin TO plain; SET ROLE plain",
    )
    .await;
    prepare(&lab.client, None, Uuid::new_v4()).await.unwrap();
    lab.sql("RESET ROLE; DROP OWNED BY plain; DROP ROLE plain").await;
}

#[tokio::test]
async fn a_read_only_target_is_told_apart() {
    let lab = Lab::new().await;
    lab.sql("SET default_transaction_read_only = on").await;
    let error = prepare(&lab.client, None, Uuid::new_v4()).await.unwrap_err();
    assert!(error.to_string().contains("default_transaction_read_only"), "{error}");
}
