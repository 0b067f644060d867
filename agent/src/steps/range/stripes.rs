//! How many stripes a window gets: a guess from the catalog first, then what is measured.
//!
//! Stripes pay when an update finds room on the page that it changes, so that it is HOT: no index entry, less log. Whether it
//! does depends on things that no catalog says (a transaction elsewhere that holds back pruning, triggers, the fill of pages), so
//! after each window the share of HOT updates decides.

use crate::catalog::Layout;

/// Stripes of a window when they pay.
pub(crate) const STRIPES: u32 = 8;

/// Rows on a page above which stripes can pay: a stripe should change at least a fraction of a row of each page.
const ROWS_PER_PAGE: f64 = 4.0;

/// Windows in key order before stripes are tried again.
const WINDOWS_BEFORE_RETRY: u32 = 8;

/// Updates that a measurement needs.
const ENOUGH_UPDATES: i64 = 100;

/// What is known about a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StripeChoice {
    /// Key order: the catalog says that stripes cannot pay.
    KeyOrder,
    /// Stripes, unless a measurement refutes them.
    Striped,
    /// Stripes did not pay; key order for so many windows more.
    Refuted(u32),
}

impl StripeChoice {
    /// The guess for an update of a table that lies on disk like this.
    pub(crate) fn guess(layout: Layout) -> Self {
        let roomy = layout.rows_per_page.is_none_or(|rows| rows > ROWS_PER_PAGE);
        if layout.indexed || layout.scattered || !roomy { Self::KeyOrder } else { Self::Striped }
    }

    /// The stripes of the next window.
    pub(crate) fn next_window(&mut self) -> u32 {
        match self {
            Self::KeyOrder => 1,
            Self::Striped => STRIPES,
            Self::Refuted(0) => {
                *self = Self::Striped;
                STRIPES
            }
            Self::Refuted(left) => {
                *left -= 1;
                1
            }
        }
    }

    /// Takes in what a striped window has shown. Returns a sentence when the choice changes.
    pub(crate) fn learn(&mut self, share: &HotShare) -> Option<String> {
        if *self != Self::Striped || share.updated < ENOUGH_UPDATES || share.hot * 2 >= share.updated {
            return None;
        }
        *self = Self::Refuted(WINDOWS_BEFORE_RETRY);
        Some(format!(
            "only {} % of the updates in stripes stayed on their page: the next {WINDOWS_BEFORE_RETRY} windows go in plain key \
             order, then stripes are tried again",
            share.hot * 100 / share.updated
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

    const ROOMY: Layout = Layout { rows_per_page: Some(35.0), indexed: false, scattered: false };

    #[test]
    fn the_catalog_gives_the_first_guess() {
        assert_eq!(StripeChoice::guess(ROOMY), StripeChoice::Striped);
        assert_eq!(StripeChoice::guess(Layout { rows_per_page: None, ..ROOMY }), StripeChoice::Striped);
        for layout in [
            Layout { indexed: true, ..ROOMY },
            Layout { scattered: true, ..ROOMY },
            Layout { rows_per_page: Some(2.0), ..ROOMY },
        ] {
            assert_eq!(StripeChoice::guess(layout), StripeChoice::KeyOrder);
        }
    }

    #[test]
    fn stripes_that_do_not_pay_are_left_and_tried_again() {
        let mut choice = StripeChoice::Striped;
        let mut share = HotShare::default();
        share.add(1000, 0, false);
        share.add(2000, 100, true);
        assert!(choice.learn(&share).unwrap().contains("10 %"));
        let windows: Vec<u32> = (0..10).map(|_| choice.next_window()).collect();
        assert_eq!(windows, [1, 1, 1, 1, 1, 1, 1, 1, STRIPES, STRIPES]);
    }

    #[test]
    fn stripes_that_pay_stay() {
        let mut choice = StripeChoice::Striped;
        let mut share = HotShare::default();
        share.add(1000, 900, true);
        // The session has handed its counters over in between.
        share.add(500, 450, true);
        assert_eq!((share.updated, share.hot), (1500, 1350));
        assert_eq!(choice.learn(&share), None);
        assert_eq!(choice.next_window(), STRIPES);
    }

    #[test]
    fn few_updates_prove_nothing() {
        let mut choice = StripeChoice::Striped;
        let mut share = HotShare::default();
        share.add(20, 0, true);
        assert_eq!(choice.learn(&share), None);
    }
}
