//! What agents that are dead, stopped or unlucky leave behind in a target, and steps that crash its server.

use std::fs;

use dunlin_proto::v1::EventType;
use dunlin_shared::postgres::throwaway::Server;
use dunlin_tests::database::Database;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::until::until;

use crate::definitions::trivial;

/// A statement that holds a lock that the application waits for, for longer than any test lasts; when it is begun again, not at all.
const HOLD: &str = "LOCK TABLE orders; SELECT pg_sleep(CASE WHEN EXISTS (SELECT FROM tries) THEN 0 ELSE 600 END); ALTER TABLE orders ADD x int";

const HELD: &str = "SELECT count(*) FROM pg_locks WHERE relation = 'orders'::regclass AND mode = 'AccessExclusiveLock'";

/// A fleet with a run that has a table locked.
async fn holding(fleet: &Fleet) {
    fleet.main().execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE tries (n int)").await;
    fleet.register(&[("hold.toml", &trivial("hold", 1, HOLD))]).await;
    let _started = fleet.dunlin(&["run", "hold", "--detach"]).await.ended(0);
    until("the table is locked", async || (fleet.main().value::<i64>(HELD).await == 1).then_some(())).await;
    fleet.main().execute("INSERT INTO tries VALUES (1)").await;
}

#[tokio::test]
async fn a_killed_agents_statement_gives_its_locks_back_at_once() {
    // Nobody else comes: it is the server that looks.
    let mut fleet = Fleet::builder().lease_ttl("10min").start().await;
    holding(&fleet).await;
    fleet.agent(0).kill();
    until("the table is free", async || (fleet.main().value::<i64>(HELD).await == 0).then_some(())).await;
}

#[tokio::test]
async fn the_next_holder_ends_what_a_stopped_agent_has_under_way() {
    let mut fleet = Fleet::builder().agents(2).slots(1).lease_ttl("3s").start().await;
    holding(&fleet).await;
    let holder = until("an agent has it", async || fleet.leases().await.iter().position(|leases| *leases == 1)).await;
    fleet.agent(holder).pause();
    let run = fleet.last_run("hold").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    let told =
        fleet.events().await.into_iter().any(|event| event.message.contains("of an earlier holder of this task"));
    assert!(told, "{:?}", fleet.events().await);
    fleet.agent(holder).resume();
    fleet.agents_connected(2).await;
}

#[tokio::test]
async fn a_step_that_crashes_the_server_does_so_three_times_and_then_its_run_fails() {
    let server = Server::start().await.unwrap();
    let url = server.database("crashing").await.unwrap();
    let main = Database::connect(&url).await;
    main.execute(
        "CREATE FUNCTION crash() RETURNS int LANGUAGE plpgsql AS $$
         BEGIN
             EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid());
             RETURN 1;
         END $$",
    )
    .await;
    let fleet = Fleet::builder().agents(2).target_at("main", &main, &url).start().await;
    fleet.register(&[("crash.toml", &trivial("crash", 1, "SELECT crash()"))]).await;
    let _failed = fleet.dunlin(&["run", "crash"]).await.ended(1).says(&[
        "the server crashed while this was executed",
        "3 times, without progress between",
        "server's log",
    ]);
    let log = fs::read_to_string(server.directory().join("log")).unwrap();
    // The end of a connection can come before the answer to the statement in front of this one is read: then it is not known what ran.
    assert!((3..=4).contains(&log.matches("was terminated by signal 9").count()), "{log}");
    let retried = fleet.events().await.into_iter().filter(|event| event.r#type() == EventType::TaskRetried);
    assert_eq!(retried.filter(|event| event.message.contains("the server crashed")).count(), 2);
}
