//! Who is who: two processes under the id of one agent, and databases that are not the target that their name says.

use dunlin_shared::postgres::throwaway;
use dunlin_tests::database::Database;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::gate::Gate;
use dunlin_tests::numbers;
use dunlin_tests::process::Process;
use dunlin_tests::until::until;

use crate::definitions::trivial;

const ROWS: u32 = 4000;

/// How many streams the agent has opened, and how often the history says that its id is taken.
async fn streams(fleet: &Fleet) -> (i64, i64) {
    let told = "SELECT count(*) FROM dunlin_controller.events WHERE type = 'agent_id_taken'";
    let session = "SELECT session FROM dunlin_controller.agents WHERE id = 'agent-0'";
    (fleet.control().value(session).await, fleet.control().value(told).await)
}

#[tokio::test]
async fn a_second_agent_under_one_id_waits_for_the_first_and_says_so_and_goes_on_when_that_is_gone() {
    let mut fleet = Fleet::builder().controllers(2).slots(1).start().await;
    numbers::create(fleet.main(), ROWS).await;
    let gate = Gate::close(fleet.main(), "numbers", "id > 2000").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 100, range = 500"))]).await;
    let before = streams(&fleet).await;
    let second = fleet.agent_beside("agent-0", "twin", &[("main", fleet.main().url())]);
    let first = fleet.agent(0).pid();
    until("the second says for whom it waits", async || {
        second.log().contains(&format!("process {first} on ")).then_some(())
    })
    .await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(1).await;
    // It knocks again and again; the first keeps its stream and its lease, and the history is told once.
    assert_eq!(streams(&fleet).await, (before.0, before.1 + 1));
    assert_eq!(fleet.leases().await, [1]);

    fleet.agent(0).kill();
    gate.open().await;
    let run = fleet.last_run("triple").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(fleet.main(), ROWS).await;
    assert_eq!(streams(&fleet).await.0, before.0 + 1, "the second has the id now");
}

#[tokio::test]
async fn an_agent_that_stands_still_for_longer_than_a_lease_lives_gives_its_id_to_a_second_and_then_waits_itself() {
    let mut fleet = Fleet::builder().lease_ttl("1s").start().await;
    fleet.agent(0).pause();
    let second = fleet.agent_beside("agent-0", "twin", &[("main", fleet.main().url())]);
    until("the second is connected", async || second.log().contains("connected to a controller").then_some(())).await;
    let pid = second.pid();
    fleet.agent(0).resume();
    until("the first waits for the second", async || {
        fleet.agent(0).log().contains(&format!("process {pid} on ")).then_some(())
    })
    .await;
}

/// Waits until an agent has logged why it does not work on the database that it sees.
async fn refused(agent: &Process, why: &str) {
    until(&format!("an agent is not let work on what it sees: {why}"), async || {
        let log = agent.log();
        let told = log.lines().any(|line| line.contains("the target cannot be worked on") && line.contains(why));
        told.then_some(())
    })
    .await;
}

/// How often the history says that a database is refused.
async fn refusals(fleet: &Fleet) -> i64 {
    fleet.control().value("SELECT count(*) FROM dunlin_controller.events WHERE type = 'target_refused'").await
}

async fn has_ledger(database: &Database) -> bool {
    database.value("SELECT to_regclass('dunlin.meta') IS NOT NULL").await
}

