//! Work under another role than that of the connection: everything that is made belongs to it, and nobody else gets it.

use std::time::Duration;

use dunlin_proto::v1::work_request::Message;
use dunlin_proto::v1::{Step, StepKind, TaskDone};
use dunlin_shared::ids::TargetName;
use dunlin_shared::postgres::throwaway;
use tokio_postgres::Row;

use crate::steps::Ended;
use crate::target::Target;
use crate::testing::{Lab, atomic_task, batch_step, connect, sql_step, statement_task};

/// A role that owns a table, and a login that is a member of it and has none of its rights by itself. Quoted where that is needed.
struct Roles {
    owner: String,
    login: String,
}

async fn roles(url: &str) -> Roles {
    let client = connect(url).await;
    let database = url.rsplit('/').next().unwrap();
    let (owner, login) = (format!("Owner of {database}"), format!("login_{database}"));
    let sql = format!(
        "CREATE ROLE \"{owner}\"; CREATE ROLE {login} LOGIN NOINHERIT PASSWORD 'secret'; GRANT \"{owner}\" TO {login};
         GRANT CREATE ON DATABASE \"{database}\" TO \"{owner}\"; CREATE SCHEMA mine AUTHORIZATION \"{owner}\";
         SET ROLE \"{owner}\";
         CREATE TABLE mine.t (id bigint PRIMARY KEY, n bigint NOT NULL);
         INSERT INTO mine.t SELECT i, 5 FROM generate_series(1, 200) i"
    );
    client.batch_execute(&sql).await.unwrap();
    Roles { owner, login }
}

/// Names that mean nothing to the login.
async fn works(lab: &mut Lab, owner: &str) {
    let step = batch_step("mine.t", "UPDATE mine.t SET n = n * 3 + 1 WHERE :batch", 10, 100, 2);
    assert_eq!(lab.work_through(&step).await, 200);
    assert_eq!(lab.number("SELECT count(*) FROM mine.t WHERE n = 16").await, 200);
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let made = sql_step("CREATE TABLE mine.made AS SELECT current_user::text AS who; SET ROLE NONE");
    let checks = format!("SELECT current_user = '{owner}'");
    let report = lab.perform(1, atomic_task(vec![made], &[&checks], &[&checks])).await;
    assert!(matches!(report, Message::Done(TaskDone { .. })), "{report:?}");
    let owners = "SELECT string_agg(DISTINCT r.rolname, ',') FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
                  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('mine', 'dunlin')";
    let row: Row = lab.row(owners).await;
    assert_eq!(row.get::<_, String>(0), owner);
    assert_eq!(lab.row("SELECT who FROM mine.made").await.get::<_, String>(0), owner);
}

#[tokio::test]
async fn a_member_without_rights_of_its_own_works_as_the_role() {
    let url = throwaway::shared().await.database("role").await.unwrap();
    let Roles { owner, login } = roles(&url).await;
    let (_, place) = url.split_once('@').unwrap();
    let mut lab = Lab::under(&owner, &url, &format!("postgres://{login}:secret@{place}")).await;
    works(&mut lab, &owner).await;
    let report = lab.target.report(Duration::from_secs(20)).await;
    assert!(report.reachable && report.error.is_empty(), "{report:?}");
    lab.sql("DELETE FROM dunlin.checkpoints; DELETE FROM dunlin.migrations_registry").await;
    let build =
        Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step("CREATE INDEX CONCURRENTLY t_n ON mine.t (n)") };
    let built = lab.work(1, statement_task(build)).await.unwrap();
    assert!(matches!(built, Ended::Done { already_done: false, .. }));
    assert_eq!(
        lab.number("SELECT count(*) FROM pg_index WHERE indexrelid = 'mine.t_n'::regclass AND indisvalid").await,
        1
    );
}

#[tokio::test]
async fn behind_a_pooler_nobody_else_gets_the_role() {
    let (lab, pooler) = Lab::behind_a_pooler(1).await;
    let Roles { owner, .. } = roles(&lab.url).await;
    lab.sql("DROP SCHEMA dunlin CASCADE").await;
    let pooled = pooler.url(&lab.url);
    let mut lab = Lab::under(&owner, &lab.url, &pooled).await;
    assert!(lab.target.pooled());
    works(&mut lab, &owner).await;
    let other = connect(&pooled).await;
    let answer = other.simple_query("SELECT current_user AS who").await.unwrap();
    let who = answer.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get("who"),
        _ => None,
    });
    assert_eq!(who, Some("postgres"));
}

#[tokio::test]
async fn a_role_that_cannot_be_used_is_told_with_the_way_out() {
    let url = throwaway::shared().await.database("role").await.unwrap();
    let Roles { owner, login } = roles(&url).await;
    let client = connect(&url).await;
    client.batch_execute(&format!("REVOKE \"{owner}\" FROM {login}")).await.unwrap();
    let (_, place) = url.split_once('@').unwrap();
    for (role, told) in [(owner.as_str(), "permission denied to set role"), ("nobody at all", "does not exist")] {
        let agents = format!("postgres://{login}:secret@{place}");
        let target = Target::new(TargetName::default(), &agents, 1).unwrap().with_role(role).unwrap();
        let report = target.report(Duration::from_secs(20)).await;
        for text in [told, "--role", &format!("GRANT \"{role}\" TO")] {
            assert!(report.error.contains(text), "{report:?}");
        }
    }
}
