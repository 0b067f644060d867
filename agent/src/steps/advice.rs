//! What to do about errors whose remedy depends on the step: what shares its transaction, and what it executes.
//!
//! The error itself stays PostgreSQL's. A way out is named only where it exists: nothing here is true of every error of its SQLSTATE
//! unless the text says so.

use dunlin_proto::v1::{RunError, StatementTask, Step};
use dunlin_shared::postgres::Session;
use dunlin_shared::sql::{commits_by_itself, concurrent_index, drops_index_concurrently};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::Error;
use crate::own;

/// An error of a task that is one transaction.
pub(super) fn in_transaction(error: Error, task: &StatementTask) -> Error {
    let Error::Final(mut failed) = error else { return error };
    let state = SqlState::from_code(&failed.sqlstate);
    let why = match state {
        SqlState::UNSAFE_NEW_ENUM_VALUE_USAGE => {
            "PostgreSQL lets a new enum value be used once the transaction that added it has committed"
        }
        SqlState::OBJECT_IN_USE => {
            "PostgreSQL does not change a table while its own transaction still has something to do with it: trigger events \
             of rows that were changed before (deferred foreign keys), or an open cursor"
        }
        _ => return Error::Final(failed),
    };
    let before: Vec<&str> =
        task.steps.iter().map(|step| step.name.as_str()).take_while(|name| *name != failed.step).collect();
    let (who, what) = if before.is_empty() || failed.step.is_empty() {
        let what = "Put what comes first into a step of its own before it, with `transaction = \"own\"`";
        ("All statements of a step are one transaction".to_owned(), what.to_owned())
    } else {
        let (step, before) = (quoted(&[&failed.step]), quoted(&before));
        let what = format!(
            "Write `transaction = \"own\"` into {step}: each step of the migration is then committed by itself"
        );
        (format!("This migration is one transaction, which {step} shares with {before}"), what)
    };
    failed.next = format!("{who}. {why}. {what}; then `dunlin register DIR` and `dunlin run {}`.", failed.migration_id);
    Error::Final(failed)
}

/// An error of a step outside a transaction.
pub(super) async fn outside(error: Error, step: &Step, session: &Session) -> Error {
    let Error::Final(mut failed) = error else { return error };
    if failed.sqlstate == SqlState::FEATURE_NOT_SUPPORTED.code() {
        of_partitions(&mut failed, step, session).await;
    } else if let Some(what) = commits_by_itself(&step.sql) {
        failed.next = format!(
            "What the {what} committed by itself before it failed is kept: look at what it has changed. The next run begins it \
             from its start, so it must bear that. {}",
            failed.next
        );
    }
    Error::Final(failed)
}

const PARTITIONS: &str = "
    SELECT t.relkind = 'p', t.oid::regclass::text,
           ARRAY (SELECT relid::text FROM pg_partition_tree(t.oid) WHERE isleaf ORDER BY 1 LIMIT 10),
           (SELECT count(*) FROM pg_partition_tree(t.oid) WHERE isleaf)
    FROM pg_class t WHERE t.oid = $1";

/// PostgreSQL neither builds nor drops an index of a partitioned table concurrently.
async fn of_partitions(failed: &mut RunError, step: &Step, session: &Session) {
    let migration = failed.migration_id.clone();
    let then = format!("then `dunlin register DIR` and `dunlin run {migration}`.");
    if drops_index_concurrently(&step.sql) {
        failed.next = format!(
            "PostgreSQL drops the index of a partitioned table only in a transaction: write DROP INDEX without CONCURRENTLY in a \
             step without `transaction = false`; {then}"
        );
        return;
    }
    let Some(index) = concurrent_index(&step.sql) else { return };
    // Without an answer PostgreSQL's own words must do.
    let Ok(table) = own::relation(session, &index.table).await else { return };
    let Ok(Some(row)) =
        own::query(session, PARTITIONS, &[(&table, Type::OID)]).await.map(|rows| rows.into_iter().next())
    else {
        return;
    };
    let (Ok(true), Ok(table), Ok(names), Ok(count)) =
        (row.try_get(0), row.try_get::<_, String>(1), row.try_get::<_, Vec<String>>(2), row.try_get::<_, i64>(3))
    else {
        return;
    };
    let listed = i64::try_from(names.len()).unwrap_or(count);
    let more = if count > listed { format!(" and {} more", count - listed) } else { String::new() };
    let name = index.index.as_deref().unwrap_or("NAME");
    failed.next = format!(
        "{table} is partitioned, and PostgreSQL builds no index of it concurrently. In this order: a step with CREATE INDEX {name} \
         ON ONLY {table} (...), in a transaction; for each partition a step with CREATE INDEX CONCURRENTLY, outside a transaction; \
         a step with ALTER INDEX {name} ATTACH PARTITION for each of these, in a transaction: with the last the index becomes \
         valid. The partitions: {}{more}; {then}",
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    );
}

fn quoted(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    let word = if quoted.len() == 1 { "the step" } else { "the steps" };
    format!("{word} {}", quoted.join(", "))
}
