//! The share that each stripe of a window has of its keys.
//!
//! Keys are divided by a number, and a stripe has some neighbouring remainders. With as many stripes as there are remainders, neighbours
//! land in different stripes: that is even enough for any table. Where the rows of a page have neighbouring keys, and nearly the same
//! number of keys on every page, that number is the better divisor: each stripe has exactly its share of every page, and its rows lie
//! beside each other. Then the shares can be fitted to what a page holds.

use dunlin_shared::key::Stripe;
use serde::{Deserialize, Serialize};

use crate::catalog::Pages;

/// By how much rows grow on a page, where it was not seen: what takes 100 bytes takes so many afterwards.
pub(super) const GROWTH: u32 = 108;

/// What it is taken for at most: with more, the first stripe would have most of the rows.
const MOST_GROWTH: u32 = 200;

/// What every version of a row needs in its page besides itself, and what a page has.
const ENTRY_BYTES: u32 = 4;
const PAGE_BYTES: u32 = 8192;

/// By how much rows grow on a page, going by the pages before a change and those behind it. A new version needs an entry in the page even
/// if it is no larger.
pub(super) fn growth(before: Pages, after: Pages) -> u32 {
    let entries = 100 + (before.rows * ENTRY_BYTES * 100).div_ceil(PAGE_BYTES);
    (before.rows * 100 / after.rows.max(1)).clamp(entries.min(MOST_GROWTH), MOST_GROWTH)
}

/// The remainders at which stripes end, in ascending order; the last is the divisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<u32>", try_from = "Vec<u32>")]
pub(crate) struct Shares(Vec<u32>);

impl Shares {
    /// So many stripes of one remainder each; 1 is plain key order.
    pub(crate) fn equal(stripes: u32) -> Self {
        Self((1..=stripes.max(1)).collect())
    }

    /// Up to so many stripes of a table with such pages: the first as small as it can be, the others as large as the room that those
    /// before them leave, where what takes 100 bytes takes `growth` afterwards. `None` where a page has too few rows for it.
    pub(crate) fn of_pages(pages: Pages, growth: u32, stripes: u32) -> Option<Self> {
        let Pages { rows, keys } = pages;
        if rows < stripes || keys < rows {
            return None;
        }
        let ends = (1..=rows).find_map(|first| ends(rows, growth, stripes, first))?;
        // Keys can have gaps.
        let in_keys = |end: u32| u32::try_from(u64::from(end) * u64::from(keys) / u64::from(rows)).ok();
        Some(Self(ends.into_iter().map(in_keys).collect::<Option<_>>()?))
    }

    /// How many stripes there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// The stripe of this number, from 0; `None` for all keys.
    pub(crate) fn stripe(&self, number: u32) -> Option<Stripe> {
        let at = usize::try_from(number).ok()?;
        let first = at.checked_sub(1).map_or(0, |before| self.0[before]);
        (self.0.len() > 1).then(|| Stripe { of: self.divisor(), first, end: self.0[at] })
    }

    /// How many rows of the window a batch may span for none to have more than `rows` of its stripe; the first stripe counts only if
    /// `first` says so.
    pub(crate) fn span(&self, rows: u32, first: bool) -> u32 {
        let sizes = self.0.iter().scan(0, |last, end| Some(end - std::mem::replace(last, *end)));
        let largest = sizes.skip(usize::from(!first && self.0.len() > 1)).max().unwrap_or(1);
        u32::try_from(u64::from(rows) * u64::from(self.divisor()) / u64::from(largest)).unwrap_or(u32::MAX)
    }

    /// Of so many rows of the window, those in the first stripe.
    pub(crate) fn in_first(&self, rows: u32) -> u32 {
        let first = self.0.first().copied().unwrap_or(1);
        u32::try_from(u64::from(rows) * u64::from(first) / u64::from(self.divisor())).unwrap_or(u32::MAX)
    }

    fn divisor(&self) -> u32 {
        self.0.last().copied().unwrap_or(1)
    }
}

/// The ends of up to so many stripes over the rows of a page, if the room that a first stripe of `first` rows leaves is enough for all.
fn ends(rows: u32, growth: u32, stripes: u32, first: u32) -> Option<Vec<u32>> {
    let (mut ends, mut room) = (vec![first], first * 100);
    let mut end = first;
    while end < rows && ends.len() < usize::try_from(stripes).unwrap_or(usize::MAX) {
        let fitting = (room / growth).clamp(1, rows - end);
        room = room.saturating_sub(fitting * (growth - 100));
        end += fitting;
        ends.push(end);
    }
    (end == rows).then_some(ends)
}

