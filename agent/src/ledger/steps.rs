//! The steps of a half-done migration as the target holds them, and what a changed definition makes of them.
//!
//! Whoever begins a step, goes on with one, or ends a migration first holds the steps of the migration: a lock of the transaction,
//! and so behind a pooler, too. Without it two leases that know one step under two names could carry it out side by side, since no
//! row is common to them. Ranges need no such lock: they are there only under the name, and for the text, that their plan has
//! written.
//!
//! What must stay true: a lease from before a step was renamed, begun again or given another text cannot commit any more. Renamed,
//! its row is not found. Begun again, the ranges are gone, and new ones begin with an epoch above every lease that there was (the
//! *fence*): the number of batches could not tell them apart. With another text, ranges that are open get that epoch, too.

use std::time::SystemTime;

use dunlin_shared::ids::MigrationId;
use dunlin_shared::migration::mending::{Held, Plan, Standing};
use dunlin_shared::postgres::Session;
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Address, Claim, Error};
use crate::own;

/// What must be known of who wants a step begun again, or to go on with another text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    /// The run.
    pub(crate) run: i64,
    /// Why, in words; may be empty.
    pub(crate) reason: String,
    /// Who asked for it; may be empty.
    pub(crate) by: String,
}

/// A step as the target holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holding {
    /// What is compared.
    pub(crate) held: Held,
    /// The newest epoch of its checkpoints.
    pub(crate) epoch: i64,
}

/// Makes others wait who would begin, go on with or end steps of a migration, until the transaction that is open ends.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn hold(client: &Session, migration: &MigrationId) -> Result<(), Error> {
    let name = format!("dunlin steps of {migration}");
    client.query_typed_one("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", &[(&name, Type::TEXT)]).await?;
    Ok(())
}

const COLUMNS: &str = "
    s.step, coalesce(s.was, ''), coalesce(s.ordinal, 0), s.checksum, s.kind = 'plan', s.state = 'done',
    coalesce(s.repaired, false), coalesce(r.open, 0) > 0, coalesce(r.touched, false), (s.rows + coalesce(r.rows, 0))::bigint,
    (s.rows_walked + coalesce(r.rows_walked, 0))::bigint, coalesce(s.redo, ''), greatest(s.epoch, r.epoch)";

const JOINED: &str = "
    FROM dunlin.checkpoints s
    LEFT JOIN LATERAL (
        SELECT count(*) FILTER (WHERE r.state <> 'done') AS open, bool_or(r.batches > 0) AS touched, sum(r.rows) AS rows,
               sum(r.rows_walked) AS rows_walked, max(r.epoch) AS epoch
        FROM dunlin.checkpoints r WHERE r.migration = s.migration AND r.step = s.step AND r.range > 0
    ) r ON s.kind = 'plan'
    WHERE s.range = 0 AND s.step <> ''";

/// The steps of a migration, in the order in which they were begun.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn holdings(client: &Session, migration: &MigrationId) -> Result<Vec<Holding>, Error> {
    let sql = format!("SELECT {COLUMNS} {JOINED} AND s.migration = $1 ORDER BY s.ordinal, s.step");
    client.query_typed(&sql, &[(&migration.as_str(), Type::TEXT)]).await?.iter().map(read).collect()
}

/// The steps of all half-done migrations, each with its migration, and the time at the server. Outside of any transaction.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn all_holdings(client: &Session) -> Result<(SystemTime, Vec<(String, Held)>), Error> {
    // The time first: what is read later is not older.
    let now: SystemTime = client.query_typed_one("SELECT pg_catalog.clock_timestamp()", &[]).await?.try_get(0)?;
    let sql = format!("SELECT {COLUMNS}, s.migration {JOINED} ORDER BY s.migration, s.ordinal, s.step");
    let rows = own::query(client, &sql, &[]).await?;
    let held = rows.iter().map(|row| Ok((row.try_get(13)?, read(row)?.held))).collect::<Result<_, Error>>()?;
    Ok((now, held))
}

