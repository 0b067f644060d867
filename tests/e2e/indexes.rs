//! Indexes that are built concurrently, while their builders die, stand still and run into their deadline: in the end they are there, valid,
//! and nothing half-built is left.
//!
//! A transaction that has changed the table keeps a build waiting for as long as the test likes, with the index there and not valid.

use dunlin_proto::v1::{EventType, RunState};
use dunlin_tests::database::Database;
use dunlin_tests::fleet::{Builder, Fleet};
use dunlin_tests::until::until;

use crate::definitions::head;

/// A table, the migration that indexes it, and a writer that holds the build up.
struct Site {
    fleet: Fleet,
    writer: Database,
}

impl Site {
    async fn begin(builder: Builder) -> Self {
        let fleet = builder.start().await;
        fleet.main().execute("CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL)").await;
        fleet.main().execute("INSERT INTO users SELECT i, 'user' || i FROM generate_series(1, 1000) AS i").await;
        let step = "[[step]]\nname = \"index\"\ntransaction = false\n\
                    sql = \"CREATE UNIQUE INDEX CONCURRENTLY users_email ON users (email)\"\n";
        fleet.register(&[("index.toml", &format!("{}\n{step}", head("email-index", 1)))]).await;
        let writer = fleet.main().again().await;
        writer.execute("BEGIN; UPDATE users SET email = 'new' WHERE id = 1").await;
        let _started = fleet.dunlin(&["run", "email-index", "--detach"]).await.ended(0);
        let site = Self { fleet, writer };
        until("the index is half-built", async || (site.valid().await == [false]).then_some(())).await;
        site
    }

    async fn valid(&self) -> Vec<bool> {
        let sql =
            "SELECT indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relname = 'users_email'";
        self.fleet.main().values(sql).await
    }

    /// The servers' processes that work for the step.
    async fn backends(&self, condition: &str) -> Vec<i32> {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '^dunlin-agent [0-9]'
             AND {condition} ORDER BY pid"
        );
        self.fleet.main().values(&sql).await
    }

    async fn builder(&self) -> i32 {
        let found = self.backends("query LIKE 'CREATE UNIQUE INDEX%'").await;
        assert_eq!(found.len(), 1, "one builds: {found:?}");
        found[0]
    }

    async fn gone(&self, backend: i32) {
        until("the server has ended the old session", async || {
            (!self.backends("true").await.contains(&backend)).then_some(())
        })
        .await;
    }

    async fn succeeds(&self) {
        let run = self.fleet.last_run("email-index").await.unwrap();
        let _watched = self.fleet.dunlin(&["watch", &run.id.to_string()]).await.ended(0);
        assert_eq!(self.valid().await, [true]);
        let half: i64 = self.fleet.main().value("SELECT count(*) FROM pg_index WHERE NOT indisvalid").await;
        assert_eq!(half, 0, "nothing half-built is left");
        assert_eq!(self.fleet.main().value::<i32>("SELECT applications FROM dunlin.migrations_registry").await, 1);
    }

    async fn told(&self, kind: EventType) -> Vec<String> {
        let events = self.fleet.events().await;
        events.into_iter().filter(|event| event.r#type() == kind).map(|event| event.message).collect()
    }
}

/// A fleet whose statements wait for locks without end.
fn patient(lease_ttl: &str) -> Builder {
    Fleet::builder()
        .lease_ttl(lease_ttl)
        .environment("DUNLIN_LOCK_TIMEOUT", "0s")
        .environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "0s")
}

#[tokio::test]
async fn an_index_built_concurrently_is_valid_although_its_builder_was_killed() {
    let mut site = Site::begin(patient("2s")).await;
    site.fleet.agent(0).kill();
    site.fleet.start_agent();
    site.writer.execute("COMMIT").await;
    site.succeeds().await;
}

#[tokio::test]
async fn a_backend_that_builds_for_a_dead_agent_ends_by_itself_and_is_in_nobodys_way() {
    let mut site = Site::begin(patient("1s")).await;
    let backend = site.builder().await;
    site.fleet.agent(0).kill();
    site.fleet.start_agent();
    // The writer is still there, so the dead agent's build would wait for ever.
    site.gone(backend).await;
    until("the other agent removes what was left", async || {
        (!site.backends("query LIKE 'DROP INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'").await.is_empty())
            .then_some(())
    })
    .await;
    site.writer.execute("COMMIT").await;
    site.succeeds().await;
    let repaired = site.told(EventType::StepRepaired).await;
    assert!(repaired.iter().any(|message| message.contains("users_email")), "{repaired:?}");
}

#[tokio::test]
async fn a_build_of_an_agent_that_stands_still_is_waited_for_and_counts_once_it_is_done() {
    let mut site = Site::begin(patient("1s")).await;
    let backend = site.builder().await;
    site.fleet.agent(0).pause();
    site.fleet.start_agent();
    until("the other agent asks for the lock of the step", async || {
        (!site.backends("query LIKE 'SELECT pg_catalog.pg_try_advisory_lock%'").await.is_empty()).then_some(())
    })
    .await;
    // Its connection is whole, so its build goes on, and the other agent keeps off.
    assert_eq!(site.builder().await, backend);
    site.writer.execute("COMMIT").await;
    until("the build is finished", async || (site.valid().await == [true]).then_some(())).await;
    // Nobody takes the result, and the lock is given up all the same.
    site.gone(backend).await;
    site.succeeds().await;
    let repaired = site.told(EventType::StepRepaired).await;
    assert!(repaired.iter().any(|message| message.contains("counts as done")), "{repaired:?}");

    site.fleet.agent(0).resume();
    until("it has seen that it is late", async || site.fleet.agent(0).log().contains("lease ended").then_some(()))
        .await;
    site.fleet.agents_connected(2).await;
    site.succeeds().await;
}

#[tokio::test]
async fn a_build_waits_for_an_older_transaction_whatever_the_lock_timeout_is_and_is_begun_once() {
    let site = Site::begin(Fleet::builder().environment("DUNLIN_SCHEMA_LOCK_TIMEOUT", "200ms")).await;
    until("it is told for whom the build waits", async || {
        let notes = site.told(EventType::AgentNote).await;
        notes.iter().any(|note| note.contains("blocks nobody") && note.contains("pid ")).then_some(())
    })
    .await;
    site.writer.execute("COMMIT").await;
    site.succeeds().await;
    assert!(site.told(EventType::TaskRetried).await.is_empty());
    assert!(site.told(EventType::StepRepaired).await.is_empty(), "it was not begun again");
}

#[tokio::test]
async fn a_build_that_runs_into_its_deadline_says_what_is_left_and_the_next_run_removes_it_first() {
    let site = Site::begin(Fleet::builder().environment("DUNLIN_BUILD_DEADLINE", "500ms")).await;
    let run = until("the run has failed", async || {
        site.fleet.last_run("email-index").await.filter(|run| run.state() == RunState::Failed)
    })
    .await;
    let error = run.error.unwrap();
    assert!(error.message.contains("users_email") && error.message.contains("could not be removed"), "{error:?}");
    assert!(error.message.contains("pid "), "who was waited for: {error:?}");
    site.writer.execute("COMMIT").await;
    let _again = site.fleet.dunlin(&["run", "email-index"]).await.ended(0);
    site.succeeds().await;
    let repaired = site.told(EventType::StepRepaired).await;
    assert!(repaired.iter().any(|message| message.contains("was removed")), "{repaired:?}");
}
