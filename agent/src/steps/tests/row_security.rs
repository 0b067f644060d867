//! Tables with policies: nothing is left out without a word.

use std::sync::Arc;

use dunlin_proto::v1::{Check, StatementTask, Step, StepKind, grant};
use dunlin_shared::ids::TargetName;

use crate::steps::Ended;
use crate::target::Target;
use crate::testing::{Lab, atomic_task, batch_step, checks, plan_task, refusal, sql_step, statement_task};

/// A laboratory whose agent has a role that policies hold for, and a table of which that role sees a tenth.
async fn lab(forced: bool) -> (Lab, String) {
    let mut lab = Lab::new().await;
    let database = lab.number("SELECT oid::bigint FROM pg_database WHERE datname = current_database()").await;
    let role = format!("migrator_{database}");
    lab.sql(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'pw' NOSUPERUSER NOBYPASSRLS; GRANT CREATE ON SCHEMA public TO {role};
         GRANT USAGE ON SCHEMA dunlin TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dunlin TO {role};
         CREATE TABLE invoices (id bigint PRIMARY KEY, tenant int NOT NULL, n bigint NOT NULL DEFAULT 5);
         INSERT INTO invoices SELECT i, i % 10 FROM generate_series(1, 100) i;
         ALTER TABLE invoices ENABLE ROW LEVEL SECURITY;
         CREATE POLICY one_tenant ON invoices USING (tenant = 3)"
    ))
    .await;
    if forced {
        lab.sql(&format!("ALTER TABLE invoices OWNER TO {role}; ALTER TABLE invoices FORCE ROW LEVEL SECURITY")).await;
    } else {
        lab.sql(&format!("GRANT ALL ON invoices TO {role}")).await;
    }
    let (_, place) = lab.url.split_once('@').unwrap();
    let url = format!("postgres://{role}:pw@{place}");
    lab.target = Arc::new(Target::new(TargetName::default(), &url, 4).unwrap());
    assert!(lab.target.trust(std::time::Duration::from_secs(20)).await.raised);
    (lab, role)
}

