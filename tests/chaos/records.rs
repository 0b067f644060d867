//! What the databases say at the end, read past all proxies.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_tests::database::Database;
use tokio_postgres::Row;

use crate::history::{Change, Entry, Event, Run, Told};

/// A run as the controllers' database has it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) life: Run,
    pub(crate) target: String,
    pub(crate) migration: String,
    /// The SQLSTATE and the message, where it failed.
    pub(crate) failure: Option<(String, String)>,
}

/// All that the controllers' database says.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) runs: Vec<Stored>,
    /// By target, in the order of their numbers.
    pub(crate) events: BTreeMap<String, Vec<Event>>,
    /// The events of runs by target, as watchers are to be told.
    pub(crate) told: BTreeMap<String, Vec<Told>>,
    /// Tasks and epochs, in the order of the grants.
    pub(crate) grants: Vec<(i64, i64)>,
    /// Target, migration, step, range and epoch of all grants.
    pub(crate) granted: BTreeSet<(String, String, String, i32, i64)>,
}

impl Control {
    /// Reads it.
    pub(crate) async fn read(database: &Database) -> Self {
        let runs = database
            .rows(
                "SELECT r.id, r.target, r.migration_id, r.state, r.failure ->> 'sqlstate' AS sqlstate,
                        r.failure ->> 'message' AS message,
                        CASE WHEN m.atomic THEN '{}'::text[] ELSE ARRAY (SELECT s.name FROM dunlin_controller.run_steps s
                         WHERE s.run_id = r.id ORDER BY s.ordinal) END AS steps
                 FROM dunlin_controller.runs r JOIN dunlin_controller.migrations m ON m.id = r.migration_id ORDER BY r.id",
                &[],
            )
            .await;
        let events = database
            .rows(
                "SELECT id, sequence, target, type, coalesce(run_id, 0) AS run_id, step, message,
                        (details ->> 'task')::bigint AS task, (details ->> 'epoch')::bigint AS epoch
                 FROM dunlin_controller.events WHERE target IS NOT NULL ORDER BY target, sequence",
                &[],
            )
            .await;
        let grants = database.rows("SELECT task, epoch FROM chaos.grants ORDER BY id", &[]).await;
        let granted = database
            .rows(
                "SELECT t.target, r.migration_id, coalesce(s.name, '') AS step, t.range, g.epoch
                 FROM chaos.grants g JOIN dunlin_controller.tasks t ON t.id = g.task
                 JOIN dunlin_controller.runs r ON r.id = t.run_id
                 LEFT JOIN dunlin_controller.run_steps s ON s.run_id = t.run_id AND s.ordinal = t.step",
                &[],
            )
            .await;
        let mut by_target: BTreeMap<String, Vec<Event>> = BTreeMap::new();
        let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
        for row in &events {
            let event = event(row);
            if event.run != 0 {
                told.entry(row.get("target")).or_default().push(Told {
                    sequence: event.sequence,
                    id: event.id,
                    run: event.run,
                    message: row.get("message"),
                });
            }
            by_target.entry(row.get("target")).or_default().push(event);
        }
        Self {
            runs: runs.iter().map(stored).collect(),
            events: by_target,
            told,
            grants: grants.iter().map(|row| (row.get(0), row.get(1))).collect(),
            granted: granted.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect(),
        }
    }
}

fn event(row: &Row) -> Event {
    Event {
        id: row.get("id"),
        sequence: row.get("sequence"),
        word: row.get("type"),
        run: row.get("run_id"),
        step: row.get("step"),
        task: row.get("task"),
        epoch: row.get("epoch"),
    }
}

fn stored(row: &Row) -> Stored {
    Stored {
        life: Run { id: row.get("id"), state: row.get("state"), steps: row.get("steps") },
        target: row.get("target"),
        migration: row.get("migration_id"),
        failure: row.get::<_, Option<String>>("message").map(|message| (row.get("sqlstate"), message)),
    }
}

/// A row of a registry.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub(crate) applications: i32,
    pub(crate) run: i64,
    pub(crate) rows: i64,
    /// The counter of the code transform.
    pub(crate) tripled: Option<i64>,
}

/// The registry of a target.
pub(crate) async fn registry(database: &Database) -> BTreeMap<String, Applied> {
    let rows = database
        .rows(
            "SELECT id, applications, run_id, rows, (result ->> 'tripled')::bigint AS tripled
             FROM dunlin.migrations_registry",
            &[],
        )
        .await;
    let read = |row: &Row| Applied {
        applications: row.get("applications"),
        run: row.get("run_id"),
        rows: row.get("rows"),
        tripled: row.get("tripled"),
    };
    rows.iter().map(|row| (row.get("id"), read(row))).collect()
}

/// Every change of the checkpoints of a target, and the places and epochs at which tasks were taken.
pub(crate) async fn ledger(database: &Database) -> Vec<Entry> {
    let rows = database
        .rows("SELECT id, op, migration, step, range, epoch, batches, done FROM chaos.ledger ORDER BY id", &[])
        .await;
    let read = |row: &Row| {
        let op: &str = row.get("op");
        let change = match op {
            "DELETE" => Change::Gone,
            op => Change::Now {
                made: op == "INSERT",
                epoch: row.get("epoch"),
                batches: row.get("batches"),
                done: row.get("done"),
            },
        };
        Entry { id: row.get("id"), place: (row.get("migration"), row.get("step"), row.get("range")), change }
    };
    rows.iter().map(read).collect()
}
