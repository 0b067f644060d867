//! What a failure says to do, where that depends on the step.

use dunlin_proto::v1::{RunError, Step, StepKind};

use crate::testing::{Lab, atomic_task, refusal, sql_step, statement_task};

fn named(name: &str, sql: &str) -> Step {
    Step { name: name.to_owned(), ..sql_step(sql) }
}

fn outside(sql: &str) -> Step {
    Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step(sql) }
}

async fn lab(sql: &str) -> Lab {
    let lab = Lab::new().await;
    lab.sql(sql).await;
    lab
}

fn says(error: &RunError, words: &[&str]) {
    for word in words {
        assert!(error.next.contains(word), "{word}\n{error:#?}");
    }
}

#[tokio::test]
async fn a_new_enum_value_that_is_used_too_early_names_the_steps_of_the_transaction() {
    let lab = lab("CREATE TYPE status AS ENUM ('new'); CREATE TABLE t (s status); INSERT INTO t VALUES ('new')").await;
    let add = "ALTER TYPE public.status ADD VALUE 'paid'";
    let steps = vec![named("add it", add), named("use it", "UPDATE public.t SET s = 'paid'")];
    let error = refusal(lab.work(1, atomic_task(steps, &[], &[])).await);
    assert_eq!((error.sqlstate.as_str(), error.step.as_str()), ("55P04", "use it"));
    says(&error, &["one transaction", "\"add it\"", "\"use it\"", "`transaction = \"own\"`", "`dunlin run sample`"]);

    let one = named("both", &format!("{add}; UPDATE public.t SET s = 'paid'"));
    let error = refusal(lab.work(2, atomic_task(vec![one], &[], &[])).await);
    says(&error, &["All statements of a step are one transaction", "a step of its own before it"]);
}

#[tokio::test]
async fn pending_trigger_events_name_the_steps_of_the_transaction() {
    let lab = lab("CREATE TABLE author (id int PRIMARY KEY); INSERT INTO author VALUES (1), (2);
         CREATE TABLE book (author int REFERENCES author DEFERRABLE INITIALLY DEFERRED, title text);
         INSERT INTO book VALUES (1, NULL)")
    .await;
    let steps = vec![
        named("mend", "UPDATE public.book SET title = '?', author = 2"),
        named("not null", "ALTER TABLE public.book ALTER COLUMN title SET NOT NULL"),
    ];
    let error = refusal(lab.work(1, atomic_task(steps, &[], &[])).await);
    assert_eq!((error.sqlstate.as_str(), error.step.as_str()), ("55006", "not null"));
    says(&error, &["one transaction", "\"mend\"", "\"not null\"", "trigger events"]);
}

#[tokio::test]
async fn an_index_of_a_partitioned_table_is_built_by_on_only_and_attach() {
    let lab = lab("CREATE TABLE t (a int) PARTITION BY LIST (a); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
         CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2)")
    .await;
    let error = refusal(lab.work(1, statement_task(outside("CREATE INDEX CONCURRENTLY i ON public.t (a)"))).await);
    assert_eq!(error.sqlstate, "0A000");
    says(&error, &["CREATE INDEX i ON ONLY", "ALTER INDEX i ATTACH PARTITION", "t1", "t2"]);

    lab.sql("CREATE INDEX i ON t (a)").await;
    let drop = Step { name: "drop".to_owned(), ..outside("DROP INDEX CONCURRENTLY public.i") };
    let error = refusal(lab.work(2, statement_task(drop)).await);
    assert_eq!(error.sqlstate, "0A000");
    says(&error, &["DROP INDEX without CONCURRENTLY"]);
}

const PROCEDURE: &str = "CREATE TABLE t (n int);
    CREATE PROCEDURE p(most int) LANGUAGE plpgsql AS $$ BEGIN
        FOR i IN 1 .. 3 LOOP INSERT INTO public.t VALUES (i); COMMIT;
            IF i > most THEN RAISE 'enough'; END IF; END LOOP; END $$";

#[tokio::test]
async fn a_procedure_that_commits_needs_a_step_outside_a_transaction() {
    let lab = lab(PROCEDURE).await;
    let error = refusal(lab.work(1, statement_task(sql_step("CALL public.p(3)"))).await);
    assert_eq!(error.sqlstate, "2D000");
    says(&error, &["`transaction = false`"]);
    lab.work(2, statement_task(Step { name: "outside".to_owned(), ..outside("CALL public.p(3)") })).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM t").await, 3);
}

#[tokio::test]
async fn a_call_that_was_half_done_says_so_and_so_does_its_repetition() {
    let mut lab = lab(PROCEDURE).await;
    let error = refusal(lab.work(1, statement_task(outside("CALL public.p(1)"))).await);
    says(&error, &["is kept", "from its start"]);
    assert_eq!(lab.number("SELECT count(*) FROM t").await, 2, "it was half done");
    lab.sql("CREATE OR REPLACE PROCEDURE p(most int) LANGUAGE sql AS 'SELECT 1'").await;
    drop(lab.sent());
    lab.work(2, statement_task(outside("CALL public.p(1)"))).await.unwrap();
    let notes = lab.sent().0;
    assert!(notes.iter().any(|note| note.message.contains("what it had committed is kept")), "{notes:?}");
}

#[tokio::test]
async fn what_is_there_already_is_to_be_looked_at_before_anything_is_removed() {
    let lab = lab("CREATE TABLE t (n int)").await;
    for (lease, sql) in [(1, "CREATE TABLE public.t (n int)"), (2, "ALTER TABLE public.t ADD COLUMN n int")] {
        let error = refusal(lab.work(lease, statement_task(sql_step(sql))).await);
        says(&error, &["look at", "IF NOT EXISTS", "`dunlin register DIR`"]);
        assert!(!error.next.contains("Remove it"), "{error:#?}");
    }
}
