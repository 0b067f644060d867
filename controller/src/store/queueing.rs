//! Runs are queued: all that is pending on a target, or one migration.
//!
//! The registry and the schedule of the target are held, so what is pending is decided on a picture that nobody changes,
//! and two requests at once queue each migration once.

use std::collections::{HashMap, HashSet};

use dunlin_shared::failpoint::hit;
use dunlin_shared::graph;
use dunlin_shared::ids::{MigrationId, RunId, TargetName, TransformName};
use dunlin_shared::migration::{Definition, StepBody, Version};
use futures::future::{try_join, try_join3, try_join4};
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::advancing::{migration, unknown};
use super::database::Store;
use super::error::Error;
use super::half_done::{HalfDone, HeldStep};
use super::locks;
use super::reports::finish;
use super::runs::{FLEET_OF, fleet};
use super::session::{Session, Statement};
use super::starting::{TURN_COME, turn_come};
use super::wake::Wake;
use crate::domain::mending::{Doing, Unlike};
use crate::domain::waits::Fleet;
use crate::domain::{Event, EventType, Mending, Severity};

/// A migration that a target does not have.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The migration.
    pub id: MigrationId,
    /// Its version.
    pub version: Version,
    /// Its name.
    pub name: String,
    /// What must be applied first.
    pub run_after: Vec<MigrationId>,
    /// What it touches.
    pub impacts: Vec<String>,
    /// The code that its steps need.
    pub transforms: Vec<TransformName>,
    /// The names of its steps.
    pub steps: Vec<String>,
    /// True when it is one transaction.
    pub atomic: bool,
    /// Its run that has not ended.
    pub unfinished: Option<RunId>,
    /// Its last run, when that failed.
    pub failed: Option<RunId>,
    pub(super) checksum: String,
    revision: i32,
    base_epoch: i64,
}

/// Runs that a request is about.
#[derive(Debug, Default)]
pub struct Queued {
    /// The runs in the order in which they start.
    pub runs: Vec<i64>,
    /// What to look at.
    pub wakes: Vec<Wake>,
}

/// What became of a request to run all that is pending.
#[derive(Debug)]
pub enum All {
    /// It is queued.
    Queued(Queued),
    /// No agent has ever served the target.
    NoTarget,
    /// No agent reaches the target now, so what is pending there cannot be known.
    Unreached(Fleet),
    /// The target holds half-done migrations otherwise than their definitions have them.
    HalfDone(Vec<HalfDone>),
}

/// What became of a request to run one migration.
#[derive(Debug)]
pub enum Single {
    /// It is queued.
    Queued(Queued),
    /// It is applied already.
    Applied,
    /// No such migration is registered.
    NoMigration,
    /// No agent has ever served the target.
    NoTarget,
    /// No agent reaches the target now.
    Unreached(Fleet),
    /// A run of it has not ended, and does what is asked for.
    Attached(RunId),
    /// A run of it has not ended, and does something else than what is asked for.
    Unfinished(RunId, Unlike),
    /// Migrations that must be applied first are not.
    Lacking(Vec<MigrationId>),
    /// The target holds it half done, and otherwise than its definition has it.
    HalfDone(HalfDone),
    /// It is applied already, and steps of it were to be mended.
    NothingToMend,
}

const TARGET_EXISTS: Statement =
    Statement::new("target_exists", "SELECT name, held FROM dunlin_controller.targets WHERE name = $1");

/// The runs of a migration on the target have one index to be found by, `runs_by_migration`, whatever the planner knows of the table.
pub(super) const PENDING: Statement = Statement::new(
    "pending",
    "SELECT m.id, m.version, m.name, m.run_after, m.impacts, m.transforms, m.steps, m.atomic, m.checksum, m.revision,
         r.unfinished, r.failed, r.base_epoch
     FROM dunlin_controller.migrations m
     CROSS JOIN LATERAL (
         SELECT max(r.id) FILTER (WHERE r.state IN ('queued', 'running', 'pausing', 'paused')) AS unfinished,
             (array_agg(CASE WHEN r.state = 'failed' THEN r.id END ORDER BY r.id DESC)
              FILTER (WHERE r.state IN ('succeeded', 'failed')))[1] AS failed,
             coalesce(max(r.newest_epoch) + 1, 0) AS base_epoch
         FROM dunlin_controller.runs r WHERE r.target = $1 AND r.migration_id = m.id) r
     WHERE CASE WHEN $2::text IS NULL
         THEN NOT EXISTS (SELECT FROM dunlin_controller.target_registry g WHERE g.target = $1 AND g.migration_id = m.id)
         ELSE m.id = $2 END
     ORDER BY m.version",
);

