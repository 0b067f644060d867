//! Finding the table of a step.

use dunlin_shared::postgres::Session;
use dunlin_shared::sql::quote_ident;
use tokio_postgres::types::Type;

use super::Error;
use crate::own;

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
    /// True when other tables inherit from it that are not its partitions.
    pub(crate) has_children: bool,
    /// True where it has triggers, or its partitions may have some.
    pub(crate) may_have_triggers: bool,
    /// True when it is read without the tables that inherit from it.
    pub(crate) only: bool,
}

impl Table {
    /// The table as it is written in SQL.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }

    /// The table as it stands behind FROM.
    pub(crate) fn source(&self) -> String {
        if self.only { format!("ONLY {}", self.quoted()) } else { self.quoted() }
    }
}

/// Finds a table by its name as SQL reads it: `users`, `Users` for the same, `shop."Order"`.
///
/// # Errors
/// There is none, or it is not a table.
pub(crate) async fn find(client: &Session, name: &str) -> Result<Table, Error> {
    Ok(find_keyed(client, name, &[]).await?.0)
}

/// The same, and the types of some of its columns, empty for one that it does not have: of a domain the type under it, as in a key.
///
/// # Errors
/// As [`find`].
pub(crate) async fn find_keyed(client: &Session, name: &str, columns: &[&str]) -> Result<(Table, Vec<String>), Error> {
    let missing = || Error::NoTable(name.to_owned());
    let oid = match own::relation(client, name).await {
        Ok(oid) => oid.ok_or_else(missing)?,
        // What SQL cannot read as a name is no name: that is the answer, not an accident.
        Err(error) if error.code().is_some_and(|code| code.code().starts_with("42")) => return Err(missing()),
        Err(error) => return Err(error.into()),
    };
    let found = own::query(
        client,
        "SELECT c.oid, n.nspname, c.relname, c.relkind::text, CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END,
                    EXISTS (SELECT FROM pg_inherits i JOIN pg_class child ON child.oid = i.inhrelid
                            WHERE i.inhparent = c.oid AND NOT child.relispartition),
                    c.relhastriggers OR c.relkind = 'p' OR c.relispartition,
                    ARRAY (SELECT coalesce(format_type((
                               WITH RECURSIVE base(oid, next) AS (
                                   SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
                                   UNION ALL SELECT t.oid, t.typbasetype FROM base JOIN pg_type t ON t.oid = base.next)
                               SELECT base.oid FROM base WHERE base.next = 0), -1), '')
                           FROM unnest($2) WITH ORDINALITY AS k(name, place)
                           LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name AND a.attnum > 0
                           ORDER BY k.place)
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = $1",
        &[(&oid, Type::OID), (&columns, Type::TEXT_ARRAY)],
    )
    .await?;
    let row = found.first().ok_or_else(missing)?;
    let kind: String = row.try_get(3)?;
    let what = match kind.as_str() {
        "r" | "p" => {
            let table = Table {
                oid: row.try_get(0)?,
                schema: row.try_get(1)?,
                name: row.try_get(2)?,
                partitioned: kind == "p",
                rows: row.try_get(4)?,
                has_children: row.try_get(5)?,
                may_have_triggers: row.try_get(6)?,
                only: false,
            };
            return Ok((table, row.try_get(7)?));
        }
        "v" => "a view",
        "m" => "a materialized view",
        "f" => "a foreign table",
        "i" | "I" => "an index",
        "S" => "a sequence",
        _ => "not a table",
    };
    Err(Error::NotATable { table: name.to_owned(), what })
}
