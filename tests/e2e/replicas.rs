//! Equal replicas: three controllers on one database, of which any may be killed, stopped, frozen or replaced by another
//! version at any time.
//!
//! Where runs have to be asked about while controllers come and go, their database is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dunlin_proto::client::{self, Order};
use dunlin_proto::v1::{EventType, ListEventsRequest, WatchRunsRequest};
use dunlin_tests::database::Database;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::gate::Gate;
use dunlin_tests::numbers;
use dunlin_tests::process::Process;
use dunlin_tests::until::until;

use crate::definitions::{batched, trivial};

const ROWS: u32 = 4000;

/// What a watcher has heard.
#[derive(Debug, Default)]
struct Heard {
    sequences: Vec<i64>,
    streams: usize,
}

/// Follows runs at any controller until they have ended, for ever where none are named; takes the stream up again at another
/// controller whenever it breaks.
async fn follow(urls: String, run_ids: Vec<i64>, mut after: i64, heard: Arc<Mutex<Heard>>) {
    let mut last = None;
    loop {
        let options = client::Options { order: Order::Random { last: last.take() }, ..client::Options::default() };
        let Ok(choice) = client::choose(&urls, &options).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        last = Some(choice.url);
        let (all, run_ids) = (run_ids.is_empty(), run_ids.clone());
        let request = WatchRunsRequest { run_ids, after_sequence: after, all, ..Default::default() };
        let Ok(answer) = client::runs(choice.channel).watch_runs(request).await else { continue };
        heard.lock().unwrap().streams += 1;
        let mut stream = answer.into_inner();
        while let Ok(message) = stream.message().await {
            let Some(message) = message else { return };
            after = message.sequence;
            if let Some(event) = message.event {
                heard.lock().unwrap().sequences.push(event.sequence);
            }
        }
    }
}

/// Restarts a controller in one of three ways; it is back when this returns.
async fn disturb(fleet: &mut Fleet, round: usize) {
    let victim = (round + round / 3) % 3;
    match round % 3 {
        0 => {
            fleet.controller(victim).kill();
            fleet.restart_controller(victim);
        }
        1 => {
            fleet.controller(victim).terminate();
            assert_eq!(fleet.controller(victim).ended().await.code(), Some(0));
            fleet.restart_controller(victim);
        }
        // All controllers lose all their connections to the database at once.
        _ => {
            let _gone: i64 = fleet
                .control()
                .value(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'dunlin-controller'",
                )
                .await;
        }
    }
    serves(fleet, victim).await;
}

/// Waits until a controller serves.
async fn serves(fleet: &Fleet, index: usize) {
    let url = format!("http://{}", fleet.address(index));
    until("the controller serves", async || {
        let choice = client::choose(&url, &client::Options::default()).await.ok()?;
        choice.serves.then_some(())
    })
    .await;
}

async fn runs(control: &Database) -> Vec<i64> {
    control.values("SELECT id FROM dunlin_controller.runs ORDER BY id").await
}

async fn run_states(control: &Database) -> Vec<String> {
    control.values("SELECT DISTINCT state FROM dunlin_controller.runs ORDER BY 1").await
}

async fn ended(control: &Database) {
    let sql = "SELECT count(*) FROM dunlin_controller.runs WHERE ended_at IS NULL";
    until("all runs have ended", async || (control.value::<i64>(sql).await == 0).then_some(())).await;
}

async fn events_of_type(control: &Database, kind: &str) -> i64 {
    control.value(&format!("SELECT count(*) FROM dunlin_controller.events WHERE type = '{kind}'")).await
}

/// From now on every change of a task's state is kept, by the database itself.
async fn keep_record_of_tasks(control: &Database) {
    control
        .execute(
            "CREATE TABLE record (task bigint, epoch bigint, old text, new text, expired boolean);
             CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO public.record VALUES (old.id, old.epoch, old.state, new.state,
                     old.expires_at <= clock_timestamp());
                 RETURN NULL;
             END $$;
             CREATE TRIGGER record AFTER UPDATE ON dunlin_controller.tasks FOR EACH ROW
                 WHEN (old.state <> new.state) EXECUTE FUNCTION record()",
        )
        .await;
}

