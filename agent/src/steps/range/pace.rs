//! How many rows a batch gets, where the definition does not say: as many as take a moment.
//!
//! A batch costs something whatever it changes: messages, a plan, the checkpoint, a commit. So it should not be small. But it holds
//! locks, and holds back pruning, until it commits. So it should not be long.

use std::time::Duration;

/// Rows before anything is known.
pub(super) const FIRST: u32 = 500;

/// Rows at least, however slow they are.
const LEAST: u32 = 100;

/// Rows at most, however fast they are.
const MOST: u32 = 10_000;

/// Batches in a stripe at least, where a window can have them: as long as a batch lasts, it holds back the pruning that those of the
/// next stripe count on.
const BATCHES_IN_STRIPE: u32 = 4;

/// What a batch should take.
const MOMENT: Duration = Duration::from_millis(50);

/// The rows of a batch, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace(u32);

impl Default for Pace {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Pace {
    /// Rows of a batch.
    pub(super) fn rows(self) -> u32 {
        self.0
    }

    /// Rows of a batch in a window of so many rows and stripes: not so many that a stripe would have too few batches.
    pub(super) fn rows_in(self, window_rows: i64, stripes: u32) -> u32 {
        let batches = i64::from(stripes.max(1)) * i64::from(BATCHES_IN_STRIPE);
        let most = u32::try_from(window_rows / batches).unwrap_or(u32::MAX);
        if stripes > 1 { self.0.min(most.max(LEAST)) } else { self.0 }
    }

    /// Takes in how long it took to walk rows, batch by batch.
    pub(super) fn learn(&mut self, walked: i64, spent: Duration) {
        let Ok(walked @ 1..) = u128::try_from(walked) else { return };
        let rows = walked * MOMENT.as_micros() / spent.as_micros().max(1);
        self.0 = u32::try_from(rows).unwrap_or(u32::MAX).clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(walked: i64, spent: Duration) -> u32 {
        let mut pace = Pace::default();
        pace.learn(walked, spent);
        pace.rows()
    }

    #[test]
    fn a_batch_takes_a_moment_within_limits() {
        assert_eq!(Pace::default().rows(), FIRST);
        assert_eq!(after(20_000, Duration::from_millis(500)), 2000);
        assert_eq!(after(100_000, Duration::from_millis(10)), MOST);
        assert_eq!(after(100, Duration::from_secs(60)), LEAST);
        assert_eq!(after(0, Duration::from_secs(60)), FIRST, "nothing was walked, so nothing is known");
    }

    #[test]
    fn a_stripe_of_a_small_window_still_has_four_batches() {
        let mut pace = Pace::default();
        pace.learn(1_000_000, Duration::from_secs(1));
        assert_eq!(pace.rows_in(200_000, 5), MOST);
        assert_eq!(pace.rows_in(20_000, 5), 1000);
        assert_eq!(pace.rows_in(10, 5), LEAST);
        assert_eq!(pace.rows_in(20_000, 1), MOST);
    }
}