/// What an unfinished run was asked to do.
const ASKED_OF: Statement =
    Statement::new("asked_of", "SELECT rerun, redo_steps, continue_steps FROM dunlin_controller.runs WHERE id = $1");

const APPLIED_IDS: Statement =
    Statement::new("applied_ids", "SELECT migration_id FROM dunlin_controller.target_registry WHERE target = $1");

/// The run that the next request for all that is pending comes after.
const LAST_IN_ORDER: Statement = Statement::new(
    "last_in_order",
    "SELECT max(id) AS id FROM dunlin_controller.runs
     WHERE target = $1 AND in_order AND state IN ('queued', 'running', 'pausing', 'paused')",
);

const DRAW_RUN_IDS: Statement = Statement::new(
    "draw_run_ids",
    "SELECT nextval(pg_get_serial_sequence('dunlin_controller.runs', 'id')) AS id FROM generate_series(1, $1::bigint)",
);

const ADD_RUNS: Statement = Statement::new(
    "add_runs",
    "INSERT INTO dunlin_controller.runs (id, target, migration_id, version, checksum, revision, state, rerun, request_id, in_order,
         after_run_id, run_after, base_epoch, redo_steps, continue_steps, reason, requested_by)
     SELECT n.id, $1, n.migration_id, n.version, n.checksum, n.revision, 'queued', n.rerun, $2, n.in_order, n.after_run_id,
         n.run_after, n.base_epoch, n.redo_steps, n.continue_steps, n.reason, n.requested_by
     FROM jsonb_to_recordset($3) AS n (id bigint, migration_id text, version bigint, checksum text, revision int, rerun boolean,
         in_order boolean, after_run_id bigint, run_after text[], base_epoch bigint,
         redo_steps text[], continue_steps text[], reason text, requested_by text)
     ORDER BY n.id",
);

const ADD_STEPS: Statement = Statement::new(
    "add_steps",
    "INSERT INTO dunlin_controller.run_steps (run_id, ordinal, name, transform)
     SELECT n.run_id, n.ordinal, n.name, n.transform
     FROM jsonb_to_recordset($1) AS n (run_id bigint, ordinal int, name text, transform text)",
);

#[derive(Debug, Serialize)]
struct RunRow<'a> {
    id: i64,
    migration_id: &'a MigrationId,
    version: i64,
    checksum: &'a str,
    revision: i32,
    rerun: bool,
    in_order: bool,
    after_run_id: Option<i64>,
    run_after: &'a [MigrationId],
    base_epoch: i64,
    #[serde(flatten)]
    mending: &'a Mending,
}

#[derive(Debug, Serialize)]
struct StepRow<'a> {
    run_id: i64,
    ordinal: i32,
    name: &'a str,
    transform: Option<&'a TransformName>,
}

/// What a target has and has not.
#[derive(Debug)]
pub struct Outlook {
    /// What it does not have, in the order in which it would run.
    pub pending: Vec<Pending>,
    /// What it has.
    pub applied: HashSet<MigrationId>,
}

