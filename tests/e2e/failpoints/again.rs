//! A migration of which a step is carried out again, with a corrected text, over all its rows: those that the first text had changed, and
//! those that it had not come to.
//!
//! Neither text may be repeated. The first one writes down what it makes of a row, so that each row shows that the second text was applied
//! to it once, and the first no more behind that.

use std::fmt;
use std::time::Duration;

use dunlin_proto::v1::{DefinitionFile, MissingPolicy, RegisterMigrationsRequest, RunMigrationRequest};
use dunlin_tests::fleet::Fleet;
use dunlin_tests::until::until;
use tokio::time::sleep;

const ROWS: u32 = 120;

/// The migration and its table.
#[derive(Debug)]
pub(super) struct Again {
    number: usize,
}

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} again", self.number)
    }
}

impl Again {
    pub(super) fn number(number: usize) -> Self {
        Self { number }
    }

    fn id(&self) -> String {
        format!("again-{}", self.number)
    }

    fn table(&self) -> String {
        format!("again_{}", self.number)
    }

    async fn define(&self, fleet: &Fleet, expression: &str) {
        let (id, table) = (self.id(), self.table());
        let content = format!(
            r#"
id = "{id}"
version = {version}
name = "A test"
description = "A step that was wrong."
[[step]]
name = "batched"
batch = {{ table = "{table}", size = 20, range = 60, stripes = 1 }}
sql = "UPDATE {table} SET n = {expression} WHERE :batch"
"#,
            // Where those of the other migrations are not.
            version = 1_000_001 + self.number
        );
        let files = vec![DefinitionFile { path: format!("{id}.toml"), content }];
        let request = RegisterMigrationsRequest { files, missing: MissingPolicy::Add.into(), ..Default::default() };
        fleet.registry().register_migrations(request).await.unwrap();
    }

    fn request(&self) -> RunMigrationRequest {
        RunMigrationRequest { migration_id: self.id(), wait_for_agent: true, ..Default::default() }
    }

    /// Makes the table, lets the first text fail half-way, and registers the second.
    pub(super) async fn register(&self, fleet: &Fleet) {
        let table = self.table();
        let make = format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, n bigint, before bigint, CONSTRAINT no_more CHECK (id <> 100 OR n = 100));
             INSERT INTO {table} SELECT i, i, i FROM generate_series(1, {ROWS}) AS i"
        );
        fleet.main().execute(&make).await;
        self.define(fleet, "n + 1000, before = n + 1000").await;
        let _run = fleet.runs().run_migration(self.request()).await.unwrap();
        until("the first text has failed", async || (self.states(fleet).await == ["failed"]).then_some(())).await;
        let begun = format!("SELECT count(*) FROM {table} WHERE n = id + 1000");
        assert!((1..i64::from(ROWS)).contains(&fleet.main().value::<i64>(&begun).await), "{self}: half-way");
        fleet.main().execute(&format!("ALTER TABLE {table} DROP CONSTRAINT no_more")).await;
        self.define(fleet, "n * 3 + 1").await;
    }

    /// Asks for the run, again and again until there is an answer.
    pub(super) fn queue(&self, fleet: &Fleet) -> impl Future<Output = ()> + use<> {
        let mut runs = fleet.runs();
        let request = RunMigrationRequest { redo_steps: vec!["batched".to_owned()], ..self.request() };
        async move {
            while runs.run_migration(request.clone()).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn states(&self, fleet: &Fleet) -> Vec<String> {
        let sql = format!("SELECT state FROM dunlin_controller.runs WHERE migration_id = '{}' ORDER BY id", self.id());
        fleet.control().values(&sql).await
    }

    /// True when the run has ended well.
    pub(super) async fn has_ended(&self, fleet: &Fleet) -> bool {
        let states = self.states(fleet).await;
        let last = states.get(1).map(String::as_str);
        assert!(!matches!(last, Some("failed" | "cancelled")), "{self}: {states:?}");
        last == Some("succeeded")
    }

    /// What the second text has done is there once, and nothing else is left of it.
    pub(super) async fn assert_done_once(&self, fleet: &Fleet) {
        let (table, id) = (self.table(), self.id());
        let right = format!("SELECT count(*) FROM {table} WHERE n = before * 3 + 1");
        assert_eq!(
            fleet.main().value::<i64>(&right).await,
            i64::from(ROWS),
            "{self}: rows that have the second text once"
        );
        let registry = format!(
            "SELECT concat_ws(' ', applications, rows, result #>> '{{mended,0,how}}') FROM dunlin.migrations_registry WHERE id = '{id}'"
        );
        let recorded = fleet.main().values::<String>(&registry).await;
        assert_eq!(recorded, [format!("1 {ROWS} carried out again")], "{self}: each row is counted once");
        let checkpoints = format!("SELECT count(*) FROM dunlin.checkpoints WHERE migration = '{id}'");
        assert_eq!(fleet.main().value::<i64>(&checkpoints).await, 0, "{self}: checkpoints that are left");
        let left = format!(
            "SELECT count(*) FROM dunlin_controller.tasks t JOIN dunlin_controller.runs r ON r.id = t.run_id
             WHERE r.migration_id = '{id}' AND r.state = 'succeeded' AND (t.state <> 'done' OR t.agent_id IS NOT NULL)"
        );
        assert_eq!(fleet.control().value::<i64>(&left).await, 0, "{self}: tasks or leases that are left");
    }
}
