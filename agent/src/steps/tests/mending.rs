//! A definition that changed between two attempts, and a target that holds the first one half done.

use dunlin_proto::v1::{Mending, Step, StepKind, grant};
use dunlin_shared::ids::{Epoch, MigrationId, RunId, StepName};
use dunlin_shared::postgres::Session;
use serde_json::Map;

use crate::frame::{Durability, Frame};
use crate::ledger::{self, Address, Advance, State};
use crate::limits::Limits;
use crate::steps::{Ended, Error};
use crate::testing::{
    Lab, MIGRATION, Planned, atomic_task, batch_step, connect, plan_task, range_task, refusal, seal, sql_step,
    statement_task, until,
};

const ROWS: i64 = 60;

fn named(name: &str, step: Step) -> Step {
    Step { name: name.to_owned(), ..step }
}

fn walk(sql: &str) -> Step {
    batch_step("t", sql, 10, 20, 1)
}

async fn lab() -> Lab {
    let lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint DEFAULT 5)").await;
    lab.sql(&format!("INSERT INTO t SELECT i FROM generate_series(1, {ROWS}) i")).await;
    lab
}

async fn rows_with(lab: &Lab, n: i64) -> i64 {
    lab.number(&format!("SELECT count(*) FROM t WHERE n = {n}")).await
}

/// A run that follows another.
fn next_run(lab: &mut Lab, request: &str) {
    lab.run = RunId(lab.run.0 + 1);
    lab.mending = Mending { request_id: request.to_owned(), ..Mending::default() };
}

/// Cuts a step into ranges, and works through all of them, under one epoch.
async fn work_through(lab: &mut Lab, epoch: i64, step: &Step) -> i64 {
    let planned = plan(lab, epoch, step).await;
    for range in &planned.ranges {
        if !range.done {
            lab.work(epoch, range_task(step, &planned, range)).await.unwrap();
        }
    }
    planned.ranges.len().try_into().unwrap()
}

async fn plan(lab: &mut Lab, epoch: i64, step: &Step) -> Planned {
    lab.sent();
    let mut planned = Planned::default();
    // A plan yields after its first ranges.
    for epoch in epoch.. {
        let known = i32::try_from(planned.ranges.len()).unwrap();
        let ended = lab.work(epoch, plan_task(step, known)).await.unwrap();
        let (_, more) = lab.sent();
        planned.ranges.extend(more.ranges);
        planned.key = if more.key.is_empty() { planned.key } else { more.key };
        if matches!(ended, Ended::Done { .. }) {
            break;
        }
    }
    planned
}

/// The holder of a lease of an earlier run, which has taken a range, and committed nothing.
struct Late {
    client: Session,
    address: Address,
    epoch: i64,
}

impl Late {
    async fn take(lab: &Lab, step: &str, range: i32, epoch: i64) -> Self {
        let client = connect(&lab.url).await;
        let (step, migration) = (StepName::parse(step).unwrap(), MigrationId::parse(MIGRATION).unwrap());
        let sql = "UPDATE dunlin.checkpoints SET epoch = $1 WHERE step = $2 AND range = $3";
        assert_eq!(client.execute(sql, &[&epoch, &step.as_str(), &range]).await.unwrap(), 1);
        Self { client, address: Address { migration, step: Some(step), range }, epoch }
    }

    /// Changes rows, advances its checkpoint and commits, as a batch does.
    async fn commit(&self, sql: &str) -> Result<(), ledger::Error> {
        let begin = Frame::new(Limits::default(), "mark".to_owned(), None).begin(Durability::Later);
        self.client.batch_execute(&format!("{begin};{sql}")).await.unwrap();
        let counters = Map::new();
        let advance = Advance {
            address: &self.address,
            epoch: Epoch(self.epoch),
            mark: "mark",
            batches: 0,
            cursor: None,
            rows: 1,
            rows_walked: 1,
            rows_total: 0,
            counters: &counters,
            state: State::Open,
            measured: None,
            prepared: false,
        };
        let advanced = advance.execute(&self.client, "", ";COMMIT").await.map(drop);
        if advanced.is_err() {
            self.client.batch_execute("ROLLBACK").await.unwrap();
        }
        advanced
    }
}

