//! The history: events are appended in the transaction of the change that they tell of, numbered without gaps for each
//! target, and never changed.
//!
//! The row of the target is locked to draw the numbers, so transactions on one target commit in the order of their
//! events: appending is therefore the last thing that a transaction does, and who follows a history by number misses
//! nothing.

use std::time::SystemTime;

use dunlin_shared::ids::TargetName;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::database::Store;
use super::error::Error;
use super::session::{Session, Statement};
use crate::domain::{Event, EventType, Severity};

/// An event that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The number in the whole history.
    pub id: i64,
    /// The number in the history of the target; 0 without one.
    pub sequence: i64,
    /// When it happened.
    pub created_at: SystemTime,
    /// What happened. `None`: a type that only a later version of the controller knows.
    pub event_type: Option<EventType>,
    /// How much it matters.
    pub severity: Option<Severity>,
    /// The target, or empty.
    pub target: String,
    /// The migration, or empty.
    pub migration_id: String,
    /// The run, or 0.
    pub run_id: i64,
    /// The step, or empty.
    pub step: String,
    /// The agent, or empty.
    pub agent_id: String,
    /// What happened, in a sentence.
    pub message: String,
    /// Figures and reasons.
    pub details: Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct New<'a> {
    target: Option<&'a str>,
    r#type: &'static str,
    severity: &'static str,
    migration_id: Option<&'a str>,
    run_id: Option<i64>,
    step: &'a str,
    agent_id: Option<&'a str>,
    message: &'a str,
    details: &'a Map<String, Value>,
}

pub(super) const APPEND_EVENTS: Statement = Statement::new(
    "append_events",
    "WITH new AS (
         SELECT n.target, n.type, n.severity, n.migration_id, n.run_id, n.step, n.agent_id, n.message, n.details,
                row_number() OVER () AS place, row_number() OVER (PARTITION BY n.target) AS number
         FROM ROWS FROM (jsonb_to_recordset($1) AS (
             target text, type text, severity text, migration_id text, run_id bigint, step text, agent_id text,
             message text, details jsonb)) AS n
     ), drawn AS (
         UPDATE dunlin_controller.targets t SET last_sequence = t.last_sequence + c.events
         FROM (SELECT target, count(*) AS events FROM new WHERE target IS NOT NULL GROUP BY target) c
         WHERE t.name = c.target
         RETURNING t.name, t.last_sequence - c.events AS before
     )
     INSERT INTO dunlin_controller.events
         (target, sequence, type, severity, migration_id, run_id, step, agent_id, message, details)
     SELECT n.target, d.before + n.number, n.type, n.severity, n.migration_id, n.run_id, n.step, n.agent_id, n.message,
            n.details
     FROM new n LEFT JOIN drawn d ON d.name = n.target
     ORDER BY n.place",
);

/// Appends events, the last thing of a transaction before its commit.
pub(super) async fn append(session: &Session, events: &[Event]) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    let new: Vec<New<'_>> = events
        .iter()
        .map(|event| New {
            target: event.target.as_ref().map(TargetName::as_str),
            r#type: event.event_type.as_str(),
            severity: event.severity.as_str(),
            migration_id: event.migration.as_ref().map(|id| id.as_str()),
            run_id: event.run.map(i64::from),
            step: &event.step,
            agent_id: event.agent.as_ref().map(|id| id.as_str()),
            message: &event.message,
            details: &event.details,
        })
        .collect();
    session.execute(&APPEND_EVENTS, &[&Json(new)]).await?;
    Ok(())
}

/// Which events are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this run.
    pub run_id: Option<i64>,
    /// Only of this target.
    pub target: Option<String>,
    /// Only of this migration.
    pub migration_id: Option<String>,
    /// The newest first.
    pub newest_first: bool,
}

/// A list for each filter that has an index; the others sift what it finds.
macro_rules! list {
    ($name:literal, $by:literal, $behind:literal, $order:literal) => {
        Statement::new(
            $name,
            concat!(
                "SELECT id, sequence, created_at, type, severity, target, migration_id, run_id, step, agent_id, message, details
                 FROM dunlin_controller.events WHERE ",
                $by,
                " AND ($1::bigint IS NULL OR run_id = $1) AND ($2::text IS NULL OR target = $2)
                  AND ($3::text IS NULL OR migration_id = $3) AND id ",
                $behind,
                " $4 ORDER BY id ",
                $order,
                " LIMIT $5"
            ),
        )
    };
}

