//! What is told where values of rows must not be.

use async_trait::async_trait;
use dunlin_proto::v1::{RunError, Step, StepKind};
use tokio_postgres::Transaction;

use crate::limits::Limits;
use crate::testing::{Lab, batch_step, range_task, refusal, sql_step, statement_task};
use crate::transform::{self, Batch, Outcome, Transform};

const SECRET: &str = "ada@example.org";

struct Tells;

#[async_trait]
impl Transform for Tells {
    async fn apply(&self, _: &Batch, _: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        Err(transform::Error::other(format!("{SECRET} is nobody")))
    }
}

struct Panics;

#[async_trait]
impl Transform for Panics {
    async fn apply(&self, _: &Batch, _: &Transaction<'_>) -> Result<Outcome, transform::Error> {
        panic!("{SECRET} is nobody")
    }
}

async fn lab(redact_rows: bool) -> Lab {
    let mut lab = Lab::new().await;
    lab.limits = Limits { redact_rows, ..Limits::default() };
    lab.transform("tells", Tells);
    lab.transform("panics", Panics);
    lab.sql(&format!(
        "CREATE TABLE people (email text PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO people VALUES ('{SECRET}');
         CREATE FUNCTION cast_it(t text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN t::int; END $$;
         CREATE FUNCTION walk_off() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.email = 'not ' || NEW.email; RETURN NEW; END $$"
    ))
    .await;
    lab
}

/// Everything that is told of steps that fail on the row: the errors, and what was said before.
async fn told(redact_rows: bool) -> Vec<(String, RunError)> {
    let mut all = Vec::new();
    for sql in [
        "INSERT INTO people SELECT email FROM people",
        "UPDATE people SET n = NULL",
        "SELECT email::int FROM people",
        "SELECT cast_it(email) FROM people",
        "DO $$ BEGIN RAISE NOTICE '%', (SELECT email FROM people); RAISE EXCEPTION 'no' USING HINT = (SELECT email FROM people); END $$",
        "DO $$ BEGIN EXECUTE format('SELECT nothing FROM people WHERE email = %L', (SELECT email FROM people)); END $$",
    ] {
        let mut lab = lab(redact_rows).await;
        let error = refusal(lab.work(1, statement_task(sql_step(sql))).await);
        let (notes, _) = lab.sent();
        all.push((format!("{sql}: {notes:?} {error:?}"), error));
    }
    let code = |name: &str| Step {
        kind: StepKind::Transform.into(),
        transform: name.to_owned(),
        ..batch_step("people", "", 10, 100, 0)
    };
    let triggered = batch_step("people", "UPDATE people SET n = 1 WHERE :batch", 10, 100, 0);
    let failing = batch_step("people", "UPDATE people SET n = cast_it(email) WHERE :batch", 10, 100, 0);
    for (step, before) in [
        (failing, ""),
        (triggered, "CREATE TRIGGER t BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION walk_off()"),
        (code("tells"), ""),
        (code("panics"), ""),
    ] {
        let mut lab = lab(redact_rows).await;
        lab.sql(before).await;
        let planned = lab.plan(&step).await;
        let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
        let (notes, _) = lab.sent();
        all.push((format!("{}: {notes:?} {error:?}", step.sql), error));
    }
    all
}

#[tokio::test]
async fn nothing_that_is_told_holds_a_value_of_a_row_where_that_is_asked_for() {
    for (text, error) in told(true).await {
        assert!(!text.contains(SECRET), "{text}");
        assert!(!error.message.is_empty() && !error.next.is_empty(), "{text}");
        if !error.sqlstate.is_empty() {
            assert!(error.message.contains(&format!("the error {}", error.sqlstate)), "{text}");
            assert!(error.detail.is_empty() && error.hint.is_empty() && error.context.is_empty(), "{text}");
        }
    }
    // What PostgreSQL calls the place is kept, and where it is in the SQL.
    let all = told(true).await;
    let error = &all[0].1;
    assert_eq!((error.sqlstate.as_str(), error.table.as_str()), ("23505", "public.people"));
    assert_eq!(error.constraint, "people_pkey");
    assert_eq!((all[1].1.sqlstate.as_str(), all[1].1.column.as_str()), ("23502", "n"));
    assert!(all[1].1.position.is_some());
    assert!(all[4].0.contains("NOTICE: what it says is not told (--redact-rows)"), "{}", all[4].0);
}

#[tokio::test]
async fn without_it_all_is_told() {
    for (text, _) in told(false).await {
        assert!(text.contains(SECRET), "{text}");
    }
}
