//! PgBouncer in transaction mode between agents and a target.

use dunlin_tests::database::Database;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::numbers;
use dunlin_tests::pooler::Pooler;
use dunlin_tests::programs::{Program, repository};

use crate::definitions::{head, trivial};

const ROWS: u32 = 4000;

fn index() -> String {
    format!(
        "{}\n[[step]]\nname = \"build\"\ntransaction = false\nsql = \"CREATE INDEX CONCURRENTLY numbers_n ON numbers (n)\"\n",
        head("index", 3)
    )
}

#[tokio::test]
async fn everything_but_steps_outside_a_transaction_works_and_those_say_what_they_need() {
    let pooler = Pooler::start(2).await;
    let main = Database::create("main").await;
    numbers::create(&main, ROWS).await;
    let builder = Fleet::builder().agents(2).target_at("main", &main, &pooler.url(main.url()));
    let fleet = builder.start().await;
    fleet
        .register(&[
            ("1.toml", &trivial("one", 1, "CREATE TABLE one (id int)")),
            ("2.toml", &numbers::migration("triple", 2, "size = 50, range = 500")),
            ("3.toml", &index()),
        ])
        .await;
    let failed = fleet.dunlin(&["run", "--pending"]).await.ended(1);
    let _failed = failed.says(&["index", "build", "needs a direct connection", "--direct"]);
    numbers::assert_transformed_once(&main, ROWS).await;
    let left: i64 = main.value("SELECT count(*) FROM dunlin.checkpoints").await;
    assert_eq!(left, 0);

    // An agent that knows the way past the pooler.
    drop(fleet);
    let direct = format!("main={}", main.url());
    let builder = Fleet::builder().target_at("main", &main, &pooler.url(main.url()));
    let fleet = builder.agent_arguments(&["--direct", &direct]).start().await;
    fleet
        .register(&[
            ("1.toml", &trivial("one", 1, "CREATE TABLE one (id int)")),
            ("2.toml", &numbers::migration("triple", 2, "size = 50, range = 500")),
            ("3.toml", &index()),
        ])
        .await;
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let valid: bool = main.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'numbers_n'::regclass").await;
    assert!(valid);
}

#[tokio::test]
async fn an_agent_killed_behind_a_pooler_loses_and_repeats_nothing() {
    let pooler = Pooler::start(4).await;
    let main = Database::create("main").await;
    numbers::create(&main, ROWS).await;
    let builder = Fleet::builder()
        .agents(2)
        .slots(1)
        .lease_ttl("2s")
        .environment("DUNLIN_LOCK_TIMEOUT", "0s")
        .environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "0s");
    let mut fleet = builder.target_at("main", &main, &pooler.url(main.url())).start().await;
    let gate = dunlin_tests::gate::Gate::close(&main, "numbers", "id % 1000 > 500").await;
    fleet.register(&[("triple.toml", &numbers::migration("triple", 1, "size = 50, range = 1000, stripes = 1"))]).await;
    let _started = fleet.dunlin(&["run", "triple", "--detach"]).await.ended(0);
    gate.reached_by(2).await;
    fleet.agent(0).kill();
    gate.open().await;
    let run = fleet.last_run("triple").await.unwrap();
    let _watched = fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
    numbers::assert_transformed_once(&main, ROWS).await;
}

#[tokio::test]
async fn transforms_in_code_of_several_agents_work_through_one_pooler() {
    let pooler = Pooler::start(2).await;
    let main = Database::create("main").await;
    let example = repository().join("examples/agent");
    main.execute(&std::fs::read_to_string(example.join("sample-data.sql")).unwrap()).await;
    let builder = Fleet::builder().agents(0).target_at("main", &main, &pooler.url(main.url()));
    let mut fleet = builder.start().await;
    for _ in 0..2 {
        fleet.start_agent_of(Program::ExampleAgent);
    }
    fleet.agents_connected(2).await;
    let _set = fleet.dunlin(&["register", example.join("migrations").to_str().unwrap()]).await.ended(0);
    // The third has a step outside a transaction.
    for id in ["add-authors", "link-books-to-authors"] {
        let _run = fleet.dunlin(&["run", id]).await.ended(0);
    }
    let applied: i64 = main.value("SELECT count(*) FROM dunlin.migrations_registry WHERE applications = 1").await;
    assert_eq!(applied, 2);
}
