//! What a batch must show of the keys of the rows that it changes: where triggers could move them, and where rows are inserted into the
//! very table that is walked.
//!
//! The statement returns the keys then. Those of updated rows must still be in the batch, those of inserted rows must be in it or above the
//! upper bound of the step: else rows would be worked through twice, or never, or without end. RETURNING shows what triggers before the
//! change have made of a row. What those behind it do is seen by looking the keys up again. Triggers before a change can also leave rows
//! out: how many match is counted, so that this can be told.
//!
//! Where it cannot be told beforehand that an UPDATE or a DELETE of the walked table finds its rows by the key of those of its batch, the
//! keys that it returns say so (see [`Aims`]).
//!
//! Tables without triggers pay nothing for this, others one look at the catalog for each lease.

use dunlin_shared::key::comparison::operands;
use dunlin_shared::key::{self, KeyBound, KeyColumn, KeyRange};
use dunlin_shared::postgres::Session;
use dunlin_shared::sql::placeholder::BatchSql;
use dunlin_shared::sql::reading::{Change, Reading};
use dunlin_shared::sql::{quote_ident, quote_literal};
use tokio_postgres::types::Type;

use super::moves::name;
use super::{Aims, Error, Key, Table};
use crate::own;

/// The name of the column with the number of rows that match.
pub(crate) const MATCHING: &str = "dunlin_matching";

/// A statement that shows the keys.
#[derive(Debug)]
pub(crate) struct Guard {
    /// The statement. The last values of a row that it returns say whether the key is where it must be, and the key as text.
    pub(crate) statement: BatchSql,
    /// True when the statement returns keys.
    pub(crate) shows: bool,
    /// Counts the rows that match.
    pub(crate) matching: Option<BatchSql>,
    /// True when the keys must be looked up again.
    pub(crate) recounts: bool,
    /// True when rows are inserted.
    pub(crate) inserts: bool,
    /// True when rows outside of the batch may be changed.
    pub(crate) strays: bool,
    /// The names of the triggers.
    pub(crate) triggers: String,
}

// The bits of `tgtype`: 1 for each row, 2 before, 4 insert, 8 delete, 16 update, 64 instead of. A trigger of columns fires when one of
// them is assigned.
const TRIGGERS: &str = "
WITH family AS (SELECT $3::oid AS oid UNION SELECT f.relid FROM pg_partition_tree(pg_partition_root($3::oid::regclass)) f),
fires AS (
    SELECT t.tgname, t.tgtype, t.tgattr <> '' AND NOT EXISTS (
               SELECT FROM pg_attribute a WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr::int2[])
               AND (a.attname = ANY ($4::text[]::name[]) OR a.attgenerated <> '')) AS not_on_update
    FROM pg_trigger t JOIN family f ON f.oid = t.tgrelid WHERE NOT t.tgisinternal AND t.tgenabled <> 'D')
SELECT g.place::int, coalesce(bool_or(t.tgtype & 3 = 3), false), coalesce(bool_or(t.tgtype & 66 = 0), false),
       coalesce(string_agg(DISTINCT t.tgname, ', '), '')
FROM unnest($1::oid[], $2::int[]) WITH ORDINALITY AS g(target, events, place)
JOIN family f ON f.oid = g.target
LEFT JOIN fires t ON t.tgtype & g.events & CASE WHEN t.not_on_update THEN 12 ELSE 28 END <> 0
GROUP BY g.place ORDER BY g.place";

