//! How far PostgreSQL is with a statement that works for a lease, as its own progress views have it.
//!
//! What is counted belongs to a phase, and there are several: nobody knows how long those that come are. Figures of phases that are over
//! stay in the views, so each phase has those that count in it.
//!
//! The session is found by its `application_name`, as for its waits: it may be on the other side of a pooler.

use dunlin_proto::v1::Activity;
use dunlin_shared::sql::quote_literal;
use tokio_postgres::{Client, SimpleQueryRow};

use super::look::rows;

/// What the views say.
const VIEWS: &str = "
    SELECT pid, phase,
        CASE WHEN phase LIKE 'waiting %' THEN lockers_done WHEN phase LIKE '%loading tuples%' THEN tuples_done
             WHEN phase LIKE '%scanning%' THEN blocks_done END AS done,
        CASE WHEN phase LIKE 'waiting %' THEN lockers_total WHEN phase LIKE '%loading tuples%' THEN tuples_total
             WHEN phase LIKE '%scanning%' THEN blocks_total END AS total,
        CASE WHEN phase LIKE 'waiting %' THEN 'transactions' WHEN phase LIKE '%loading tuples%' THEN 'rows' ELSE 'blocks' END AS unit
    FROM pg_stat_progress_create_index
    UNION ALL
    SELECT pid, phase, CASE phase WHEN 'scanning heap' THEN heap_blks_scanned WHEN 'vacuuming heap' THEN heap_blks_vacuumed END,
        CASE WHEN phase IN ('scanning heap', 'vacuuming heap') THEN heap_blks_total END, 'blocks'
    FROM pg_stat_progress_vacuum
    UNION ALL
    SELECT pid, phase, CASE phase WHEN 'seq scanning heap' THEN heap_blks_scanned END,
        CASE phase WHEN 'seq scanning heap' THEN heap_blks_total END, 'blocks'
    FROM pg_stat_progress_cluster
    UNION ALL
    SELECT pid, phase, CASE phase WHEN 'acquiring sample rows' THEN sample_blks_scanned END,
        CASE phase WHEN 'acquiring sample rows' THEN sample_blks_total END, 'blocks'
    FROM pg_stat_progress_analyze";

/// Looks whether the session that works for a lease executes something, and how far it is: `None` where PostgreSQL does not say.
///
/// # Errors
/// Those of PostgreSQL.
pub(super) async fn activity(
    client: &Client,
    application: &str,
) -> Result<(bool, Option<Activity>), tokio_postgres::Error> {
    let sql = format!(
        "SELECT p.phase, coalesce(p.done, 0), coalesce(p.total, 0), p.unit, a.state = 'active'
         FROM pg_stat_activity AS a LEFT JOIN ({VIEWS}) AS p USING (pid)
         WHERE a.application_name = {} ORDER BY p.phase IS NULL, a.state = 'active' DESC LIMIT 1",
        quote_literal(application)
    );
    let rows = rows(client, &sql).await?;
    let first = rows.first();
    Ok((first.is_some_and(|row| row.get(4) == Some("t")), first.and_then(read)))
}

fn read(row: &SimpleQueryRow) -> Option<Activity> {
    let number = |index: usize| row.get(index).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0).max(0);
    let (done, total) = (number(1), number(2));
    let counted = total > 0;
    Some(Activity {
        phase: row.get(0)?.to_owned(),
        done: if counted { done.min(total) } else { 0 },
        total,
        unit: if counted { row.get(3)?.to_owned() } else { String::new() },
    })
}
