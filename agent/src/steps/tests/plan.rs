use dunlin_shared::key::{KeyBound, KeyRange};

use crate::steps::Ended;
use crate::testing::{Lab, Planned, batch_step, plan_task, range_task, refusal};

const UPDATE: &str = "UPDATE t SET n = n + 1 WHERE :batch";

fn assert_contiguous(planned: &Planned) {
    let mut low: Option<KeyBound> = None;
    for (number, range) in (1..).zip(&planned.ranges) {
        assert_eq!(range.ordinal, number);
        let keys = KeyRange::try_from(range).unwrap();
        assert_eq!(keys.low, low);
        low = Some(keys.high);
    }
}

#[tokio::test]
async fn ranges_are_contiguous_and_count_every_row_once() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t SELECT i * 7, 0 FROM generate_series(1, 1050) i",
    )
    .await;
    let planned = lab.plan(&batch_step("t", UPDATE, 10, 100, 0)).await;
    assert_contiguous(&planned);
    assert_eq!(planned.ranges.len(), 11);
    assert_eq!(planned.ranges.iter().map(|range| range.rows_total).sum::<i64>(), 1050);
    assert_eq!(planned.ranges[10].rows_total, 50);
}

#[tokio::test]
async fn where_the_definition_does_not_say_ranges_get_smaller_towards_the_end() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 900000); ANALYZE t").await;
    let planned = lab.plan(&batch_step("t", "DELETE FROM t WHERE :batch", 10, 0, 0)).await;
    assert_contiguous(&planned);
    let rows: Vec<i64> = planned.ranges.iter().map(|range| range.rows_total).collect();
    assert_eq!(rows.iter().sum::<i64>(), 900_000);
    assert_eq!(rows[0], 10_000);
    assert_eq!(rows[1], 400_000);
    assert!(rows[2..].is_sorted_by(|range, next| range >= next), "{rows:?}");
    assert_eq!(rows[rows.len() - 2], 25_000);
}

#[tokio::test]
async fn an_empty_table_has_no_ranges() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int)").await;
    assert!(lab.plan(&batch_step("t", UPDATE, 10, 100, 0)).await.ranges.is_empty());
}

#[tokio::test]
async fn the_first_range_goes_before_the_rest_is_known() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 300) i")
        .await;
    let step = batch_step("t", UPDATE, 10, 100, 0);
    assert!(matches!(lab.work(1, plan_task(&step, 0)).await.unwrap(), Ended::Yielded));
    assert_eq!(lab.sent().1.ranges.len(), 1);
    assert!(matches!(lab.work(2, plan_task(&step, 1)).await.unwrap(), Ended::Done { .. }));
    assert_eq!(lab.sent().1.ranges.len(), 2);
}

#[tokio::test]
async fn a_controller_that_has_lost_a_report_gets_the_ranges_again() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 500) i")
        .await;
    let step = batch_step("t", UPDATE, 10, 100, 0);
    let first = lab.plan(&step).await;
    lab.work(90, plan_task(&step, 2)).await.unwrap();
    let again = lab.sent().1;
    assert_eq!(again.ranges, first.ranges[2..]);
    assert_eq!(again.key, first.key);
}

#[tokio::test]
async fn a_plan_that_the_target_has_forgotten_is_refused() {
    let lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 500) i")
        .await;
    let error = refusal(lab.work(1, plan_task(&batch_step("t", UPDATE, 10, 100, 0), 3)).await);
    assert!(error.message.contains("put back"), "{}", error.message);
}

#[tokio::test]
async fn a_step_that_is_only_planned_may_get_another_text_or_key_and_a_half_done_one_not_another_key() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, other bigint NOT NULL UNIQUE, n int);
         INSERT INTO t SELECT i, i, 0 FROM generate_series(1, 500) i",
    )
    .await;
    lab.plan(&batch_step("t", UPDATE, 10, 100, 0)).await;
    let mended = batch_step("t", "UPDATE t SET n = n + 2 WHERE :batch", 10, 100, 0);
    assert_eq!(lab.plan(&mended).await.ranges.len(), 5);
    let mut moved = mended.clone();
    moved.batch.as_mut().unwrap().key = vec!["other".to_owned()];
    let planned = lab.plan(&moved).await;
    assert_eq!((planned.ranges.len(), planned.key[0].name.as_str()), (5, "other"));
    lab.work(80, range_task(&moved, &planned, &planned.ranges[0])).await.unwrap();
    let error = refusal(lab.work(91, plan_task(&mended, 5)).await);
    assert!(error.message.contains("another table or key"), "{}", error.message);
}

#[tokio::test]
async fn a_finished_batch_step_cannot_change() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 50) i")
        .await;
    let step = batch_step("t", UPDATE, 10, 100, 0);
    lab.work_through(&step).await;
    let ended = lab.work(90, plan_task(&step, 1)).await.unwrap();
    assert!(matches!(ended, Ended::Done { already_done: true, .. }));
    let changed = batch_step("t", "UPDATE t SET n = n + 2 WHERE :batch", 10, 100, 0);
    let error = refusal(lab.work(91, plan_task(&changed, 1)).await);
    assert!(error.message.contains("another text"), "{}", error.message);
}

#[tokio::test]
async fn a_position_that_cannot_be_read_is_not_taken_for_the_beginning() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)").await;
    let step = batch_step("t", "DELETE FROM t WHERE :batch", 10, 50, 0);
    lab.plan(&step).await;
    lab.sql("UPDATE dunlin.checkpoints SET cursor = '\"of a later version\"' WHERE range = 0").await;
    let error = refusal(lab.work(50, plan_task(&step, 0)).await);
    assert!(error.message.contains("another version"), "{}", error.message);
    assert_eq!(lab.number("SELECT count(*) FROM dunlin.checkpoints WHERE range > 0").await, 2);
}
