//! Checks: queries that must return true.

use std::pin::pin;

use dunlin_proto::v1::Check;
use dunlin_shared::figures;
use futures::TryStreamExt;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::framed::Framed;
use super::{Context, Error, located, notices};
use crate::failure::Place;
use crate::frame::Durability;
use crate::target::Connection;

/// Runs checks, in order, in the transaction that is open and commits as is said.
///
/// # Errors
/// The first that does not hold or is not a check.
pub(super) async fn all(
    context: &Context,
    connection: &mut Connection,
    checks: &[Check],
    durability: Durability,
    place: &Place,
) -> Result<(), Error> {
    if checks.is_empty() {
        return Ok(());
    }
    let framed = Framed::within(connection, context.frame_of_statement(), durability).await;
    let framed = framed.map_err(|error| Error::of_postgres(&error, place))?;
    for check in checks {
        let place = Place { step: String::new(), check: check.name.clone(), ..place.clone() };
        // The extended protocol: one statement only, and the type of its column is known.
        drop(connection.heard());
        let answered = framed.execute(connection, check.row_security, "", answer(connection, &check.sql), &place).await;
        let heard = connection.heard();
        notices::tell(context, "", &heard);
        let (first, rows) = answered.map_err(|error| located::in_sql(error, &check.sql, heard.failed))?;
        let no_check = |what: String| {
            Error::Final(place.refuse(
                format!("the query of the check \"{}\" {what} instead of one row with one boolean", check.name),
                format!(
                    "Mend the check, for example as SELECT NOT EXISTS (...), then `dunlin register DIR` and `dunlin run {}`.",
                    place.migration
                ),
            ))
        };
        let (Some(row), 1) = (first, rows) else {
            return Err(no_check(format!("returns {}", figures::rows(i64::try_from(rows).unwrap_or(i64::MAX)))));
        };
        let [column] = row.columns() else {
            return Err(no_check(format!("returns {} columns", row.columns().len())));
        };
        if *column.type_() != Type::BOOL {
            return Err(no_check(format!("returns a {}", column.type_())));
        }
        let holds: Option<bool> = row.try_get(0).map_err(|error| Error::of_postgres(&error, &place))?;
        if holds != Some(true) {
            let found = if holds.is_some() { "false" } else { "NULL" };
            return Err(Error::Final(place.refuse(
                format!("the check \"{}\" does not hold: its query returns {found}", check.name),
                place.mend(),
            )));
        }
    }
    Ok(())
}

/// The first row of a query, and how many there are.
async fn answer(client: &Client, sql: &str) -> Result<(Option<Row>, u64), tokio_postgres::Error> {
    let none: [(&(dyn ToSql + Sync), Type); 0] = [];
    let mut answer = pin!(client.query_typed_raw(sql, none).await?);
    let (mut first, mut rows) = (None, 0);
    while let Some(row) = answer.try_next().await? {
        rows += 1;
        first = first.or(Some(row));
    }
    Ok((first, rows))
}
