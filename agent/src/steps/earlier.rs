//! What an earlier holder of a task still has open in the target: it is ended by whoever holds the task now.
//!
//! An agent that was stopped, or cut off, may have a statement under way whose locks the application waits for. So its sessions are looked up and ended in one statement, which cannot meet another session by mistake: only one
//! of the same database and the same role whose name has the same task and a smaller epoch.
//!
//! A transaction that has not lasted long yet is waited for: it may be about to commit, and where agents get so little CPU that their leases
//! run out, nobody would ever get anything done.
//!
//! A step outside a transaction is left alone: nobody but its agent waits for it, the server ends it when that is gone, and what it has built
//! is of use to the next holder.

use std::time::Duration;

use dunlin_proto::v1::EventType;
use dunlin_shared::figures::count;

use super::Context;
use crate::frame::APPLICATION;
use crate::target::Connection;

/// How long a transaction may have lasted that is waited for.
const YOUNG: Duration = Duration::from_secs(3);

/// Ends what earlier leases of the task have open. Where that is not allowed, their locks are waited for.
pub(super) async fn end(context: &Context, connection: &Connection) {
    let lease = context.lease.id();
    if lease.epoch <= 1 {
        return;
    }
    let sql = format!(
        "SET LOCAL ROLE NONE;SET LOCAL search_path = pg_catalog, pg_temp;
         SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid)) AS ended FROM pg_stat_activity AS a
         WHERE a.datname = current_database() AND a.usename = session_user AND a.pid <> pg_backend_pid()
         AND a.xact_start < clock_timestamp() - interval '{} s'
         AND CASE WHEN a.application_name ~ '^{APPLICATION} {}[.][0-9]{{1,18}}$'
                  THEN split_part(a.application_name, '.', 2)::bigint < {} ELSE false END",
        YOUNG.as_secs(),
        lease.task,
        lease.epoch
    );
    let answer = match connection.simple_query(&sql).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(error = dunlin_shared::postgres::describe(&error), "earlier holders were not ended");
            return;
        }
    };
    let ended = answer.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse::<i64>().ok(),
        _ => None,
    });
    if let Some(ended) = ended.filter(|ended| *ended > 0) {
        let (sessions, were) = if ended == 1 { ("session", "was") } else { ("sessions", "were") };
        context.lease.note(
            EventType::AgentNote,
            format!(
                "{} {sessions} of an earlier holder of this task {were} still at work in the target, and {were} ended: what was not committed \
                 is rolled back",
                count(ended)
            ),
        );
    }
}
