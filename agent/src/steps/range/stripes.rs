//! How many stripes a window gets: a guess from the catalog first, then what is measured.
//!
//! Stripes pay when an update finds room on the page that it changes, so that it is HOT: no index entry, less log. Whether it
//! does depends on things that no catalog says (a transaction elsewhere that holds back pruning, triggers, the fill of pages), so
//! after each window the share of HOT updates decides. They cost a walk over the window for each stripe, which does not pay where
//! only few of the rows change: a small first window in key order shows how many do.

use crate::catalog::Layout;

/// Stripes of a window when they pay. Each is one more walk over the window; fewer leave more rows that change their page, in
/// the first stripe.
pub(crate) const STRIPES: u32 = 6;

/// Stripes where pages are alike: their first stripe can be smaller, so the last ones find less room.
pub(super) const STRIPES_OF_PAGES: u32 = 7;

/// Stripes that a window must have to show what they are worth.
const TELLING: u32 = 4;

/// Rows on a page above which stripes can pay: a stripe should change at least a fraction of a row of each page.
const ROWS_PER_PAGE: f64 = 4.0;

/// Windows in key order before stripes are tried again.
const WINDOWS_BEFORE_RETRY: u32 = 8;

/// Updates that a measurement needs.
const ENOUGH_UPDATES: i64 = 100;

/// Of 100 rows walked, so many must change for stripes to pay.
const DENSE_PERCENT: i64 = 30;

/// Batches in the first window, which shows how many of the rows change.
const PROBE_BATCHES: u32 = 5;

/// Batches that a stripe must have: without other transactions between two visits to a page nothing is pruned there.
const BATCHES_IN_STRIPE: u32 = 2;

/// Rows in a window at most, and at least where the table has as many.
pub(super) const MOST_IN_WINDOW: u32 = 400_000;
const LEAST_IN_WINDOW: u32 = 10_000;

/// The part of the server's buffers that the rows of a window may fill: it should stay there from the first of its stripes to the
/// last, its indexes need room as well, and so do the windows of other workers.
const WINDOWS_IN_BUFFERS: i64 = 5;

/// The rows of a window, where a table has so many to fill the server's buffers.
pub(super) fn window_rows(rows_in_buffers: Option<i64>) -> u32 {
    let fitting = rows_in_buffers.and_then(|rows| u32::try_from(rows / WINDOWS_IN_BUFFERS).ok());
    fitting.unwrap_or(MOST_IN_WINDOW).clamp(LEAST_IN_WINDOW, MOST_IN_WINDOW)
}

/// Into how many a batch of the first stripe is split at least. There, rows change their page, which takes more than twice as long;
/// and as long as a batch lasts, it holds back the pruning that other workers count on.
const SPLIT_IN_FIRST: u32 = 2;

/// Rows of a batch in the first stripe at most. It writes several times as much log as others: new entries in every index, and
/// after a checkpoint of the server whole pages. A commit is what sets the server's process going that writes the log in the
/// background; when the log of one batch fills the buffers for it (`wal_buffers`, 16 MB as a rule), workers wait for the disk.
const MOST_IN_FIRST: u32 = 2500;

/// Into how many a batch of so many rows is split in the first stripe.
pub(super) fn split_in_first(rows: u32) -> u32 {
    rows.div_ceil(MOST_IN_FIRST).max(SPLIT_IN_FIRST)
}

/// The stripes for a window of so many rows, where `wanted` would be right for a large one.
pub(crate) fn fitting(wanted: u32, window_rows: i64, batch_rows: u32) -> u32 {
    let most = window_rows / (i64::from(batch_rows).max(1) * i64::from(BATCHES_IN_STRIPE));
    wanted.min(u32::try_from(most).unwrap_or(u32::MAX)).max(1)
}

/// What is known about a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StripeChoice {
    /// So many stripes, as the definition says.
    Given(u32),
    /// Key order: stripes cannot be made, or the catalog says that they cannot pay.
    KeyOrder,
    /// Stripes could pay: a small window in key order shows whether enough rows change.
    Untried,
    /// Stripes, unless a measurement refutes them.
    Striped,
    /// Stripes did not pay; key order for so many windows more.
    Refuted(u32),
}

