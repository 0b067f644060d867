//! The order of the batches in a range: windows, stripes, batches. Pure.
//!
//! The cursor is a position in this order. Whatever bounds two holders of a lease choose, the batches between two positions
//! are disjoint and together cover everything between them: a batch is `(at, bound]` of one stripe, the next begins where it
//! ended, and a stripe ends with the window. That is all that exactly-once needs from the order.

use dunlin_shared::key::{KeyBound, KeyColumn, KeyRange, Stripe, is_one_integer};
use serde::{Deserialize, Serialize};

use super::shares::Shares;

/// The keys that are worked through stripe by stripe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// The key that it lies above; `None` without a lower end.
    pub(crate) low: Option<KeyBound>,
    /// Its last key.
    pub(crate) high: KeyBound,
    /// Its stripes.
    pub(crate) stripes: Shares,
}

/// Where a range stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// The window.
    pub(crate) window: Window,
    /// The stripe in it, from 0; the number of stripes when the window is finished.
    pub(crate) stripe: u32,
    /// The key that the next batch lies above.
    pub(crate) at: Option<KeyBound>,
}

impl Cursor {
    /// The beginning of a window.
    pub(crate) fn start(window: Window) -> Self {
        Self { at: window.low.clone(), window, stripe: 0 }
    }

    /// True when nothing of the window is left.
    pub(crate) fn window_done(&self) -> bool {
        self.stripe >= self.window.stripes.count()
    }

    /// The batch up to `bound`.
    pub(crate) fn batch(&self, bound: &KeyBound) -> (KeyRange, Option<Stripe>) {
        (KeyRange { low: self.at.clone(), high: bound.clone() }, self.window.stripes.stripe(self.stripe))
    }

    /// The position after the batch up to `bound`.
    pub(crate) fn after(&self, bound: &KeyBound) -> Self {
        if *bound == self.window.high {
            Self { window: self.window.clone(), stripe: self.stripe + 1, at: self.window.low.clone() }
        } else {
            Self { window: self.window.clone(), stripe: self.stripe, at: Some(bound.clone()) }
        }
    }
}

/// Bounds for batches of about `rows_in_batch` rows between `low` and `high`, computed instead of walked: for one integer key
/// whose values are so dense that no batch can have more than twice as many rows. Ends with `high`.
pub(crate) fn dense_bounds(
    key: &[KeyColumn],
    low: &KeyBound,
    high: &KeyBound,
    rows: i64,
    rows_in_batch: u32,
) -> Option<Vec<KeyBound>> {
    if !is_one_integer(key) {
        return None;
    }
    let number = |bound: &KeyBound| bound.0.first()?.parse::<i128>().ok();
    let (low, end, rows) = (number(low)?, number(high)?, i128::from(rows));
    let span = end - low;
    if rows <= 0 || span <= 0 || span > 2 * rows {
        return None;
    }
    let batches = (rows + i128::from(rows_in_batch) - 1) / i128::from(rows_in_batch).max(1);
    let mut bounds: Vec<KeyBound> = Vec::new();
    for number in 1..=batches {
        let bound = low + span * number / batches;
        let bound = KeyBound(vec![bound.to_string()]);
        if bounds.last() != Some(&bound) && bound.0 != [low.to_string()] {
            bounds.push(bound);
        }
    }
    Some(bounds)
}

/// Every `nth` of some bounds, and the last.
pub(super) fn every_nth(bounds: &[KeyBound], nth: u32) -> Vec<KeyBound> {
    let nth = usize::try_from(nth).unwrap_or(usize::MAX).max(1);
    bounds.chunks(nth).filter_map(<[KeyBound]>::last).cloned().collect()
}

/// A batch that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job<'a> {
    /// The position before it.
    pub(super) cursor: Cursor,
    /// Its last key.
    pub(super) bound: &'a KeyBound,
    /// The position after it.
    pub(super) after: Cursor,
    /// The rows that it walks, as far as they can be told: the rows of a window are shared out over its batches.
    pub(super) walked: i64,
    /// True for the last batch of the range.
    pub(super) last: bool,
}

/// The batches of a window, from a position on.
#[derive(Debug)]
pub(super) struct Jobs<'a> {
    at: Cursor,
    rest: &'a [KeyBound],
    whole: &'a [KeyBound],
    rows: i64,
    steps: i64,
    ends_range: bool,
}

impl<'a> Jobs<'a> {
    /// The batches up to each of `rest` in the stripe of `at`, then those up to each of `whole` in every further stripe; both
    /// end with the window. Together they walk `rows`.
    pub(super) fn new(at: Cursor, rest: &'a [KeyBound], whole: &'a [KeyBound], rows: i64, ends_range: bool) -> Self {
        let further = usize::try_from(at.window.stripes.count().saturating_sub(at.stripe + 1)).unwrap_or(usize::MAX);
        let steps = rest.len().saturating_add(whole.len().saturating_mul(further));
        Self { at, rest, whole, rows, steps: i64::try_from(steps).unwrap_or(i64::MAX), ends_range }
    }
}

impl<'a> Iterator for Jobs<'a> {
    type Item = Job<'a>;

    fn next(&mut self) -> Option<Job<'a>> {
        let (bound, rest) = self.rest.split_first()?;
        let after = self.at.after(bound);
        let cursor = std::mem::replace(&mut self.at, after.clone());
        self.rest = if after.window_done() {
            &[]
        } else if after.stripe > cursor.stripe {
            self.whole
        } else {
            rest
        };
        let walked = if self.steps <= 1 { self.rows } else { self.rows / self.steps };
        self.rows -= walked;
        self.steps -= 1;
        let last = self.ends_range && after.window_done();
        Some(Job { cursor, bound, after, walked, last })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bigint() -> Vec<KeyColumn> {
        vec![KeyColumn::parse("id", "bigint").unwrap()]
    }

