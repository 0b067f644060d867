//! Checks: queries that must return true.

use dunlin_proto::v1::Check;
use tokio_postgres::types::Type;

use super::framed::Framed;
use super::{Context, Error};
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
    let framed = Framed::within(connection, context.frame(), durability).await;
    let framed = framed.map_err(|error| Error::of_postgres(&error, place))?;
    for check in checks {
        let place = Place { step: String::new(), check: check.name.clone(), ..place.clone() };
        // The extended protocol: one statement only, and the type of its column is known.
        let query = connection.query_typed(&check.sql, &[]);
        let rows = framed.execute(connection, check.row_security, query, &place).await?;
        let no_check = |what: String| {
            Error::Final(place.refuse(
                format!("the query of the check \"{}\" {what} instead of one row with one boolean", check.name),
                format!(
                    "Mend the check, for example as SELECT NOT EXISTS (...), then `dunlin register DIR` and `dunlin run {}`.",
                    place.migration
                ),
            ))
        };
        let [row] = rows.as_slice() else { return Err(no_check(format!("returns {} rows", rows.len()))) };
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
