use std::time::Duration;

use dunlin_proto::v1::{Step, StepKind};

use crate::limits::Limits;
use crate::steps::Error;
use crate::testing::{Lab, atomic_task, connect, sql_step, statement_task, until};

#[tokio::test]
async fn all_waits_of_a_step_together_are_limited() {
    let mut lab = Lab::new().await;
    lab.limits = Limits { schema_lock_timeout: Some(Duration::from_millis(400)), ..Limits::default() };
    lab.sql("CREATE TABLE a (n int); CREATE TABLE b (n int); CREATE TABLE c (n int)").await;
    let mut holders = Vec::new();
    for table in ["a", "b", "c"] {
        let holder = connect(&lab.url).await;
        holder.batch_execute(&format!("BEGIN; LOCK TABLE {table}")).await.unwrap();
        holders.push(holder);
    }
    let task = statement_task(sql_step("LOCK TABLE a; LOCK TABLE b; LOCK TABLE c"));
    let release = async {
        for (holder, table) in holders.iter().zip(["a", "b", "c"]) {
            // None of the waits by itself is longer than the limit.
            let waits = format!(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = '{table}'::regclass AND NOT granted
                                AND waitstart < clock_timestamp() - interval '250 ms')"
            );
            until(&lab.client, &waits).await;
            holder.batch_execute("COMMIT").await.unwrap();
        }
        std::future::pending().await
    };
    let blocked = tokio::select! {
        blocked = lab.work(1, task.clone()) => blocked,
        () = release => unreachable!("it has no end"),
    };
    assert!(matches!(&blocked, Err(Error::Passing(error)) if error.sqlstate == "55P03"), "{blocked:?}");
    for holder in holders {
        holder.batch_execute("ROLLBACK").await.unwrap();
    }
    lab.work(1, task).await.unwrap();
}

#[tokio::test]
async fn a_step_whose_sql_says_how_long_it_waits_is_taken_at_its_word() {
    let mut lab = Lab::new().await;
    lab.limits = Limits { schema_lock_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    lab.sql("CREATE TABLE a (n int)").await;
    lab.sql("BEGIN; LOCK TABLE a").await;
    let other = connect(&lab.url).await;
    let task = statement_task(sql_step("SET LOCAL lock_timeout = '20s'; ALTER TABLE a ADD b int"));
    let release = async {
        until(
            &other,
            "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                            WHERE c.relname = 'a' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                            AND NOT granted AND waitstart < clock_timestamp() - interval '400 ms')",
        )
        .await;
        lab.sql("COMMIT").await;
    };
    let (done, ()) = tokio::join!(lab.work(1, task), release);
    done.unwrap();
}

#[tokio::test]
async fn the_limit_holds_for_the_sql_of_steps_alone() {
    let mut lab = Lab::new().await;
    lab.limits = Limits { schema_lock_timeout: Some(Duration::from_millis(50)), ..Limits::default() };
    lab.sql("CREATE TABLE seen (step text, lock_timeout text)").await;
    let see = |step: &str| sql_step(&format!("INSERT INTO seen SELECT '{step}', current_setting('lock_timeout')"));
    // A check sees what Dunlin's own statements have.
    let check = "SELECT current_setting('lock_timeout') = '5s'";
    lab.work(1, atomic_task(vec![see("one"), see("two")], &[check], &[check])).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM seen WHERE lock_timeout = '50ms'").await, 2);
}

#[tokio::test]
async fn who_is_in_the_way_is_seen_and_ended_also_where_the_connection_is_set_to_another_role() {
    let lab = Lab::new().await;
    let role =
        format!("other_{}", lab.number("SELECT oid::bigint FROM pg_database WHERE datname = current_database()").await);
    lab.sql(&format!(
        "CREATE ROLE {role}; GRANT USAGE ON SCHEMA dunlin TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dunlin TO {role};
         CREATE TABLE t (n int); ALTER TABLE t OWNER TO {role}; GRANT ALL ON SCHEMA public TO {role}"
    ))
    .await;
    let holder = connect(&lab.url).await;
    let mut lab = lab.again_with_setting("role", &role).await;
    lab.limits = Limits { schema_lock_timeout: Some(Duration::from_millis(300)), ..Limits::default() };
    holder.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    for step in [
        sql_step("ALTER TABLE t ADD a int"),
        // No lock_timeout ends this wait, but the watcher.
        Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step("VACUUM FULL t") },
    ] {
        let context = lab.context(1);
        let blocked = crate::steps::run(&context, &statement_task(step.clone()), false).await;
        assert!(matches!(&blocked, Err(Error::Passing(error)) if error.sqlstate == "55P03"), "{blocked:?}");
        let wait = context.waits.take().last.unwrap();
        assert!(wait.describe().contains("a lock on public.t"), "{wait:?}");
        assert!(wait.describe().contains("in its transaction since"), "{wait:?}");
        lab.sql("DELETE FROM dunlin.checkpoints").await;
    }
    holder.batch_execute("ROLLBACK").await.unwrap();
    lab.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
