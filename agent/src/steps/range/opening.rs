//! Opening a window: where it ends, and its stripes.

use dunlin_shared::key::KeyBound;

use super::order::{Cursor, Window};
use super::shares::{self, Shares};
use super::stripes::{self, Opening, StripeChoice};
use super::{Worker, pace};
use crate::catalog::{self, Pages, Sample};
use crate::steps::Error;
use crate::target::Connection;

/// In which order to work through windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    /// Its stripes.
    pub(super) stripes: StripeChoice,
    /// Rows of a window.
    window_rows: u32,
    /// By how much rows grow on a page, once that was seen.
    growth: Option<u32>,
}

impl Worker<'_> {
    /// Opens the window behind one that is finished, or the first of the range.
    pub(super) async fn open(
        &mut self,
        connection: &mut Connection,
        finished: Option<Window>,
        stripes: Option<u32>,
    ) -> Result<Cursor, Error> {
        let low = finished.as_ref().map_or_else(|| self.range.low.clone(), |window| Some(window.high.clone()));
        let rows_left = self.rows_left();
        let order = self.order(connection, stripes).await?;
        let free = self.fixed_rows.is_none() && !matches!(order.stripes, StripeChoice::Given(_));
        let opening = self.learnt(|learnt| {
            let stripes = &mut learnt.order.get_or_insert(order).stripes;
            // Each stripe is many more batches, and each of them would pay a large fixed cost once more.
            let plain = free && learnt.pace.avoids_batches();
            if plain { Opening { stripes: 1, batches: None } } else { stripes.next_window() }
        });
        self.opened = self.sums;
        self.probing = opening.batches.is_some();
        let wanted = opening.batches.map_or(order.window_rows, |batches| self.batch_rows.saturating_mul(batches));
        let wanted_rows = i64::from(wanted);
        // A rest of less than half a window is not worth a window of its own.
        let high = if rows_left <= wanted_rows + wanted_rows / 2 {
            None
        } else {
            let bound = self.walk().nth(connection, low.as_ref(), Some(&self.range.high), wanted).await;
            bound.map_err(|error| Error::of_postgres(&error, self.place))?
        };
        self.window_rows = if high.is_some() { wanted_rows } else { rows_left };
        let high = high.unwrap_or_else(|| self.range.high.clone());
        let stripes = match order.stripes {
            StripeChoice::Given(stripes) => Shares::equal(stripes),
            _ => self.shares(connection, opening.stripes, finished.as_ref(), low.as_ref(), &high).await?,
        };
        if self.fixed_rows.is_none() {
            self.batch_rows = self.learnt(|learnt| learnt.pace).rows_in(self.window_rows, stripes.count());
        }
        Ok(Cursor::start(Window { low, high, stripes }))
    }

    /// The stripes of the window between `low` and `high`, where `wanted` would be right for a large one of any table.
    async fn shares(
        &self,
        connection: &mut Connection,
        wanted: u32,
        finished: Option<&Window>,
        low: Option<&KeyBound>,
        high: &KeyBound,
    ) -> Result<Shares, Error> {
        let least = self.fixed_rows.unwrap_or(pace::FIRST);
        let fitting = |wanted| stripes::fitting(wanted, self.window_rows, least);
        let equal = fitting(wanted);
        if equal > 1
            && let Some(pages) = self.pages(connection, low, high, Sample::First).await?
        {
            let growth = self.growth(connection, finished, pages).await?;
            if let Some(shares) = Shares::of_pages(pages, growth, fitting(stripes::STRIPES_OF_PAGES)) {
                return Ok(shares);
            }
        }
        Ok(Shares::equal(equal))
    }

    /// By how much rows grow on a page: seen in the window that was finished, if it was in key order, since its rows went to new pages.
    async fn growth(
        &self,
        connection: &mut Connection,
        finished: Option<&Window>,
        before: Pages,
    ) -> Result<u32, Error> {
        if let Some(growth) = self.learnt(|learnt| learnt.order.and_then(|order| order.growth)) {
            return Ok(growth);
        }
        let Some(Window { low, high, .. }) = finished.filter(|window| window.stripes.count() == 1) else {
            return Ok(shares::GROWTH);
        };
        // Those closest to what was seen before the change: others can be wider or narrower.
        let after = self.pages(connection, low.as_ref(), high, Sample::Last).await?;
        let Some(after) = after else { return Ok(shares::GROWTH) };
        let growth = shares::growth(before, after);
        self.learnt(|learnt| learnt.order.as_mut().map(|order| order.growth = Some(growth)));
        Ok(growth)
    }

    async fn pages(
        &self,
        connection: &mut Connection,
        low: Option<&KeyBound>,
        high: &KeyBound,
        sample: Sample,
    ) -> Result<Option<Pages>, Error> {
        let pages = self.walk().pages(connection, low, high, sample).await;
        pages.map_err(|error| Error::of_postgres(&error, self.place))
    }

    /// The order as far as it is known, or else a first guess.
    async fn order(&self, connection: &mut Connection, given: Option<u32>) -> Result<Order, Error> {
        let of_postgres = |error| Error::of_postgres(&error, self.place);
        if let Some(order) = self.learnt(|learnt| learnt.order) {
            return Ok(order);
        }
        let plain = Order { stripes: StripeChoice::KeyOrder, window_rows: stripes::MOST_IN_WINDOW, growth: None };
        let assigned = &self.assigned;
        let wanted = given.map_or(!assigned.is_empty() && !self.table.partitioned, |stripes| stripes > 1);
        if !wanted || !catalog::stripes_hash(connection, &self.key).await.map_err(of_postgres)? {
            return Ok(plain);
        }
        let layout = catalog::layout(connection, &self.table, &self.key, assigned).await.map_err(of_postgres)?;
        Ok(Order {
            stripes: given.map_or_else(|| StripeChoice::guess(layout), StripeChoice::Given),
            window_rows: stripes::window_rows(layout.rows_in_buffers),
            growth: None,
        })
    }
}
