//! The answer to SQL of a definition: its rows are thrown away as they come.
//!
//! A step may well be a `SELECT f(x) FROM big`: what it returns is of no use to anyone, and must not fill the agent's memory. Only the
//! rows of questions of the agent's own, which it may put around the SQL, are kept: their first column has a name of Dunlin's, or is
//! the number of the transaction.

use std::pin::pin;

use futures::StreamExt;
use tokio_postgres::{Client, SimpleQueryMessage};

/// Executes statements, and returns what each says at its end, with the rows of the agent's own questions alone.
///
/// # Errors
/// Those of PostgreSQL.
pub(super) async fn without_rows(client: &Client, sql: &str) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
    let mut answers = pin!(client.simple_query_raw(sql).await?);
    let mut own = false;
    let mut kept = Vec::new();
    while let Some(message) = answers.next().await {
        let message = message?;
        match &message {
            SimpleQueryMessage::RowDescription(columns) => {
                let name = columns.first().map_or("", |column| column.name());
                own = name.starts_with("dunlin_") || name == "pg_current_xact_id";
            }
            SimpleQueryMessage::Row(_) if !own => continue,
            SimpleQueryMessage::CommandComplete(_) => own = false,
            _ => {}
        }
        kept.push(message);
    }
    Ok(kept)
}