/// How to open the next window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    /// Its stripes.
    pub(crate) stripes: u32,
    /// Its batches, where it is not to be as large as windows are.
    pub(crate) batches: Option<u32>,
}

/// What a window has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Its stripes.
    pub(crate) stripes: u32,
    /// Rows walked.
    pub(crate) walked: i64,
    /// Rows changed.
    pub(crate) changed: i64,
    /// Updates and HOT updates.
    pub(crate) hot: HotShare,
}

impl StripeChoice {
    /// The guess for an update of a table that lies on disk like this.
    pub(crate) fn guess(layout: Layout) -> Self {
        let roomy = layout.rows_per_page.is_none_or(|rows| rows > ROWS_PER_PAGE);
        if layout.indexed || layout.scattered || !roomy { Self::KeyOrder } else { Self::Untried }
    }

    /// The next window.
    pub(crate) fn next_window(&mut self) -> Opening {
        let (stripes, batches) = match self {
            Self::Given(stripes) => (*stripes, None),
            Self::KeyOrder => (1, None),
            Self::Untried => (1, Some(PROBE_BATCHES)),
            Self::Striped => (STRIPES, None),
            Self::Refuted(0) => {
                *self = Self::Untried;
                (1, Some(PROBE_BATCHES))
            }
            Self::Refuted(left) => {
                *left -= 1;
                (1, None)
            }
        };
        Opening { stripes, batches }
    }

    /// Takes in what a window has shown. Returns a sentence when stripes are given up.
    pub(crate) fn learn(&mut self, shown: &Shown) -> Option<String> {
        let dense = shown.changed * 100 >= shown.walked * DENSE_PERCENT;
        let hot = shown.hot;
        match self {
            Self::Untried if dense => {
                *self = Self::Striped;
                return None;
            }
            Self::Untried | Self::Striped if !dense => {
                let percent = shown.changed * 100 / shown.walked.max(1);
                *self = Self::Refuted(WINDOWS_BEFORE_RETRY);
                return Some(format!(
                    "{percent} % of the rows change: too few for stripes; the next {WINDOWS_BEFORE_RETRY} windows go in plain \
                     key order"
                ));
            }
            Self::Striped if shown.stripes >= TELLING && hot.updated >= ENOUGH_UPDATES && hot.hot * 2 < hot.updated => {
                *self = Self::Refuted(WINDOWS_BEFORE_RETRY);
            }
            _ => return None,
        }
        Some(format!(
            "only {} % of the updates in stripes stayed on their page: the next {WINDOWS_BEFORE_RETRY} windows go in plain key \
             order, then stripes are tried again",
            hot.hot * 100 / hot.updated
        ))
    }
}

/// Updates of a window, and how many of them were HOT. The first stripe does not count: it never finds room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HotShare {
    updated: i64,
    hot: i64,
    last: (i64, i64),
}

impl HotShare {
    /// Takes in the counters of the session after a batch. They grow until the session hands them to the statistics, which
    /// it does between transactions, and then start again from nothing.
    pub(crate) fn add(&mut self, updated: i64, hot: i64, counts: bool) {
        let last = std::mem::replace(&mut self.last, (updated, hot));
        let (more, more_hot) =
            if updated >= last.0 && hot >= last.1 { (updated - last.0, hot - last.1) } else { (updated, hot) };
        if counts {
            self.updated += more;
            self.hot += more_hot;
        }
    }

