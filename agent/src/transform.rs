//! Transforms in code: what a program that embeds the agent implements.
//!
//! A transform gets a batch, which is a range of keys of one table, and the transaction that the batch will be committed in.
//! Everything it does through that transaction happens exactly once, however often agents are killed: rows, counters and
//! the position are committed together. What it does elsewhere (a call to another service) can happen more than once.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use dunlin_shared::ids::TransformName;
use dunlin_shared::key::{self, KeyBound, KeyColumn, KeyRange, Stripe};
use dunlin_shared::sql::quote_ident;
use serde_json::{Map, Value};
use tokio_postgres::Transaction;

/// Why a transform could not do a batch.
///
/// `?` turns errors of PostgreSQL into [`Error::Postgres`], and the agent repeats the batch where they pass by themselves, such
/// as a deadlock.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL's error.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// Anything else: the run fails with this message.
    #[error("{0}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An error in words.
    pub fn other(message: impl Into<String>) -> Self {
        Self::Other(message.into().into())
    }
}

/// The rows to transform: a range of keys of a table.
#[derive(Debug, Clone)]
pub struct Batch {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) key: Vec<KeyColumn>,
    pub(crate) range: KeyRange,
    pub(crate) stripe: Option<Stripe>,
}

impl Batch {
    /// A batch of one's own making, to test a transform with: the rows of a table whose keys lie above `low`, up to and with
    /// `high`. The key's columns come with their types, the values as text.
    ///
    /// # Panics
    /// When `low` or `high` has not one value for each column, or a type is not written as `format_type` writes it.
    #[must_use]
    pub fn new(schema: &str, table: &str, key: &[(&str, &str)], low: Option<&[&str]>, high: &[&str]) -> Self {
        let bound = |values: &[&str]| {
            assert_eq!(values.len(), key.len(), "a bound needs one value for each column of the key");
            KeyBound(values.iter().map(|value| (*value).to_owned()).collect())
        };
        Self {
            schema: schema.to_owned(),
            table: table.to_owned(),
            key: key
                .iter()
                .map(|(name, type_name)| KeyColumn::parse(name, type_name).unwrap_or_else(|error| panic!("{error}")))
                .collect(),
            range: KeyRange { low: low.map(bound), high: bound(high) },
            stripe: None,
        }
    }

    /// The table, quoted and qualified with its schema, ready to be put into SQL.
    #[must_use]
    pub fn table(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.table))
    }

    /// The names of the key's columns.
    pub fn key(&self) -> impl Iterator<Item = &str> {
        self.key.iter().map(|column| column.name.as_str())
    }

    /// The key that the rows lie above, each column as text; `None` when there is no lower end.
    #[must_use]
    pub fn low(&self) -> Option<&[String]> {
        self.range.low.as_ref().map(|low| low.0.as_slice())
    }

    /// The last key of the batch, each column as text.
    #[must_use]
    pub fn high(&self) -> &[String] {
        &self.range.high.0
    }

    /// The condition that selects exactly the rows of the batch, in brackets, for a query in which the table has the name
    /// `alias`. Every statement of a transform that reads or changes rows of the table must have it.
    #[must_use]
    pub fn predicate(&self, alias: &str) -> String {
        key::predicate(&self.key, &self.range, self.stripe, &quote_ident(alias))
    }
}

/// What a transform did with a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    pub(crate) rows: u64,
    pub(crate) counters: Map<String, Value>,
}

impl Outcome {
    /// So many rows were changed.
    #[must_use]
    pub fn rows(rows: u64) -> Self {
        Self { rows, counters: Map::new() }
    }

    /// Adds to a counter. Counters add up over all batches into the migration's result. The names `success`, `message` and
    /// `rows` are taken by the result itself: a batch that uses one of them fails.
    #[must_use]
    pub fn count(mut self, name: &str, more: u64) -> Self {
        let sum = self.counters.get(name).and_then(Value::as_u64).unwrap_or(0).saturating_add(more);
        self.counters.insert(name.to_owned(), Value::from(sum));
        self
    }

    /// The counters that have a reserved name or do not fit into a `bigint`.
    pub(crate) fn unusable_counter(&self) -> Option<&str> {
        const RESERVED: [&str; 4] = ["success", "message", "rows", "mended"];
        self.counters
            .iter()
            .find(|(name, value)| name.is_empty() || RESERVED.contains(&name.as_str()) || value.as_i64().is_none())
            .map(|(name, _)| name.as_str())
    }
}

/// A transform in code. See the [crate's example](crate).
#[async_trait]
pub trait Transform: Send + Sync + 'static {
    /// Transforms the rows of `batch` through `transaction`, which the agent commits afterwards.
    ///
    /// It must not end the transaction itself. A panic counts as an error. It may prepare statements and must not keep them for
    /// the next batch: that one can have another connection.
    ///
    /// # Errors
    /// The batch is rolled back. Errors of PostgreSQL that pass by themselves are tried again; any other fails the run.
    async fn apply(&self, batch: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, Error>;
}

/// The transforms of an agent, by name.
#[derive(Clone, Default)]
pub(crate) struct Transforms(HashMap<TransformName, Arc<dyn Transform>>);

impl Transforms {
    pub(crate) fn insert(&mut self, name: TransformName, transform: Arc<dyn Transform>) -> bool {
        self.0.insert(name, transform).is_none()
    }

    pub(crate) fn get(&self, name: &TransformName) -> Option<Arc<dyn Transform>> {
        self.0.get(name).cloned()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.keys().map(ToString::to_string).collect();
        names.sort_unstable();
        names
    }
}

impl fmt::Debug for Transforms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_tells_its_rows_as_sql() {
        let batch = Batch::new("public", "Books", &[("id", "bigint")], Some(&["5"]), &["9"]);
        assert_eq!(batch.table(), r#""public"."Books""#);
        assert_eq!(
            batch.predicate("b"),
            r#"("b"."id" OPERATOR(pg_catalog.>) '5'::bigint AND "b"."id" OPERATOR(pg_catalog.<=) '9'::bigint)"#
        );
        assert_eq!((batch.low().unwrap(), batch.high()), (&["5".to_owned()][..], &["9".to_owned()][..]));
    }

    #[test]
    fn counters_of_one_name_add_up() {
        let outcome = Outcome::rows(2).count("made", 1).count("made", 2);
        assert_eq!(outcome.counters["made"], 3);
    }

    #[test]
    fn names_of_the_result_itself_are_refused() {
        for name in ["success", "message", "rows", "mended", ""] {
            assert_eq!(Outcome::rows(1).count(name, 1).unusable_counter(), Some(name));
        }
        assert_eq!(Outcome::rows(1).count("fine", 1).unusable_counter(), None);
    }
}
