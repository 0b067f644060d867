//! Where `:batch` stands in a statement, by the tree of its text: whether it restricts what the statement does to the rows of a batch.
//!
//! A condition that stands anywhere else is worse than none: under OR, in the ON of an outer join or in EXISTS the statement does its
//! work for all rows, once for each batch. So `:batch` is a condition of its own of a query level that has the walked table: in its
//! WHERE, or in the ON of its inner joins. What that level returns leads to the statement itself: by inner joins, through queries in FROM
//! and in WITH, or through `key IN (SELECT key ...)`.
//!
//! What must stay true: what is accepted changes nothing when the condition is false for all rows, and what the tree does not show is
//! refused. Names are compared as texts: which table they mean, and which columns are the key, is the agent's to ask the server.

mod aim;
mod climb;
mod conditions;
mod dilution;
mod outline;
mod rows;
#[cfg(test)]
mod tests;

pub use aim::Aim;
pub use climb::Why;

use super::placeholder::BatchSql;
use super::reading::{Reading, name_parts};

/// A `:batch` that does not restrict the statement to the rows of a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Misplaced {
    /// Where, in bytes from the start of the text.
    pub offset: usize,
    /// What is wrong there.
    pub why: Why,
}

/// Something beside a `:batch` that has another meaning for a batch than for the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diluted {
    /// Where the `:batch` stands, in bytes from the start of the text.
    pub offset: usize,
    /// What stands beside it, as SQL writes it.
    pub by: &'static str,
}

/// Where the placeholders of a text stand: each restricts what it stands in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// How each change of the text finds its rows: INSERT, UPDATE, DELETE and MERGE, those in WITH among them, in the order of the text.
    pub aims: Vec<Aim>,
    /// What each `IN (SELECT ...)` through which rows of a batch are found selects: the columns of the walked table, `None` for all else.
    pub lists: Vec<Vec<Option<String>>>,
    /// What is for each batch, and not for the table.
    pub diluted: Vec<Diluted>,
}

impl Placement {
    /// Looks where the placeholders of a text stand. `table`: what those without an alias stand for, a name without its schema.
    ///
    /// # Errors
    /// One of them does not restrict the statement, or the text is not understood.
    pub fn of(sql: &str, table: &str) -> Result<Self, Misplaced> {
        let nowhere = |what: String| Misplaced { offset: 0, why: Why::NotUnderstood(what) };
        let parsed = BatchSql::parse(sql).map_err(|error| nowhere(error.to_string()))?;
        let references = Reading::of(sql).map(|reading| reading.references).unwrap_or_default();
        let marks: Vec<rows::Mark> = parsed
            .offsets()
            .zip(parsed.aliases())
            .map(|(offset, alias)| {
                let called = alias.map_or_else(|| Some(vec![table.to_owned()]), name_parts).unwrap_or_default();
                rows::Mark { offset, called }
            })
            .collect();
        outline::with_tree(&parsed, sql.len(), |root| rows::read(root, &marks, &references))
    }

    /// True when each `IN (SELECT ...)` selects all columns of a key.
    #[must_use]
    pub fn lists_are(&self, key: &[String]) -> bool {
        self.lists.iter().all(|list| {
            list.len() == key.len() && key.iter().all(|column| list.iter().flatten().any(|listed| listed == column))
        })
    }
}
