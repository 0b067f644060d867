//! Versions of the ledger, with two that are made up: agents of all of them work side by side.

use dunlin_shared::postgres::Session;
use futures::future::join_all;
use uuid::Uuid;

use super::schema::{CHANGES, Change, Error, prepare_for, survey_for};
use super::survey;
use super::tests::{claim, lab, take_and_commit};
use super::{Error as LedgerError, Taken, take};
use crate::testing::{connect, until};

const SECOND: Change = Change {
    sql: "ALTER TABLE dunlin.checkpoints ADD COLUMN pace jsonb; CREATE TABLE dunlin.second (id bigint PRIMARY KEY)",
    tables: &["second"],
    oldest_reader: 1,
};
const THIRD: Change = Change {
    sql: "ALTER TABLE dunlin.migrations_registry ADD COLUMN third text; CREATE TABLE dunlin.third (id bigint PRIMARY KEY)",
    tables: &["third"],
    oldest_reader: 1,
};

/// All versions up to the third.
fn three() -> Vec<Change> {
    CHANGES.into_iter().chain([SECOND, THIRD]).collect()
}

async fn bring(client: &Session, changes: &[Change]) -> Result<(), Error> {
    prepare_for(client, None, Uuid::new_v4(), changes).await.map(drop)
}

#[tokio::test]
async fn a_ledger_is_brought_up_to_date_while_an_agent_of_the_version_before_works_on_it() {
    let lab = lab().await;
    let newer = connect(&lab.url).await;
    assert!(survey_for(&newer, None, &three()).await.unwrap().behind, "a ledger of the first version lacks nothing");
    super::tests::begin(&lab.client).await;
    assert!(matches!(take(&lab.client, &claim(1, false)).await.unwrap(), Taken::Mine(_)));
    let waits =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
    let watcher = connect(&lab.url).await;
    let works = async {
        until(&watcher, waits).await;
        lab.client.batch_execute("COMMIT").await.unwrap();
    };
    let all = three();
    let (brought, ()) = tokio::join!(bring(&newer, &all), works);
    brought.unwrap();
    assert_eq!(lab.number("SELECT value::bigint FROM dunlin.meta WHERE name = 'ledger_version'").await, 3);
    assert_eq!(lab.number("SELECT epoch FROM dunlin.checkpoints").await, 1, "what the other had open was waited for");
    // The one of before goes on, and looks at it anew.
    assert!(matches!(take_and_commit(&lab.client, &claim(2, false)).await, Taken::Mine(_)));
    assert!(!survey(&lab.client, None).await.unwrap().behind);
    assert!(!survey_for(&newer, None, &all).await.unwrap().behind);
}

#[tokio::test]
async fn agents_of_several_versions_bring_a_ledger_up_to_date_at_once() {
    let lab = lab().await;
    lab.sql("DROP SCHEMA dunlin CASCADE").await;
    let clients = join_all((0..8).map(|_| connect(&lab.url))).await;
    let all = three();
    let brought = clients.iter().enumerate().map(|(number, client)| bring(client, &all[..=number % 3]));
    for result in join_all(brought).await {
        result.unwrap();
    }
    assert_eq!(lab.number("SELECT value::bigint FROM dunlin.meta WHERE name = 'ledger_version'").await, 3);
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.identity").await, 1);
}

#[tokio::test]
async fn an_agent_that_a_ledger_calls_too_old_leaves_it_alone() {
    let lab = lab().await;
    let changes = [CHANGES[0], SECOND, Change { oldest_reader: 3, ..THIRD }];
    bring(&lab.client, &changes).await.unwrap();
    for known in 1..=2 {
        let error = survey_for(&lab.client, None, &changes[..known]).await.unwrap_err().to_string();
        assert!(error.contains("is of version 3, which needs agents that know version 3"), "{error}");
        assert!(error.ends_with(&format!("knows version {known}: it needs a newer agent")), "{error}");
    }
    survey_for(&lab.client, None, &changes).await.unwrap();
}

#[tokio::test]
async fn what_a_ledger_must_have_is_judged_by_its_version() {
    let lab = lab().await;
    bring(&lab.client, &three()).await.unwrap();
    lab.sql("DROP TABLE dunlin.third").await;
    survey(&lab.client, None).await.unwrap();
    survey_for(&lab.client, None, &three()[..2]).await.unwrap();
    let error = survey_for(&lab.client, None, &three()).await.unwrap_err();
    assert!(matches!(&error, Error::Partial(missing) if missing == &["third"]), "{error}");
    lab.sql("UPDATE dunlin.meta SET value = 'two' WHERE name = 'ledger_version'").await;
    let error = survey(&lab.client, None).await.unwrap_err().to_string();
    assert!(error.contains("no ledger_version that is a number (it has \"two\")"), "{error}");
    lab.sql("DROP TABLE dunlin.meta").await;
    assert!(matches!(survey(&lab.client, None).await.unwrap_err(), Error::Partial(missing) if missing == ["meta"]));
}

#[tokio::test]
async fn a_role_that_may_not_change_a_ledger_says_who_can() {
    let lab = lab().await;
    let role: String = lab.row("SELECT 'reader_' || current_database()").await.get(0);
    lab.sql(&format!(
        "CREATE ROLE {role}; GRANT USAGE ON SCHEMA dunlin TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dunlin TO {role}; SET ROLE {role}"
    ))
    .await;
    survey(&lab.client, None).await.unwrap();
    let error = bring(&lab.client, &three()).await.unwrap_err().to_string();
    assert!(
        error.contains("from version 1 to version 3") && error.contains("under the role that owns the schema"),
        "{error}"
    );
    lab.sql(&format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_state_that_this_agent_does_not_know_is_refused_and_never_worked_on() {
    let lab = lab().await;
    lab.sql("UPDATE dunlin.checkpoints SET state = 'closed'").await;
    super::tests::begin(&lab.client).await;
    let error = take(&lab.client, &claim(1, false)).await.unwrap_err();
    assert!(matches!(&error, LedgerError::Damaged(why) if why.contains("the state \"closed\"")), "{error}");
    lab.client.batch_execute("ROLLBACK").await.unwrap();
}
