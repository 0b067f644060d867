//! Taking in what batches cost, and telling where much of it does not depend on their rows.
//!
//! Batches in key order can have any size, so the window that is being worked through is cut anew as soon as they should have another.
//! Windows in stripes are left as they are: what a batch costs there depends on its stripe.

use std::time::Duration;

use dunlin_proto::v1::EventType;
use dunlin_shared::figures;

use super::Worker;
use super::batch::Body;
use super::order::Job;
use super::pace::Cost;
use super::planner::outline;
use crate::steps::Error;
use crate::target::Connection;

/// The largest size that a definition can give.
const MOST_IN_SIZE: u32 = 1_000_000;

/// What is to be done before the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing: it may have been begun already.
    GoOn,
    /// The rest of the window is cut anew.
    CutAnew,
    /// The large fixed cost is told.
    Tell,
}

impl Worker<'_> {
    /// Takes in how long it took to change the rows of batches: one, or two when the second was begun with the end of the first, or none
    /// where there was only an end, which says nothing.
    pub(super) fn saw(&self, job: &Job<'_>, changed: &[Option<i64>], time: Duration) -> Option<Then> {
        let changed = || changed.iter().flatten();
        let count = changed().count();
        if self.fixed_rows.is_some() || job.cursor.window.stripes.count() > 1 || count == 0 {
            return None;
        }
        let parts = u32::try_from(count).unwrap_or(1);
        let rows = u32::try_from(changed().sum::<i64>()).unwrap_or(0) / parts;
        let (pace, told) = self.learnt(|learnt| {
            learnt.pace.saw(rows, time / parts);
            (learnt.pace, learnt.told)
        });
        let anew =
            if self.probing { pace.asks_for_another_size(self.batch_rows) } else { pace.differs(self.batch_rows) };
        let done = job.after.window_done();
        Some(if anew && !done {
            Then::CutAnew
        } else if !told && pace.proven_fixed_cost().is_some() {
            Then::Tell
        } else {
            Then::GoOn
        })
    }

    /// Tells that each batch has a large fixed cost, what that comes to, and what would help.
    pub(super) async fn tell_cost(&self, connection: &mut Connection, job: &Job<'_>) -> Result<(), Error> {
        let Some(cost) = self.learnt(|learnt| {
            learnt.told = true;
            learnt.pace.proven_fixed_cost()
        }) else {
            return Ok(());
        };
        let plan = match &self.body {
            Body::Sql(sql) => self.explain_batch(connection, sql, job).await?.ok(),
            Body::Code(_) => None,
        };
        let plan = plan.map_or_else(String::new, |plan| format!(". Its plan: {}", outline(&plan)));
        let total = self.table.rows.unwrap_or(0).max(self.checkpoint.rows_total);
        let sentence = in_words(cost, cost.wanted(), u64::try_from(total).unwrap_or(0));
        self.context.lease.note(EventType::AgentNote, format!("{sentence}{plan}"));
        Ok(())
    }
}

fn in_words(cost: Cost, rows: u32, total: u64) -> String {
    let batches = |rows: u32| u32::try_from(total.div_ceil(u64::from(rows.max(1)))).unwrap_or(u32::MAX);
    let told = format!(
        "the statement has a large fixed cost: each batch takes {fixed} whatever its rows, and {rows_cost} more for every 1,000 rows. \
         In batches of {each} that comes to about {all} in all for {total}",
        each = figures::rows(rows),
        total = figures::rows(i64::try_from(total).unwrap_or(i64::MAX)),
        fixed = span(cost.fixed),
        rows_cost = span(cost.of(1000) - cost.fixed),
        all = span(cost.fixed * batches(rows)),
    );
    // A tenth of the time for the fixed cost is little; or all rows at once.
    let better = cost.rows_in(cost.fixed * 9).min(u32::try_from(total).unwrap_or(u32::MAX));
    let better = rounded(better.clamp(1, MOST_IN_SIZE));
    if batches(better) >= batches(rows) {
        return told;
    }
    format!(
        "{told}; `size = {better}` in `batch` would make that {all} ({count} of {each} each)",
        all = span(cost.fixed * batches(better)),
        count = figures::counted(batches(better), "batch", "batches"),
        each = span(cost.of(better.min(u32::try_from(total).unwrap_or(u32::MAX)))),
    )
}

/// A number with two digits, not smaller.
fn rounded(number: u32) -> u32 {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    number.div_ceil(unit).saturating_mul(unit).min(MOST_IN_SIZE)
}

fn span(time: Duration) -> String {
    match time.as_millis() {
        0 => format!("{} µs", time.as_micros()),
        millis @ 1..1000 => format!("{millis} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fixed_cost_comes_to_is_told_with_the_size_that_helps() {
        let cost = Cost { fixed: Duration::from_millis(200), each: 5000 };
        assert_eq!(
            in_words(cost, 60_000, 2_000_000),
            "the statement has a large fixed cost: each batch takes 200 ms whatever its rows, and 5 ms more for every 1,000 rows. In \
             batches of 60,000 rows that comes to about 6.8 s in all for 2,000,000 rows; `size = 360000` in `batch` would make that 1.2 s \
             (6 batches of 2.0 s each)"
        );
        assert!(
            in_words(cost, 60_000, 150_000)
                .ends_with("`size = 150000` in `batch` would make that 200 ms (1 batch of 950 ms each)")
        );
        assert!(in_words(cost, 60_000, 50_000).ends_with("200 ms in all for 50,000 rows"));
    }

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!(rounded(1), 1);
        assert_eq!(rounded(101), 110);
        assert_eq!(rounded(123_456), 130_000);
        assert_eq!(rounded(999_999), 1_000_000);
    }
}