impl Guard {
    /// The guard of a statement; `None` where keys stay where they are.
    ///
    /// # Errors
    /// Keys could move unseen.
    pub(crate) async fn of(
        client: &Session,
        table: &Table,
        key: &Key,
        reading: &Reading,
        aims: &Aims,
        bound: Option<&KeyBound>,
    ) -> Result<Option<Self>, Error> {
        let inserts = reading.changes.iter().any(|change| change.kinds.inserts);
        if !table.may_have_triggers && !inserts && aims.unproven.is_none() {
            return Ok(None);
        }
        let names: Vec<String> = reading.changes.iter().map(name).collect();
        let events: Vec<i32> = reading.changes.iter().map(events).collect();
        let assigned: Vec<&str> =
            reading.changes.iter().flat_map(|change| &change.columns).map(String::as_str).collect();
        let targets = own::relations(client, &names).await?;
        let touched = own::query(
            client,
            TRIGGERS,
            &[
                (&targets, Type::OID_ARRAY),
                (&events, Type::INT4_ARRAY),
                (&table.oid, Type::OID),
                (&assigned, Type::TEXT_ARRAY),
            ],
        )
        .await?;
        let mut guard = None;
        for row in &touched {
            let place: i32 = row.try_get(0)?;
            let (before, after, triggers): (bool, bool, String) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
            let Ok(place) = usize::try_from(place - 1) else { continue };
            let Some(change) = reading.changes.get(place) else { continue };
            let Kinds { shows, counts } = Kinds::of(change, before, after);
            if shows {
                seen(change, table, aims.elsewhere.contains(&place), &triggers)?;
            }
            let strays = aims.unproven == Some(place);
            let shows = shows || strays;
            if shows || counts {
                let statement =
                    if shows { reading.returning(&values(change, key, bound)) } else { reading.text().to_owned() };
                guard = Some(Self {
                    statement: parse(&statement)?,
                    shows,
                    matching: reading.matching(MATCHING).filter(|_| counts).map(|sql| parse(&sql)).transpose()?,
                    recounts: shows && after && !change.kinds.deletes,
                    inserts: change.kinds.inserts,
                    strays,
                    triggers,
                });
            }
        }
        // A table that the walked one inherits from has triggers of its own, if any.
        let unproven = aims.unproven.and_then(|place| reading.changes.get(place)).filter(|_| guard.is_none());
        if let Some(change) = unproven {
            guard = Some(Self {
                statement: parse(&reading.returning(&values(change, key, bound)))?,
                shows: true,
                matching: None,
                recounts: false,
                inserts: false,
                strays: true,
                triggers: String::new(),
            });
        }
        Ok(guard)
    }

    /// A query for how many rows have keys, given as text.
    pub(crate) fn recount(table: &Table, key: &[KeyColumn], keys: &[Vec<String>]) -> String {
        let arrays: Vec<String> = key
            .iter()
            .enumerate()
            .map(|(place, column)| {
                let values: Vec<String> =
                    keys.iter().filter_map(|key| key.get(place)).map(|value| quote_literal(value)).collect();
                // In the list of a SELECT, where a composite value stays one.
                format!(
                    "pg_catalog.unnest(ARRAY[{}]::{}[]) AS k{}",
                    values.join(", "),
                    column.qualified_type(),
                    place + 1
                )
            })
            .collect();
        let equal: Vec<String> =
            operands(key, "t").iter().zip(1..).map(|(column, place)| column.is("=", &format!("k.k{place}"))).collect();
        format!(
            "SELECT pg_catalog.count(*) AS {MATCHING} FROM (SELECT {}) AS k JOIN {} AS t ON {}",
            arrays.join(", "),
            table.source(),
            equal.join(" AND ")
        )
    }
}

/// What a change must show.
struct Kinds {
    /// The keys.
    shows: bool,
    /// How many rows match.
    counts: bool,
}

impl Kinds {
    fn of(change: &Change, before: bool, after: bool) -> Self {
        let kinds = change.kinds;
        Self {
            shows: kinds.inserts || kinds.updates && (before || after),
            counts: before && !kinds.inserts && !change.merges && change.is_main,
        }
    }
}

fn events(change: &Change) -> i32 {
    let kinds = change.kinds;
    i32::from(kinds.inserts) * 4 + i32::from(kinds.deletes) * 8 + i32::from(kinds.updates) * 16
}

/// Makes sure that a change can show its keys.
fn seen(change: &Change, table: &Table, elsewhere: bool, triggers: &str) -> Result<(), Error> {
    let kinds = change.kinds;
    let why = if kinds.inserts {
        format!("the step inserts into {}, which it walks", table.quoted())
    } else {
        format!("triggers of {} ({triggers}) could move keys", table.quoted())
    };
    if change.merges {
        Err(Error::Unseen { why, by: "a MERGE" })
    } else if !change.is_main {
        Err(Error::Unseen { why, by: "a statement in WITH" })
    } else if !kinds.inserts && elsewhere {
        Err(Error::Unseen { why, by: "a statement that changes rows outside of its batch" })
    } else {
        Ok(())
    }
}

/// The values that a change returns.
fn values(change: &Change, key: &Key, bound: Option<&KeyBound>) -> String {
    let called = &change.called;
    let in_batch = format!(":batch({called})");
    let stays = match bound {
        Some(bound) if change.kinds.inserts => {
            let range = KeyRange { low: None, high: bound.clone() };
            format!("({in_batch} OR NOT {})", key::predicate(&key.columns, &range, None, called))
        }
        _ => in_batch,
    };
    let texts: Vec<String> =
        key.columns.iter().map(|column| format!("{called}.{}::pg_catalog.text", quote_ident(&column.name))).collect();
    format!("{stays}, {}", texts.join(", "))
}

fn parse(sql: &str) -> Result<BatchSql, Error> {
    BatchSql::parse(sql).map_err(|error| {
        let what = error.reason.to_string();
        Error::Unread(dunlin_shared::sql::reading::Unreadable { offset: error.offset, what })
    })
}
