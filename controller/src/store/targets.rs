//! Targets as they are told of.

use std::time::SystemTime;

use super::database::Store;
use super::error::Error;
use super::session::Statement;

/// A target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name.
    pub name: String,
    /// The highest version that is applied, or 0.
    pub version: i64,
    /// How many migrations are applied.
    pub applied: i64,
    /// How many registered migrations are not.
    pub pending: i64,
    /// How many connected agents serve it.
    pub agents: i64,
    /// The version of PostgreSQL.
    pub server_version: String,
    /// True when a connected agent reached it at its last try.
    pub reachable: bool,
    /// Why it was not reached.
    pub error: String,
    /// When an agent reported its registry last.
    pub reported_at: Option<SystemTime>,
    /// Why the databases that agents see are not let work on; empty where one is.
    pub refusal: String,
}

const LIST_TARGETS: Statement = Statement::new(
    "list_targets",
    "SELECT t.name, t.server_version, t.error, t.reported_at, g.version, g.applied,
            CASE WHEN t.suspended <> '' THEN t.suspended ELSE coalesce(
                (SELECT s.refusal FROM dunlin_controller.agent_targets s JOIN dunlin_controller.agents a ON a.id = s.agent_id
                 WHERE s.target = t.name AND s.refusal <> '' AND a.connected_until > now() ORDER BY s.agent_id LIMIT 1), '') END AS refusal,
            (SELECT count(*) FROM dunlin_controller.migrations m WHERE NOT EXISTS (
                 SELECT FROM dunlin_controller.target_registry a WHERE a.target = t.name AND a.migration_id = m.id))
                AS pending,
            (SELECT count(*) FROM dunlin_controller.agent_targets s
             JOIN dunlin_controller.agents a ON a.id = s.agent_id
             WHERE s.target = t.name AND a.connected_until > now()) AS agents,
            t.suspended = '' AND EXISTS (
                SELECT FROM dunlin_controller.agent_targets s JOIN dunlin_controller.agents a ON a.id = s.agent_id
                WHERE s.target = t.name AND s.reachable AND a.connected_until > now()) AS reachable
     FROM dunlin_controller.targets t
     CROSS JOIN LATERAL (SELECT coalesce(max(version), 0) AS version, count(*) AS applied
                         FROM dunlin_controller.target_registry WHERE target = t.name AND applications >= 1) g
     WHERE t.name > $1 ORDER BY t.name LIMIT $2",
);

const NOW: Statement = Statement::new("now", "SELECT clock_timestamp() AS now");

impl Store {
    /// The time by the clock of the database.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn now(&self) -> Result<SystemTime, Error> {
        Ok(self.session().await?.query_one(&NOW, &[]).await?.get("now"))
    }

    /// A page of targets behind a name.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn list_targets(&self, after: &str, limit: i64) -> Result<Vec<Target>, Error> {
        let session = self.session().await?;
        let rows = session.query(&LIST_TARGETS, &[&after, &limit]).await?;
        Ok(rows
            .iter()
            .map(|row| Target {
                name: row.get("name"),
                version: row.get("version"),
                applied: row.get("applied"),
                pending: row.get("pending"),
                agents: row.get("agents"),
                server_version: row.get("server_version"),
                reachable: row.get("reachable"),
                error: row.get("error"),
                reported_at: row.get("reported_at"),
                refusal: row.get("refusal"),
            })
            .collect())
    }
}
