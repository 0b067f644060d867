//! What the target's catalog says about a table: how to walk it, and how to order the batches.

mod facts;
mod key;
mod pages;
mod table;
mod walk;

pub(crate) use facts::{Layout, layout, stripes_hash};
pub(crate) use key::{Key, resolve};
pub(crate) use pages::{Pages, Sample};
pub(crate) use table::{Table, find};
pub(crate) use walk::Walk;

/// Why a table cannot be worked through in batches. Each names the table, what is wrong and the way out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// PostgreSQL's error.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// There is no such table.
    #[error(
        "there is no table `{0}` that the agent's role can see: write its name as in SQL, with its schema where it is not in \
         the search path"
    )]
    NoTable(String),
    /// It is something else.
    #[error("`{table}` is {what}, and only tables can be worked through in batches: name the table underneath")]
    NotATable {
        /// What was named.
        table: String,
        /// What it is, with an article.
        what: &'static str,
    },
    /// It has no primary key, and the step names none.
    #[error(
        "the table `{0}` has no primary key: name a unique key of NOT NULL columns with `key = [...]` in `batch`, or make a \
         unique index first"
    )]
    NoPrimaryKey(String),
    /// The columns are no key.
    #[error("the columns ({columns}) of `{table}` cannot be used as a key: {why}")]
    Unusable {
        /// The table.
        table: String,
        /// The columns.
        columns: String,
        /// What is wrong and what helps.
        why: String,
    },
    /// The step changes the key that it is walked along.
    #[error(
        "the step assigns the key column `{column}` of `{table}`: rows would move between ranges while these are worked \
         through; use another unique key with `key = [...]`, or a step without `batch`"
    )]
    AssignsKey {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
}
