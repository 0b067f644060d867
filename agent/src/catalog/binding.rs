//! Which table the `:batch` of a statement belongs to: the table that is walked must be the one whose rows the statement selects.
//!
//! Only the server knows what a name means: by its `search_path`, inside WITH and subqueries, behind an alias. So it is asked, in the
//! session that the step works in: the statement is prepared, which looks names up and executes nothing, with a comparison in place of
//! each `:batch` that only rows of the very table have the types for. A partition, a child or a view has another type.
//!
//! A name without schema that the statement itself gives to a table (`UPDATE one.t ... WHERE :batch`, with `t` for the table) means that
//! table, as it does anywhere else in the statement, whatever the `search_path` would find.

use dunlin_shared::sql::placeholder::BatchSql;
use dunlin_shared::sql::reading::{Reading, Reference, name_parts, same_table};
use dunlin_shared::sql::{preparable, quote_ident};
use tokio_postgres::error::SqlState;

use super::{Error, Table, find};
use crate::target::Connection;

/// The name of the statement while it is prepared.
const PROBE: &str = "dunlin_probe";

/// A table, and why it is not the one that its name finds, if so.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The table.
    pub(crate) table: Table,
    /// In a sentence.
    pub(crate) instead: Option<String>,
}

/// Finds the table that a step walks, and makes sure that each `:batch` of its statement belongs to it. `begin` begins a transaction.
///
/// # Errors
/// There is no such table, the statement means another, or the server does not understand it.
pub(crate) async fn bind(
    connection: &mut Connection,
    begin: &str,
    sql: &BatchSql,
    reading: &Reading,
    named: &str,
) -> Result<Bound, Error> {
    let found = find(connection, named).await;
    let first = match found {
        Ok(table) => match belongs(connection, begin, sql, reading, table).await {
            Ok(table) => return Ok(Bound { table, instead: None }),
            Err(error @ Error::OtherTable { .. }) => error,
            Err(error) => return Err(error),
        },
        Err(error @ (Error::NoTable(_) | Error::NotATable { .. })) => error,
        Err(error) => return Err(error),
    };
    let Some(reference) = given_its_name(sql, reading, named) else { return Err(first) };
    let Ok(table) = find(connection, &reference.text).await else { return Err(first) };
    let table = belongs(connection, begin, sql, reading, table).await?;
    let instead = format!(
        "the table `{named}` of the step is {}, as in its statement, and not what the search_path finds under that name",
        table.quoted()
    );
    Ok(Bound { table, instead: Some(instead) })
}

/// The table of the statement that has the name without schema which the step gives.
fn given_its_name<'a>(sql: &BatchSql, reading: &'a Reading, named: &str) -> Option<&'a Reference> {
    let name = name_parts(named).filter(|parts| parts.len() == 1)?;
    let bare = sql.aliases().all(|alias| alias.is_none());
    let mut called = reading.references.iter().filter(|reference| reference.is_called(&name));
    let reference = called.next().filter(|reference| bare && reference.table.len() > 1)?;
    called.all(|other| other.table == reference.table).then_some(reference)
}

/// Makes sure that each `:batch` belongs to a table, and tells whether it is read without those that inherit from it.
pub(crate) async fn belongs(
    connection: &mut Connection,
    begin: &str,
    sql: &BatchSql,
    reading: &Reading,
    mut table: Table,
) -> Result<Table, Error> {
    let Err(whole) = prepare(connection, begin, &probe(sql, &table, None)).await else {
        table.only = only(sql, reading, &table)?;
        return Ok(table);
    };
    if !tells(&whole) {
        return Err(whole.into());
    }
    // Without any comparison it is the statement itself that is wrong.
    prepare(connection, begin, &sql.render(|_| "TRUE".to_owned())).await?;
    for (place, alias) in sql.aliases().enumerate() {
        let Err(error) = prepare(connection, begin, &probe(sql, &table, Some(place))).await else { continue };
        if !tells(&error) {
            return Err(error.into());
        }
        let called = alias.map_or_else(|| quote_ident(&table.name), str::to_owned);
        return Err(if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) {
            Error::OtherTable { table: table.quoted(), called }
        } else {
            let named = [table.schema.clone(), table.name.clone()];
            let mut aliases = reading.references.iter().filter(|reference| same_table(&reference.table, &named));
            let alias = aliases.find_map(|reference| reference.alias.clone()).unwrap_or_else(|| "alias".to_owned());
            Error::NotReferenced { table: table.quoted(), called, alias }
        });
    }
    Err(whole.into())
}

/// The errors of a comparison with rows of something else: of another type, without the column of a table, of nothing that is there,
/// and of two things under one name.
fn tells(error: &tokio_postgres::Error) -> bool {
    matches!(
        error.code(),
        Some(
            &SqlState::UNDEFINED_FUNCTION
                | &SqlState::UNDEFINED_COLUMN
                | &SqlState::UNDEFINED_TABLE
                | &SqlState::INVALID_COLUMN_REFERENCE
                | &SqlState::AMBIGUOUS_ALIAS
                | &SqlState::FEATURE_NOT_SUPPORTED
        )
    )
}

/// The statement with the comparison in place of all its `:batch`, or of one of them.
fn probe(sql: &BatchSql, table: &Table, only: Option<usize>) -> String {
    let mut places = 0_usize..;
    sql.render(|alias| {
        let place = places.next();
        if only.is_some() && only != place {
            return "TRUE".to_owned();
        }
        let called = alias.map_or_else(|| quote_ident(&table.name), str::to_owned);
        format!(
            "({called}.tableoid IS NOT NULL AND ARRAY[{called}.*] OPERATOR(pg_catalog.=) ARRAY[NULL::{}])",
            table.quoted()
        )
    })
}

async fn prepare(connection: &mut Connection, begin: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    for statement in preparable(sql) {
        let message = format!("{begin};PREPARE {PROBE} AS {statement}\n;DEALLOCATE {PROBE};ROLLBACK");
        match connection.begin(&message).await {
            Ok(_) => connection.closed(),
            Err(error) => {
                connection.rollback().await;
                return Err(error);
            }
        }
    }
    Ok(())
}

/// True when each `:batch` belongs to a reference with ONLY.
fn only(sql: &BatchSql, reading: &Reading, table: &Table) -> Result<bool, Error> {
    if !table.has_children {
        return Ok(false);
    }
    let said = sql.aliases().all(|alias| {
        let called = alias.map_or_else(|| Some(vec![table.name.clone()]), name_parts).unwrap_or_default();
        let mut all = reading.references.iter().filter(|reference| reference.is_called(&called)).peekable();
        all.peek().is_some() && all.all(|reference| reference.only)
    });
    if said { Ok(true) } else { Err(Error::Inherited(table.quoted())) }
}