#[tokio::test]
async fn a_step_that_was_renamed_is_refused_or_goes_on_under_its_new_name() {
    let mut lab = lab().await;
    let old = named("to cnets", sql_step("UPDATE t SET n = n * 3 + 1"));
    lab.work(1, statement_task(old.clone())).await.unwrap();

    next_run(&mut lab, "second");
    let new = named("to cents", old);
    let error = refusal(lab.work(2, statement_task(new.clone())).await);
    assert!(error.message.contains("\"to cnets\"") && error.next.contains("was = \"to cnets\""), "{error:?}");
    assert_eq!(rows_with(&lab, 16).await, ROWS);

    let new = Step { was: "to cnets".to_owned(), ..new };
    let ended = lab.work(2, statement_task(new.clone())).await.unwrap();
    assert!(matches!(ended, Ended::Done { already_done: true, rows: ROWS, .. }), "{ended:?}");
    assert!(lab.sent().0.iter().any(|note| note.message.contains("is called \"to cents\" now")));
    // The lease of the run before, late: it has the old definition, and the target holds the step under its new name.
    lab.run = RunId(1);
    let late = refusal(lab.work(3, statement_task(named("to cnets", sql_step("UPDATE t SET n = n * 3 + 1")))).await);
    assert!(late.message.contains("\"to cents\""), "{late:?}");
    assert_eq!(rows_with(&lab, 16).await, ROWS, "it was done once");
}

#[tokio::test]
async fn a_late_lease_under_the_old_name_cannot_commit_once_the_step_is_renamed() {
    let mut lab = lab().await;
    let old = named("old", walk("UPDATE t SET n = n * 3 + 1 WHERE :batch"));
    let planned = plan(&mut lab, 1, &old).await;
    lab.work(1, range_task(&old, &planned, &planned.ranges[0])).await.unwrap();
    let late = Late::take(&lab, "old", 2, 1).await;

    next_run(&mut lab, "second");
    let new = Step { was: "old".to_owned(), ..named("new", old.clone()) };
    assert_eq!(work_through(&mut lab, 11, &new).await, 3);
    assert!(late.commit("UPDATE public.t SET n = n * 3 + 1 WHERE id BETWEEN 21 AND 30").await.is_err());
    assert_eq!(rows_with(&lab, 16).await, ROWS);
}

#[tokio::test]
async fn a_half_done_step_goes_on_with_its_own_text_only() {
    let mut lab = lab().await;
    let old = walk("UPDATE t SET n = n + 1 WHERE :batch");
    let planned = plan(&mut lab, 1, &old).await;
    lab.work(1, range_task(&old, &planned, &planned.ranges[0])).await.unwrap();

    next_run(&mut lab, "second");
    let new = walk("UPDATE t SET n = n + 10 WHERE :batch");
    let error = refusal(lab.work(11, plan_task(&new, 0)).await);
    assert!(error.message.contains("20 rows were walked with it, 20 changed"), "{error:?}");
    for way in ["Restore its text", "--redo change", "--continue change --reason"] {
        assert!(error.next.contains(way), "{way}: {error:?}");
    }
    // Other sizes are no other text.
    let smaller = Step { batch: batch_step("t", "", 5, 20, 1).batch, ..old.clone() };
    assert_eq!(work_through(&mut lab, 11, &smaller).await, 3);
    assert_eq!(rows_with(&lab, 6).await, ROWS);
}

#[tokio::test]
async fn a_step_that_has_changed_nothing_yet_may_have_any_text() {
    let mut lab = lab().await;
    let wrong = walk("UPDATE t SET n = 1 / (n - n) WHERE :batch");
    let planned = plan(&mut lab, 1, &wrong).await;
    refusal(lab.work(1, range_task(&wrong, &planned, &planned.ranges[0])).await);
    let late = Late::take(&lab, "change", 2, 1).await;

    next_run(&mut lab, "second");
    let right = walk("UPDATE t SET n = n * 3 + 1 WHERE :batch");
    work_through(&mut lab, 11, &right).await;
    assert!(late.commit("UPDATE public.t SET n = 0 WHERE id = 25").await.is_err(), "the old text is out");
    assert_eq!(rows_with(&lab, 16).await, ROWS);
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.checkpoints WHERE story IS NOT NULL").await, 0);
}

