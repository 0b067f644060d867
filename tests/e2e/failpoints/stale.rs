//! Agents that stand still in the middle of a task, for so long that another agent finishes the task, and the whole run. Then they
//! go on.
//!
//! Where they stand with a transaction open, the server ends it after a while, since it idles: nobody else gets at the rows before.

use dunlin_proto::v1::RunState;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::numbers;
use dunlin_tests::programs::Program;
use dunlin_tests::until::until;

use super::LEASE;
use crate::definitions::{head, trivial};

const ROWS: u32 = 200;

#[tokio::test]
async fn an_agent_that_goes_on_after_others_have_finished_the_run_changes_nothing() {
    let batch = "size = 20, range = 1000, stripes = 1";
    let code = format!(
        "{}\n[[step]]\nname = \"code\"\nbatch = {{ table = \"numbers\", {batch} }}\ntransform = \"triple-code\"\n",
        head("stale", 1)
    );
    tokio::join!(
        // Rows changed in a transaction that the server ends.
        finished_by_another("range.changed=2*off->1*return(stop)", "n", numbers::migration("stale", 1, batch)),
        // Between two batches: the next one comes too late.
        finished_by_another("range.committed=2*off->1*return(stop)", "n", numbers::migration("stale", 1, batch)),
        finished_by_another("code.committed=2*off->1*return(stop)", "code", code),
        finished_by_another(
            "atomic.advanced=1*return(stop)",
            "n",
            trivial("stale", 1, "UPDATE numbers SET n = n * 3 + 1")
        ),
        // Its report comes too late.
        finished_by_another(
            "atomic.committed=1*return(stop)",
            "n",
            trivial("stale", 1, "UPDATE numbers SET n = n * 3 + 1")
        ),
    );
}

/// Lets an agent stand still at a point while it transforms a column, another finish the run, and the first go on.
async fn finished_by_another(fault: &str, column: &str, definition: String) {
    let mut fleet = Fleet::builder().agents(0).slots(1).lease_ttl(LEASE).start().await;
    numbers::create(fleet.main(), ROWS).await;
    fleet.main().execute("ALTER TABLE numbers ADD code bigint; UPDATE numbers SET code = was").await;
    fleet.start_agent_of(Program::TestAgent);
    fleet.replace_agent(0, Program::TestAgent, "agent-0", &[("FAILPOINTS", fault)]);
    fleet.agents_connected(1).await;
    fleet.register(&[("stale.toml", &definition)]).await;
    let _started = fleet.dunlin(&["run", "stale", "--detach"]).await.ended(0);
    until("the first agent stands still", async || fleet.agent(0).log().contains("failpoint hit").then_some(())).await;
    fleet.start_agent_of(Program::TestAgent);
    let run = fleet.last_run("stale").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    let right = |once: &str| format!("SELECT count(*) FROM numbers WHERE {column} = {once}");
    let once = right("was * 3 + 1");
    assert_eq!(fleet.main().value::<i64>(&once).await, i64::from(ROWS), "{fault}: without the first agent");
    let left = "SELECT (SELECT count(*) FROM dunlin.checkpoints) + (SELECT sum(applications) FROM dunlin.migrations_registry) - 1";
    assert_eq!(fleet.main().value::<i64>(left).await, 0, "{fault}: without the first agent");

    let before = fleet.agent(0).log().len();
    until("the first agent has seen that it is late", async || {
        // Again and again: what was sent before it stood still has no effect.
        fleet.agent(0).resume();
        fleet.agent(0).log()[before..].contains("lease ended").then_some(())
    })
    .await;
    assert_eq!(fleet.main().value::<i64>(&once).await, i64::from(ROWS), "{fault}: after it has gone on");
    assert_eq!(fleet.main().value::<i64>(left).await, 0, "{fault}: after it has gone on");
    assert_eq!(fleet.last_run("stale").await.unwrap().state(), RunState::Succeeded);

    // And it is of use: now the other one is gone, and the migration is repeated on purpose.
    fleet.agents_connected(2).await;
    fleet.agent(1).kill();
    let _again = fleet.dunlin(&["run", "stale", "--rerun", "--yes"]).await.ended(0);
    let twice = right("(was * 3 + 1) * 3 + 1");
    assert_eq!(fleet.main().value::<i64>(&twice).await, i64::from(ROWS), "{fault}: after the rerun");
}

#[tokio::test]
async fn an_agent_that_goes_on_after_its_step_was_carried_out_again_changes_nothing() {
    tokio::join!(
        // Rows changed by the old text, in a transaction that the server ends.
        overtaken_by_a_redo("range.changed=1*off->1*return(stop)"),
        // Between two batches: the next one of the old text comes too late.
        overtaken_by_a_redo("range.committed=1*off->1*return(stop)"),
    );
}

/// Lets an agent stand still in the first range of a step, the second range fail, and the step be carried out again with another text.
async fn overtaken_by_a_redo(fault: &str) {
    let mut fleet = Fleet::builder().agents(0).slots(1).lease_ttl(LEASE).start().await;
    numbers::create(fleet.main(), ROWS).await;
    let bad = "ALTER TABLE numbers ADD before bigint, ADD CONSTRAINT no_more CHECK (id <> 150 OR n = was) NOT VALID; UPDATE numbers SET before = n";
    fleet.main().execute(bad).await;
    let definition = |expression: &str| {
        format!(
            "{}\n[[step]]\nname = \"fill\"\nbatch = {{ table = \"numbers\", size = 20, range = 100, stripes = 1 }}\n\
             sql = \"UPDATE numbers SET n = {expression} WHERE :batch\"\n",
            head("stale", 1)
        )
    };
    fleet.start_agent_of(Program::TestAgent);
    fleet.replace_agent(0, Program::TestAgent, "agent-0", &[("FAILPOINTS", fault)]);
    fleet.agents_connected(1).await;
    fleet.register(&[("stale.toml", &definition("n + 1000, before = n + 1000"))]).await;
    let _started = fleet.dunlin(&["run", "stale", "--detach"]).await.ended(0);
    until("the first agent stands still", async || fleet.agent(0).log().contains("failpoint hit").then_some(())).await;
    fleet.start_agent_of(Program::TestAgent);
    until("the second range has failed", async || {
        (fleet.last_run("stale").await.unwrap().state() == RunState::Failed).then_some(())
    })
    .await;
    // Waits until the server has ended what the first agent had open.
    fleet.main().execute("ALTER TABLE numbers DROP CONSTRAINT no_more").await;
    fleet.register(&[("stale.toml", &definition("n * 3 + 1"))]).await;
    let _again = fleet.dunlin(&["run", "stale", "--redo", "fill"]).await.ended(0);
    let right = "SELECT count(*) FROM numbers WHERE n = before * 3 + 1";
    assert_eq!(fleet.main().value::<i64>(right).await, i64::from(ROWS), "{fault}: without the first agent");

    let before = fleet.agent(0).log().len();
    until("the first agent has seen that it is late", async || {
        fleet.agent(0).resume();
        fleet.agent(0).log()[before..].contains("lease ended").then_some(())
    })
    .await;
    assert_eq!(fleet.main().value::<i64>(right).await, i64::from(ROWS), "{fault}: after it has gone on");
}
