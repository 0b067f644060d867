//! Transactions that have written to a table and are still open: what they commit later may lie behind a walk.
//!
//! A transaction has a lock on the table before it draws the number of a row that it inserts, and keeps it to its end. So once those
//! that had the lock when the highest key was read are over, all rows with lower keys of a sequence are there, or never will be.

use dunlin_shared::postgres::Session;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::Type;

use super::Table;
use crate::own;

/// Transactions, as the server numbers them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Writers(Vec<String>);

const WRITERS: &str = "
SELECT DISTINCT l.virtualtransaction FROM pg_locks l
WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
  AND (l.relation = $1 OR l.relation IN (SELECT f.relid FROM pg_partition_tree($1) f))";

// A transaction holds a lock on itself to its end, one that is prepared for a second phase under its other number.
const OPEN: &str = "
SELECT coalesce('process ' || l.pid || ' (' || concat_ws(', ', nullif(a.application_name, ''), a.usename, a.state,
                'in its transaction since ' || to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC') || ')',
                'a prepared transaction (pg_prepared_xacts)')
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = CASE WHEN l.pid IS NULL THEN 'transactionid' ELSE 'virtualxid' END AND l.granted
  AND l.virtualtransaction = ANY ($1)
ORDER BY a.xact_start NULLS LAST";

impl Writers {
    /// Those of a table now, but not this session's.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub(crate) async fn of(client: &Session, table: &Table) -> Result<Self, tokio_postgres::Error> {
        let rows = client.query_typed(WRITERS, &[(&table.oid, Type::OID)]).await?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map(Self)
    }

    /// Those that are still open, in words, the oldest first.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub(crate) async fn still_open(&self, client: &Session) -> Result<Vec<String>, tokio_postgres::Error> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let rows = own::query(client, OPEN, &[(&self.0, Type::TEXT_ARRAY)]).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }
}
