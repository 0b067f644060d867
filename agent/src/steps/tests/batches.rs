use std::sync::atomic::Ordering;

use dunlin_proto::v1::{EventType, Severity};
use dunlin_shared::postgres::throwaway::Server;

use crate::steps::{Ended, Error};
use crate::testing::{Lab, batch_step, range_task, refusal};

const TRIPLE: &str = "UPDATE t SET n = n * 3 + 1 WHERE :batch";

async fn filled(rows: i32) -> Lab {
    let lab = Lab::new().await;
    fill(&lab, rows).await;
    lab
}

async fn fill(lab: &Lab, rows: i32) {
    lab.sql(&format!(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 5, filler text NOT NULL DEFAULT repeat('x', 150));
         INSERT INTO t SELECT i FROM generate_series(1, {rows}) i; ANALYZE t"
    ))
    .await;
}

/// The ends of the stripes in the last window of each range.
async fn stripes(lab: &Lab) -> String {
    let sql =
        "SELECT string_agg(cursor #>> '{window,stripes}', ' ' ORDER BY range) FROM dunlin.checkpoints WHERE range > 0";
    lab.row(sql).await.get(0)
}

#[tokio::test]
async fn a_range_that_is_done_is_not_done_again() {
    let mut lab = filled(100).await;
    let step = batch_step("t", TRIPLE, 10, 1000, 2);
    lab.work_through(&step).await;
    let planned = lab.plan(&step).await;
    assert!(planned.ranges[0].done);
    assert_eq!(planned.ranges[0].rows, 100);
    let ended = lab.work(50, range_task(&step, &planned, &planned.ranges[0])).await.unwrap();
    assert!(matches!(ended, Ended::Done { rows: 100, rows_walked: 100, already_done: true, .. }));
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 100);
}

#[tokio::test]
async fn a_failed_batch_names_its_rows_and_its_range_goes_on_after_the_data_are_mended() {
    let mut lab = filled(100).await;
    lab.sql("UPDATE t SET n = -1 WHERE id = 55; ALTER TABLE t ADD CHECK (n > -2)").await;
    let step = batch_step("t", TRIPLE, 10, 1000, 1);
    let planned = lab.plan(&step).await;
    lab.sql("UPDATE t SET n = 0 WHERE id = 55; ALTER TABLE t ADD CHECK (n <> 1)").await;
    let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
    assert_eq!((error.step.as_str(), error.sqlstate.as_str()), ("change", "23514"));
    assert_eq!(error.rows, "(id) > (50) and <= (60)");
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 50, "what was done stays done");
    lab.sql("UPDATE t SET n = 5 WHERE id = 55").await;
    lab.work(2, range_task(&step, &planned, &planned.ranges[0])).await.unwrap();
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 100);
}

#[tokio::test]
async fn a_range_that_the_target_has_forgotten_is_refused() {
    let mut lab = filled(100).await;
    let step = batch_step("t", TRIPLE, 10, 1000, 1);
    let planned = lab.plan(&step).await;
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
    assert!(error.message.contains("put back"), "{}", error.message);
}

#[tokio::test]
async fn the_next_batch_is_begun_behind_the_commit_of_the_one_before() {
    let (mut lab, proxy) = Lab::behind_a_proxy().await;
    fill(&lab, 60).await;
    let step = batch_step("t", TRIPLE, 10, 1000, 1);
    let planned = lab.plan(&step).await;
    let before = proxy.faults.followed_commits.load(Ordering::SeqCst);
    lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await.unwrap();
    // Of six batches the first goes alone, and the last has none behind it.
    assert_eq!(proxy.faults.followed_commits.load(Ordering::SeqCst) - before, 4);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 60);
}

#[tokio::test]
async fn a_batch_of_a_stripe_does_not_read_all_of_the_table_where_bitmaps_are_turned_off() {
    let mut lab = Lab::with_setting("enable_bitmapscan", "off").await;
    fill(&lab, 5000).await;
    lab.sql("CREATE TABLE seen (whole bigint)").await;
    let look = "INSERT INTO seen SELECT pg_stat_get_xact_numscans('t'::regclass)";
    lab.work_through(&batch_step("t", &format!("{TRIPLE}; {look}"), 100, 5000, 2)).await;
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 5000);
    assert!(lab.number("SELECT count(*) FROM seen").await >= 50);
    assert_eq!(lab.number("SELECT max(whole) FROM seen").await, 0);
}

#[tokio::test]
async fn a_batch_that_commits_by_itself_is_refused() {
    for end in ["COMMIT", "COMMIT; BEGIN"] {
        let mut lab = filled(100).await;
        let step = batch_step("t", &format!("UPDATE t SET n = 7 WHERE :batch; {end}"), 10, 1000, 1);
        let planned = lab.plan(&step).await;
        let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
        assert!(error.message.contains("ended the transaction"), "{}", error.message);
        assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 7").await, 10, "no batch was sent behind the first");
    }
}