/// Each run was queued, started and ended once, and no task was finished twice.
async fn assert_advanced_once(control: &Database) {
    let sql = "SELECT concat_ws(' ', run_id, type, count(*)) FROM dunlin_controller.events
               WHERE type IN ('run_queued', 'run_started', 'run_succeeded', 'step_started', 'step_succeeded')
               GROUP BY run_id, step, type HAVING count(*) <> 1";
    assert_eq!(control.values::<String>(sql).await, Vec::<String>::new(), "told twice");
    let sql = "SELECT concat_ws(' ', task, count(*)) FROM record WHERE new = 'done' GROUP BY task HAVING count(*) <> 1";
    assert_eq!(control.values::<String>(sql).await, Vec::<String>::new(), "done twice");
    let sql = "SELECT concat_ws(' ', id, state) FROM dunlin_controller.tasks WHERE state <> 'done'";
    assert_eq!(control.values::<String>(sql).await, Vec::<String>::new(), "left over");
}

/// Makes every update of a table take a while.
async fn slow_down(database: &Database, table: &str, seconds: f64) {
    database
        .execute(&format!(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$;
             CREATE TRIGGER slow AFTER UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION slow()"
        ))
        .await;
}

/// Waits until so many batches of ranges have been committed, or the runs have ended.
async fn batches(fleet: &Fleet, count: i64) {
    let sql = "SELECT coalesce(sum(batches), 0)::bigint FROM dunlin.checkpoints WHERE kind = 'range'";
    let open = "SELECT count(*) FROM dunlin_controller.runs WHERE ended_at IS NULL";
    until(&format!("{count} batches are committed"), async || {
        let committed = fleet.main().value::<i64>(sql).await >= count;
        (committed || fleet.control().value::<i64>(open).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn watchers_miss_nothing_and_hear_nothing_twice_while_controllers_come_and_go() {
    let builder = Fleet::builder()
        .controllers(3)
        .agents(2)
        .environment("DUNLIN_LOCK_TIMEOUT", "0s")
        .environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "0s");
    let mut fleet = builder.lease_ttl("10min").start().await;
    numbers::create(fleet.main(), 10).await;
    let gate = Gate::close(fleet.main(), "numbers", "true").await;
    let last = "UPDATE numbers SET n = n * 3 + 1";
    let definitions: Vec<(String, String)> = (1..=40)
        .map(|version| {
            let sql = if version == 40 { last } else { "SELECT pg_sleep(0.05)" };
            (format!("{version}.toml"), trivial(&format!("story-{version}"), version, sql))
        })
        .collect();
    let definitions: Vec<(&str, &str)> =
        definitions.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    fleet.register(&definitions).await;
    keep_record_of_tasks(fleet.control()).await;
    let before: i64 = fleet.control().value("SELECT last_sequence FROM dunlin_controller.targets").await;

    let everything = Arc::<Mutex<Heard>>::default();
    let endless = tokio::spawn(follow(fleet.controller_urls(), Vec::new(), before, Arc::clone(&everything)));
    let _queued = fleet.dunlin(&["run", "--pending", "--detach"]).await.ended(0);
    let run_ids = runs(fleet.control()).await;
    let named = Arc::<Mutex<Heard>>::default();
    let ending = tokio::spawn(follow(fleet.controller_urls(), run_ids.clone(), 0, Arc::clone(&named)));
    let numbers: Vec<String> = run_ids.iter().map(ToString::to_string).collect();
    let arguments: Vec<&str> = ["watch"].into_iter().chain(numbers.iter().map(String::as_str)).collect();
    let mut command = Process::start(fleet.dunlin_command(&arguments), "watch", fleet.directory());
    until("the command has told something", async || command.log().contains("story-1").then_some(())).await;

    let mut round = 0;
    while gate.waiting().await == 0 {
        let told = named.lock().unwrap().sequences.len();
        disturb(&mut fleet, round).await;
        round += 1;
        until("the story goes on", async || {
            (gate.waiting().await > 0 || named.lock().unwrap().sequences.len() >= told + 3).then_some(())
        })
        .await;
    }
    // And while nothing happens.
    for round in round..round + 3 {
        disturb(&mut fleet, round).await;
    }
    gate.open().await;
    ending.await.unwrap();
    assert_eq!(command.ended().await.code(), Some(0));

    assert_eq!(run_states(fleet.control()).await, ["succeeded"]);
    assert_advanced_once(fleet.control()).await;
    let of_runs = "SELECT sequence FROM dunlin_controller.events WHERE run_id IS NOT NULL ORDER BY sequence";
    let sequences: Vec<i64> = fleet.control().values(of_runs).await;
    assert_eq!(named.lock().unwrap().sequences, sequences);
    until("who follows everything has heard the end", async || {
        (everything.lock().unwrap().sequences.last() == sequences.last()).then_some(())
    })
    .await;
    endless.abort();
    assert_eq!(everything.lock().unwrap().sequences, sequences);
    let streams = (named.lock().unwrap().streams, everything.lock().unwrap().streams);
    assert!(streams.0 > 1 && streams.1 > 1, "the streams were broken: {streams:?}");

    let log = command.log();
    assert!(log.contains("connecting again"), "its stream was broken: {log}");
    // As the command prints events: with the migration, where the message does not name it.
    let lines = "SELECT CASE severity WHEN 'info' THEN '' ELSE severity || ': ' END
                     || CASE WHEN strpos(message, migration_id) > 0 THEN ''
                             ELSE concat_ws('/', migration_id, nullif(step, '')) || ': ' END || message
                 FROM dunlin_controller.events WHERE run_id IS NOT NULL";
    let lines: Vec<String> = fleet.control().values(lines).await;
    let mut left = BTreeMap::<&str, i64>::new();
    for line in &lines {
        *left.entry(line).or_default() += 1;
    }
    for line in log.lines().filter_map(|line| line.split_once("  ")) {
        if let Some(count) = left.get_mut(line.1) {
            *count -= 1;
        }
    }
    left.retain(|_, count| *count != 0);
    assert!(left.is_empty(), "printed too rarely (above 0) or too often (below): {left:#?}\n{log}");
}

#[tokio::test]
async fn leases_that_expire_under_three_controllers_expire_once() {
    let mut fleet = Fleet::builder().controllers(3).agents(4).lease_ttl("1s").start().await;
    numbers::create(fleet.main(), ROWS).await;
    let gate = Gate::close(fleet.main(), "numbers", "true").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 400"))]).await;
    keep_record_of_tasks(fleet.control()).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(8).await;
    for agent in 0..4 {
        fleet.agent(agent).kill();
    }
    let leased = "SELECT count(*) FROM dunlin_controller.tasks WHERE state = 'leased'";
    until("all leases have expired", async || (fleet.control().value::<i64>(leased).await == 0).then_some(())).await;
    gate.open().await;
    for agent in 0..4 {
        fleet.restart_agent(agent);
    }
    ended(fleet.control()).await;
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    assert_advanced_once(fleet.control()).await;
    let lease = |events: &str| format!("SELECT concat_ws('/', {events}");
    let told: Vec<String> = fleet
        .control()
        .values(&lease(
            "details ->> 'task', details ->> 'epoch') FROM dunlin_controller.events WHERE type = 'lease_expired' ORDER BY 1",
        ))
        .await;
    let expired: Vec<String> = fleet
        .control()
        .values(&lease("task, epoch) FROM record WHERE old = 'leased' AND new = 'ready' AND expired ORDER BY 1"))
        .await;
    assert!(told.len() >= 8, "{told:?}");
    assert_eq!(told, expired, "an event for each lease that expired");
}

#[tokio::test]
async fn controllers_killed_one_after_the_other_take_no_lease_with_them() {
    // A lease that is lost with a controller would live for longer than the test may last.
    let mut fleet = Fleet::builder().controllers(3).agents(3).lease_ttl("10min").start().await;
    numbers::create(fleet.main(), 2 * ROWS).await;
    slow_down(fleet.main(), "numbers", 0.02).await;
    fleet
        .register(&[
            ("triple.toml", &numbers::migration("triple", 1, "size = 20, range = 100")),
            ("behind.toml", &trivial("behind", 2, "CREATE TABLE behind (id int)")),
        ])
        .await;
    keep_record_of_tasks(fleet.control()).await;
    let _started = fleet.dunlin(&["run", "--pending", "--detach"]).await.ended(0);
    for round in 0..6 {
        batches(&fleet, 20 + 60 * i64::try_from(round).unwrap()).await;
        fleet.controller(round % 3).kill();
        fleet.restart_controller(round % 3);
    }
    ended(fleet.control()).await;
    assert_eq!(run_states(fleet.control()).await, ["succeeded"]);
    numbers::assert_transformed_once(fleet.main(), 2 * ROWS).await;
    assert_advanced_once(fleet.control()).await;
    assert_eq!(events_of_type(fleet.control(), "lease_expired").await, 0);
    let rows: i64 = fleet.control().value("SELECT sum(rows)::bigint FROM dunlin_controller.run_steps").await;
    assert_eq!(rows, i64::from(2 * ROWS), "each row was reported once");
}

/// Where an agent is connected, by its log.
fn controller_of(fleet: &mut Fleet, agent: usize) -> usize {
    let log = fleet.agent(agent).log();
    let line = log.lines().rev().find(|line| line.contains("connected to a controller")).unwrap_or_default();
    (0..3).find(|index| line.contains(fleet.address(*index))).unwrap()
}

#[tokio::test]
async fn a_controller_that_stands_still_is_left_before_the_leases_of_its_agents_expire() {
    let builder = Fleet::builder().controllers(3).slots(1).lease_ttl("12s");
    let mut fleet =
        builder.environment("DUNLIN_LOCK_TIMEOUT", "0s").environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "0s").start().await;
    numbers::create(fleet.main(), ROWS).await;
    let gate = Gate::close(fleet.main(), "numbers", "id > 500").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 1000, stripes = 1"))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(1).await;
    let left = controller_of(&mut fleet, 0);
    fleet.controller(left).pause();
    until("the agent is at another controller", async || (controller_of(&mut fleet, 0) != left).then_some(())).await;
    gate.open().await;
    let run = runs(fleet.control()).await[0].to_string();
    // Also when it is the first that the command knows.
    let _watched = fleet.dunlin(&["watch", &run]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    assert_eq!(events_of_type(fleet.control(), "lease_expired").await, 0);

    // When it goes on, its agent is no longer its own, and it is as good as any.
    fleet.controller(left).resume();
    serves(&fleet, left).await;
    for other in (0..3).filter(|index| *index != left) {
        fleet.controller(other).kill();
    }
    let _again = fleet.dunlin(&["run", "triple", "--rerun", "--yes"]).await.ended(0);
}

/// What a later version of the controllers makes of their schema, and a later version of the agents of the ledger.
async fn expand(fleet: &Fleet, run: i64) {
    for table in
        ["runs", "run_steps", "tasks", "events", "targets", "target_registry", "agents", "agent_targets", "migrations"]
    {
        fleet.control().execute(&format!("ALTER TABLE dunlin_controller.{table} ADD COLUMN of_the_future text")).await;
    }
    fleet
        .control()
        .execute(&format!(
            "CREATE TABLE dunlin_controller.of_the_future (id bigint PRIMARY KEY);
             INSERT INTO dunlin_controller.schema_history (version, name, applied_on, checksum)
             VALUES (2, 'of_the_future', '2030-01-01T00:00:00Z', '1');
             WITH drawn AS (
                 UPDATE dunlin_controller.targets SET last_sequence = last_sequence + 1 RETURNING name, last_sequence
             )
             INSERT INTO dunlin_controller.events (target, sequence, type, severity, run_id, step, message, details)
             SELECT name, last_sequence, 'run_blessed', 'info', {run}, '', 'a blessing of the future', '{{}}' FROM drawn"
        ))
        .await;
    for table in ["checkpoints", "migrations_registry", "meta"] {
        fleet.main().execute(&format!("ALTER TABLE dunlin.{table} ADD COLUMN of_the_future text")).await;
    }
    fleet
        .main()
        .execute(
            "CREATE TABLE dunlin.of_the_future (id bigint PRIMARY KEY);
             UPDATE dunlin.meta SET value = '2' WHERE name = 'ledger_version'",
        )
        .await;
}

#[tokio::test]
async fn controllers_and_agents_work_beside_a_later_version_and_are_replaced_one_after_the_other() {
    let mut fleet = Fleet::builder().controllers(3).agents(2).lease_ttl("5s").start().await;
    numbers::create(fleet.main(), ROWS).await;
    slow_down(fleet.main(), "numbers", 0.02).await;
    fleet
        .register(&[
            ("triple.toml", &numbers::migration("triple", 1, "size = 20, range = 100")),
            ("behind.toml", &trivial("behind", 2, "CREATE TABLE behind (id int)")),
        ])
        .await;
    keep_record_of_tasks(fleet.control()).await;
    let _started = fleet.dunlin(&["run", "--pending", "--detach"]).await.ended(0);
    let run_ids = runs(fleet.control()).await;
    let heard = Arc::<Mutex<Heard>>::default();
    let watcher = tokio::spawn(follow(fleet.controller_urls(), run_ids.clone(), 0, Arc::clone(&heard)));
    // With everything prepared on every connection that there is.
    batches(&fleet, 10).await;
    expand(&fleet, run_ids[0]).await;
    batches(&fleet, 30).await;
    for index in 0..3 {
        fleet.controller(index).terminate();
        assert_eq!(fleet.controller(index).ended().await.code(), Some(0));
        fleet.restart_controller(index);
        serves(&fleet, index).await;
        batches(&fleet, 60 + 40 * i64::try_from(index).unwrap()).await;
    }
    fleet.agent(0).terminate();
    assert_eq!(fleet.agent(0).ended().await.code(), Some(0));
    fleet.restart_agent(0);
    ended(fleet.control()).await;
    watcher.await.unwrap();

    assert_eq!(run_states(fleet.control()).await, ["succeeded"]);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    assert_advanced_once(fleet.control()).await;
    let of_runs = "SELECT sequence FROM dunlin_controller.events WHERE run_id IS NOT NULL ORDER BY sequence";
    let sequences: Vec<i64> = fleet.control().values(of_runs).await;
    assert_eq!(heard.lock().unwrap().sequences, sequences);
    for arguments in [&["status"][..], &["list"], &["runs"], &["agents"], &["targets"], &["version"]] {
        let _told = fleet.dunlin(arguments).await.ended(0);
    }
    let _told = fleet.dunlin(&["events"]).await.ended(0).says(&["a blessing of the future"]);
    let events = fleet.runs().list_events(ListEventsRequest { page_size: 1000, ..Default::default() }).await.unwrap();
    let unknown = events.get_ref().events.iter().find(|event| event.message == "a blessing of the future").unwrap();
    assert_eq!(unknown.r#type(), EventType::Unspecified);

    // An agent and a controller that start on what is there now, and have made none of it.
    fleet.start_agent();
    fleet.agents_connected(3).await;
    let sql = "UPDATE numbers SET was = n WHERE :batch";
    fleet.register(&[("later.toml", &batched("later", 3, "table = \"numbers\", size = 1000", sql))]).await;
    let _later = fleet.dunlin(&["run", "--pending"]).await.ended(0);
}
