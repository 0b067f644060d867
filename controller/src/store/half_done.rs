//! Refusals before a run is made: what a target is known to hold of half-done migrations, compared with their definitions.
//!
//! Agents tell what their targets hold, with the registry, and before each failure that ends a run. What is known can be old all the
//! same, or missing: the target has the last word when a task is taken there. So nothing here has to be right for the target's sake,
//! only for the operator, who is told before a run is made what would end it.

use std::collections::HashMap;
use std::time::SystemTime;

use dunlin_shared::ids::{MigrationId, TargetName};
use dunlin_shared::migration::mending::{Held, Refusal, Wanted, compare};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::Json;

use super::advancing::unknown;
use super::database::Store;
use super::error::Error;
use super::queueing::Pending;
use super::session::{Session, Statement};
use crate::domain::Mending;

/// A step of a half-done migration, as a target holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldStep {
    /// The migration.
    pub migration: String,
    /// The step.
    #[serde(flatten)]
    pub held: Held,
}

/// What a target holds, and when it was so by its clock.
pub(super) type Report<'a> = (SystemTime, &'a [HeldStep]);

/// Why a migration cannot go on where a target stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HalfDone {
    /// The migration.
    pub migration: MigrationId,
    /// What the definition does not explain.
    pub refusal: Refusal,
}

/// Of two reports the later one holds, whichever comes first. The caller holds the schedule of the target.
const WRITE_HELD: Statement = Statement::new(
    "write_held",
    "UPDATE dunlin_controller.targets SET held = $2, held_at = $3
     WHERE name = $1 AND (held_at IS NULL OR held_at <= $3) AND (held <> $2 OR held_at IS DISTINCT FROM $3)",
);

/// Keeps what a target says that it holds.
pub(super) async fn keep(session: &Session, target: &TargetName, (at, held): Report<'_>) -> Result<(), Error> {
    session.execute(&WRITE_HELD, &[&target.as_str(), &Json(held), &at]).await.map(drop)
}

impl Store {
    /// The migrations among `migrations` that cannot go on where their target is known to stand. `held` is what is known.
    pub(super) async fn half_done(
        &self,
        session: &Session,
        held: Vec<HeldStep>,
        migrations: &[&Pending],
        mending: &Mending,
    ) -> Result<Vec<HalfDone>, Error> {
        let mut by_migration: HashMap<String, Vec<Held>> = HashMap::new();
        for HeldStep { migration, held } in held {
            by_migration.entry(migration).or_default().push(held);
        }
        let concerned =
            |migration: &&&Pending| mending.names_steps() || by_migration.contains_key(migration.id.as_str());
        let concerned: Vec<&Pending> = migrations.iter().filter(concerned).copied().collect();
        let checksums: Vec<String> = concerned.iter().map(|migration| migration.checksum.clone()).collect();
        let definitions = self.definitions_of(session, &checksums).await?;
        let mut found = Vec::new();
        for migration in concerned {
            let definition = definitions
                .get(&migration.checksum)
                .ok_or_else(|| unknown("migrations.checksum", &migration.checksum))?;
            let wanted: Vec<Wanted> = definition.steps.iter().map(|step| step.wanted()).collect();
            let held = by_migration.get(migration.id.as_str()).map_or(&[][..], Vec::as_slice);
            if let Err(refusal) = compare(&wanted, held, mending.asked()) {
                found.push(HalfDone { migration: migration.id.clone(), refusal });
            }
        }
        Ok(found)
    }
}
