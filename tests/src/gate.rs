//! A gate in the middle of a table: updates of rows behind it stand still, uncommitted, until it is opened.
//!
//! It is a trigger that takes an advisory lock, shared, once the rows of the statement have been changed. While the test
//! holds the lock, whoever changed such a row waits, and so does its transaction.

use crate::database::Database;
use crate::until::until;

/// The advisory lock.
const LOCK: i64 = 4242;

/// A closed gate.
#[derive(Debug)]
pub struct Gate {
    holder: Database,
    watcher: Database,
}

impl Gate {
    /// Puts a gate on a table, closed for `UPDATE`s of rows for which `condition` holds afterwards.
    pub async fn close(database: &Database, table: &str, condition: &str) -> Self {
        let holder = database.again().await;
        holder.execute(&format!("SELECT pg_advisory_lock({LOCK})")).await;
        database
            .execute(&format!(
                "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN
                     IF EXISTS (SELECT FROM changed WHERE {condition}) THEN
                         PERFORM pg_advisory_xact_lock_shared({LOCK});
                     END IF;
                     RETURN NULL;
                 END $$;
                 CREATE TRIGGER gate AFTER UPDATE ON {table} REFERENCING NEW TABLE AS changed
                     FOR EACH STATEMENT EXECUTE FUNCTION gate()"
            ))
            .await;
        Self { holder, watcher: database.again().await }
    }

    /// Waits until `count` transactions stand at the gate.
    pub async fn reached_by(&self, count: i64) {
        until(&format!("{count} transactions stand at the gate"), async || {
            (self.waiting().await >= count).then_some(())
        })
        .await;
    }

    /// How many transactions stand at the gate.
    pub async fn waiting(&self) -> i64 {
        self.watcher
            .value(&format!(
                "SELECT count(*) FROM pg_locks
                 WHERE locktype = 'advisory' AND NOT granted AND objid = {LOCK}
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ))
            .await
    }

    /// Opens the gate for good.
    pub async fn open(self) {
        self.holder.execute(&format!("SELECT pg_advisory_unlock({LOCK})")).await;
    }
}