#[tokio::test]
async fn a_step_is_carried_out_again_over_all_rows_once_for_each_request() {
    let mut lab = lab().await;
    let old = walk("UPDATE t SET n = n + 1 WHERE :batch");
    work_through(&mut lab, 1, &old).await;

    let new = walk("UPDATE t SET n = n * 3 + 1 WHERE :batch");
    next_run(&mut lab, "second");
    let error = refusal(lab.work(11, plan_task(&new, 0)).await);
    assert!(error.message.contains("another text") && error.next.contains("--redo change"), "{error:?}");
    lab.mending.redo_steps = vec!["change".to_owned()];
    lab.mending.reason = "it was wrong".to_owned();
    lab.mending.requested_by = "ann".to_owned();
    // An agent that dies in the middle: the next one goes on with what was begun again.
    let planned = plan(&mut lab, 11, &new).await;
    lab.work(11, range_task(&new, &planned, &planned.ranges[0])).await.unwrap();
    assert_eq!(rows_with(&lab, 6 * 3 + 1).await, 20);
    let again = plan(&mut lab, 21, &new).await;
    assert_eq!(again.ranges.iter().map(|range| range.done).collect::<Vec<_>>(), [true, false, false]);
    for range in &again.ranges[1..] {
        lab.work(21, range_task(&new, &again, range)).await.unwrap();
    }
    assert_eq!(rows_with(&lab, 6 * 3 + 1).await, ROWS);

    lab.work(22, grant::Task::Seal(seal(&[new], &[]))).await.unwrap();
    let result: serde_json::Value = lab.row("SELECT result FROM dunlin.migrations_registry").await.get(0);
    let story = &result["mended"][0];
    assert_eq!((story["step"].as_str(), story["by"].as_str()), (Some("change"), Some("ann")));
    assert_eq!((story["reason"].as_str(), story["rows_before"].as_i64()), (Some("it was wrong"), Some(ROWS)));
    assert_eq!(result["rows"].as_i64(), Some(ROWS), "the rows of the text that holds");
}

#[tokio::test]
async fn a_late_lease_from_before_a_step_was_begun_again_cannot_commit_although_it_counts_the_same_batches() {
    let mut lab = lab().await;
    let old = walk("UPDATE t SET n = n + 1 WHERE :batch");
    let planned = plan(&mut lab, 1, &old).await;
    // It has taken its range under epoch 1, and has changed nothing yet.
    let late = Late::take(&lab, "change", 3, 1).await;
    lab.work(1, range_task(&old, &planned, &planned.ranges[0])).await.unwrap();

    next_run(&mut lab, "second");
    lab.mending.redo_steps = vec!["change".to_owned()];
    let new = walk("UPDATE t SET n = n * 3 + 1 WHERE :batch");
    // A controller that has lost what it knew of the first run: its leases of ranges begin with epoch 1 again.
    let again = plan(&mut lab, 11, &new).await;
    let stale = lab.work(1, range_task(&new, &again, &again.ranges[2])).await;
    assert!(matches!(stale, Err(Error::Stale(_))), "the fence is above it: {stale:?}");
    assert!(late.commit("UPDATE public.t SET n = 0 WHERE id = 41").await.is_err());
    for range in &again.ranges {
        lab.work(12, range_task(&new, &again, range)).await.unwrap();
    }
    assert_eq!(rows_with(&lab, 16).await, ROWS - 20);
    assert_eq!(rows_with(&lab, 6 * 3 + 1).await, 20);
}

#[tokio::test]
async fn a_late_lease_that_nobody_has_taken_does_not_take_a_range_that_was_cut_anew() {
    let mut lab = lab().await;
    let step = walk("UPDATE t SET n = n * 3 + 1 WHERE :batch");
    let planned = plan(&mut lab, 1, &step).await;
    lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await.unwrap();

    lab.sql("DELETE FROM t WHERE id <= 10; UPDATE t SET n = 5").await;
    next_run(&mut lab, "second");
    lab.mending.redo_steps = vec!["change".to_owned()];
    let again = plan(&mut lab, 11, &step).await;
    // Its epoch is above the fence, since the target has never heard of it; its ends are those of the first plan.
    let late = refusal(lab.work(9, range_task(&step, &planned, &planned.ranges[1])).await);
    assert!(late.message.contains("with other ends"), "{late:?}");
    assert_eq!(rows_with(&lab, 5).await, ROWS - 10);
    for range in &again.ranges {
        lab.work(12, range_task(&step, &again, range)).await.unwrap();
    }
    assert_eq!(rows_with(&lab, 16).await, ROWS - 10);
}