#[tokio::test]
async fn deletes_and_inserts_are_batches_too() {
    let mut lab = filled(300).await;
    lab.sql("CREATE TABLE copy (id bigint, n bigint)").await;
    let copy = batch_step("t", "INSERT INTO copy SELECT x.id, x.n FROM t AS x WHERE :batch(x)", 10, 100, 2);
    assert_eq!(lab.work_through(&copy).await, 300);
    assert_eq!(lab.number("SELECT count(DISTINCT id) FROM copy").await, 300);
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    assert_eq!(lab.work_through(&batch_step("t", "DELETE FROM t WHERE id % 2 = 0 AND :batch", 10, 100, 2)).await, 150);
    assert_eq!(lab.number("SELECT count(*) FROM t").await, 150);
}

#[tokio::test]
async fn rows_are_told_only_when_they_are_durable_and_the_end_waits_for_the_disk() {
    let mut lab = filled(500).await;
    lab.sql("CREATE TABLE seen (mode text)").await;
    let sql = "UPDATE t SET n = n * 3 + 1 WHERE :batch; INSERT INTO seen SELECT current_setting('synchronous_commit')";
    let step = batch_step("t", sql, 100, 1000, 1);
    let planned = lab.plan(&step).await;
    let context = lab.context(1);
    crate::steps::run(&context, &range_task(&step, &planned, &planned.ranges[0]), false).await.unwrap();
    assert_eq!(context.lease.durable(), (505, 500), "five rows are the notes in `seen`");
    let modes = lab.row("SELECT string_agg(mode, ' ') FROM seen").await.get::<_, String>(0);
    assert_eq!(modes, "off off off off on");
}

#[tokio::test]
async fn updates_in_stripes_stay_on_their_page() {
    // A server of its own: transactions of the tests beside it would hold pruning back.
    let server = Server::start().await.unwrap();
    let mut lab = Lab::on(&server).await;
    fill(&lab, 20_000).await;
    let before = lab.number("SELECT pg_relation_size('t')").await;
    let step = batch_step("t", TRIPLE, 200, 100_000, 0);
    let planned = lab.plan(&step).await;
    lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await.unwrap();
    // A page has 40 rows, and they grow by no more than the entry of the new version.
    assert_eq!(stripes(&lab).await, "[7, 13, 19, 25, 31, 37, 40]");
    let growth = lab.number("SELECT pg_relation_size('t') * 100").await / before;
    // In key order it would have twice its size.
    assert!(growth < 170, "the table has {growth} % of its size");
    let notes = lab.sent().0;
    assert!(notes.is_empty(), "the order was changed: {notes:?}");
}

#[tokio::test]
async fn windows_are_no_larger_than_the_buffers_of_the_server_allow() {
    for (buffers, stripes, last_window) in [("8MB", 0, "30000"), ("128MB", 0, "10000"), ("8MB", 5, "30000")] {
        let server = Server::start_with(&[("shared_buffers", buffers)]).await.unwrap();
        let mut lab = Lab::on(&server).await;
        fill(&lab, 45_000).await;
        let step = batch_step("t", TRIPLE, 500, 100_000, stripes);
        assert_eq!(lab.work_through(&step).await, 45_000);
        // The first range has 10,000 rows; where windows have as many, the second range has three.
        let low = lab.row("SELECT cursor #>> '{window,low,0}' FROM dunlin.checkpoints WHERE range = 2").await;
        assert_eq!(low.get::<_, &str>(0), last_window, "{buffers}, {stripes} stripes");
    }
}

#[tokio::test]
async fn batches_of_the_first_stripe_are_half_as_large_unless_their_size_is_given() {
    for (size, in_first, in_second) in [(0, 8, 4), (1000, 2, 2)] {
        let mut lab = filled(10_000).await;
        let step = batch_step("t", TRIPLE, size, 100_000, 5);
        assert_eq!(lab.work_through(&step).await, 10_000);
        let batches = |stripe| format!("SELECT count(DISTINCT xmin::text) FROM t WHERE id % 5 = {stripe}");
        let (first, second) = (lab.number(&batches(0)).await, lab.number(&batches(1)).await);
        assert_eq!((first, second), (in_first, in_second));
    }
}

#[tokio::test]
async fn however_fast_they_are_batches_of_the_first_stripe_are_not_large() {
    let mut lab = Lab::new().await;
    lab.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 5)").await;
    lab.sql("INSERT INTO t SELECT i FROM generate_series(1, 300000) i; ANALYZE t").await;
    assert_eq!(lab.work_through(&batch_step("t", TRIPLE, 0, 300_000, 6)).await, 300_000);
    let largest = |stripe| {
        format!(
            "SELECT max(rows) FROM (SELECT count(*) AS rows FROM t WHERE id % 6 = {stripe} GROUP BY xmin::text) batches"
        )
    };
    let (first, second) = (lab.number(&largest(0)).await, lab.number(&largest(1)).await);
    assert!(first <= 2501 && first * 2 <= second + 2, "{first} and {second} rows");
}