/// A copy of a database by PostgreSQL itself, for which nobody may be connected to it.
async fn copy(database: &Database, name: &str) -> Database {
    let server = throwaway::shared().await;
    let of = database.url().rsplit('/').next().unwrap();
    let name = format!("{of}_{name}");
    server
        .command(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{of}'"))
        .await
        .unwrap();
    until("nobody is connected any more", async || {
        server.command(&format!("CREATE DATABASE \"{name}\" TEMPLATE \"{of}\"")).await.ok()
    })
    .await;
    Database::connect(&server.url(&name)).await
}

#[tokio::test]
async fn two_databases_under_one_name_are_not_one_target() {
    let fleet = Fleet::start().await;
    let other = Database::create("other").await;
    let second = fleet.agent_beside("agent-9", "other", &[("main", other.url())]);
    refused(&second, "dunlin target rebind main").await;
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    assert!(has_ledger(fleet.main()).await);
    assert!(!has_ledger(&other).await, "nothing is written before the comparison");
    assert_eq!(refusals(&fleet).await, 1);
    let _told = fleet.dunlin(&["targets"]).await.ended(0).says(&["refused:"]);
    // A look, and another process with the same URL, are no news.
    drop(second);
    let again = fleet.agent_beside("agent-9", "again", &[("main", other.url())]);
    refused(&again, "dunlin target rebind main").await;
    assert_eq!(refusals(&fleet).await, 1);
}

#[tokio::test]
async fn one_database_has_one_name() {
    let fleet = Fleet::start().await;
    let second = fleet.agent_beside("agent-9", "other", &[("other", fleet.main().url())]);
    refused(&second, "the database of target main").await;
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let _refused = fleet.dunlin(&["run", "--pending", "-t", "other"]).await.ended(3).says(&["rebind other --copied"]);
}

#[tokio::test]
async fn a_target_that_has_moved_waits_until_somebody_says_so_and_the_old_place_is_let_work_on_no_more() {
    let mut fleet = Fleet::start().await;
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _one = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    fleet.agent(0).terminate();
    assert_eq!(fleet.agent(0).ended().await.code(), Some(0));
    let moved = copy(fleet.main(), "moved").await;
    let agent = fleet.agent_beside("agent-1", "moved", &[("main", moved.url())]);
    refused(&agent, "at another place").await;
    fleet.register(&[("two.toml", &trivial("two", 2, "CREATE TABLE two (id int)"))]).await;
    let _refused = fleet.dunlin(&["run", "--pending"]).await.ended(3).says(&["--moved"]);
    let _queued = fleet.dunlin(&["run", "--pending", "--wait-for-agent", "--detach"]).await.ended(0);
    let run = fleet.last_run("two").await.unwrap();
    assert!(run.waits.iter().any(|wait| wait.message.contains("rebind main")), "{:?}", run.waits);
    assert_eq!(refusals(&fleet).await, 1);

    let contradiction = fleet.dunlin(&["target", "rebind", "main", "--replaced", "--reason", "r"]).await.ended(4);
    let _contradiction = contradiction.says(&["contradicts"]);
    let rebound = fleet.dunlin(&["target", "rebind", "main", "--moved", "--reason", "a larger server"]).await.ended(0);
    let _rebound = rebound.says(&["from now on"]);
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    let tables = "SELECT count(*) FROM pg_class WHERE relname IN ('one', 'two')";
    assert_eq!(moved.value::<i64>(tables).await, 2);
    let _told = fleet.dunlin(&["events"]).await.ended(0).says(&["a larger server"]);

    fleet.restart_agent(0);
    refused(fleet.agent(0), "at another place").await;
    let original = Database::connect(fleet.main().url()).await;
    assert_eq!(original.value::<i64>(tables).await, 1);
}

#[tokio::test]
async fn an_earlier_state_at_the_same_place_stops_everything_until_somebody_says_what_it_is() {
    let mut fleet = Fleet::builder().agents(2).start().await;
    fleet.register(&[("one.toml", &trivial("one", 1, "CREATE TABLE one (id int)"))]).await;
    let _one = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    // As a clone of the server's files, or a snapshot that was put back: the same place, the same data, an earlier moment.
    fleet.agent(0).kill();
    fleet.agent(1).kill();
    let data = "SELECT data::text FROM dunlin.identity";
    let before: String = fleet.main().value(data).await;
    fleet.main().execute("UPDATE dunlin.identity SET line = line - 1, mark = gen_random_uuid()").await;
    fleet.restart_agent(0);
    refused(fleet.agent(0), "at an earlier state").await;
    fleet.restart_agent(1);
    refused(fleet.agent(1), "at an earlier state").await;
    fleet.register(&[("two.toml", &trivial("two", 2, "CREATE TABLE two (id int)"))]).await;
    let _queued = fleet.dunlin(&["run", "--pending", "--wait-for-agent", "--detach"]).await.ended(0);
    let run = fleet.last_run("two").await.unwrap();
    assert!(run.waits.iter().any(|wait| wait.message.contains("--restored|--copied")), "{:?}", run.waits);
    let _status = fleet.dunlin(&["status"]).await.says(&["earlier state"]);
    assert_eq!((refusals(&fleet).await, fleet.leases().await), (1, vec![0, 0]));

    until("it is said that it is a copy", async || {
        let said = fleet.dunlin(&["target", "rebind", "main", "--copied", "--reason", "staging"]).await;
        (said.code == 0).then_some(())
    })
    .await;
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    let after: String = fleet.main().value(data).await;
    assert_ne!(after, before, "a copy has an identity of its own");
    let _nothing = fleet.dunlin(&["target", "rebind", "main", "--copied", "--reason", "r"]).await.ended(4);
}
