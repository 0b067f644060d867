//! Statements of the agent's own outside of the transactions of a task.
//!
//! A session looks names up as its role, its database or its URL says, and there may be a schema in front of PostgreSQL's own whose
//! functions and operators have the same names. What Dunlin asks must not go through those. So each such statement is a transaction with
//! a `search_path` of its own, and sent together with it, in one flight. Nothing of it outlasts the transaction, so a pooler may stand
//! between. Names of tables that definitions write mean what they mean to the role: they are looked up apart, by a statement in which every
//! name is qualified.
//!
//! What must stay true: no transaction is open before. Where one is, its path is the agent's own already ([`Frame`](crate::frame::Frame)).

use dunlin_shared::postgres::Session;
use futures::future::join3;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, SimpleQueryMessage, SimpleQueryRow};

use crate::frame::{OWN_PATH, THEIR_PATH};
use dunlin_shared::sql::quote_literal;

/// The statements that begin a transaction for statements of the agent: as its role, which names and privileges depend on, and without
/// compiling them, which takes longer than looking a few rows of the catalog up.
pub(crate) fn begin(client: &Session) -> String {
    let role = client.role().map(|role| format!("SET LOCAL ROLE {role};")).unwrap_or_default();
    format!("BEGIN ISOLATION LEVEL READ COMMITTED;SET LOCAL jit = off;{role}{OWN_PATH}")
}

/// Executes a statement in a transaction of its own.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn query(
    client: &Session,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let begin = begin(client);
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
    client: &Session,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Row, tokio_postgres::Error> {
    let begin = begin(client);
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
    client: &Session,
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
pub(crate) async fn relations(client: &Session, names: &[String]) -> Result<Vec<Option<u32>>, tokio_postgres::Error> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let asked: Vec<String> = names.iter().map(|name| to_oid("regclass", name)).collect();
    looked_up(client, &asked.join(",")).await
}

/// The same for one name.
///
/// # Errors
/// As for several.
pub(crate) async fn relation(client: &Session, name: &str) -> Result<Option<u32>, tokio_postgres::Error> {
    Ok(looked_up(client, &to_oid("regclass", name)).await?.into_iter().next().flatten())
}

/// The schema that a name means, as SQL reads it.
///
/// # Errors
/// As for relations.
pub(crate) async fn schema(client: &Session, name: &str) -> Result<Option<u32>, tokio_postgres::Error> {
    Ok(looked_up(client, &to_oid("regnamespace", name)).await?.into_iter().next().flatten())
}

fn to_oid(kind: &str, name: &str) -> String {
    format!("pg_catalog.to_{kind}({})::pg_catalog.oid", quote_literal(name))
}

/// One message, so that the role holds for it alone where no transaction is open; where one is, its role is this one already.
async fn looked_up(client: &Session, columns: &str) -> Result<Vec<Option<u32>>, tokio_postgres::Error> {
    let role = client.role().map(|role| format!("SET LOCAL ROLE {role};")).unwrap_or_default();
    let answer = client.simple_query(&format!("{role}SELECT {columns}")).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let number = |row: &SimpleQueryRow, index: usize| row.get(index).and_then(|text| text.parse().ok());
    Ok(row.map_or_else(Vec::new, |row| (0..row.len()).map(|index| number(row, index)).collect()))
}