impl Store {
    /// True when an agent has ever served a target.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn knows_target(&self, target: &TargetName) -> Result<bool, Error> {
        let session = self.session().await?;
        Ok(session.query_opt(&TARGET_EXISTS, &[&target.as_str()]).await?.is_some())
    }

    /// What is pending on a target. `None`: no agent has ever served it.
    ///
    /// # Errors
    /// The database is not available.
    pub async fn outlook(&self, target: &TargetName) -> Result<Option<Outlook>, Error> {
        let session = self.session().await?;
        let name = target.as_str();
        if session.query_opt(&TARGET_EXISTS, &[&name]).await?.is_none() {
            return Ok(None);
        }
        let applied = session.query(&APPLIED_IDS, &[&name]).await?;
        let applied = applied.iter().filter_map(|row| MigrationId::parse(row.get::<_, String>("migration_id")).ok());
        Ok(Some(Outlook { applied: applied.collect(), pending: pending(&session, target).await? }))
    }

    /// Queues a run for every pending migration of a target that has no unfinished one. Where no agent reaches the target,
    /// only with `wait`, and never is nothing pending there: that cannot be known.
    ///
    /// # Errors
    /// The database is not available, or refuses.
    pub async fn queue_pending(&self, target: &TargetName, wait: bool) -> Result<All, Error> {
        self.repeat(|| self.queue_pending_once(target, wait)).await
    }

    async fn queue_pending_once(&self, target: &TargetName, wait: bool) -> Result<All, Error> {
        let session = self.session().await?;
        let name = target.as_str();
        session.begin().await?;
        locks::registry_shared(&session).await?;
        locks::schedule(&session, target).await?;
        let Some(known) = session.query_opt(&TARGET_EXISTS, &[&name]).await? else {
            session.roll_back().await?;
            return Ok(All::NoTarget);
        };
        let (fleet, pending) = try_join(fleet(&session, target), pending(&session, target)).await?;
        if fleet.reaching == 0 && (!wait || pending.is_empty()) {
            session.roll_back().await?;
            return Ok(All::Unreached(fleet));
        }
        let new: Vec<&Pending> = pending.iter().filter(|migration| migration.unfinished.is_none()).collect();
        let mending = Mending::default();
        let half_done = self.half_done(&session, held(&known), &new, &mending).await?;
        if !half_done.is_empty() {
            session.roll_back().await?;
            return Ok(All::HalfDone(half_done));
        }
        let mut ids = self.draw(&session, new.len()).await?;
        ids.sort_unstable();
        let last: Option<i64> = session.query_one(&LAST_IN_ORDER, &[&name]).await?.get("id");
        let before = std::iter::once(last).chain(ids.iter().copied().map(Some));
        let rows: Vec<RunRow<'_>> = new
            .iter()
            .zip(&ids)
            .zip(before)
            .map(|((migration, id), before)| run_row(migration, *id, before, true, false, &mending))
            .collect();
        let drawn: HashMap<&MigrationId, i64> = new.iter().map(|migration| &migration.id).zip(ids).collect();
        let runs = pending
            .iter()
            .filter_map(|migration| match migration.unfinished {
                Some(run) => Some(run.0),
                None => drawn.get(&migration.id).copied(),
            })
            .collect();
        let wakes = self.add(session, target, &new, &rows).await?;
        Ok(All::Queued(Queued { runs, wakes }))
    }

    /// Queues a run of one migration. Where no agent reaches the target, only with `wait`; that it is applied there cannot be
    /// known then.
    ///
    /// # Errors
    /// The database is not available, or refuses.
    pub async fn queue_one(
        &self,
        target: &TargetName,
        id: &MigrationId,
        rerun: bool,
        wait: bool,
    ) -> Result<Single, Error> {
        self.queue_mending(target, id, rerun, wait, &Mending::default()).await
    }

    /// Queues a run of one migration that may go on with a half-done one in another way than from where it stands.
    ///
    /// # Errors
    /// The database is not available, or refuses.
    pub async fn queue_mending(
        &self,
        target: &TargetName,
        id: &MigrationId,
        rerun: bool,
        wait: bool,
        mending: &Mending,
    ) -> Result<Single, Error> {
        self.repeat(|| self.queue_one_once(target, id, rerun, wait, mending)).await
    }

    async fn queue_one_once(
        &self,
        target: &TargetName,
        id: &MigrationId,
        rerun: bool,
        wait: bool,
        mending: &Mending,
    ) -> Result<Single, Error> {
        let session = self.session().await?;
        let name = target.as_str();
        session
            .prepare(&[
                &locks::SHARE_REGISTRY,
                &locks::LOCK_SCHEDULE,
                &TARGET_EXISTS,
                &PENDING,
                &APPLIED_IDS,
                &FLEET_OF,
            ])
            .await?;
        let only = Some(id.as_str());
        let ((_, _, _), (exists, rows, applied, fleet)) = try_join(
            try_join3(session.begin(), locks::registry_shared(&session), locks::schedule(&session, target)),
            try_join4(
                session.query_opt(&TARGET_EXISTS, &[&name]),
                session.query(&PENDING, &[&name, &only]),
                session.query(&APPLIED_IDS, &[&name]),
                fleet(&session, target),
            ),
        )
        .await?;
        let applied: HashSet<String> = applied.iter().map(|row| row.get("migration_id")).collect();
        let refused = match rows.first() {
            None => Some(Single::NoMigration),
            Some(_) if exists.is_none() => Some(Single::NoTarget),
            Some(_) if fleet.reaching == 0 && (!wait || applied.contains(id.as_str()) && !rerun) => {
                Some(Single::Unreached(fleet))
            }
            Some(_) if applied.contains(id.as_str()) && !rerun && mending.names_steps() => Some(Single::NothingToMend),
            Some(_) if applied.contains(id.as_str()) && !rerun => Some(Single::Applied),
            Some(row) => {
                let pending = read(row)?;
                let lacking: Vec<MigrationId> =
                    pending.run_after.iter().filter(|id| !applied.contains(id.as_str())).cloned().collect();
                match pending.unfinished {
                    Some(run) => {
                        let running = session.query_one(&ASKED_OF, &[&run.0]).await?;
                        let running = Doing {
                            rerun: running.get("rerun"),
                            redo_steps: running.get("redo_steps"),
                            continue_steps: running.get("continue_steps"),
                        };
                        let again = rerun && applied.contains(id.as_str());
                        Some(match running.unlike(again, mending) {
                            None => Single::Attached(run),
                            Some(unlike) => Single::Unfinished(run, unlike),
                        })
                    }
                    None if lacking.is_empty() => None,
                    None => Some(Single::Lacking(lacking)),
                }
            }
        };
        if let Some(refused) = refused {
            session.roll_back().await?;
            return Ok(refused);
        }
        let pending = rows.first().map(read).transpose()?.ok_or(Error::NoRow { statement: "pending" })?;
        let again = rerun && applied.contains(id.as_str());
        // Of a repetition the registry tells more than what was reported before the first application ended: the target decides.
        let known = exists.as_ref().filter(|_| !again).map_or_else(Vec::new, held);
        if let Some(half_done) = self.half_done(&session, known, &[&pending], mending).await?.pop() {
            session.roll_back().await?;
            return Ok(Single::HalfDone(half_done));
        }
        let ids = self.draw(&session, 1).await?;
        let rows: Vec<RunRow<'_>> =
            ids.iter().map(|number| run_row(&pending, *number, None, false, again, mending)).collect();
        let wakes = self.add(session, target, &[&pending], &rows).await?;
        Ok(Single::Queued(Queued { runs: ids, wakes }))
    }

    async fn draw(&self, session: &Session, count: usize) -> Result<Vec<i64>, Error> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        Ok(session.query(&DRAW_RUN_IDS, &[&count]).await?.iter().map(|row| row.get("id")).collect())
    }

    /// Writes new runs, starts the first where it can start, and commits.
    async fn add(
        &self,
        session: Session,
        target: &TargetName,
        migrations: &[&Pending],
        rows: &[RunRow<'_>],
    ) -> Result<Vec<Wake>, Error> {
        if rows.is_empty() {
            session.roll_back().await?;
            return Ok(Vec::new());
        }
        let checksums: Vec<String> = migrations.iter().map(|migration| migration.checksum.clone()).collect();
        let definitions = self.definitions_of(&session, &checksums).await?;
        let mut steps = Vec::new();
        for (migration, row) in migrations.iter().zip(rows) {
            let definition = definitions
                .get(&migration.checksum)
                .ok_or_else(|| unknown("migrations.checksum", &migration.checksum))?;
            steps.extend(step_rows(row.id, definition));
        }
        let mut events: Vec<Event> = rows.iter().map(|row| queued(target, row)).collect();
        let request = Uuid::now_v7();
        let (run_rows, step_rows) = (Json(rows), Json(steps));
        session.prepare(&[&ADD_RUNS, &ADD_STEPS, &TURN_COME]).await?;
        let (_, _, turn) = try_join3(
            session.execute(&ADD_RUNS, &[&target.as_str(), &request, &run_rows]),
            session.execute(&ADD_STEPS, &[&step_rows]),
            turn_come(&session, target, &[]),
        )
        .await?;
        let mut wakes = Vec::new();
        let starting = self.start_runs(&session, target, turn, &mut events).await?;
        if !starting.runs.is_empty() {
            wakes.push(Wake::Dispatch);
        }
        hit("queue.written").await?;
        try_join(starting.write(&session), finish(&session, self.replica(), events, &mut wakes)).await?;
        hit("queue.stored").await?;
        Ok(wakes)
    }
}

