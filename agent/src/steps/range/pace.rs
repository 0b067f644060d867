//! How many rows a batch gets, where the definition does not say: as many as take a moment.
//!
//! A batch costs something whatever it changes: messages, a plan, the checkpoint, a commit. So it should not be small. But it holds
//! locks, and holds back pruning, until it commits. So it should not be long.
//!
//! Some statements cost much more whatever they change: they join a table to an aggregate, or by a column that has no index. There,
//! smaller batches are hardly shorter, and many of them take very long. So the time of batches is taken for a fixed cost and a cost of
//! each row, and both are fitted to what batches of different sizes took, by the medians of all pairs: a batch that has waited for a lock
//! does not count for more than one. Where the fixed cost is large, batches get so many rows that it is a small part of them, as long as
//! they do not last too long. Where batches last long and were all of one size, the next one has another.
//!
//! The planner knows a fixed cost before the first batch, though not how long it takes. Where it expects one, the first batch is as large
//! as hardly adds to it, and its time is shared out as the planner has it, until a batch of another size was measured.

use std::time::Duration;

/// Rows before anything is known.
pub(super) const FIRST: u32 = 500;

/// Rows of the first batch at most, where a large fixed cost is expected: a first range has as many.
pub(super) const FIRST_FOR_FIXED: u32 = 10_000;

/// What a batch takes at most if the planner was wrong, and all of the time of the one before was for its rows.
const UNPROVEN: Duration = Duration::from_secs(2);

/// Of the rows that cost as much as the fixed cost, this part is in the first batch.
const EXPECTED_TO_FIRST: u32 = 4;

/// Rows at least, however slow they are.
const LEAST: u32 = 100;

/// Rows at most, however fast they are.
const MOST: u32 = 10_000;

/// Rows at most, where a batch has a large fixed cost.
const MOST_FOR_FIXED: u32 = 100_000;

/// Batches in a stripe at least, where a window can have them: as long as a batch lasts, it holds back the pruning that those of the
/// next stripe count on.
const BATCHES_IN_STRIPE: u32 = 4;

/// What a batch should take.
const MOMENT: Duration = Duration::from_millis(50);

/// A fixed cost that is large.
const LARGE: Duration = Duration::from_millis(20);

/// What a batch with a large fixed cost should take at most.
const LONGEST: Duration = Duration::from_millis(500);

/// How many times its fixed cost a batch should spend on its rows.
const ROWS_TO_FIXED: u32 = 4;

/// A batch that takes so long makes one ask whether that is for its rows.
const DOUBTFUL: Duration = Duration::from_millis(13);

/// By how much a batch is larger at most than those that were measured.
const GROWTH: u32 = 4;

/// The same where the planner expects a large fixed cost.
const GROWTH_AS_EXPECTED: u32 = 16;

/// Batches that differ by so much tell the fixed cost well.
const TELLING: u32 = 4;

/// Batches that are remembered.
const REMEMBERED: usize = 8;

/// What a batch took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    rows: u32,
    nanos: i64,
}

/// What a statement costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    /// For each batch.
    pub(super) fixed: Duration,
    /// For each row, in nanoseconds; at least 1.
    pub(super) each: i64,
}

/// The rows of a batch, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    rows: u32,
    seen: [Option<Seen>; REMEMBERED],
    cost: Option<Cost>,
    /// The rows that cost as much as the fixed cost, as the planner expects, where that is large.
    expected: Option<u32>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rows: FIRST, seen: [None; REMEMBERED], cost: None, expected: None }
    }
}

impl Cost {
    /// What a batch of so many rows takes.
    pub(super) fn of(self, rows: u32) -> Duration {
        self.fixed + Duration::from_nanos(u64::try_from(self.each).unwrap_or(1)) * rows
    }

    /// The rows that take so long, beside the fixed cost.
    pub(super) fn rows_in(self, time: Duration) -> u32 {
        u32::try_from(nanos(time) / self.each.max(1)).unwrap_or(u32::MAX)
    }

    /// The rows of a batch, where the fixed cost is large. Where that alone is longer than a batch should be, rows may add a part of it:
    /// shorter batches would do no good.
    pub(super) fn wanted(self) -> u32 {
        let most = LONGEST.saturating_sub(self.fixed).max(self.fixed * 2 / 3);
        let time = (self.fixed * ROWS_TO_FIXED).max(MOMENT.saturating_sub(self.fixed)).min(most);
        self.rows_in(time).clamp(LEAST, MOST_FOR_FIXED)
    }
}

impl Pace {
    /// Rows of a batch.
    pub(super) fn rows(self) -> u32 {
        self.rows
    }

