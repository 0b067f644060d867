//! An agent with transforms in code that must not be done twice, nor left out: `triple` makes `3 n + 1` of the column `n`, and
//! `triple-code` of the column `code`, in the program and not in SQL. It does everything else that `dunlin-agent` does.

use std::process::ExitCode;

use async_trait::async_trait;
use dunlin_agent::Options;
use dunlin_agent::tokio_postgres::Transaction;
use dunlin_agent::tokio_postgres::types::Type;
use dunlin_agent::transform::{Batch, Error, Outcome, Transform};

/// Of the column of this name, in a table with the key `id`.
struct Triple(&'static str);

#[async_trait]
impl Transform for Triple {
    async fn apply(&self, batch: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, Error> {
        let (table, column) = (batch.table(), self.0);
        // Locked, since the statement behind writes what was computed from this reading.
        let rows = batch.predicate("t");
        let sql = format!("SELECT t.id, t.{column} FROM {table} AS t WHERE {rows} FOR NO KEY UPDATE");
        let (mut ids, mut values): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
        for row in transaction.query_typed(&sql, &[]).await? {
            ids.push(row.try_get(0)?);
            values.push(row.try_get::<_, i64>(1)? * 3 + 1);
        }
        let sql =
            format!("UPDATE {table} AS t SET {column} = x.value FROM unnest($1, $2) AS x(id, value) WHERE t.id = x.id");
        let updated = transaction.execute_typed(&sql, &[(&ids, Type::INT8_ARRAY), (&values, Type::INT8_ARRAY)]).await?;
        Ok(Outcome::rows(updated).count("tripled", updated))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let builder = Options::read().builder();
    let agent = builder
        .and_then(|builder| builder.transform("triple", Triple("n")).transform("triple-code", Triple("code")).build());
    dunlin_agent::serve(agent).await
}
