//! The answer to SQL of a definition: its rows are thrown away as they come.
//!
//! A step may well be a `SELECT f(x) FROM big`, and a batch may return every row that it changes: what they return is of no use to
//! anyone, and must not fill the agent's memory. Only the rows of questions of the agent's own, which it may put around the SQL, are kept:
//! they are known by the name of their first column.

use std::pin::pin;

use futures::StreamExt;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::{rows, written};
use crate::catalog::MATCHING;
use crate::frame::{SETTING, TRANSACTION};

/// True for the answer to a question of the agent's own, by the name of its first column.
pub(super) fn is_own(name: &str) -> bool {
    [rows::COLUMN, written::COLUMN, written::PATH, MATCHING, SETTING, TRANSACTION].contains(&name)
}

/// Executes statements, and returns what each says at its end, with the rows of the agent's own questions alone.
///
/// # Errors
/// Those of PostgreSQL.
pub(super) async fn without_rows(client: &Client, sql: &str) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
    with_rows(client, sql, |_| {}).await
}

/// The same, where each of the other rows is seen once.
///
/// # Errors
/// Those of PostgreSQL.
pub(super) async fn with_rows(
    client: &Client,
    sql: &str,
    mut see: impl FnMut(&SimpleQueryRow),
) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
    let mut answers = pin!(client.simple_query_raw(sql).await?);
    let mut own = false;
    let mut kept = Vec::new();
    while let Some(message) = answers.next().await {
        let message = message?;
        match &message {
            SimpleQueryMessage::RowDescription(columns) => {
                own = columns.first().is_some_and(|column| is_own(column.name()));
            }
            SimpleQueryMessage::Row(row) if !own => {
                see(row);
                continue;
            }
            SimpleQueryMessage::CommandComplete(_) => own = false,
            _ => {}
        }
        kept.push(message);
    }
    Ok(kept)
}
