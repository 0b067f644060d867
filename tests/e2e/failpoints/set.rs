//! The migrations of a case, with every kind of task in them, and what must be so once they are applied.
//!
//! Every column of the table is transformed by another kind of task, and none of the transforms may be done twice, nor left out.

use std::fmt;
use std::time::Duration;

use dunlin_proto::v1::{DefinitionFile, MissingPolicy, RegisterMigrationsRequest, RunPendingMigrationsRequest};
use dunlin_tests::fleet::Fleet;
use tokio::time::sleep;

const ROWS: u32 = 120;

/// Two migrations and their table.
#[derive(Debug)]
pub(super) struct Set {
    number: usize,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {}", self.number)
    }
}

impl Set {
    pub(super) fn number(number: usize) -> Self {
        Self { number }
    }

    fn ids(&self) -> [String; 2] {
        [format!("whole-{}", self.number), format!("steps-{}", self.number)]
    }

    /// The ids as a list in SQL.
    fn list(&self) -> String {
        self.ids().map(|id| format!("'{id}'")).join(", ")
    }

    fn table(&self) -> String {
        format!("numbers_{}", self.number)
    }

    fn definitions(&self) -> [String; 2] {
        let table = self.table();
        let [whole, steps] = self.ids();
        let version = 2 * self.number + 1;
        [
            format!(
                r#"
id = "{whole}"
version = {version}
name = "A test"
description = "An atomic migration."
[[step]]
name = "whole"
sql = "UPDATE {table} SET whole = whole * 3 + 1"
[[after]]
name = "every row is changed"
sql = "SELECT bool_and(whole = was * 3 + 1) FROM {table}"
"#
            ),
            format!(
                r#"
id = "{steps}"
version = {next}
name = "A test"
description = "Every other kind of step."
run_after = ["{whole}"]
[[before]]
name = "nothing is changed"
sql = "SELECT bool_and(single = was AND batched = was AND code = was) FROM {table}"
[[step]]
name = "single"
sql = "UPDATE {table} SET single = single * 3 + 1"
[[step]]
name = "index"
transaction = false
sql = "CREATE INDEX CONCURRENTLY {table}_whole ON {table} (whole)"
[[step]]
name = "batched"
batch = {{ table = "{table}", size = 20, range = 60, stripes = 1 }}
sql = "UPDATE {table} SET batched = batched * 3 + 1 WHERE :batch"
[[step]]
name = "code"
batch = {{ table = "{table}", size = 20, range = 60 }}
transform = "triple-code"
[[after]]
name = "every row is changed"
sql = "SELECT bool_and(code = was * 3 + 1) FROM {table}"
"#,
                next = version + 1
            ),
        ]
    }

    /// Makes the table and registers the migrations.
    pub(super) async fn register(&self, fleet: &Fleet) {
        let table = self.table();
        fleet
            .main()
            .execute(&format!(
                "CREATE TABLE {table} (id bigint PRIMARY KEY, was bigint, whole bigint, single bigint, batched bigint, code bigint);
                 INSERT INTO {table} SELECT i, i, i, i, i, i FROM generate_series(1, {ROWS}) AS i"
            ))
            .await;
        let files = self.ids().into_iter().zip(self.definitions());
        let files = files.map(|(id, content)| DefinitionFile { path: format!("{id}.toml"), content }).collect();
        let request = RegisterMigrationsRequest { files, missing: MissingPolicy::Add.into(), ..Default::default() };
        fleet.registry().register_migrations(request).await.unwrap();
    }

    /// Asks for the runs, again and again until there is an answer: the controller may die over it.
    pub(super) fn queue(&self, fleet: &Fleet) -> impl Future<Output = ()> + use<> {
        let mut runs = fleet.runs();
        async move {
            let request = RunPendingMigrationsRequest { target: "main".to_owned(), wait_for_agent: true };
            while runs.run_pending_migrations(request.clone()).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// True when all runs have ended well.
    pub(super) async fn has_ended(&self, fleet: &Fleet) -> bool {
        let sql = format!(
            "SELECT state, coalesce(failure::text, '') FROM dunlin_controller.runs WHERE migration_id IN ({})",
            self.list()
        );
        let runs = fleet.control().rows(&sql, &[]).await;
        for run in &runs {
            let (state, failure): (&str, &str) = (run.get(0), run.get(1));
            assert!(!matches!(state, "failed" | "cancelled"), "a run has {state}: {failure}");
        }
        runs.len() >= 2 && runs.iter().all(|run| run.get::<_, &str>(0) == "succeeded")
    }

    /// What the migrations have done is there once, and nothing else is left of them.
    pub(super) async fn assert_done_once(&self, fleet: &Fleet) {
        let (table, ids) = (self.table(), self.list());
        let right = format!(
            "SELECT count(*) FROM {table} WHERE id = was AND whole = was * 3 + 1 AND single = was * 3 + 1
                 AND batched = was * 3 + 1 AND code = was * 3 + 1"
        );
        assert_eq!(fleet.main().value::<i64>(&right).await, i64::from(ROWS), "{self}: rows that are right");
        let index =
            format!("SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('{table}_whole') AND indisvalid");
        assert_eq!(fleet.main().value::<i64>(&index).await, 1, "{self}: the index");
        let indexes = format!("SELECT count(*) FROM pg_index WHERE indrelid = '{table}'::regclass");
        assert_eq!(fleet.main().value::<i64>(&indexes).await, 2, "{self}: the primary key and the index");
        let registry = format!("SELECT applications FROM dunlin.migrations_registry WHERE id IN ({ids})");
        assert_eq!(fleet.main().values::<i32>(&registry).await, [1, 1], "{self}: each is in the registry once");
        let rows = format!("SELECT rows FROM dunlin.migrations_registry WHERE id IN ({ids}) ORDER BY version");
        let rows = fleet.main().values::<i64>(&rows).await;
        assert_eq!(rows, [i64::from(ROWS), 3 * i64::from(ROWS)], "{self}: each row is counted once");
        let tripled =
            format!("SELECT result->>'tripled' FROM dunlin.migrations_registry WHERE id = '{}'", self.ids()[1]);
        assert_eq!(fleet.main().value::<String>(&tripled).await, ROWS.to_string(), "{self}: what the code has counted");
        let checkpoints = format!("SELECT count(*) FROM dunlin.checkpoints WHERE migration IN ({ids})");
        assert_eq!(fleet.main().value::<i64>(&checkpoints).await, 0, "{self}: checkpoints that are left");
        let runs = format!("SELECT count(*) FROM dunlin_controller.runs WHERE migration_id IN ({ids})");
        assert_eq!(fleet.control().value::<i64>(&runs).await, 2, "{self}: one run for each migration");
        let tasks = format!(
            "SELECT count(*) FROM dunlin_controller.tasks t JOIN dunlin_controller.runs r ON r.id = t.run_id
             WHERE r.migration_id IN ({ids}) AND (t.state <> 'done' OR t.agent_id IS NOT NULL)"
        );
        assert_eq!(fleet.control().value::<i64>(&tasks).await, 0, "{self}: tasks or leases that are left");
        let steps = format!(
            "SELECT coalesce(sum(s.rows), 0)::bigint FROM dunlin_controller.run_steps s JOIN dunlin_controller.runs r
             ON r.id = s.run_id WHERE r.migration_id = '{}'",
            self.ids()[1]
        );
        assert_eq!(
            fleet.control().value::<i64>(&steps).await,
            3 * i64::from(ROWS),
            "{self}: rows as the controller counts"
        );
    }
}
