//! What SQL of definitions returns, with agents that may have little memory: an agent that asks for more dies, and the run would go
//! round for ever.

use dunlin_proto::v1::EventType;
use dunlin_tests::fleet::Fleet;

/// An agent has threads and stacks, which take address space and no memory.
const MEMORY: u32 = 700;

fn migration(id: &str, version: i64, rest: &str) -> String {
    format!("id = \"{id}\"\nname = \"{id}\"\ndescription = \"It returns much.\"\nversion = {version}\n{rest}\n")
}

#[tokio::test]
async fn rows_that_sql_returns_take_no_memory_of_an_agent() {
    let mut fleet = Fleet::builder().agent_memory(MEMORY).start().await;
    fleet
        .main()
        .execute(
            "CREATE TABLE t (id bigint PRIMARY KEY, n int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 20) i;
             CREATE TABLE u (id bigint PRIMARY KEY, n int); INSERT INTO u SELECT i, 0 FROM generate_series(1, 100000) i;
             CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
             CREATE TRIGGER before BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION keep();
             CREATE TRIGGER after AFTER UPDATE ON u FOR EACH ROW EXECUTE FUNCTION keep()",
        )
        .await;
    // Each answer has about 1 GB.
    let large = "SELECT repeat('x', 4000), i FROM generate_series(1, 250000) i";
    let definitions = [
        migration("step", 1, &format!("[[step]]\nname = \"call\"\nsql = \"{large}\"")),
        migration("alone", 2, &format!("[[step]]\nname = \"call\"\ntransaction = false\nsql = \"{large}\"")),
        migration(
            "batches",
            3,
            "[[step]]\nname = \"call\"\nbatch = { table = \"t\", size = 10, stripes = 1 }\n\
             sql = \"UPDATE t SET n = n + 1 WHERE :batch RETURNING repeat('x', 12000000)\"",
        ),
        // The agent looks at the keys of what the batch returns.
        migration(
            "guarded",
            4,
            "[[step]]\nname = \"call\"\nbatch = { table = \"u\", size = 100000, range = 100000, stripes = 1 }\n\
             sql = \"UPDATE u SET n = n + 1 WHERE :batch RETURNING repeat('x', 10000)\"",
        ),
        migration(
            "checked",
            5,
            "[[step]]\nname = \"count\"\nsql = \"UPDATE t SET n = n + 1\"\n\
             [[after]]\nname = \"all\"\nsql = \"SELECT n IS NULL FROM generate_series(1, 4000000) AS n\"",
        ),
    ];
    let files: Vec<(String, &String)> =
        definitions.iter().enumerate().map(|(i, text)| (format!("{i}.toml"), text)).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    fleet.register(&files).await;
    for id in ["step", "alone", "batches", "guarded"] {
        let _done = fleet.dunlin(&["run", id]).await.ended(0);
    }
    let _refused =
        fleet.dunlin(&["run", "checked"]).await.ended(1).says(&["returns 4,000,000 rows instead of one row"]);
    assert_eq!(fleet.main().value::<i64>("SELECT sum(n) FROM t").await, 20);
    assert_eq!(fleet.agent(0).status(), None, "the agent lives");
}

#[tokio::test]
async fn one_message_that_is_too_long_fails_the_run_and_says_so() {
    let mut fleet = Fleet::builder().agent_memory(MEMORY).start().await;
    fleet.main().execute("CREATE TABLE t (n int)").await;
    let sql = "INSERT INTO t VALUES (1); SELECT repeat('x', 900000000)";
    fleet.register(&[("a.toml", &migration("long", 1, &format!("[[step]]\nname = \"call\"\nsql = \"{sql}\"")))]).await;
    let _failed = fleet.dunlin(&["run", "long"]).await.ended(1).says(&[
        "one message of 900,000",
        "16 MiB",
        "returns no such value",
    ]);
    assert_eq!(fleet.main().value::<i64>("SELECT count(*) FROM t").await, 0);
    assert_eq!(fleet.agent(0).status(), None, "the agent lives");
}

#[tokio::test]
async fn what_postgresql_says_is_shown_and_kept_up_to_a_hundred_messages_of_a_step() {
    let fleet = Fleet::start().await;
    let sql = "DO $$ BEGIN RAISE NOTICE '12 orphans'; RAISE WARNING 'they were left alone'; \
               FOR i IN 1..130 LOOP RAISE NOTICE 'row %', i; END LOOP; END $$";
    let step = format!("[[step]]\nname = \"first\"\nsql = \"SELECT 1\"\n[[step]]\nname = \"talk\"\nsql = \"{sql}\"");
    fleet.register(&[("a.toml", &migration("talks", 1, &step))]).await;
    let said =
        ["NOTICE: 12 orphans", "warning: talks/talk: WARNING: they were left alone", "PostgreSQL said 32 things more"];
    let _done = fleet.dunlin(&["run", "talks"]).await.ended(0).says(&said);
    let events = fleet.events().await;
    let kept = events.iter().filter(|event| event.r#type() == EventType::ServerMessage);
    assert_eq!(kept.filter(|event| event.step == "talk").count(), 101);
}
