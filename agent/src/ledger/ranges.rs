//! The ranges of a step: written by its plan, read again when a plan goes on.

use dunlin_shared::key::{KeyBound, KeyRange};
use dunlin_shared::postgres::Session;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::types::Type;

use super::{Address, Error, State};
use crate::own;

/// A range that a plan has cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewRange {
    /// Its number, from 1 upwards.
    pub(crate) ordinal: i32,
    /// Its keys.
    pub(crate) keys: KeyRange,
    /// The rows counted in it.
    pub(crate) rows_total: i64,
}

/// A range as the target has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRange {
    /// What was planned.
    pub(crate) planned: NewRange,
    /// True when nothing is left of it.
    pub(crate) done: bool,
    /// Rows changed in it.
    pub(crate) rows: i64,
    /// Rows walked in it.
    pub(crate) rows_walked: i64,
}

/// Writes ranges, in the transaction that advances the plan. They start with the epoch of the step's fence: above that of every
/// lease from before the step was begun again, and below that of any lease of theirs.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn insert_ranges(
    client: &Session,
    plan: &Address,
    checksum: &str,
    run: i64,
    fence: i64,
    ranges: &[NewRange],
) -> Result<(), Error> {
    let ordinals: Vec<i32> = ranges.iter().map(|range| range.ordinal).collect();
    let totals: Vec<i64> = ranges.iter().map(|range| range.rows_total).collect();
    // Arrays of arrays must be rectangular in SQL, and a first range has no low: JSON carries them.
    let lows: Vec<Option<String>> = ranges.iter().map(|range| range.keys.low.as_ref().map(json)).collect();
    let highs: Vec<String> = ranges.iter().map(|range| json(&range.keys.high)).collect();
    client
        .execute_typed(
            "INSERT INTO dunlin.checkpoints (migration, step, range, kind, epoch, checksum, run_id, low, high, rows_total)
             SELECT $1, $2, r.ordinal, 'range', $9, $3, $4,
                    CASE WHEN r.low IS NOT NULL
                         THEN ARRAY(SELECT e.v FROM json_array_elements_text(r.low::json) WITH ORDINALITY AS e(v, n) ORDER BY n) END,
                    ARRAY(SELECT e.v FROM json_array_elements_text(r.high::json) WITH ORDINALITY AS e(v, n) ORDER BY n),
                    r.total
             FROM unnest($5, $6, $7, $8) AS r(ordinal, low, high, total)
             ON CONFLICT DO NOTHING",
            &[
                (&plan.migration.as_str(), Type::TEXT),
                (&plan.step_text(), Type::TEXT),
                (&checksum, Type::TEXT),
                (&run, Type::INT8),
                (&ordinals, Type::INT4_ARRAY),
                (&lows, Type::TEXT_ARRAY),
                (&highs, Type::TEXT_ARRAY),
                (&totals, Type::INT8_ARRAY),
                (&fence, Type::INT8),
            ],
        )
        .await?;
    Ok(())
}

fn json(bound: &KeyBound) -> String {
    Value::from(bound.0.clone()).to_string()
}

/// The ranges of a step with a higher number than `after`, in order, at most 1000. Outside of any transaction.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn ranges_after(client: &Session, plan: &Address, after: i32) -> Result<Vec<StoredRange>, Error> {
    let rows = own::query(
        client,
        "SELECT range, low, high, rows_total, state, rows, rows_walked FROM dunlin.checkpoints
             WHERE migration = $1 AND step = $2 AND range > $3 ORDER BY range LIMIT 1000",
        &[(&plan.migration.as_str(), Type::TEXT), (&plan.step_text(), Type::TEXT), (&after, Type::INT4)],
    )
    .await?;
    rows.iter()
        .map(|row| {
            Ok(StoredRange {
                planned: NewRange {
                    ordinal: row.try_get(0)?,
                    keys: KeyRange {
                        low: row.try_get::<_, Option<Vec<String>>>(1)?.map(KeyBound),
                        high: KeyBound(row.try_get(2)?),
                    },
                    rows_total: row.try_get(3)?,
                },
                done: State::read(row.try_get(4)?)? == State::Done,
                rows: row.try_get(5)?,
                rows_walked: row.try_get(6)?,
            })
        })
        .collect()
}

/// How many ranges of a step are not finished.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn unfinished_ranges(client: &Session, plan: &Address) -> Result<i64, Error> {
    let row = client
        .query_typed_one(
            "SELECT count(*) FROM dunlin.checkpoints
             WHERE migration = $1 AND step = $2 AND range > 0 AND state <> 'done'",
            &[(&plan.migration.as_str(), Type::TEXT), (&plan.step_text(), Type::TEXT)],
        )
        .await?;
    Ok(row.try_get(0)?)
}

/// Notes in the checkpoint of a step what it works on, within the transaction that has taken it: for a plan the table and its key.
/// From here on it can have an effect. Beside them stands the oid of the ledger, which is another one after a dump was restored.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn describe(client: &Session, step: &Address, key: Option<&Value>) -> Result<(), Error> {
    client
        .execute_typed(
            "UPDATE dunlin.checkpoints
             SET key = $3 || jsonb_build_object('ledger', 'dunlin.checkpoints'::regclass::oid::text), repaired = NULL
             WHERE migration = $1 AND step = $2 AND range = 0",
            &[(&step.migration.as_str(), Type::TEXT), (&step.step_text(), Type::TEXT), (&key, Type::JSONB)],
        )
        .await?;
    Ok(())
}

/// Notes where the walk of a plan begins, within the transaction that has taken it.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn begin_walk(client: &Session, plan: &Address, cursor: &impl Serialize) -> Result<(), Error> {
    let cursor = serde_json::to_value(cursor).map_err(Error::Unreadable)?;
    client
        .execute_typed(
            "UPDATE dunlin.checkpoints SET cursor = $3 WHERE migration = $1 AND step = $2 AND range = 0",
            &[(&plan.migration.as_str(), Type::TEXT), (&plan.step_text(), Type::TEXT), (&cursor, Type::JSONB)],
        )
        .await?;
    Ok(())
}

/// What the plan of a step has noted for its ranges.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// The table and its key.
    pub(crate) key: Value,
    /// The highest key when the step began.
    pub(crate) bound: KeyBound,
    /// True when the ledger is the one in which the plan noted them, and not restored from a dump since.
    pub(crate) same_ledger: bool,
}

/// Reads what the plan of a range has noted, outside of any transaction; `None` when the target does not have it.
///
/// # Errors
/// Those of PostgreSQL, or it cannot be read.
pub(crate) async fn planned(client: &Session, range: &Address) -> Result<Option<Planned>, Error> {
    let rows = own::query(
        client,
        "SELECT key, cursor->'bound', coalesce(key->>'ledger' = 'dunlin.checkpoints'::regclass::oid::text, false)
             FROM dunlin.checkpoints
             WHERE migration = $1 AND step = $2 AND range = 0 AND key IS NOT NULL AND cursor ? 'bound'",
        &[(&range.migration.as_str(), Type::TEXT), (&range.step_text(), Type::TEXT)],
    )
    .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let bound = serde_json::from_value(row.try_get(1)?).map_err(Error::Unreadable)?;
    Ok(Some(Planned { key: row.try_get(0)?, bound, same_ledger: row.try_get(2)? }))
}
