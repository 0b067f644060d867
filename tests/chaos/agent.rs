//! The agent of `make chaos`: it does all that `dunlin-agent` does, and the transform `triple`, which must not be done twice.

use std::process::ExitCode;

use async_trait::async_trait;
use dunlin_agent::Options;
use dunlin_agent::tokio_postgres::Transaction;
use dunlin_agent::transform::{Batch, Error, Outcome, Transform};

/// `n` becomes `3 n + 1`, computed here and not by the database.
struct Triple;

#[async_trait]
impl Transform for Triple {
    async fn apply(&self, batch: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, Error> {
        let table = batch.table();
        // Locked, since the statement behind writes what was computed from this reading.
        let sql = format!("SELECT t.id, t.n FROM {table} AS t WHERE {} FOR NO KEY UPDATE", batch.predicate("t"));
        let mut updated = 0;
        for row in transaction.query(&sql, &[]).await? {
            let (id, n): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            let sql = format!("UPDATE {table} SET n = $2 WHERE id = $1");
            updated += transaction.execute(&sql, &[&id, &(n * 3 + 1)]).await?;
        }
        Ok(Outcome::rows(updated).count("tripled", updated))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let builder = Options::read().builder();
    dunlin_agent::serve(builder.and_then(|builder| builder.transform("triple", Triple).build())).await
}