fn held(known: &Row) -> Vec<HeldStep> {
    known.get::<_, Json<Vec<HeldStep>>>("held").0
}

fn run_row<'a>(
    migration: &'a Pending,
    id: i64,
    after: Option<i64>,
    in_order: bool,
    rerun: bool,
    mending: &'a Mending,
) -> RunRow<'a> {
    RunRow {
        id,
        migration_id: &migration.id,
        version: migration.version.get(),
        checksum: &migration.checksum,
        revision: migration.revision,
        rerun,
        in_order,
        after_run_id: after,
        run_after: &migration.run_after,
        base_epoch: migration.base_epoch,
        mending,
    }
}

fn step_rows(run_id: i64, definition: &Definition) -> impl Iterator<Item = StepRow<'_>> {
    (1..).zip(&definition.steps).map(move |(ordinal, step)| StepRow {
        run_id,
        ordinal,
        name: step.name.as_str(),
        transform: match &step.body {
            StepBody::Transform { transform, .. } => Some(transform),
            StepBody::Sql { .. } | StepBody::Batch { .. } => None,
        },
    })
}

fn queued(target: &TargetName, row: &RunRow<'_>) -> Event {
    let again = if row.rerun { ": it repeats an applied migration" } else { "" };
    let mending = row.mending.describe();
    let message = format!("run {} of {} was queued{again}{mending}", row.id, row.migration_id);
    let event = Event::new(EventType::RunQueued, Severity::Info, message)
        .of_target(target)
        .of_migration(row.migration_id)
        .of_run(row.id.into());
    row.mending.detail(event)
}