#[tokio::test]
async fn a_step_goes_on_with_another_text_for_a_reason_and_nobody_goes_on_with_the_old_one() {
    let mut lab = lab().await;
    let old = walk("UPDATE t SET n = n + 1 WHERE :batch");
    let planned = plan(&mut lab, 1, &old).await;
    lab.work(1, range_task(&old, &planned, &planned.ranges[0])).await.unwrap();
    let late = Late::take(&lab, "change", 2, 1).await;

    next_run(&mut lab, "second");
    lab.mending.continue_steps = vec!["change".to_owned()];
    lab.mending.reason = "only new rows differ".to_owned();
    let new = walk("UPDATE t SET n = n + 10 WHERE :batch");
    let again = plan(&mut lab, 11, &new).await;
    assert!(late.commit("UPDATE public.t SET n = n + 1 WHERE id BETWEEN 21 AND 30").await.is_err());
    for range in again.ranges.iter().filter(|range| !range.done) {
        lab.work(12, range_task(&new, &again, range)).await.unwrap();
    }
    assert_eq!((rows_with(&lab, 6).await, rows_with(&lab, 15).await), (20, ROWS - 20));
    lab.work(13, grant::Task::Seal(seal(&[new], &[]))).await.unwrap();
    let story: serde_json::Value = lab.row("SELECT result->'mended'->0 FROM dunlin.migrations_registry").await.get(0);
    assert_eq!((story["rows_before"].as_i64(), story["reason"].as_str()), (Some(20), Some("only new rows differ")));
}

#[tokio::test]
async fn a_step_that_may_be_repeated_is_carried_out_again_when_its_text_has_changed() {
    let mut lab = lab().await;
    let step = |sql: &str| Step { idempotent: true, ..walk(sql) };
    work_through(&mut lab, 1, &step("UPDATE t SET n = 7 WHERE :batch")).await;
    next_run(&mut lab, "second");
    work_through(&mut lab, 11, &step("UPDATE t SET n = 8 WHERE :batch")).await;
    assert_eq!(rows_with(&lab, 8).await, ROWS);
}

#[tokio::test]
async fn a_migration_that_has_become_atomic_does_not_repeat_the_steps_that_are_done() {
    let mut lab = lab().await;
    let first = named("first", sql_step("UPDATE t SET n = n * 3 + 1"));
    let second = |sql: &str| named("second", sql_step(sql));
    lab.steps = vec![first.clone(), named("second", walk("UPDATE t SET n = 1 / (n - n) WHERE :batch"))];
    lab.work(1, statement_task(first.clone())).await.unwrap();
    let wrong = lab.steps[1].clone();
    let planned = plan(&mut lab, 2, &wrong).await;
    refusal(lab.work(2, range_task(&wrong, &planned, &planned.ranges[0])).await);

    next_run(&mut lab, "second");
    lab.steps = vec![first.clone(), second("CREATE INDEX ON t (n)")];
    let task = atomic_task(lab.steps.clone(), &[], &[]);
    let Ended::Done { rows, applied, .. } = lab.work(11, task).await.unwrap() else { panic!("not done") };
    assert_eq!(rows_with(&lab, 16).await, ROWS, "the first step was done once");
    assert_eq!((rows, applied.unwrap().rows), (ROWS, ROWS));
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.checkpoints").await, 0);
}

