//! Which rows are on disk.
//!
//! Batches commit without waiting for the disk, so what was committed last may still be lost with the server. Each batch sees two
//! positions in the server's log: up to where it is written, which is behind the commit of the batch before, and up to where it is
//! on disk. Rows are reported once the second has passed the first.

use std::collections::VecDeque;

use crate::ledger::Advanced;

/// Sums after a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Rows changed.
    pub(crate) rows: i64,
    /// Rows walked.
    pub(crate) rows_walked: i64,
}

/// The sums that are not known to be on disk yet.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    waiting: VecDeque<(u64, Sums)>,
}

impl Durable {
    /// Takes in what a batch saw. `before` are the sums after the batch before it. Returns the newest sums that are on disk,
    /// when there is something new.
    pub(crate) fn saw(&mut self, seen: Advanced, before: Sums) -> Option<Sums> {
        self.waiting.push_back((seen.written, before));
        let mut newest = None;
        while let Some((written, sums)) = self.waiting.front()
            && *written <= seen.flushed
        {
            newest = Some(*sums);
            self.waiting.pop_front();
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_once_the_log_behind_their_commit_is_on_disk() {
        let seen = |written, flushed| Advanced { flushed, written, updated: 0, hot_updated: 0 };
        let sums = |rows| Sums { rows, rows_walked: rows };
        let mut durable = Durable::default();
        assert_eq!(durable.saw(seen(100, 50), sums(0)), None);
        assert_eq!(durable.saw(seen(200, 150), sums(10)), Some(sums(0)));
        assert_eq!(durable.saw(seen(300, 299), sums(20)), Some(sums(10)));
        assert_eq!(durable.saw(seen(400, 400), sums(30)), Some(sums(30)));
    }
}
