//! What the target's catalog says about a table: how to walk it, and how to order the batches.

mod aims;
mod binding;
mod facts;
mod guard;
mod key;
mod moves;
mod pages;
mod table;
mod walk;
mod writers;

pub(crate) use aims::Aims;
pub(crate) use binding::{belongs, bind};
pub(crate) use facts::{Layout, layout, stripes_hash};
pub(crate) use guard::{Guard, MATCHING};
pub(crate) use key::{Key, resolve};
pub(crate) use moves::refuse_moves;
pub(crate) use pages::{Pages, Sample};
pub(crate) use table::{Table, find, find_keyed};
pub(crate) use walk::Walk;
pub(crate) use writers::Writers;

/// Why a table cannot be worked through in batches. Each names the table, what is wrong and the way out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// PostgreSQL's error.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// The catalog has a name that cannot be put into SQL.
    #[error("a column of the key cannot be named in SQL: {0}")]
    Name(#[from] dunlin_shared::ids::Error),
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
    /// The key changes with what the step changes.
    #[error(
        "the key column `{column}` of `{table}` changes with what the step changes ({how}): rows would move between ranges while \
         these are worked through; use another unique key with `key = [...]`, or a step without `batch`"
    )]
    KeyFollows {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// By what.
        how: String,
    },
    /// The statement changes something else than a table.
    #[error(
        "the statement changes `{0}`, which is a view: what becomes of the rows under it, and of their key, cannot be told; change \
         the table underneath"
    )]
    Through(String),
    /// A rule makes something else of the statement.
    #[error(
        "the table `{table}` has the rule `{rule}`: what becomes of a statement that is rewritten cannot be told; drop or disable \
         the rule (ALTER TABLE {table} DISABLE RULE {rule}) in a step before"
    )]
    Rewritten {
        /// The table.
        table: String,
        /// The rule.
        rule: String,
    },
    /// What the statement changes cannot be told.
    #[error(
        "what the statement of the step changes cannot be told: {0}; write it as one SELECT, INSERT, UPDATE, DELETE or MERGE, with \
         names of columns that are not written as U&\"...\""
    )]
    Unread(#[from] dunlin_shared::sql::reading::Unreadable),
    /// `:batch` belongs to another table.
    #[error(
        "`:batch` stands for rows of {table}, and what the statement calls `{called}` is another table: name one and the same table in \
         `batch.table` and in the statement, both with its schema"
    )]
    OtherTable {
        /// The table that would be walked.
        table: String,
        /// What the statement calls the other.
        called: String,
    },
    /// `:batch` belongs to no table.
    #[error(
        "`:batch` stands for rows of {table}, and where it stands the statement has no table that is called `{called}`: write \
         `:batch({alias})`, with what the statement calls the table there; a view, a subquery or a query in WITH is not the table"
    )]
    NotReferenced {
        /// The table that would be walked.
        table: String,
        /// What the placeholder names.
        called: String,
        /// What the statement calls the table, as far as its text tells.
        alias: String,
    },
    /// Other tables inherit from it.
    #[error(
        "other tables inherit from {0}, and their rows may have keys like those of others or none: say ONLY in front of the table in the \
         statement (code cannot), and work through each of the others in a step of its own"
    )]
    Inherited(String),
    /// `:batch` does not restrict the statement.
    #[error(
        "{misplaced} (line {line}, column {column} of the statement): make `:batch` a condition of its own, such as `WHERE ... AND \
         :batch`, of the query that has the table in FROM; or say `batch_is_mine = true` in the step: then nobody looks where it stands"
    )]
    Misplaced {
        /// Why.
        misplaced: dunlin_shared::sql::placement::Misplaced,
        /// The line, from 1.
        line: usize,
        /// The column, in characters from 1.
        column: usize,
    },
    /// Rows are found by something else than the key.
    #[error(
        "IN (SELECT ...) with `:batch` does not select the key of {table} ({key}) and nothing else: find rows by the whole key, \
         `(a, b) IN (SELECT a, b ...)`, or by a join; or say `batch_is_mine = true` in the step: then nobody looks where `:batch` stands"
    )]
    NotByTheKey {
        /// The table.
        table: String,
        /// The columns of its key.
        key: String,
    },
    /// Rows outside of the batch would be changed.
    #[error(
        "the statement changes rows of {table} that need not be those of its batch: the table that is changed {by}; put `:batch` on it, or \
         compare its whole key ({key}) with that of the rows of the batch; where rows outside of the batch are meant, say \
         `changes = \"elsewhere\"` in the step"
    )]
    Outside {
        /// The table.
        table: String,
        /// The columns of its key.
        key: String,
        /// What is wrong with it.
        by: &'static str,
    },
    /// Keys could move unseen.
    #[error(
        "{why}, so each batch must see the keys of the rows that it has changed, and it cannot where they are changed by {by}: write \
         the change as the INSERT or UPDATE that the statement is, with `:batch` for the table that is changed, or as a step of its own"
    )]
    Unseen {
        /// Why they must be seen.
        why: String,
        /// What changes them.
        by: &'static str,
    },
}
