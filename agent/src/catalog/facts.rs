//! Whether stripes are likely to pay: a guess from the catalog, for the first window. What is measured overrules it.

use dunlin_shared::key::{KeyColumn, is_one_integer};
use dunlin_shared::postgres::Session;
use dunlin_shared::sql::quote_ident;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::Table;
use crate::own;

/// How a table lies on disk, as far as the order of batches goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Layout {
    /// Rows on a page; `None` when the table has never been analysed.
    pub(crate) rows_per_page: Option<f64>,
    /// True when an assigned column is in an index that each new value needs an entry in.
    pub(crate) indexed: bool,
    /// True when neighbours in key order lie far apart.
    pub(crate) scattered: bool,
    /// Rows that would fill the server's buffers; `None` when the table has never been analysed.
    pub(crate) rows_in_buffers: Option<i64>,
}

// An index depends on the columns of its expressions and of its condition; its plain columns stand in `indkey`. From
// PostgreSQL 16 on, BRIN indexes do not stand in the way of HOT updates.
const LAYOUT: &str = "
SELECT CASE WHEN c.reltuples > 0 AND c.relpages > 0 THEN (c.reltuples / c.relpages)::float8 END,
       EXISTS (
           SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = ANY ($2)
           WHERE i.indrelid = c.oid AND NOT (m.amname = 'brin' AND current_setting('server_version_num')::int >= 160000)
             AND (a.attnum = ANY (i.indkey::int2[])
                  OR EXISTS (SELECT FROM pg_depend d
                             WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                               AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid = a.attnum))),
       coalesce((SELECT abs(s.correlation) < 0.5 FROM pg_stats s
                 WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = $3), false),
       CASE WHEN c.reltuples > 0 AND c.relpages > 0 THEN (c.reltuples / c.relpages
            * (pg_size_bytes(current_setting('shared_buffers')) / current_setting('block_size')::bigint))::bigint END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = $1";

/// Reads the layout of a table for an update that assigns the columns `assigned`.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn layout(
    client: &Session,
    table: &Table,
    key: &[KeyColumn],
    assigned: &[String],
) -> Result<Layout, tokio_postgres::Error> {
    let first = key.first().map_or("", |column| column.name.as_str());
    let row =
        own::query_one(client, LAYOUT, &[(&table.oid, Type::OID), (&assigned, Type::TEXT_ARRAY), (&first, Type::TEXT)])
            .await?;
    let random = key.iter().any(|column| column.type_name.as_str() == "uuid");
    Ok(Layout {
        rows_per_page: row.try_get(0)?,
        indexed: row.try_get(1)?,
        scattered: random || row.try_get::<_, bool>(2)?,
        rows_in_buffers: row.try_get(3)?,
    })
}

/// True when the key can be cut into stripes: one integer, or types that can all be hashed.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn stripes_hash(client: &Session, key: &[KeyColumn]) -> Result<bool, tokio_postgres::Error> {
    if is_one_integer(key) {
        return Ok(true);
    }
    // The types of a row are looked up before its values, which are NULL here.
    let values: Vec<String> = key.iter().map(|column| format!("NULL::{}", column.qualified_type())).collect();
    let sql = format!("SELECT hash_record_extended(ROW({}), 0)", values.join(", "));
    match own::query(client, &sql, &[]).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The names of columns, quoted and separated by commas, of the table called `alias`.
pub(crate) fn column_list(key: &[KeyColumn], alias: &str) -> String {
    let columns: Vec<String> = key.iter().map(|column| format!("{alias}.{}", quote_ident(&column.name))).collect();
    columns.join(", ")
}
