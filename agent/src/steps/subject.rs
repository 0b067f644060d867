//! The table of a batch step: found and checked when the step is planned, and found again by each range.
//!
//! What must stay true: the table that is walked, the table that `:batch` selects rows of, and the table that was planned are one and the
//! same, by what their names mean in the session that does the work. And the names and types of its key are those of the checkpoint and of
//! the catalog here: what a controller says of them is compared with that, and never put into SQL.

use dunlin_proto::v1::{self, EventType, Step, StepKind};
use dunlin_shared::key::{KeyBound, KeyColumn, in_words};
use dunlin_shared::migration::mending;
use dunlin_shared::sql::placeholder::BatchSql;
use dunlin_shared::sql::reading::Reading;
use serde_json::{Value, json};

use super::range::of_catalog;
use super::{Context, Error};
use crate::catalog::{self, Aims, Guard, Key, Table};
use crate::failure::Place;
use crate::frame::Durability;
use crate::ledger::{self, Address};
use crate::target::Connection;

/// The table of a step and its key.
pub(super) struct Subject {
    /// The table.
    pub(super) table: Table,
    /// Its key.
    pub(super) key: Key,
}

/// The table of a step, as a range has found it again.
pub(super) struct Again {
    /// The table.
    pub(super) table: Table,
    /// Its key, as the target has it.
    pub(super) key: Key,
    /// The columns of the table that the step assigns.
    pub(super) assigned: Vec<String>,
    /// What batches must show of the keys of their rows.
    pub(super) guard: Option<Guard>,
}

impl Subject {
    /// Finds the table and the key of a step, and refuses what would not walk all of its rows once.
    pub(super) async fn resolve(
        context: &Context,
        connection: &mut Connection,
        step: &Step,
        place: &Place,
    ) -> Result<Self, Error> {
        let settings = step.batch.clone().unwrap_or_default();
        let of_catalog = |error| of_catalog(error, place);
        if step.kind() != StepKind::Batch {
            let table = catalog::find(connection, &settings.table).await.map_err(of_catalog)?;
            if table.has_children {
                return Err(of_catalog(catalog::Error::Inherited(table.quoted())));
            }
            let key = catalog::resolve(connection, &table, &settings.key).await.map_err(of_catalog)?;
            return Ok(Self { table, key });
        }
        let (sql, reading) = read(step, place)?;
        let begin = context.frame_of(step, place)?.begin_entered(Durability::Later);
        let bound = catalog::bind(connection, &begin, &sql, &reading, &settings.table).await.map_err(of_catalog)?;
        if let Some(instead) = bound.instead {
            context.lease.note(EventType::AgentNote, instead);
        }
        let table = bound.table;
        let key = catalog::resolve(connection, &table, &settings.key).await.map_err(of_catalog)?;
        catalog::refuse_moves(connection, &table, &key, &reading).await.map_err(of_catalog)?;
        let aims = Aims::of(connection, &table, &key, &reading, step).await.map_err(of_catalog)?;
        Guard::of(connection, &table, &key, &reading, &aims, None).await.map_err(of_catalog)?;
        if step.batch_is_mine {
            let sentence =
                "where `:batch` stands in the statement was not looked at: the step says `batch_is_mine = true`";
            context.lease.note(EventType::AgentNote, sentence.to_owned());
        }
        Ok(Self { table, key })
    }
}

