//! What SQL of a definition does to its session, and what comes behind it.

use dunlin_proto::v1::{Step, StepKind, grant};

use crate::steps::Ended;
use crate::testing::{
    Lab, atomic_task, batch_step, checks, connect, range_task, refusal, sql_step, statement_task, until,
};

const TWO_SCHEMAS: &str = "
    CREATE SCHEMA shop; CREATE SCHEMA audit;
    CREATE TABLE public.items (n int); CREATE TABLE audit.items (n int);
    INSERT INTO public.items VALUES (1); INSERT INTO audit.items VALUES (1)";

/// A role that may become the agent's, of a name that no other test has.
async fn role(lab: &Lab) -> String {
    let database = lab.number("SELECT oid::bigint FROM pg_database WHERE datname = current_database()").await;
    let role = format!("owner_{database}");
    lab.sql(&format!("CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role}")).await;
    role
}

async fn drop_role(lab: &Lab, role: &str) {
    lab.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// What a step sees of its settings, into a table.
const SEEN: &str = "CREATE TABLE public.seen AS SELECT current_setting('search_path') AS path, current_setting('lock_timeout') AS locks,
    current_setting('statement_timeout') AS statements, current_user::text AS who, session_user::text AS session,
    current_setting('client_encoding') AS encoding, current_setting('standard_conforming_strings') AS strings,
    current_setting('work_mem') AS memory, coalesce(current_setting('app.actor', true), '') AS actor";

#[tokio::test]
async fn each_step_begins_with_the_settings_and_the_role_that_the_agent_gives_it() {
    let lab = Lab::new().await;
    let role = role(&lab).await;
    lab.work(1, atomic_task(vec![sql_step(SEEN)], &[], &[])).await.unwrap();
    lab.sql("ALTER TABLE seen RENAME TO alone; DELETE FROM dunlin.migrations_registry").await;
    for disturbance in [
        "SET LOCAL search_path = audit; SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = '11min'",
        &format!("SET LOCAL ROLE {role}"),
        &format!("SET LOCAL SESSION AUTHORIZATION {role}"),
        &format!("SET SESSION AUTHORIZATION {role}; SET ROLE NONE"),
        "SET LOCAL client_encoding = 'LATIN1'; SET LOCAL standard_conforming_strings = off; SET LOCAL work_mem = '77MB'",
        "SELECT set_config('search_path', 'audit', false), set_config('work_mem', '77MB', false), set_config('app.actor', 'me', false)",
        "SET search_path = audit; SET work_mem = '77MB'; SET lock_timeout = 0",
        "RESET ALL; RESET ROLE",
    ] {
        let steps = vec![sql_step(disturbance), sql_step(SEEN)];
        lab.work(1, atomic_task(steps, &[], &[])).await.unwrap_or_else(|error| panic!("{disturbance}: {error:?}"));
        let differ = lab.number("SELECT count(*) FROM (TABLE seen EXCEPT TABLE alone) AS s").await;
        let seen = lab.row("SELECT s::text FROM seen s").await;
        assert_eq!(differ, 0, "{disturbance}: {}", seen.get::<_, String>(0));
        lab.sql("DROP TABLE seen; DELETE FROM dunlin.migrations_registry").await;
    }
    drop_role(&lab, &role).await;
}

#[tokio::test]
async fn a_search_path_of_one_step_does_not_choose_the_table_of_the_next() {
    let lab = Lab::new().await;
    lab.sql(TWO_SCHEMAS).await;
    let steps = vec![
        sql_step("SET LOCAL search_path = audit; UPDATE items SET n = 100"),
        sql_step("UPDATE items SET n = n + 1"),
    ];
    lab.work(1, atomic_task(steps, &[], &["SELECT n = 2 FROM items"])).await.unwrap();
    assert_eq!(lab.number("SELECT n::bigint FROM public.items").await, 2);
    assert_eq!(lab.number("SELECT n::bigint FROM audit.items").await, 100);
}

#[tokio::test]
async fn the_ledger_is_written_under_the_role_of_the_agent() {
    let lab = Lab::new().await;
    let role = role(&lab).await;
    let sql = format!("SET LOCAL ROLE {role}; SET LOCAL search_path = nowhere; CREATE TABLE public.theirs (n int)");
    lab.work(1, statement_task(sql_step(&sql))).await.unwrap();
    lab.sql("DROP TABLE theirs; DELETE FROM dunlin.checkpoints").await;
    let owner = "SELECT pg_get_userbyid(relowner) = current_user FROM pg_class WHERE relname = 'theirs'";
    let refused = refusal(lab.work(2, atomic_task(vec![sql_step(&sql)], &[], &[owner])).await);
    assert!(refused.message.contains("returns false"), "the check has the role of the agent: {refused:?}");
    lab.work(3, atomic_task(vec![sql_step(&sql)], &[], &[])).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.migrations_registry").await, 1);
    drop_role(&lab, &role).await;
}

#[tokio::test]
async fn the_role_that_the_connection_is_set_to_is_the_role_of_each_step() {
    let lab = Lab::new().await;
    let role = role(&lab).await;
    lab.sql(&format!(
        "GRANT USAGE ON SCHEMA dunlin TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dunlin TO {role}"
    ))
    .await;
    let lab = lab.again_with_setting("role", &role).await;
    let steps = vec![
        sql_step("CREATE TABLE one (n int); RESET ROLE; RESET ALL"),
        sql_step("CREATE TABLE two (n int); SET ROLE NONE"),
        sql_step("CREATE TABLE three (n int)"),
    ];
    lab.work(1, atomic_task(steps, &[], &[])).await.unwrap();
    let owned = format!(
        "SELECT count(*) FROM pg_class WHERE relname IN ('one', 'two', 'three') AND pg_get_userbyid(relowner) = '{role}'"
    );
    assert_eq!(lab.number(&owned).await, 3);
    drop_role(&lab, &role).await;
}

#[tokio::test]
async fn a_name_in_the_search_path_does_not_stand_for_one_of_postgresql() {
    let lab = Lab::new().await;
    // Whoever puts pg_catalog last gets this function instead of PostgreSQL's.
    lab.sql(
        "CREATE SCHEMA trap;
         CREATE FUNCTION trap.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'another'::text $$;
         CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT NULL::timestamptz $$",
    )
    .await;
    let lab = lab.again_with_setting("search_path", "trap,pg_catalog,public").await;
    lab.work(1, statement_task(sql_step("CREATE TABLE public.t (id bigint PRIMARY KEY, n bigint)"))).await.unwrap();
    lab.sql("INSERT INTO t SELECT i, 5 FROM generate_series(1, 60) i; DELETE FROM dunlin.checkpoints").await;
    let mut lab = lab;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 10, 1000, 1);
    assert_eq!(lab.work_through(&step).await, 60);
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    lab.work(1, atomic_task(vec![sql_step("SELECT 1")], &[], &["SELECT true"])).await.unwrap();
}