async fn pending(session: &Session, target: &TargetName) -> Result<Vec<Pending>, Error> {
    let rows = session.query(&PENDING, &[&target.as_str(), &None::<&str>]).await?;
    let pending: Vec<Pending> = rows.iter().map(read).collect::<Result<_, _>>()?;
    let graph: Vec<_> = pending.iter().map(|one| (one.id.clone(), one.version, one.run_after.clone())).collect();
    let order = graph::order(&graph).map_err(|cycle| unknown("the registry: a cycle", &cycle.to_string()))?;
    let mut by_id: HashMap<MigrationId, Pending> = pending.into_iter().map(|one| (one.id.clone(), one)).collect();
    Ok(order.iter().filter_map(|id| by_id.remove(id)).collect())
}

fn read(row: &Row) -> Result<Pending, Error> {
    let ids = |ids: Vec<String>| ids.into_iter().map(migration).collect::<Result<Vec<_>, _>>();
    Ok(Pending {
        id: migration(row.get("id"))?,
        version: Version::new(row.get("version")).map_err(|error| unknown("migrations.version", &error.to_string()))?,
        name: row.get("name"),
        run_after: ids(row.get("run_after"))?,
        impacts: row.get("impacts"),
        transforms: row
            .get::<_, Vec<String>>("transforms")
            .into_iter()
            .map(TransformName::parse)
            .collect::<Result<_, _>>()
            .map_err(|error| unknown("migrations.transforms", &error.to_string()))?,
        steps: row.get("steps"),
        atomic: row.get("atomic"),
        unfinished: row.get::<_, Option<i64>>("unfinished").map(RunId),
        failed: row.get::<_, Option<i64>>("failed").map(RunId),
        checksum: row.get("checksum"),
        revision: row.get("revision"),
        base_epoch: row.get("base_epoch"),
    })
}
