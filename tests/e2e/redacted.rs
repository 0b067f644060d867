//! Agents that tell nothing of rows: what fails on one is found in the server's log, and nowhere else.

use dunlin_tests::fleet::Fleet;

use crate::definitions::trivial;

#[tokio::test]
async fn no_value_of_a_row_reaches_the_controllers_or_the_operator() {
    let fleet = Fleet::builder().agent_arguments(&["--redact-rows"]).start().await;
    fleet
        .main()
        .execute("CREATE TABLE people (id int PRIMARY KEY, email text NOT NULL); INSERT INTO people VALUES (1, 'ada@example.org')")
        .await;
    let sql = "DO $$ BEGIN RAISE WARNING '%', (SELECT email FROM people); UPDATE people SET id = NULL; END $$";
    fleet.register(&[("one.toml", &trivial("one", 1, sql))]).await;
    let run = fleet.dunlin(&["run", "one"]).await.ended(1);
    let run = run.says(&["23502", "public.people", "WARNING: what it says is not told (--redact-rows)"]);
    assert!(!run.text().contains("ada@"), "{run:?}");
    for table in ["runs", "run_steps", "events", "tasks"] {
        let known: i64 = fleet
            .control()
            .value(&format!("SELECT count(*) FROM dunlin_controller.{table} t WHERE t::text LIKE '%ada@%'"))
            .await;
        assert_eq!(known, 0, "{table}");
    }
}