#[tokio::test]
async fn a_step_is_begun_under_two_names_by_one_of_two_leases_only() {
    let mut lab = lab().await;
    // An older lease is in the middle of the step, under the old name: nothing of it is committed.
    let late = connect(&lab.url).await;
    late.batch_execute("BEGIN").await.unwrap();
    ledger::hold(&late, &MigrationId::parse(MIGRATION).unwrap()).await.unwrap();
    late.batch_execute(
        "INSERT INTO dunlin.checkpoints (migration, step, range, kind, epoch, checksum, run_id, ordinal, state)
         VALUES ('sample', 'old', 0, 'statement', 1, 'UPDATE t SET n = n * 3 + 1', 1, 1, 'done');
         UPDATE t SET n = n * 3 + 1",
    )
    .await
    .unwrap();
    let client = connect(&lab.url).await;
    next_run(&mut lab, "second");
    let new = Step { was: "old".to_owned(), ..named("new", sql_step("UPDATE t SET n = n * 3 + 1")) };
    let (ended, ()) = tokio::join!(lab.work(11, statement_task(new)), async {
        until(
            &client,
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'",
        )
        .await;
        late.batch_execute("COMMIT").await.unwrap();
    });
    assert!(matches!(ended.unwrap(), Ended::Done { already_done: true, .. }));
    assert_eq!(rows_with(&lab, 16).await, ROWS);
}

#[tokio::test]
async fn an_index_that_failed_to_build_may_be_built_with_another_text_and_one_that_was_begun_may_not() {
    let mut lab = lab().await;
    let build = |sql: &str| Step { kind: StepKind::SqlNoTransaction.into(), ..sql_step(sql) };
    lab.sql("UPDATE t SET n = id / 2").await;
    refusal(lab.work(1, statement_task(build("CREATE UNIQUE INDEX CONCURRENTLY t_n ON t (n)"))).await);
    next_run(&mut lab, "second");
    lab.work(11, statement_task(build("CREATE INDEX CONCURRENTLY t_n ON t (n)"))).await.unwrap();

    lab.sql("UPDATE dunlin.checkpoints SET state = 'open'").await;
    next_run(&mut lab, "third");
    let other = build("CREATE INDEX CONCURRENTLY t_other ON t (n)");
    let error = refusal(lab.work(21, statement_task(other.clone())).await);
    assert!(error.message.contains("begun outside a transaction"), "{error:?}");
    lab.mending.redo_steps = vec!["change".to_owned()];
    lab.work(22, statement_task(other)).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indisvalid").await, 3);
}

#[tokio::test]
async fn a_target_that_was_put_back_under_a_step_that_is_done_again_is_noticed() {
    let mut lab = lab().await;
    let old = walk("UPDATE t SET n = n + 1 WHERE :batch");
    work_through(&mut lab, 1, &old).await;
    lab.sql("CREATE TABLE kept AS SELECT * FROM dunlin.checkpoints").await;
    next_run(&mut lab, "second");
    lab.mending.redo_steps = vec!["change".to_owned()];
    let new = walk("UPDATE t SET n = n * 3 + 1 WHERE :batch");
    let planned = plan(&mut lab, 11, &new).await;
    lab.sql("DELETE FROM dunlin.checkpoints; INSERT INTO dunlin.checkpoints SELECT * FROM kept").await;
    let error = refusal(lab.work(12, range_task(&new, &planned, &planned.ranges[0])).await);
    assert!(error.message.contains("put back"), "{error:?}");
    let error = refusal(lab.work(12, grant::Task::Seal(seal(&[new], &[]))).await);
    assert!(error.message.contains("put back"), "{error:?}");
}

#[tokio::test]
async fn a_check_that_does_not_hold_behind_the_steps_names_the_walk_that_may_be_repeated() {
    let mut lab = lab().await;
    let step = Step { idempotent: true, ..walk("UPDATE t SET n = 7 WHERE :batch") };
    work_through(&mut lab, 1, &step).await;
    lab.sql("INSERT INTO t VALUES (1000)").await;
    let check = "SELECT NOT EXISTS (SELECT FROM t WHERE n <> 7)";
    let seal = |step: &Step| grant::Task::Seal(seal(std::slice::from_ref(step), &[check]));
    let error = refusal(lab.work(11, seal(&step)).await);
    assert!(
        error.next.contains("behind the walk") && error.next.contains("`dunlin run sample --redo change`"),
        "{error:?}"
    );
    next_run(&mut lab, "second");
    lab.mending.redo_steps = vec!["change".to_owned()];
    work_through(&mut lab, 21, &step).await;
    lab.work(31, seal(&step)).await.unwrap();
    assert_eq!(rows_with(&lab, 7).await, ROWS + 1);
}