#[tokio::test]
async fn a_step_that_is_mended_gets_the_stripes_that_it_says_now() {
    let mut lab = filled(1000).await;
    let step = batch_step("t", TRIPLE, 10, 1000, 2);
    lab.work_through(&step).await;
    assert_eq!(stripes(&lab).await, "[1, 2]");
    lab.sql("DELETE FROM dunlin.checkpoints").await;
    let mended = batch_step("t", TRIPLE, 10, 1000, 3);
    lab.work_through(&dunlin_proto::v1::Step { checksum: "mended".to_owned(), ..mended }).await;
    assert_eq!(stripes(&lab).await, "[1, 2, 3]");
}

#[tokio::test]
async fn updates_of_an_indexed_column_go_in_key_order() {
    let mut lab = filled(20_000).await;
    lab.sql("CREATE INDEX ON t ((n + 1))").await;
    let step = batch_step("t", TRIPLE, 500, 100_000, 0);
    let planned = lab.plan(&step).await;
    lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await.unwrap();
    assert_eq!(stripes(&lab).await, "[1]");
}

#[tokio::test]
async fn where_rows_grow_the_first_stripe_leaves_more_room() {
    let server = Server::start().await.unwrap();
    let mut lab = Lab::on(&server).await;
    fill(&lab, 20_000).await;
    let step = batch_step("t", "UPDATE t SET filler = repeat('y', 250) WHERE :batch", 200, 100_000, 0);
    assert_eq!(lab.work_through(&step).await, 20_000);
    // A page has room for 40 rows before, and for 27 afterwards.
    assert_eq!(stripes(&lab).await, "[15, 25, 31, 35, 38, 40] [15, 25, 31, 35, 38, 40]");
}

#[tokio::test]
async fn where_pages_differ_stripes_are_equal() {
    let mut lab = Lab::new().await;
    lab.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 5, filler text NOT NULL);
         INSERT INTO t SELECT i, 5, repeat('x', (abs(hashint8(i / 50)) % 300)) FROM generate_series(1, 20000) i; ANALYZE t",
    )
    .await;
    assert_eq!(lab.work_through(&batch_step("t", TRIPLE, 200, 100_000, 0)).await, 20_000);
    assert!(stripes(&lab).await.contains("[1, 2, 3, 4, 5, 6]"));
}

#[tokio::test]
async fn a_position_that_cannot_be_read_is_not_taken_for_the_beginning() {
    let mut lab = filled(100).await;
    let step = batch_step("t", TRIPLE, 10, 1000, 1);
    let planned = lab.plan(&step).await;
    lab.sql("UPDATE dunlin.checkpoints SET cursor = '{\"window\": \"of a later version\"}' WHERE range = 1").await;
    let error = refusal(lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await);
    assert!(error.message.contains("another version"), "{}", error.message);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n <> 5").await, 0);
}

#[tokio::test]
async fn stripes_that_do_not_pay_are_noticed() {
    let mut lab = filled(20_000).await;
    // An old snapshot holds pruning back, so no update finds room on its page.
    let old = crate::testing::connect(&lab.url).await;
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t").await.unwrap();
    let step = batch_step("t", TRIPLE, 200, 10_000, 0);
    let planned = lab.plan(&step).await;
    for range in &planned.ranges {
        lab.work(1, range_task(&step, &planned, range)).await.unwrap();
    }
    let notes = lab.sent().0;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!((notes[0].r#type(), notes[0].severity()), (EventType::AgentNote, Severity::Debug));
    assert_eq!(stripes(&lab).await, "[7, 13, 19, 25, 31, 37, 40] [1]");
}

#[tokio::test]
async fn where_few_rows_change_batches_go_in_key_order() {
    let mut lab = filled(10_000).await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE id % 10 = 0 AND :batch", 500, 100_000, 0);
    let planned = lab.plan(&step).await;
    lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await.unwrap();
    assert_eq!(stripes(&lab).await, "[1]");
    assert!(lab.sent().0[0].message.contains("10 % of the rows change"));
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 1000);
}

#[tokio::test]
async fn a_deadlock_can_be_tried_again() {
    let mut lab = filled(10).await;
    let step =
        batch_step("t", "UPDATE t SET n = CASE WHEN true THEN (SELECT 1 FROM fail()) END WHERE :batch", 10, 10, 1);
    lab.sql("CREATE FUNCTION fail() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '40P01'; END $$").await;
    let planned = lab.plan(&step).await;
    let ended = lab.work(1, range_task(&step, &planned, &planned.ranges[0])).await;
    assert!(matches!(&ended, Err(Error::Passing(error)) if error.sqlstate == "40P01"), "{ended:?}");
}