    /// Rows of a batch in a window of so many rows and stripes: not so many that a stripe would have too few batches.
    pub(super) fn rows_in(self, window_rows: i64, stripes: u32) -> u32 {
        let batches = i64::from(stripes.max(1)) * i64::from(BATCHES_IN_STRIPE);
        let most = u32::try_from(window_rows / batches).unwrap_or(u32::MAX);
        if stripes > 1 { self.rows.min(most.max(LEAST)) } else { self.rows }
    }

    /// Takes in what the planner expects, before the first batch: the rows that cost as much as the fixed cost.
    pub(super) fn expect(&mut self, rows: u32) {
        let first = rows / EXPECTED_TO_FIRST;
        if first > FIRST && self.seen[0].is_none() {
            self.expected = Some(rows);
            self.rows = first.min(FIRST_FOR_FIXED);
        }
    }

    /// True when each batch has a large fixed cost, or is expected to have one.
    pub(super) fn avoids_batches(self) -> bool {
        self.large_fixed_cost().is_some() || (self.cost.is_none() && self.expected.is_some())
    }

    /// What the statement costs, where its fixed cost is large and well known.
    pub(super) fn proven_fixed_cost(self) -> Option<Cost> {
        let least = self.all().map(|seen| seen.rows).min().unwrap_or(FIRST);
        let proven = self.seen.iter().all(Option::is_some) || self.largest() / TELLING >= least;
        self.large_fixed_cost().filter(|_| proven)
    }

    /// What the statement costs, where its fixed cost is large.
    pub(super) fn large_fixed_cost(self) -> Option<Cost> {
        self.cost.filter(|cost| cost.fixed >= LARGE)
    }

    /// True when the next batch should have another size than one of so many rows, and not for its own sake only: something about the
    /// fixed cost is to be learnt, or was.
    pub(super) fn asks_for_another_size(self, than: u32) -> bool {
        self.differs(than) && (self.large_fixed_cost().is_some() || self.is_doubtful())
    }

    /// True when batches should have quite another size than so many rows.
    pub(super) fn differs(self, than: u32) -> bool {
        let (less, more) = (self.rows.min(than), self.rows.max(than));
        u64::from(less) * 3 <= u64::from(more) * 2
    }

    /// Takes in how long it took to walk the rows of a window in stripes, batch by batch.
    pub(super) fn learn(&mut self, walked: i64, spent: Duration) {
        let Ok(walked @ 1..) = u32::try_from(walked) else { return };
        self.rows = as_many(MOMENT, walked, spent).clamp(LEAST, MOST);
    }

    /// Takes in how long a batch took, in key order.
    pub(super) fn saw(&mut self, rows: u32, time: Duration) {
        if rows == 0 {
            return;
        }
        let walked = rows;
        self.seen.rotate_right(1);
        self.seen[0] = Some(Seen { rows, nanos: nanos(time).max(1) });
        let fitted = self.fitted();
        let proven = fitted.is_some() || self.expected.is_none();
        self.cost = fitted.or_else(|| self.cost.map(|cost| self.adjusted(cost))).or_else(|| self.as_expected());
        self.rows = if let Some(cost) = self.large_fixed_cost() {
            // Where batches take about the same, what is left for a row is noise: more rows tell, and cost little.
            let hidden = if self.is_even() { rows.saturating_mul(5).div_euclid(2).min(MOST) } else { 0 };
            let rows = cost.wanted().max(hidden).min(self.largest().saturating_mul(self.growth()));
            if proven { rows } else { rows.min(as_many(UNPROVEN, walked, time)).max(LEAST) }
        } else if self.is_doubtful() {
            // More rows where they cannot take too long even if it is all for them.
            if time * 5 / 2 <= LONGEST { rows.saturating_mul(5) / 2 } else { (rows / GROWTH).max(LEAST) }
        } else {
            let rows = nanos(MOMENT) / median(self.all().map(|seen| seen.nanos / i64::from(seen.rows))).max(1);
            u32::try_from(rows).unwrap_or(u32::MAX).clamp(LEAST, MOST)
        };
    }

    /// Batches take long, and nothing is known of their fixed cost.
    fn is_doubtful(self) -> bool {
        self.cost.is_none() && self.seen[0].is_some_and(|seen| seen.nanos >= nanos(DOUBTFUL) && seen.rows > LEAST)
    }

    /// The last batch, shared out as the planner expects.
    fn as_expected(self) -> Option<Cost> {
        let (seen, expected) = (self.seen[0]?, self.expected?);
        let each = (seen.nanos / (i64::from(seen.rows) + i64::from(expected))).max(1);
        Some(Cost { fixed: Duration::from_nanos(u64::try_from(each).unwrap_or(0)) * expected, each })
    }

    fn growth(self) -> u32 {
        if self.expected.is_some() { GROWTH_AS_EXPECTED } else { GROWTH }
    }