async fn gone(lab: Lab, role: &str) {
    lab.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

const UPDATE: &str = "UPDATE invoices SET n = n * 3 + 1";

fn batch() -> Step {
    batch_step("invoices", "UPDATE invoices SET n = n * 3 + 1 WHERE :batch", 10, 1000, 1)
}

#[tokio::test]
async fn rows_that_policies_would_hide_are_an_error_that_names_the_policies_and_the_ways_out() {
    for forced in [true, false] {
        let (lab, role) = lab(forced).await;
        let only_check = |sql: &str| {
            grant::Task::Statement(StatementTask {
                before: checks(&[sql]),
                steps: vec![sql_step("SELECT 1")],
                seal: None,
            })
        };
        for task in [
            statement_task(sql_step(UPDATE)),
            atomic_task(vec![sql_step("SELECT 1")], &[], &["SELECT count(*) > 0 FROM invoices"]),
            only_check("SELECT count(*) > 0 FROM invoices"),
            plan_task(&batch(), 0),
        ] {
            let refused = refusal(lab.work(1, task).await);
            assert_eq!(refused.sqlstate, "42501", "{refused:?}");
            assert!(refused.message.contains("row-level security"), "{refused:?}");
            assert!(refused.detail.contains("one_tenant for ALL to PUBLIC USING ((tenant = 3))"), "{refused:?}");
            assert!(refused.detail.contains(if forced { "FORCE is on" } else { "FORCE is off" }), "{refused:?}");
            assert!(refused.next.contains(&format!("ALTER ROLE {role} BYPASSRLS")), "{refused:?}");
            assert!(refused.next.contains("`row_security = true`"), "{refused:?}");
            let force = refused.next.contains("ALTER TABLE public.invoices NO FORCE ROW LEVEL SECURITY");
            assert_eq!(force, forced, "{refused:?}");
        }
        assert_eq!(lab.number("SELECT count(*) FROM invoices WHERE n <> 5").await, 0);
        gone(lab, &role).await;
    }
}

#[tokio::test]
async fn a_function_that_reads_a_table_with_policies_is_named() {
    let (lab, role) = lab(true).await;
    lab.sql(
        "CREATE FUNCTION looks() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN SELECT count(*) INTO n FROM invoices;
         RETURN n; END $$",
    )
    .await;
    let refused = refusal(lab.work(1, statement_task(sql_step("SELECT looks()"))).await);
    assert!(refused.detail.contains("looks()") && refused.detail.contains("one_tenant"), "{refused:?}");
    gone(lab, &role).await;
}

#[tokio::test]
async fn a_privilege_that_is_missing_is_not_taken_for_a_policy() {
    let (lab, role) = lab(false).await;
    lab.sql("CREATE TABLE closed (n int)").await;
    let refused = refusal(lab.work(1, statement_task(sql_step("UPDATE closed SET n = 1"))).await);
    assert_eq!(refused.sqlstate, "42501", "{refused:?}");
    assert!(refused.next.contains("Grant the missing privilege"), "{refused:?}");
    gone(lab, &role).await;
}

#[tokio::test]
async fn a_step_that_says_so_walks_and_changes_the_rows_that_its_role_sees_and_the_result_says_so() {
    let (mut lab, role) = lab(true).await;
    let step = Step { row_security: true, ..batch() };
    assert_eq!(lab.work_through(&step).await, 10);
    assert_eq!(lab.number("SELECT count(*) FROM invoices WHERE n = 16").await, 10);
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let step = Step { row_security: true, ..sql_step(UPDATE) };
    let mut task = atomic_task(vec![step, Step { name: "other".to_owned(), ..sql_step("SELECT 1") }], &[], &[]);
    if let grant::Task::Statement(task) = &mut task {
        task.before = vec![Check {
            name: "ten".to_owned(),
            sql: "SELECT count(*) = 10 FROM invoices".to_owned(),
            row_security: true,
        }];
    }
    let ended = lab.work(1, task).await.unwrap();
    assert!(matches!(ended, Ended::Done { rows: 10, .. }), "{ended:?}");
    let row = lab.row("SELECT result->>'message' FROM dunlin.migrations_registry").await;
    assert!(row.get::<_, &str>(0).contains("under row-level security (steps: change)"));
    gone(lab, &role).await;
}

#[tokio::test]
async fn row_security_of_one_step_ends_with_it() {
    let (lab, role) = lab(true).await;
    let seeing = Step { row_security: true, ..sql_step("SET LOCAL row_security = on; UPDATE invoices SET n = 6") };
    let refused = refusal(lab.work(1, atomic_task(vec![seeing, sql_step(UPDATE)], &[], &[])).await);
    assert!(refused.message.contains("row-level security"), "{refused:?}");
    assert_eq!(lab.number("SELECT count(*) FROM invoices WHERE n <> 5").await, 0);
    gone(lab, &role).await;
}

#[tokio::test]
async fn a_build_that_policies_keep_from_reading_leaves_nothing_behind() {
    let (lab, role) = lab(false).await;
    lab.sql(&format!(
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1); ALTER TABLE t OWNER TO {role};
         CREATE FUNCTION tenants(n int) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS
         $$ BEGIN RETURN (SELECT count(*) FROM public.invoices); END $$"
    ))
    .await;
    let build = Step {
        kind: StepKind::SqlNoTransaction.into(),
        ..sql_step("CREATE INDEX CONCURRENTLY t_tenants ON t (tenants(n))")
    };
    let refused = refusal(lab.work(1, statement_task(build.clone())).await);
    assert!(refused.detail.contains("one_tenant for ALL"), "{refused:?}");
    assert_eq!(lab.number("SELECT count(*) FROM pg_class WHERE relname = 't_tenants'").await, 0);
    gone(lab, &role).await;
}
