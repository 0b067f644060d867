//! Compares all the time what the controllers say that a target has with what it has: they are never ahead of its disk.
//!
//! The controllers are asked first. What they said must be found in the target at any time later, so also when the target has
//! crashed in between, and above all then.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Row;

use crate::again::Again;
use crate::history::{Range, ahead};
use crate::plan::TARGETS;
use crate::violations::Violations;

const CLAIMED: &str = "SELECT r.migration_id, s.name, t.range, t.run_id, t.rows_walked, t.state = 'done', t.target
    FROM dunlin_controller.tasks t JOIN dunlin_controller.runs r ON r.id = t.run_id
    JOIN dunlin_controller.run_steps s ON s.run_id = t.run_id AND s.ordinal = t.step
    WHERE t.kind = 'range' AND r.state = 'running' AND (t.rows_walked > 0 OR t.state = 'done')";

const FOUND: &str = "SELECT migration, step, range, run_id, rows_walked, state = 'done'
    FROM dunlin.checkpoints WHERE kind = 'range'";

/// Compares until it is dropped.
pub(crate) async fn audit(control: String, targets: [String; TARGETS.len()], violations: Violations) {
    let mut control = Again::new(control);
    let mut targets = targets.map(Again::new);
    loop {
        sleep(Duration::from_millis(50)).await;
        let Some(claimed) = control.rows(CLAIMED).await else { continue };
        for (name, target) in TARGETS.iter().zip(&mut targets) {
            let claimed: Vec<Range> = claimed.iter().filter(|row| row.get::<_, &str>(6) == *name).map(range).collect();
            if claimed.is_empty() {
                continue;
            }
            let found = loop {
                match target.rows(FOUND).await {
                    Some(rows) => break rows,
                    None => sleep(Duration::from_millis(20)).await,
                }
            };
            let found: Vec<Range> = found.iter().map(range).collect();
            violations.extend(ahead(&claimed, &found).into_iter().map(|sentence| format!("{name}: {sentence}")));
        }
    }
}

fn range(row: &Row) -> Range {
    Range { place: (row.get(0), row.get(1), row.get(2)), run: row.get(3), walked: row.get(4), done: row.get(5) }
}