    fn bound(number: i64) -> KeyBound {
        KeyBound(vec![number.to_string()])
    }

    fn number(bound: &KeyBound) -> i64 {
        bound.0[0].parse().unwrap()
    }

    fn contains(range: &KeyRange, stripe: Option<Stripe>, key: i64) -> bool {
        range.low.as_ref().is_none_or(|low| key > number(low))
            && key <= number(&range.high)
            && stripe.is_none_or(|stripe| {
                (i64::from(stripe.first)..i64::from(stripe.end)).contains(&(key % i64::from(stripe.of)).abs())
            })
    }

    proptest! {
        /// Each batch chooses its own bound, as holders of successive leases do.
        #[test]
        fn every_key_of_a_window_is_in_exactly_one_batch(
            low in prop::option::of(-1000_i64..0),
            high in 1_i64..1000,
            ends in prop::collection::btree_set(1_u32..60, 1..9),
            steps in prop::collection::vec(1_i64..400, 1..50),
        ) {
            let stripes = Shares::try_from(ends.into_iter().collect::<Vec<u32>>()).unwrap();
            let window = Window { low: low.map(bound), high: bound(high), stripes };
            let mut cursor = Cursor::start(window);
            let mut seen = vec![0; 2200];
            let mut steps = steps.into_iter().cycle();
            while !cursor.window_done() {
                let from = cursor.at.as_ref().map_or(-1100, number);
                let next = bound((from + steps.next().unwrap()).min(high));
                let (range, stripe) = cursor.batch(&next);
                for key in -1100..=1099 {
                    if contains(&range, stripe, key) {
                        seen[usize::try_from(key + 1100).unwrap()] += 1;
                    }
                }
                // What the next holder reads is what this one wrote.
                let stored = serde_json::to_value(cursor.after(&next)).unwrap();
                cursor = serde_json::from_value(stored).unwrap();
            }
            for (index, count) in (-1100_i64..).zip(seen) {
                let inside = low.is_none_or(|low| index > low) && index <= high;
                prop_assert_eq!(count, i32::from(inside), "key {}", index);
            }
        }

        #[test]
        fn computed_bounds_ascend_and_end_with_the_last_key(
            low in -1_000_000_i64..1_000_000, span in 1_i64..100_000, rows in 1_i64..100_000, size in 1_u32..10_000,
        ) {
            let high = low + span;
            if let Some(bounds) = dense_bounds(&bigint(), &bound(low), &bound(high), rows, size) {
                let numbers: Vec<i64> = bounds.iter().map(number).collect();
                prop_assert!(numbers.is_sorted());
                prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(numbers[0] > low);
                prop_assert_eq!(*numbers.last().unwrap(), high);
            }
        }

        /// From any position, since a lease may begin at any.
        #[test]
        fn the_batches_of_a_window_follow_each_other_and_share_its_rows(
            mut bounds in prop::collection::btree_set(1_i64..1000, 1..20),
            stripes in 1_u32..6,
            stripe in 0_u32..6,
            at in 0_i64..1000,
            rows in 0_i64..100_000,
            nth in 1_u32..4,
        ) {
            let high = bounds.pop_last().unwrap();
            let window = Window { low: Some(bound(0)), high: bound(high), stripes: Shares::equal(stripes) };
            let begun = Cursor { window, stripe: stripe % stripes, at: Some(bound(at % high)) };
            let fine: Vec<KeyBound> = bounds.iter().copied().chain([high]).map(bound).collect();
            let rest: Vec<KeyBound> = fine.iter().filter(|end| number(end) > at % high).cloned().collect();
            // The further stripes can have larger batches.
            let whole = every_nth(&fine, nth);
            let jobs: Vec<Job<'_>> = Jobs::new(begun.clone(), &rest, &whole, rows, true).collect();
            prop_assert_eq!(&jobs[0].cursor, &begun);
            for pair in jobs.windows(2) {
                prop_assert_eq!(&pair[0].after, &pair[1].cursor);
                prop_assert!(!pair[0].last && !pair[0].after.window_done());
            }
            let end = jobs.last().unwrap();
            prop_assert!(end.last && end.after.window_done());
            prop_assert_eq!(jobs.iter().map(|job| job.walked).sum::<i64>(), rows);
        }
    }

    #[test]
    fn every_nth_bound_leaves_larger_batches_that_end_with_the_same_key() {
        let fine: Vec<KeyBound> = (1..=5).map(bound).collect();
        assert_eq!(every_nth(&fine, 1), fine);
        assert_eq!(every_nth(&fine, 2), [bound(2), bound(4), bound(5)]);
        assert_eq!(every_nth(&fine, 9), [bound(5)]);
        assert_eq!(every_nth(&[], 2), []);
    }

    #[test]
    fn the_ends_of_the_integers_do_not_overflow() {
        assert_eq!(dense_bounds(&bigint(), &bound(i64::MIN), &bound(i64::MAX), 10, 1), None);
        let last = dense_bounds(&bigint(), &bound(i64::MAX - 10), &bound(i64::MAX), 10, 4).unwrap();
        assert_eq!(last.last(), Some(&bound(i64::MAX)));
    }
}
