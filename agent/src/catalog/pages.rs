//! How the keys of neighbouring rows lie on the pages of a table, read from some of its rows.

use dunlin_shared::key::{KeyBound, is_one_integer};
use dunlin_shared::sql::quote_ident;
use tokio_postgres::error::SqlState;

use super::Walk;
use crate::target::Connection;

/// Rows that are looked at: several pages of any table.
const SAMPLE: u32 = 1000;

/// Pages that must have shown how far they reach.
const ENOUGH_PAGES: usize = 4;

/// By how many per cent pages may differ from the usual one, on average.
const UNEVEN_PERCENT: i64 = 3;

/// Pages that are filled in the order of the key, all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pages {
    /// Rows of a page.
    pub(crate) rows: u32,
    /// How far the first key of a page is from the first of the next: as much as its rows, where keys have no gaps.
    pub(crate) keys: u32,
}

/// Rows of the sample that lie on one page: the lowest key, and how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    low: i64,
    rows: i64,
}

/// Which rows between two keys are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sample {
    First,
    Last,
}

impl Walk<'_> {
    /// The pages of rows above `low`, up to and with `high`, if they are alike and the key is one integer. `None` also where the role may
    /// only read other columns.
    pub(crate) async fn pages(
        &self,
        connection: &mut Connection,
        low: Option<&KeyBound>,
        high: &KeyBound,
        sample: Sample,
    ) -> Result<Option<Pages>, tokio_postgres::Error> {
        let ([column], true) = (self.key, is_one_integer(self.key)) else { return Ok(None) };
        // The number of a page is what stands first in a `ctid`.
        let sql = format!(
            "SELECT min(s.k), count(*) FROM (SELECT t.{key} AS k, (t.ctid::text::point)[0] AS page FROM {table} AS t \
             WHERE {condition} ORDER BY t.{key} {direction} LIMIT {SAMPLE}) AS s GROUP BY s.page ORDER BY min(s.k)",
            direction = if sample == Sample::First { "ASC" } else { "DESC" },
            key = quote_ident(&column.name),
            table = self.table.source(),
            condition = self.condition(low, Some(high)),
        );
        let read = match self.read(connection, &sql).await {
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => return Ok(None),
            read => read?,
        };
        let pages: Vec<Page> = read
            .iter()
            .filter_map(|row| Some(Page { low: row.first()?.parse().ok()?, rows: row.get(1)?.parse().ok()? }))
            .collect();
        Ok(alike(pages))
    }
}

/// What pages have in common, if they are alike. The first and the last are seen in part only.
fn alike(mut pages: Vec<Page>) -> Option<Pages> {
    // Single rows that were moved lie elsewhere.
    let fullest = pages.iter().map(|page| page.rows).max()?;
    pages.retain(|page| page.rows * 2 > fullest);
    pages.pop();
    let whole = pages.get(1..)?;
    let keys: Vec<i64> = whole.windows(2).map(|pair| pair[1].low - pair[0].low).collect();
    if keys.len() < ENOUGH_PAGES {
        return None;
    }
    let usual = middle(keys.clone())?;
    let apart: i64 = keys.iter().map(|keys| (keys - usual).abs()).sum();
    let even = apart * 100 <= usual * UNEVEN_PERCENT * i64::try_from(keys.len()).ok()?;
    let rows = middle(whole.iter().map(|page| page.rows).collect())?;
    even.then_some(Pages { rows: u32::try_from(rows).ok()?, keys: u32::try_from(usual).ok()? })
}

fn middle(mut numbers: Vec<i64>) -> Option<i64> {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of which each begins so many keys above the one before, and has `rows` of them.
    fn pages(rows: i64, keys: &[i64]) -> Vec<Page> {
        let mut low = 1000;
        let page = |keys: &i64| {
            low += keys;
            Page { low, rows }
        };
        keys.iter().map(page).collect()
    }

    #[test]
    fn pages_that_are_alike_have_a_usual_number_of_rows_and_keys() {
        assert_eq!(alike(pages(37, &[37; 10])), Some(Pages { rows: 37, keys: 37 }));
        assert_eq!(alike(pages(37, &[37, 37, 37, 37, 38, 37, 37, 36])), Some(Pages { rows: 37, keys: 37 }));
        assert_eq!(alike(pages(12, &[120; 10])), Some(Pages { rows: 12, keys: 120 }), "keys can have gaps");
    }

    #[test]
    fn the_ends_of_the_sample_do_not_count() {
        let mut ends = pages(37, &[3, 20, 37, 37, 37, 37, 37]);
        ends[0].rows = 20;
        assert_eq!(alike(ends), Some(Pages { rows: 37, keys: 37 }));
    }

    #[test]
    fn single_rows_elsewhere_do_not_count() {
        let mut moved = pages(37, &[37; 10]);
        moved.push(Page { low: moved[3].low + 5, rows: 2 });
        moved.sort_unstable_by_key(|page| page.low);
        assert_eq!(alike(moved), Some(Pages { rows: 37, keys: 37 }));
    }

    #[test]
    fn pages_that_differ_are_not_alike() {
        assert_eq!(alike(pages(37, &[37, 30, 44, 37, 35, 40, 37])), None);
        assert_eq!(alike(pages(37, &[37, 7, 30, 37, 37, 37, 7, 30])), None, "a page of moved rows between the others");
        assert_eq!(alike(pages(37, &[37; 5])), None, "too few to tell");
        assert_eq!(alike(Vec::new()), None);
    }
}