impl From<Shares> for Vec<u32> {
    fn from(shares: Shares) -> Self {
        shares.0
    }
}

impl TryFrom<Vec<u32>> for Shares {
    type Error = &'static str;

    fn try_from(ends: Vec<u32>) -> Result<Self, Self::Error> {
        let ascending = ends.windows(2).all(|pair| pair[0] < pair[1]);
        if ascending && ends.first().is_some_and(|end| *end > 0) {
            Ok(Self(ends))
        } else {
            Err("the ends of stripes ascend from 1 on")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(shares: &Shares) -> Vec<u32> {
        (0..shares.count()).filter_map(|number| shares.stripe(number)).map(|stripe| stripe.end - stripe.first).collect()
    }

    #[test]
    fn equal_stripes_have_one_remainder_each() {
        assert_eq!(Shares::equal(3).stripe(0), Some(Stripe { of: 3, first: 0, end: 1 }));
        assert_eq!(Shares::equal(3).stripe(2), Some(Stripe { of: 3, first: 2, end: 3 }));
        assert_eq!(Shares::equal(1).stripe(0), None, "one stripe is all keys");
        assert_eq!((Shares::equal(1).span(500, true), Shares::equal(1).span(500, false)), (500, 500));
        assert_eq!((Shares::equal(6).span(500, false), Shares::equal(6).in_first(3000)), (3000, 500));
    }

    #[test]
    fn stripes_of_pages_get_smaller_as_rows_grow() {
        let shares = Shares::of_pages(Pages { rows: 37, keys: 37 }, GROWTH, 7).unwrap();
        assert_eq!(sizes(&shares), [7, 6, 6, 5, 5, 4, 4]);
        assert_eq!(shares.span(600, false), 3700, "of each 37 rows at most 6");
        assert_eq!(shares.span(700, true), 3700, "of each 37 rows at most 7");
        assert_eq!(shares.in_first(3700), 700);
        let every_second = Shares::of_pages(Pages { rows: 37, keys: 74 }, GROWTH, 7).unwrap();
        assert_eq!(sizes(&every_second), [14, 12, 12, 10, 10, 8, 8]);
        assert_eq!(sizes(&Shares::of_pages(Pages { rows: 7, keys: 7 }, GROWTH, 7).unwrap()), [1; 7]);
        assert_eq!(Shares::of_pages(Pages { rows: 6, keys: 6 }, GROWTH, 7), None);
    }

    #[test]
    fn the_more_rows_grow_the_larger_is_the_first_stripe() {
        let of = |rows| Pages { rows, keys: rows };
        assert_eq!(growth(of(37), of(34)), 108);
        assert_eq!(growth(of(37), of(37)), 102, "the entry of the new version");
        assert_eq!(growth(of(37), of(40)), 102);
        assert_eq!(growth(of(226), of(226)), 112, "small rows grow by their entries");
        assert_eq!(growth(of(37), of(10)), MOST_GROWTH);
        let shares = |after| sizes(&Shares::of_pages(of(37), growth(of(37), of(after)), 7).unwrap());
        assert_eq!(shares(37), [7, 6, 6, 6, 6, 6]);
        assert_eq!(shares(25), [14, 9, 6, 4, 3, 1]);
    }

    #[test]
    fn ends_that_make_no_stripes_are_not_read() {
        for wrong in ["[]", "[0, 2]", "[2, 2]", "[3, 2]", "[-1]", "6"] {
            assert!(serde_json::from_str::<Shares>(wrong).is_err(), "{wrong}");
        }
        let shares: Shares = serde_json::from_str("[7,13,37]").unwrap();
        assert_eq!(serde_json::to_string(&shares).unwrap(), "[7,13,37]");
    }

    proptest! {
        #[test]
        fn stripes_of_pages_share_out_every_remainder(
            rows in 1_u32..400, gaps in 0_u32..5000, grown in 100_u32..=MOST_GROWTH, stripes in 2_u32..9,
        ) {
            let keys = rows + gaps;
            let Some(shares) = Shares::of_pages(Pages { rows, keys }, grown, stripes) else {
                prop_assert!(rows < stripes);
                return Ok(());
            };
            prop_assert!(shares.count() <= stripes);
            let sizes = sizes(&shares);
            prop_assert!(sizes.iter().all(|size| *size > 0));
            prop_assert_eq!(sizes.iter().sum::<u32>(), keys);
            prop_assert!(rows < 14 || grown > GROWTH || stripes < 7 || sizes[0] * 100 <= keys * 26, "{:?}", sizes);
        }
    }
}
