//! The event history: whole, in order, and with a reason for everything out of the ordinary.

use dunlin_proto::v1::{EventType, WatchRunsRequest};
use dunlin_tests::fleet::Fleet;
use dunlin_tests::numbers;
use dunlin_tests::until::until;

use crate::definitions::{trivial, trivial_after};

#[tokio::test]
async fn the_history_of_a_target_has_no_gaps_and_tells_a_run_from_begin_to_end() {
    let fleet = Fleet::builder().agents(2).start().await;
    numbers::create(fleet.main(), 1000).await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 100"))]).await;
    let _run = fleet.dunlin(&["run", "triple"]).await.ended(0);

    let events = fleet.events().await;
    let sequences: Vec<i64> = events.iter().map(|event| event.sequence).collect();
    let expected: Vec<i64> = (1..).take(events.len()).collect();
    assert_eq!(sequences, expected);
    let run: Vec<EventType> = events.iter().filter(|event| event.run_id != 0).map(|event| event.r#type()).collect();
    let chain = [
        EventType::RunQueued,
        EventType::RunStarted,
        EventType::StepStarted,
        EventType::StepSucceeded,
        EventType::RunSucceeded,
    ];
    let told: Vec<EventType> = run.into_iter().filter(|kind| chain.contains(kind)).collect();
    assert_eq!(told, chain);
    let _told = fleet.dunlin(&["events", "--output", "json"]).await.ended(0).says(&["EVENT_TYPE_RUN_SUCCEEDED"]);
}

#[tokio::test]
async fn a_step_tells_how_many_rows_it_has_changed_if_it_has_to_do_with_rows() {
    let fleet = Fleet::start().await;
    numbers::create(fleet.main(), 10).await;
    let step = |name: &str, body: &str| format!("[[step]]\nname = \"{name}\"\n{body}\n");
    let definition = [
        "id = \"mixed\"\nversion = 1\nname = \"A test\"\ndescription = \"For a test.\"\n".to_owned(),
        step("schema", "sql = \"ALTER TABLE numbers ADD COLUMN more int\""),
        step("one", "sql = \"UPDATE numbers SET more = 1 WHERE id = 1\""),
        step("none", "batch = { table = \"numbers\" }\nsql = \"UPDATE numbers SET more = 1 WHERE id > 10 AND :batch\""),
        step("all", "batch = { table = \"numbers\" }\nsql = \"UPDATE numbers SET more = 2 WHERE :batch\""),
    ];
    fleet.register(&[("mixed.toml", &definition.concat())]).await;
    let _run = fleet.dunlin(&["run", "mixed"]).await.ended(0);
    let events = fleet.events().await;
    let done: Vec<&str> = events
        .iter()
        .filter(|event| event.r#type() == EventType::StepSucceeded)
        .map(|event| event.message.as_str())
        .collect();
    assert_eq!(
        done,
        [
            "step \"schema\" of mixed is done",
            "step \"one\" of mixed is done: 1 row changed",
            "step \"none\" of mixed is done: 0 rows changed",
            "step \"all\" of mixed is done: 10 rows changed",
        ]
    );
}

#[tokio::test]
async fn how_the_work_is_done_inside_is_shown_only_when_asked() {
    let fleet = Fleet::start().await;
    numbers::create(fleet.main(), 10_000).await;
    let few = numbers::migration("few", 1, "size = 500, range = 100000").replace(":batch", "id % 10 = 0 AND :batch");
    fleet.register(&[("few.toml", &few)]).await;
    let run = fleet.dunlin(&["run", "few"]).await.ended(0);
    let usual = fleet.dunlin(&["events"]).await.ended(0);
    for told in [run.text(), usual.text()] {
        assert!(!told.contains("stripe") && !told.contains("window"), "{told}");
    }
    let _inside = fleet.dunlin(&["events", "--verbose"]).await.ended(0).says(&["10 % of the rows change", "stripes"]);
}

#[tokio::test]
async fn what_stands_behind_a_failure_is_cancelled_and_says_for_whom_it_waited() {
    let fleet = Fleet::start().await;
    fleet
        .register(&[
            ("1.toml", &trivial("bad", 1, "SELECT 1 / 0")),
            ("2.toml", &trivial_after("child", 2, &["bad"], "SELECT 1")),
            ("3.toml", &trivial("later", 3, "SELECT 1")),
        ])
        .await;
    let _failed = fleet.dunlin(&["run", "--pending"]).await.ended(1);
    let events = fleet.events().await;
    for (migration, waited_for) in [("child", "bad"), ("later", "child")] {
        let event = events
            .iter()
            .find(|event| event.migration_id == migration && event.r#type() == EventType::RunCancelled)
            .unwrap_or_else(|| panic!("{migration} is not cancelled: {events:#?}"));
        assert!(event.message.contains(waited_for), "{event:?}");
    }
}

#[tokio::test]
async fn a_watcher_that_comes_back_misses_nothing_and_hears_nothing_twice() {
    let fleet = Fleet::start().await;
    numbers::create(fleet.main(), 500).await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 100"))]).await;
    let _run = fleet.dunlin(&["run", "triple"]).await.ended(0);
    let run = fleet.last_run("triple").await.unwrap();
    let all: Vec<i64> =
        fleet.events().await.iter().filter(|event| event.run_id == run.id).map(|event| event.sequence).collect();

    // One event, then a new stream, until the stream has nothing more to tell.
    let mut heard = Vec::new();
    let mut after_sequence = 0;
    loop {
        let request = WatchRunsRequest { run_ids: vec![run.id], after_sequence, ..Default::default() };
        let mut stream = fleet.runs().watch_runs(request).await.unwrap().into_inner();
        let mut next = None;
        while let Some(response) = stream.message().await.unwrap() {
            if let Some(event) = response.event {
                next = Some((event.sequence, response.sequence));
                break;
            }
        }
        let Some((event, position)) = next else { break };
        heard.push(event);
        after_sequence = position;
    }
    assert_eq!(heard, all);
}

#[tokio::test]
async fn what_ended_longer_ago_than_is_kept_goes_and_the_last_run_stays() {
    let fleet = Fleet::builder().environment("DUNLIN_KEEP", "1s").start().await;
    fleet.register(&[("often.toml", &trivial("often", 1, "SELECT 1"))]).await;
    let _first = fleet.dunlin(&["run", "often"]).await.ended(0);
    for _run in 0..2 {
        let _again = fleet.dunlin(&["run", "often", "--rerun", "--yes"]).await.ended(0);
    }
    let last = fleet.last_run("often").await.unwrap();
    let gone = "SELECT array_agg(id) = ARRAY[(SELECT max(id) FROM dunlin_controller.runs)] FROM dunlin_controller.runs";
    until("all but the last are gone", async || fleet.control().value::<bool>(gone).await.then_some(())).await;
    let _gone = fleet.dunlin(&["watch", "1"]).await.ended(4).says(&["run 1"]);
    let _list = fleet.dunlin(&["list"]).await.ended(0).says(&["often", "(x3)"]);
    assert_eq!(fleet.last_run("often").await.unwrap().id, last.id);
    let _again = fleet.dunlin(&["run", "often"]).await.ended(0);
}
