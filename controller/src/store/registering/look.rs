//! What must be known before a set is registered: what targets have, what runs, and what failed.

use std::collections::HashMap;

use dunlin_shared::ids::{MigrationId, RunId};
use dunlin_shared::migration::Checksum;
use futures::future::{try_join, try_join4};
use tokio_postgres::Row;

use super::super::advancing::{migration, target};
use super::super::database::Store;
use super::super::error::Error;
use super::super::session::{Session, Statement};
use crate::domain::register::{Current, Ended, Held, Known, Proposed, Unfinished};

/// The revisions that there are of each migration, by their checksums.
pub(super) type Revisions = HashMap<MigrationId, HashMap<Checksum, i32>>;

const HELD_OF: Statement = Statement::new(
    "held_of",
    "SELECT migration_id, target, checksum, revision FROM dunlin_controller.target_registry WHERE migration_id = ANY ($1)
     ORDER BY migration_id, target",
);

const UNFINISHED_OF: Statement = Statement::new(
    "unfinished_of",
    "SELECT r.migration_id, r.target, r.id,
            EXISTS (SELECT FROM dunlin_controller.tasks t WHERE t.run_id = r.id AND t.granted_at IS NOT NULL) AS begun
     FROM dunlin_controller.runs r
     WHERE r.migration_id = ANY ($1) AND r.state IN ('queued', 'running', 'pausing', 'paused') ORDER BY r.id",
);

/// Where the last run of a migration failed, on targets that do not have it.
const FAILED_OF: Statement = Statement::new(
    "failed_of",
    "SELECT l.migration_id, l.target, l.id FROM (
         SELECT DISTINCT ON (r.migration_id, r.target) r.migration_id, r.target, r.id, r.state
         FROM dunlin_controller.runs r
         WHERE r.migration_id = ANY ($1) AND r.state IN ('succeeded', 'failed')
         ORDER BY r.migration_id, r.target, r.id DESC
     ) l
     WHERE l.state = 'failed' AND NOT EXISTS (SELECT FROM dunlin_controller.target_registry g
                                              WHERE g.target = l.target AND g.migration_id = l.migration_id)
     ORDER BY l.id",
);

/// Runs that have begun and not succeeded, of what the target does not have. One transaction for the whole migration leaves
/// nothing behind.
const PARTIAL_OF: Statement = Statement::new(
    "partial_of",
    "SELECT r.migration_id, r.target, r.id, r.checksum FROM dunlin_controller.runs r
     WHERE r.migration_id = ANY ($1) AND r.state IN ('failed', 'cancelled')
       AND EXISTS (SELECT FROM dunlin_controller.tasks t WHERE t.run_id = r.id AND t.granted_at IS NOT NULL)
       AND NOT EXISTS (SELECT FROM dunlin_controller.runs l WHERE l.migration_id = r.migration_id AND l.target = r.target
                       AND l.id > r.id AND l.state = 'succeeded')
     ORDER BY r.id",
);

const REVISIONS_OF: Statement = Statement::new(
    "revisions_of",
    "SELECT migration_id, checksum, revision FROM dunlin_controller.definitions WHERE migration_id = ANY ($1)",
);

impl Store {
    /// What must be known to decide, and the revisions that there are of the migrations of the set.
    pub(super) async fn look_around(
        &self,
        session: &Session,
        proposed: &[Proposed],
        missing: &[MigrationId],
        registered: HashMap<MigrationId, Current>,
    ) -> Result<(Known, Revisions), Error> {
        let ids: Vec<&str> = proposed.iter().map(|one| one.migration.as_str()).collect();
        let gone: Vec<&str> = missing.iter().map(MigrationId::as_str).collect();
        let all: Vec<&str> = ids.iter().chain(&gone).copied().collect();
        let ((held, unfinished, failed, partial), revision_rows) = try_join(
            try_join4(
                session.query(&HELD_OF, &[&ids]),
                session.query(&UNFINISHED_OF, &[&all]),
                session.query(&FAILED_OF, &[&ids]),
                session.query(&PARTIAL_OF, &[&gone]),
            ),
            session.query(&REVISIONS_OF, &[&ids]),
        )
        .await?;
        let mut revisions = Revisions::new();
        for row in &revision_rows {
            let of = revisions.entry(migration(row.get("migration_id"))?).or_default();
            of.insert(Checksum::from_stored(row.get::<_, String>("checksum")), row.get("revision"));
        }
        let held: Vec<Held> = held.iter().map(read_held).collect::<Result<_, _>>()?;
        // What the definitions do that the set would take the place of: only those that differ are looked at.
        let new: HashMap<&MigrationId, &Checksum> =
            proposed.iter().map(|one| (&one.migration, &one.checksum)).collect();
        let differs = |id: &MigrationId, checksum: &Checksum| new.get(id).is_some_and(|new| *new != checksum);
        let mut checksums: Vec<String> = registered
            .iter()
            .map(|(id, current)| (id, &current.checksum))
            .chain(held.iter().map(|held| (&held.migration, &held.checksum)))
            .filter(|(id, checksum)| differs(id, checksum))
            .map(|(_, checksum)| checksum.as_str().to_owned())
            .collect();
        let left: Vec<String> = partial.iter().map(|row| row.get("checksum")).collect();
        checksums.extend(left.iter().cloned());
        checksums.sort_unstable();
        checksums.dedup();
        let definitions = self.definitions_of(session, &checksums).await?;
        let atomic = |checksum: &String| definitions.get(checksum).is_some_and(|definition| definition.is_atomic());
        let partial =
            partial.iter().zip(&left).filter(|(_, checksum)| !atomic(checksum)).map(|(row, _)| read_ended(row));
        let known = Known {
            registered,
            held,
            deeds: definitions
                .iter()
                .map(|(checksum, definition)| (Checksum::from_stored(checksum.clone()), definition.deed()))
                .collect(),
            unfinished: unfinished.iter().map(read_unfinished).collect::<Result<_, _>>()?,
            failed: failed.iter().map(read_ended).collect::<Result<_, _>>()?,
            partial: partial.collect::<Result<_, _>>()?,
        };
        Ok((known, revisions))
    }
}

fn read_held(row: &Row) -> Result<Held, Error> {
    Ok(Held {
        migration: migration(row.get("migration_id"))?,
        target: target(row.get("target"))?,
        checksum: Checksum::from_stored(row.get::<_, String>("checksum")),
        revision: row.get("revision"),
    })
}

fn read_unfinished(row: &Row) -> Result<Unfinished, Error> {
    Ok(Unfinished {
        run: RunId(row.get("id")),
        migration: migration(row.get("migration_id"))?,
        target: target(row.get("target"))?,
        begun: row.get("begun"),
    })
}

fn read_ended(row: &Row) -> Result<Ended, Error> {
    Ok(Ended {
        run: RunId(row.get("id")),
        migration: migration(row.get("migration_id"))?,
        target: target(row.get("target"))?,
    })
}