fn read(row: &Row) -> Result<Holding, Error> {
    let (walks, done, repaired, open, touched): (bool, bool, bool, bool, bool) =
        (row.try_get(4)?, row.try_get(5)?, row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
    let standing = match (walks, done) {
        (_, true) if !open => Standing::Done,
        (true, _) if !touched => Standing::Prepared,
        (false, _) if repaired => Standing::Prepared,
        _ => Standing::Begun,
    };
    Ok(Holding {
        held: Held {
            name: row.try_get(0)?,
            was: row.try_get(1)?,
            ordinal: row.try_get(2)?,
            checksum: row.try_get(3)?,
            walks,
            standing,
            rows: row.try_get(9)?,
            rows_walked: row.try_get(10)?,
            redo: row.try_get(11)?,
        },
        epoch: row.try_get(12)?,
    })
}

/// Gives steps the names that the definition has for them, and forgets those that it does not have and that have changed nothing.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn rename(client: &Session, migration: &MigrationId, plan: &Plan) -> Result<(), Error> {
    let migration = migration.as_str();
    if !plan.forgotten.is_empty() {
        client
            .execute_typed(
                "DELETE FROM dunlin.checkpoints WHERE migration = $1 AND step = ANY ($2)",
                &[(&migration, Type::TEXT), (&plan.forgotten, Type::TEXT_ARRAY)],
            )
            .await?;
    }
    if plan.renamed.is_empty() {
        return Ok(());
    }
    let (old, new): (Vec<&str>, Vec<&str>) = plan.renamed.iter().map(|(old, new)| (old.as_str(), new.as_str())).unzip();
    // By way of names that no step can have: two steps can change theirs with each other.
    client
        .execute_typed(
            "UPDATE dunlin.checkpoints SET step = E'\\x01' || step WHERE migration = $1 AND step = ANY ($2)",
            &[(&migration, Type::TEXT), (&old, Type::TEXT_ARRAY)],
        )
        .await?;
    client
        .execute_typed(
            "UPDATE dunlin.checkpoints c SET step = n.new, was = CASE WHEN c.range = 0 THEN n.old END, updated_at = now()
             FROM unnest($2, $3) AS n(old, new) WHERE c.migration = $1 AND c.step = E'\\x01' || n.old",
            &[(&migration, Type::TEXT), (&old, Type::TEXT_ARRAY), (&new, Type::TEXT_ARRAY)],
        )
        .await?;
    Ok(())
}

fn entry(how: &str, holding: &Holding, request: &Request) -> Value {
    json!({
        "how": how,
        "run": request.run,
        "by": request.by,
        "reason": request.reason,
        "checksum_before": holding.held.checksum,
    })
}

/// Puts a step back to its beginning, within the transaction that has taken it. What it had counted is in its story, unless it had
/// changed nothing. `redo` names the request that it is carried out again for, where there is one. Returns the fence that ranges of
/// it begin with.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn begin_again(
    client: &Session,
    claim: &Claim,
    holding: &Holding,
    redo: Option<&str>,
    request: &Request,
) -> Result<i64, Error> {
    let fence = holding.epoch.saturating_add(1);
    let entry = (holding.held.standing != Standing::Prepared).then(|| entry("carried out again", holding, request));
    client
        .execute_typed(
            "WITH gone AS (
                 DELETE FROM dunlin.checkpoints WHERE migration = $1 AND step = $2 AND range > 0 RETURNING rows, rows_walked
             ), counted AS (
                 SELECT coalesce(sum(rows), 0)::bigint AS rows, coalesce(sum(rows_walked), 0)::bigint AS rows_walked FROM gone
             )
             UPDATE dunlin.checkpoints c
             SET state = 'open', kind = $3, checksum = $4, redo = coalesce($5, c.redo), fence = $6, key = NULL, cursor = NULL,
                 rows = 0, rows_walked = 0, rows_total = 0, counters = '{}', repaired = NULL, unlogged = NULL, updated_at = now(),
                 story = CASE WHEN $7::jsonb IS NULL THEN c.story ELSE coalesce(c.story, '[]') || jsonb_build_array(
                     $7 || jsonb_build_object('rows_before', c.rows + g.rows, 'rows_walked_before', c.rows_walked + g.rows_walked)) END
             FROM counted g
             WHERE c.migration = $1 AND c.step = $2 AND c.range = 0",
            &[
                (&claim.address.migration.as_str(), Type::TEXT),
                (&claim.address.step_text(), Type::TEXT),
                (&claim.kind.as_str(), Type::TEXT),
                (&claim.checksum, Type::TEXT),
                (&redo, Type::TEXT),
                (&fence, Type::INT8),
                (&entry, Type::JSONB),
            ],
        )
        .await?;
    Ok(fence)
}