    /// Starts a new window.
    pub(crate) fn reset(&mut self) {
        (self.updated, self.hot) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Layout = Layout { rows_per_page: Some(35.0), indexed: false, scattered: false, rows_in_buffers: None };

    #[test]
    fn the_catalog_gives_the_first_guess() {
        assert_eq!(StripeChoice::guess(ROOMY), StripeChoice::Untried);
        assert_eq!(StripeChoice::guess(Layout { rows_per_page: None, ..ROOMY }), StripeChoice::Untried);
        for layout in [
            Layout { indexed: true, ..ROOMY },
            Layout { scattered: true, ..ROOMY },
            Layout { rows_per_page: Some(2.0), ..ROOMY },
        ] {
            assert_eq!(StripeChoice::guess(layout), StripeChoice::KeyOrder);
        }
    }

    #[test]
    fn a_window_leaves_room_in_the_buffers_for_others() {
        assert_eq!(window_rows(None), 400_000);
        assert_eq!(window_rows(Some(10_000_000_000_000)), 400_000);
        assert_eq!(window_rows(Some(600_000)), 120_000);
        assert_eq!(window_rows(Some(3000)), 10_000);
    }

    #[test]
    fn batches_of_the_first_stripe_are_at_most_half_as_large_and_never_large() {
        assert_eq!(split_in_first(100), 2);
        assert_eq!(split_in_first(5000), 2);
        assert_eq!(split_in_first(5001), 3);
        assert_eq!(split_in_first(10_000), 4);
    }

    fn dense(stripes: u32, hot: HotShare) -> Shown {
        Shown { stripes, walked: 1000, changed: 900, hot }
    }

    fn stripes(choice: &mut StripeChoice) -> u32 {
        choice.next_window().stripes
    }

    #[test]
    fn stripes_begin_once_a_small_window_has_shown_that_many_rows_change() {
        let mut choice = StripeChoice::Untried;
        assert_eq!(choice.next_window(), Opening { stripes: 1, batches: Some(PROBE_BATCHES) });
        assert_eq!(choice.learn(&dense(1, HotShare::default())), None);
        assert_eq!(choice.next_window(), Opening { stripes: STRIPES, batches: None });
    }

    #[test]
    fn stripes_do_not_begin_where_few_rows_change() {
        let mut choice = StripeChoice::Untried;
        let shown = Shown { changed: 100, ..dense(1, HotShare::default()) };
        assert!(choice.learn(&shown).unwrap().contains("10 %"));
        assert_eq!(stripes(&mut choice), 1);
    }

    #[test]
    fn stripes_that_do_not_pay_are_left_and_tried_again() {
        let mut choice = StripeChoice::Striped;
        let mut share = HotShare::default();
        share.add(1000, 0, false);
        share.add(2000, 100, true);
        assert!(choice.learn(&dense(STRIPES, share)).unwrap().contains("10 %"));
        let windows: Vec<Opening> = (0..9).map(|_| choice.next_window()).collect();
        assert!(windows.iter().all(|opening| opening.stripes == 1));
        assert_eq!(windows[8].batches, Some(PROBE_BATCHES), "it is tried again");
        assert_eq!(choice, StripeChoice::Untried);
    }

    #[test]
    fn stripes_that_pay_stay() {
        let mut choice = StripeChoice::Striped;
        let mut share = HotShare::default();
        share.add(1000, 900, true);
        // The session has handed its counters over in between.
        share.add(500, 450, true);
        assert_eq!((share.updated, share.hot), (1500, 1350));
        assert_eq!(choice.learn(&dense(STRIPES, share)), None);
        assert_eq!(stripes(&mut choice), STRIPES);
    }

    #[test]
    fn small_windows_have_fewer_stripes_and_prove_nothing() {
        assert_eq!(fitting(STRIPES, 100_000, 1000), STRIPES);
        assert_eq!(fitting(STRIPES, 5000, 1000), 2);
        assert_eq!(fitting(STRIPES, 500, 1000), 1);
        let mut choice = StripeChoice::Striped;
        let mut share = HotShare::default();
        share.add(5000, 0, true);
        assert_eq!(choice.learn(&dense(2, share)), None);
        assert_eq!(stripes(&mut choice), STRIPES);
    }

    #[test]
    fn few_updates_prove_nothing_about_their_pages() {
        let mut choice = StripeChoice::Striped;
        let mut share = HotShare::default();
        share.add(20, 0, true);
        assert_eq!(choice.learn(&dense(STRIPES, share)), None);
    }
}