#[tokio::test]
async fn what_a_step_makes_for_its_session_ends_with_it() {
    let lab = Lab::new().await;
    let left =
        "CREATE TEMP TABLE items (n int); DECLARE c CURSOR WITH HOLD FOR SELECT 1; DECLARE d CURSOR FOR SELECT 1;
                LISTEN news; PREPARE p AS SELECT 1; PREPARE \"Q q\" AS SELECT 1";
    let look = "CREATE TABLE public.seen AS SELECT
                    (SELECT count(*) FROM pg_cursors WHERE name IN ('c', 'd')) AS cursors,
                    (SELECT count(*) FROM pg_prepared_statements WHERE from_sql) AS prepared,
                    (SELECT count(*) FROM pg_listening_channels()) AS channels,
                    (to_regclass('items') IS NOT NULL)::int AS tables";
    lab.work(1, atomic_task(vec![sql_step(left), sql_step(look)], &[], &[])).await.unwrap();
    assert_eq!(lab.number("SELECT cursors + prepared + channels + tables FROM seen").await, 0);
}

#[tokio::test]
async fn settings_of_a_check_end_with_it() {
    let lab = Lab::new().await;
    let sets = "SELECT set_config('search_path', 'audit', true) = 'audit'";
    let sees = "SELECT current_setting('search_path') <> 'audit'";
    lab.work(1, atomic_task(vec![sql_step(SEEN)], &[sets, sees], &[sets, sees])).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM seen WHERE path <> 'audit'").await, 1);
}

#[tokio::test]
async fn reset_all_is_not_taken_for_the_end_of_the_transaction() {
    let mut lab = Lab::new().await;
    lab.work(1, atomic_task(vec![sql_step("RESET ALL; CREATE TABLE t (id bigint PRIMARY KEY, n int)")], &[], &[]))
        .await
        .unwrap();
    lab.sql(
        "INSERT INTO t VALUES (1); DELETE FROM dunlin.migrations_registry;
         CREATE FUNCTION resets() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'RESET ALL'; RETURN NEW; END $$;
         CREATE TRIGGER resets BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION resets()",
    )
    .await;
    let step = batch_step("t", "UPDATE t SET n = 1 WHERE :batch", 10, 1000, 1);
    assert_eq!(lab.work_through(&step).await, 1);
}

