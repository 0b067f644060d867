//! How errors of PostgreSQL are told: where in which file, and what became of the steps.

use dunlin_proto::v1::RunStepState;
use dunlin_tests::fleet::Fleet;

const DEFINITION: &str = r#"
id          = "two-steps"
name        = "Two steps"
description = "The second fails."
version     = 1

[[step]]
name = "first"
sql  = "CREATE TABLE t (n int)"

[[step]]
name = "second"
file = "sql/second.sql"

[[step]]
name = "third"
sql  = "SELECT 3"
"#;

#[tokio::test]
async fn an_error_is_told_with_its_line_in_the_file_and_the_steps_say_what_became_of_them() {
    let fleet = Fleet::start().await;
    fleet.write("sql/second.sql", "-- A comment.\n\nSELECT 1;\nINSERT INTO t\n  SELECT nn FROM t;\n");
    fleet.register(&[("two.toml", DEFINITION)]).await;
    let said = ["sql/second.sql:5:10, statement 2", "5 |   SELECT nn FROM t;", "  |          ^", "42703"];
    let _failed = fleet.dunlin(&["run", "two-steps"]).await.ended(1).says(&said);
    let run = fleet.last_run("two-steps").await.unwrap();
    let states: Vec<RunStepState> = run.steps.iter().map(|step| step.state()).collect();
    assert_eq!(states, [RunStepState::RolledBack, RunStepState::Failed, RunStepState::Pending]);

    // A comment above moves the SQL and changes nothing else: the place follows.
    let moved = DEFINITION.replace("sql/second.sql", "sql/moved.sql");
    fleet.write("sql/moved.sql", "\n\n-- A comment.\n\nSELECT 1;\nINSERT INTO t\n  SELECT nn FROM t;\n");
    fleet.register(&[("two.toml", &moved)]).await;
    let _failed = fleet.dunlin(&["run", "two-steps"]).await.ended(1).says(&["sql/moved.sql:7:10, statement 2"]);
}