const LIST_EVENTS: [Statement; 3] = [
    list!("list_events_of_run", "run_id = $1", ">", "ASC"),
    list!("list_events_of_migration", "migration_id = $3", ">", "ASC"),
    list!("list_events", "true", ">", "ASC"),
];

const LIST_EVENTS_NEWEST_FIRST: [Statement; 3] = [
    list!("list_newest_events_of_run", "run_id = $1", "<", "DESC"),
    list!("list_newest_events_of_migration", "migration_id = $3", "<", "DESC"),
    list!("list_newest_events", "true", "<", "DESC"),
];

const EVENTS_BETWEEN: Statement = Statement::new(
    "events_between",
    "SELECT id, sequence, created_at, type, severity, target, migration_id, run_id, step, agent_id, message, details
     FROM dunlin_controller.events
     WHERE target = $1 AND sequence > $2 AND sequence <= $3 AND run_id IS NOT NULL
       AND ($4::bigint[] IS NULL OR run_id = ANY ($4))
     ORDER BY sequence LIMIT $5",
);

const LAST_SEQUENCE: Statement =
    Statement::new("last_sequence", "SELECT last_sequence FROM dunlin_controller.targets WHERE name = $1");

const HAS_EVENTS: Statement =
    Statement::new("has_events", "SELECT EXISTS (SELECT FROM dunlin_controller.events WHERE target = $1) AS has");

impl Store {
    /// Whether there are events of a target, which may have been forgotten.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn has_events(&self, target: &TargetName) -> Result<bool, Error> {
        Ok(self.session().await?.query_one(&HAS_EVENTS, &[&target.as_str()]).await?.get("has"))
    }

    /// A page of events, behind the one with the id `after` in the order that is asked for.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn list_events(&self, filter: &Filter, after: Option<i64>, limit: i64) -> Result<Vec<Written>, Error> {
        let session = self.session().await?;
        let (statements, start) =
            if filter.newest_first { (&LIST_EVENTS_NEWEST_FIRST, i64::MAX) } else { (&LIST_EVENTS, 0) };
        let statement = match (filter.run_id, &filter.migration_id) {
            (Some(_), _) => &statements[0],
            (None, Some(_)) => &statements[1],
            (None, None) => &statements[2],
        };
        let after = after.unwrap_or(start);
        let parameters: super::session::Parameters<'_> =
            &[&filter.run_id, &filter.target, &filter.migration_id, &after, &limit];
        session.query(statement, parameters).await?.iter().map(read).collect()
    }

    /// The events of runs on a target behind a number in its history and up to another; of all runs where none are named.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn events_between(
        &self,
        target: &TargetName,
        after: i64,
        until: i64,
        runs: Option<&[i64]>,
        limit: i64,
    ) -> Result<Vec<Written>, Error> {
        let session = self.session().await?;
        let rows = session.query(&EVENTS_BETWEEN, &[&target.as_str(), &after, &until, &runs, &limit]).await?;
        rows.iter().map(read).collect()
    }

    /// The number of the last event in the history of a target; 0 when there is none.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn last_sequence(&self, target: &TargetName) -> Result<i64, Error> {
        let session = self.session().await?;
        let row = session.query_opt(&LAST_SEQUENCE, &[&target.as_str()]).await?;
        Ok(row.map_or(0, |row| row.get("last_sequence")))
    }
}

fn read(row: &Row) -> Result<Written, Error> {
    Ok(Written {
        id: row.get("id"),
        sequence: row.get::<_, Option<i64>>("sequence").unwrap_or(0),
        created_at: row.get("created_at"),
        event_type: EventType::parse(row.get("type")),
        severity: Severity::parse(row.get("severity")),
        target: row.get::<_, Option<String>>("target").unwrap_or_default(),
        migration_id: row.get::<_, Option<String>>("migration_id").unwrap_or_default(),
        run_id: row.get::<_, Option<i64>>("run_id").unwrap_or(0),
        step: row.get("step"),
        agent_id: row.get::<_, Option<String>>("agent_id").unwrap_or_default(),
        message: row.get("message"),
        details: row.get::<_, Json<Map<String, Value>>>("details").0,
    })
}