#[tokio::test]
async fn what_a_function_of_a_batch_sets_reaches_neither_the_checkpoint_nor_the_next_batch() {
    let mut lab = Lab::new().await;
    let role = role(&lab).await;
    lab.sql(&format!(
        "CREATE TABLE t (id text PRIMARY KEY, n bigint, path text); CREATE SCHEMA other; CREATE TABLE other.t (LIKE t);
         INSERT INTO t SELECT 'k\\' || lpad(i::text, 4, '0'), 5 FROM generate_series(1, 60) i;
         GRANT ALL ON t TO {role};
         CREATE FUNCTION disturbs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            NEW.path := current_setting('search_path') || current_setting('role') || current_setting('work_mem');
            PERFORM set_config('search_path', 'other', false), set_config('work_mem', '77MB', false);
            PERFORM set_config('standard_conforming_strings', 'off', true), set_config('synchronous_commit', 'off', true);
            IF to_regclass('pg_temp.dunlin_seen') IS NULL THEN CREATE TEMP TABLE dunlin_seen (n int); END IF;
            RETURN NEW;
         END $$;
         CREATE TRIGGER disturbs BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION disturbs()"
    ))
    .await;
    let step = batch_step("public.t", "UPDATE public.t SET n = n * 3 + 1 WHERE :batch", 1, 1000, 1);
    assert_eq!(lab.work_through(&step).await, 60);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 60);
    assert_eq!(lab.number("SELECT count(DISTINCT path) FROM t").await, 1, "every batch had the same settings");
    drop_role(&lab, &role).await;
}

#[tokio::test]
async fn sessions_that_executed_sql_of_a_definition_are_closed_at_the_end_of_the_task() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t SELECT i, 5 FROM generate_series(1, 60) i",
    )
    .await;
    let sessions = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database()
                    AND application_name LIKE 'dunlin-agent%' AND pid <> pg_backend_pid()";
    let fails = "SELECT pg_advisory_lock(4711); SELECT 1 / 0";
    refusal(lab.work(1, atomic_task(vec![sql_step(fails)], &[], &[])).await);
    until(&lab.client, sessions).await;
    let prepares = "PREPARE ins AS INSERT INTO t VALUES (1000, 1)";
    for epoch in 1..3 {
        lab.work(epoch, atomic_task(vec![sql_step(prepares)], &[], &[])).await.unwrap();
        lab.sql("DELETE FROM dunlin.migrations_registry").await;
        until(&lab.client, sessions).await;
    }
    let checked = |name: &str| {
        let step = Step { kind: StepKind::SqlNoTransaction.into(), name: name.to_owned(), ..sql_step("VACUUM t") };
        let before = checks(&["SELECT pg_advisory_lock(4711) IS NOT NULL"]);
        grant::Task::Statement(dunlin_proto::v1::StatementTask { before, steps: vec![step], seal: None })
    };
    lab.work(1, checked("vacuum")).await.unwrap();
    until(&lab.client, sessions).await;
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 10, 1000, 1);
    let planned = lab.plan(&step).await;
    let ended = lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await.unwrap();
    assert!(matches!(ended, Ended::Done { .. }), "{ended:?}");
    lab.sql("SELECT 1").await;
    until(
        &lab.client,
        "SELECT count(*) <= 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'dunlin-agent%'
         AND pid <> pg_backend_pid()",
    )
    .await;
}

#[tokio::test]
async fn locks_of_a_step_that_failed_are_gone_when_that_is_told() {
    let lab = Lab::new().await;
    for sql in ["SELECT pg_advisory_lock(4711); SELECT 1 / 0", "SELECT pg_advisory_lock(4711)"] {
        let _ended = lab.work(1, atomic_task(vec![sql_step(sql)], &[], &[])).await;
        let other = connect(&lab.url).await;
        let free: bool = other.query_one("SELECT pg_try_advisory_lock(4711)", &[]).await.unwrap().get(0);
        assert!(free, "{sql}");
        other.batch_execute("SELECT pg_advisory_unlock(4711)").await.unwrap();
    }
}
