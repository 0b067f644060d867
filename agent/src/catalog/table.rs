//! Finding the table of a step.

use dunlin_shared::sql::quote_ident;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::Error;

/// A table as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Its oid.
    pub(crate) oid: u32,
    /// Its schema, as stored.
    pub(crate) schema: String,
    /// Its name, as stored.
    pub(crate) name: String,
    /// True for the parent of partitions.
    pub(crate) partitioned: bool,
    /// How many rows it had when it was last analysed; `None` when it never was.
    pub(crate) rows: Option<i64>,
}

impl Table {
    /// The table as it is written in SQL.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }
}

/// Finds a table by the name that a definition gives it: as it is stored (`Users`, `sales.Users`), or as SQL reads it
/// (`"Users"`, `Users` for `users`).
///
/// # Errors
/// There is none, or it is not a table.
pub(crate) async fn find(client: &Client, name: &str) -> Result<Table, Error> {
    let stored: Vec<String> = name.split('.').map(quote_ident).collect();
    for candidate in [stored.join("."), name.to_owned()] {
        let found = client
            .query_typed_opt(
                "SELECT c.oid, n.nspname, c.relname, c.relkind::text, CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.oid = to_regclass($1)",
                &[(&candidate, Type::TEXT)],
            )
            .await;
        let row = match found {
            Ok(Some(row)) => row,
            Ok(None) => continue,
            // What SQL cannot read as a name is no name: that is the answer, not an accident.
            Err(error) if error.code().is_some_and(|code| code.code().starts_with("42")) => continue,
            Err(error) => return Err(error.into()),
        };
        let kind: String = row.try_get(3)?;
        let what = match kind.as_str() {
            "r" | "p" => {
                return Ok(Table {
                    oid: row.try_get(0)?,
                    schema: row.try_get(1)?,
                    name: row.try_get(2)?,
                    partitioned: kind == "p",
                    rows: row.try_get(4)?,
                });
            }
            "v" => "a view",
            "m" => "a materialized view",
            "f" => "a foreign table",
            "i" | "I" => "an index",
            "S" => "a sequence",
            _ => "not a table",
        };
        return Err(Error::NotATable { table: name.to_owned(), what });
    }
    Err(Error::NoTable(name.to_owned()))
}