impl Again {
    /// Finds the table that was planned, and makes sure that the statement still means it. `told` is what the controller says of its key.
    pub(super) async fn find(
        context: &Context,
        connection: &mut Connection,
        step: &Step,
        range: &Address,
        told: &[v1::KeyColumn],
        place: &Place,
    ) -> Result<Self, Error> {
        let of_catalog = |error| of_catalog(error, place);
        let planned = ledger::planned(connection, range).await.map_err(|error| Error::of_ledger(error, place))?;
        let Some(planned) = planned else {
            return Err(Error::Final(place.refuse(
                "the target has a range of the step and not its plan: it was put back to an earlier state, or changed by hand",
                format!("Run `dunlin run {}`: it goes on where the target stands.", place.migration),
            )));
        };
        let name = planned.key.get("table").and_then(Value::as_str).unwrap_or_default();
        let key = noted(&planned.key).ok_or_else(|| {
            Error::Final(place.refuse(
                format!(
                    "the checkpoint of the step has a key that cannot be read, {}: it was changed by hand",
                    planned.key
                ),
                format!("Restore dunlin.checkpoints, then `dunlin run {}`.", place.migration),
            ))
        })?;
        agrees(&key, told, place)?;
        let names: Vec<&str> = key.columns.iter().map(|column| column.name.as_str()).collect();
        let (mut table, types) = catalog::find_keyed(connection, name, &names).await.map_err(of_catalog)?;
        let oid = planned.key.get("oid").and_then(Value::as_u64);
        if planned.same_ledger && oid.is_some_and(|oid| oid != u64::from(table.oid)) {
            return Err(Error::Final(place.refuse(
                format!(
                    "{} is not the table that the step began with: that one was dropped or renamed, and another has its name",
                    table.quoted()
                ),
                format!(
                    "Give the first table its name back, then `dunlin run {}`: it goes on where the target stands.",
                    place.migration
                ),
            )));
        }
        if let Some((column, now)) =
            key.columns.iter().zip(&types).find(|(column, now)| column.type_name.as_str() != *now)
        {
            let now = if now.is_empty() { "is not there" } else { &format!("is of the type {now}") };
            return Err(Error::Final(place.refuse(
                format!(
                    "the column `{}` of the key of {} was of the type {} when the step began, and now it {now}",
                    column.name,
                    table.quoted(),
                    column.type_name
                ),
                format!(
                    "Restore the column, then `dunlin run {0}`; or carry the step out again over all rows, with `dunlin run {0} --redo {1}`.",
                    place.migration,
                    mending::quoted(&place.step)
                ),
            )));
        }
        table.only = planned.key.get("only").and_then(Value::as_bool).unwrap_or_default();
        if step.kind() != StepKind::Batch {
            return Ok(Self { table, key, assigned: Vec::new(), guard: None });
        }
        let (sql, reading) = read(step, place)?;
        let begin = context.frame_of(step, place)?.begin_entered(Durability::Later);
        let table = catalog::belongs(connection, &begin, &sql, &reading, table).await.map_err(of_catalog)?;
        let bound: Option<&KeyBound> = Some(&planned.bound);
        let aims = Aims::of(connection, &table, &key, &reading, step).await.map_err(of_catalog)?;
        let guard = Guard::of(connection, &table, &key, &reading, &aims, bound).await.map_err(of_catalog)?;
        let assigned = reading.assigned(&[table.schema.clone(), table.name.clone()]);
        Ok(Self { table, key, assigned, guard })
    }
}

/// The key that the checkpoint of a plan has noted.
fn noted(key: &Value) -> Option<Key> {
    let text = |column: &Value, field| column.get(field).and_then(Value::as_str).map(str::to_owned);
    let columns = key.get("columns")?.as_array()?.iter();
    let columns = columns.map(|column| {
        KeyColumn::with_operators(&text(column, "name")?, &text(column, "type")?, &text(column, "operators")?).ok()
    });
    Some(Key { columns: columns.collect::<Option<_>>()? })
}

/// Makes sure that what a controller says of a key, where it says something, is what the target has.
pub(super) fn agrees(key: &Key, told: &[v1::KeyColumn], place: &Place) -> Result<(), Error> {
    let same = |(column, told): (&KeyColumn, &v1::KeyColumn)| {
        column.name == told.name && column.type_name.as_str() == told.r#type
    };
    if told.is_empty() || told.len() == key.columns.len() && key.columns.iter().zip(told).all(same) {
        return Ok(());
    }
    let told: Vec<String> = told.iter().map(|column| format!("{} {}", column.name, column.r#type)).collect();
    Err(Error::Final(place.refuse(
        format!(
            "the controller has another key of the step ({}) than the target ({}): an agent that is not to be trusted may have told it, or \
             the target was put back to another state",
            told.join(", "),
            in_words(&key.columns)
        ),
        format!(
            "Look at who has worked on it (`dunlin events`, `dunlin agents`), then `dunlin run {}`: it goes on where the target stands.",
            place.migration
        ),
    )))
}

fn read(step: &Step, place: &Place) -> Result<(BatchSql, Reading), Error> {
    let sql = BatchSql::parse(&step.sql).map_err(|error| {
        Error::Final(place.refuse(format!("the SQL of the step cannot be read: {error}"), place.mend()))
    })?;
    let reading = Reading::of(&step.sql).map_err(|error| of_catalog(error.into(), place))?;
    Ok((sql, reading))
}

/// A table and its key as the checkpoint of a plan keeps them.
pub(super) fn stored(table: &Table, key: &Key) -> Value {
    let column = |column: &KeyColumn| json!({"name": column.name, "type": column.type_name.as_str(), "operators": column.operators});
    let columns: Vec<Value> = key.columns.iter().map(column).collect();
    json!({"table": table.quoted(), "oid": table.oid, "only": table.only, "columns": columns})
}

/// True when two of them name the same table and key. Numbers of the catalog are others after a dump was restored.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    ["table", "only", "columns"].iter().all(|field| a.get(field) == b.get(field))
}