    fn all(&self) -> impl Iterator<Item = Seen> + Clone + '_ {
        self.seen.iter().flatten().copied()
    }

    fn largest(&self) -> u32 {
        self.all().map(|seen| seen.rows).max().unwrap_or(FIRST)
    }

    /// True where the batches that were seen took about the same.
    fn is_even(&self) -> bool {
        median(self.all().map(|seen| seen.nanos)) / 2 < self.shortest()
    }

    fn shortest(&self) -> i64 {
        self.all().map(|seen| seen.nanos).min().unwrap_or(0)
    }

    /// The cost, if the batches that were seen differ enough to tell.
    fn fitted(&self) -> Option<Cost> {
        let mut slopes = self.all().flat_map(|one| {
            let larger = self.all().filter(move |other| u64::from(other.rows) * 2 >= u64::from(one.rows) * 3);
            larger.map(move |other| (other.nanos - one.nanos) / i64::from(other.rows - one.rows))
        });
        let first = slopes.next()?;
        let each = median(std::iter::once(first).chain(slopes)).max(1);
        let fixed = median(self.all().map(|seen| seen.nanos - each.saturating_mul(i64::from(seen.rows))));
        // No batch can have taken less.
        let fixed = Duration::from_nanos(u64::try_from(fixed.min(self.shortest())).unwrap_or(0));
        Some(Cost { fixed, ..self.adjusted(Cost { fixed, each }) })
    }

    /// What is known of a cost after batches of one size.
    fn adjusted(&self, cost: Cost) -> Cost {
        let fixed = nanos(cost.fixed).min(self.shortest());
        let each = median(self.all().map(|seen| (seen.nanos - fixed) / i64::from(seen.rows))).max(1);
        Cost { fixed: Duration::from_nanos(u64::try_from(fixed).unwrap_or(0)), each }
    }
}