/// Lets a step go on with another text, within the transaction that has taken it. Whoever works on one of its ranges with the old
/// one cannot commit any more.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn adopt(client: &Session, claim: &Claim, holding: &Holding, request: &Request) -> Result<i64, Error> {
    let (migration, name, checksum) =
        (claim.address.migration.as_str(), claim.address.step_text(), claim.checksum.as_str());
    let fence = holding.epoch.saturating_add(1);
    client
        .execute_typed(
            "UPDATE dunlin.checkpoints SET epoch = $3, checksum = $4, updated_at = now()
             WHERE migration = $1 AND step = $2 AND range > 0 AND state = 'open'",
            &[(&migration, Type::TEXT), (&name, Type::TEXT), (&fence, Type::INT8), (&checksum, Type::TEXT)],
        )
        .await?;
    // Only now: what was under way when the ranges were asked for is committed, and counts.
    client
        .execute_typed(
            "UPDATE dunlin.checkpoints c
             SET checksum = $4, fence = $3, updated_at = now(), story = coalesce(c.story, '[]') || jsonb_build_array(
                     $5 || jsonb_build_object('rows_before', r.rows, 'rows_walked_before', r.rows_walked))
             FROM (SELECT coalesce(sum(rows), 0)::bigint AS rows, coalesce(sum(rows_walked), 0)::bigint AS rows_walked
                   FROM dunlin.checkpoints WHERE migration = $1 AND step = $2 AND range > 0) r
             WHERE c.migration = $1 AND c.step = $2 AND c.range = 0",
            &[
                (&migration, Type::TEXT),
                (&name, Type::TEXT),
                (&fence, Type::INT8),
                (&checksum, Type::TEXT),
                (&entry("went on with another text", holding, request), Type::JSONB),
            ],
        )
        .await?;
    Ok(fence)
}

/// Notes that the last attempt at a step outside a transaction has left nothing: another text may take its place.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn note_repaired(client: &Session, step: &Address, epoch: i64, batches: i64) -> Result<(), Error> {
    client
        .execute_typed(
            "UPDATE dunlin.checkpoints SET repaired = true, updated_at = now()
             WHERE migration = $1 AND step = $2 AND range = 0 AND epoch = $3 AND batches = $4 AND state = 'open'",
            &[
                (&step.migration.as_str(), Type::TEXT),
                (&step.step_text(), Type::TEXT),
                (&epoch, Type::INT8),
                (&batches, Type::INT8),
            ],
        )
        .await?;
    Ok(())
}

/// What was done to the steps of a migration beside carrying each out once with one text, in their order.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn stories(client: &Session, migration: &MigrationId) -> Result<Vec<Value>, Error> {
    let rows = client
        .query_typed(
            "SELECT jsonb_build_object('step', c.step) || e.entry
             FROM dunlin.checkpoints c, jsonb_array_elements(c.story) WITH ORDINALITY AS e(entry, n)
             WHERE c.migration = $1 AND c.range = 0 ORDER BY c.ordinal, e.n",
            &[(&migration.as_str(), Type::TEXT)],
        )
        .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
