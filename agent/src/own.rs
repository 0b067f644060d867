//! Statements of the agent's own outside of the transactions of a task.
//!
//! A session looks names up as its role, its database or its URL says, and there may be a schema in front of PostgreSQL's own whose
//! functions and operators have the same names. What Dunlin asks must not go through those. So each such statement is a transaction with
//! a `search_path` of its own, and sent together with it, in one flight. Nothing of it outlasts the transaction, so a pooler may stand
//! between. Names of tables that definitions write mean what they mean to the role: they are looked up apart, by a statement in which every
//! name is qualified.
//!
//! What must stay true: no transaction is open before. Where one is, its path is the agent's own already ([`Frame`](crate::frame::Frame)).

use futures::future::join3;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::frame::{OWN_PATH, THEIR_PATH};

/// Executes a statement in a transaction of its own.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn query(
    client: &Client,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED;{OWN_PATH}");
    let work = client.query_typed(sql, parameters);
    let (begun, rows, ended) = join3(client.batch_execute(&begin), work, client.batch_execute("COMMIT")).await;
    begun?;
    let rows = rows?;
    ended?;
    Ok(rows)
}

/// The same for a statement that returns one row.
///
/// # Errors
/// Those of PostgreSQL, or there is another number of rows.
pub(crate) async fn query_one(
    client: &Client,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Row, tokio_postgres::Error> {
    let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED;{OWN_PATH}");
    let work = client.query_typed_one(sql, parameters);
    let (begun, row, ended) = join3(client.batch_execute(&begin), work, client.batch_execute("COMMIT")).await;
    begun?;
    let row = row?;
    ended?;
    Ok(row)
}

/// Executes a statement of the agent's own in a transaction that is open and in which names mean what they mean to the definition.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn query_within(
    client: &Client,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let work = client.query_typed(sql, parameters);
    let (entered, rows, left) = join3(client.batch_execute(OWN_PATH), work, client.batch_execute(THEIR_PATH)).await;
    entered?;
    let rows = rows?;
    left?;
    Ok(rows)
}

/// The relations that names mean to the role of the session, as SQL reads them; `None` for a name that nothing has.
///
/// # Errors
/// Those of PostgreSQL; what cannot be read as a name is one.
pub(crate) async fn relations(client: &Client, names: &[String]) -> Result<Vec<Option<u32>>, tokio_postgres::Error> {
    let sql = "SELECT pg_catalog.to_regclass(n.name)::pg_catalog.oid
               FROM pg_catalog.unnest($1) WITH ORDINALITY AS n(name, place) ORDER BY n.place";
    let rows = client.query_typed(sql, &[(&names, Type::TEXT_ARRAY)]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The same for one name.
///
/// # Errors
/// As for several.
pub(crate) async fn relation(client: &Client, name: &str) -> Result<Option<u32>, tokio_postgres::Error> {
    let sql = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid";
    client.query_typed_one(sql, &[(&name, Type::TEXT)]).await?.try_get(0)
}

/// The schema that a name means, as SQL reads it.
///
/// # Errors
/// As for relations.
pub(crate) async fn schema(client: &Client, name: &str) -> Result<Option<u32>, tokio_postgres::Error> {
    let sql = "SELECT pg_catalog.to_regnamespace($1)::pg_catalog.oid";
    client.query_typed_one(sql, &[(&name, Type::TEXT)]).await?.try_get(0)
}