/// The rows that take so long, where others took a time of theirs.
fn as_many(time: Duration, rows: u32, took: Duration) -> u32 {
    let many = u128::from(rows) * time.as_nanos() / took.as_nanos().max(1);
    u32::try_from(many).unwrap_or(u32::MAX)
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn median(numbers: impl Iterator<Item = i64>) -> i64 {
    let mut numbers: Vec<i64> = numbers.collect();
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of the batches of a statement that costs so many milliseconds for each batch and microseconds for each row, and what
    /// they take in all.
    fn sizes(fixed: f64, each: f64, rows: u32) -> (Vec<u32>, Duration) {
        walked(Pace::default(), fixed, each, rows)
    }

    fn walked(mut pace: Pace, fixed: f64, each: f64, rows: u32) -> (Vec<u32>, Duration) {
        let (mut sizes, mut left, mut spent) = (Vec::new(), rows, Duration::ZERO);
        while left > 0 {
            let size = pace.rows().min(left);
            // No two batches take the same: here, up to a tenth more.
            let noise = 1.0 + f64::from(u32::try_from(sizes.len()).unwrap() * 7 % 5) / 40.0;
            let time = Duration::from_secs_f64((fixed / 1e3 + each * f64::from(size) / 1e6) * noise);
            pace.saw(size, time);
            sizes.push(size);
            left -= size;
            spent += time;
        }
        (sizes, spent)
    }

    #[test]
    fn a_batch_takes_a_moment_within_limits() {
        assert_eq!(Pace::default().rows(), FIRST);
        let after = |rows: u32, time: Duration| {
            let mut pace = Pace::default();
            pace.saw(rows, time);
            pace.rows()
        };
        assert_eq!(after(500, Duration::from_millis(10)), 2500);
        assert_eq!(after(500, Duration::from_micros(10)), MOST);
        assert_eq!(after(100, Duration::from_secs(60)), LEAST);
        assert_eq!(after(0, Duration::from_secs(60)), FIRST, "nothing was walked, so nothing is known");
        let mut pace = Pace::default();
        pace.learn(20_000, Duration::from_millis(500));
        assert_eq!(pace.rows(), 2000);
        pace.learn(0, Duration::from_secs(60));
        assert_eq!(pace.rows(), 2000);
    }

    #[test]
    fn a_large_fixed_cost_makes_batches_larger_and_not_smaller() {
        for (fixed, percent) in [(25.0, 160), (60.0, 160), (130.0, 180), (200.0, 250), (350.0, 500)] {
            let (sizes, spent) = sizes(fixed, 5.0, 1_000_000);
            let statement = Duration::from_secs_f64(fixed / 1e3 + 5.0);
            assert!(spent < statement * percent / 100, "{fixed} ms: {spent:?} and {statement:?}: {sizes:?}");
            let longest = sizes.iter().max().copied().unwrap();
            assert!(fixed / 1e3 + 5.0 * f64::from(longest) / 1e6 < 0.65, "{fixed} ms: {sizes:?}");
            assert!(longest <= MOST_FOR_FIXED);
        }
    }

    #[test]
    fn a_fixed_cost_that_the_planner_expects_takes_few_batches() {
        for (fixed, each, expected, most) in
            [(190.0, 1.5, 30_000, 4), (266.0, 5.0, 40_000, 6), (316.0, 6.0, 40_000, 9), (100.0, 2.0, 300_000, 4)]
        {
            let mut pace = Pace::default();
            pace.expect(expected);
            let (sizes, _) = walked(pace, fixed, each, 200_000);
            assert!(sizes.len() <= most, "{fixed} ms: {sizes:?}");
            let longest = sizes.iter().max().copied().unwrap();
            assert!(fixed / 1e3 + each * f64::from(longest) / 1e6 < 0.75, "{fixed} ms: {sizes:?}");
        }
    }

    #[test]
    fn what_the_planner_expects_is_believed_for_two_batches_only() {
        let mut pace = Pace::default();
        pace.expect(50_000);
        assert_eq!(pace.rows(), FIRST_FOR_FIXED);
        let (sizes, _) = walked(pace, 1.0, 50.0, 200_000);
        assert!(sizes[1] <= 40_000, "2 s at most: {sizes:?}");
        assert!(sizes[2..].iter().all(|size| *size < 1500), "{sizes:?}");
    }

    #[test]
    fn a_small_fixed_cost_that_is_expected_changes_nothing_and_so_does_one_that_comes_late() {
        let mut pace = Pace::default();
        pace.expect(FIRST * EXPECTED_TO_FIRST);
        assert_eq!(pace, Pace::default());
        pace.saw(500, Duration::from_millis(3));
        let before = pace;
        pace.expect(50_000);
        assert_eq!(pace, before);
    }

    #[test]
    fn where_a_batch_is_too_long_whatever_its_size_it_is_not_made_small() {
        let (sizes, spent) = sizes(3000.0, 5.0, 1_000_000);
        assert!(sizes.len() < 25, "{sizes:?}");
        assert!(spent < Duration::from_secs(90), "{spent:?}");
    }

    #[test]
    fn a_fixed_cost_that_varies_does_not_make_batches_small() {
        let mut pace = Pace::default();
        // By chance, the larger of the first two took much longer.
        pace.saw(500, Duration::from_millis(900));
        pace.saw(125, Duration::from_millis(670));
        let mut sizes = Vec::new();
        for number in 0..16 {
            let rows = if number < 8 { 366 } else { pace.rows() };
            sizes.push(rows);
            pace.saw(
                rows,
                Duration::from_millis(if number % 2 == 0 { 670 } else { 850 }) + Duration::from_micros(5) * rows,
            );
        }
        assert!(pace.rows() >= 5_000, "{sizes:?}, {pace:?}");
    }

    #[test]
    fn rows_that_are_slow_make_batches_small() {
        for each in [100.0, 400.0, 2000.0, 20_000.0] {
            let (sizes, _) = sizes(1.0, each, 20_000);
            let usual = sizes[sizes.len() / 2];
            let fitting = (49_000.0 / each).max(f64::from(LEAST));
            assert!(f64::from(usual) > fitting * 0.6 && f64::from(usual) < fitting * 1.7, "{each} µs: {sizes:?}");
            assert!(
                sizes.iter().all(|size| f64::from(*size) * each <= 600_000.0 || *size <= FIRST),
                "{each} µs: {sizes:?}"
            );
        }
    }

    #[test]
    fn rows_that_are_fast_are_walked_as_if_there_were_no_fixed_cost() {
        let (sizes, _) = sizes(1.0, 5.0, 200_000);
        assert_eq!(sizes[0], FIRST);
        assert!(sizes[1..sizes.len() - 1].iter().all(|size| (6000..=MOST).contains(size)), "{sizes:?}");
    }

    #[test]
    fn a_batch_that_waited_for_a_lock_proves_nothing() {
        let mut pace = Pace::default();
        for rows in [500, 5000, 8000, 8000, 8000] {
            pace.saw(rows, Duration::from_micros(1000 + u64::from(rows) * 6));
        }
        let before = pace.rows();
        pace.saw(8000, Duration::from_secs(4));
        assert!(!pace.differs(before) && pace.large_fixed_cost().is_none(), "{pace:?}");
    }

    #[test]
    fn a_fixed_cost_that_is_gone_is_forgotten() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            let rows = pace.rows();
            pace.saw(rows, Duration::from_micros(200_000 + u64::from(rows) * 5));
        }
        assert!(pace.large_fixed_cost().is_some() && pace.rows() > 30_000, "{pace:?}");
        for _ in 0..12 {
            let rows = pace.rows();
            pace.saw(rows, Duration::from_micros(1000 + u64::from(rows) * 5));
        }
        assert_eq!(pace.large_fixed_cost(), None);
        assert!(pace.rows() <= MOST, "{pace:?}");
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
