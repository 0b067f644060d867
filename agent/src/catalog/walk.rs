//! Walking a table along its key: bounds of ranges and of batches, read from the index alone.
//!
//! Keys leave PostgreSQL as text, written in one way only ([`limits::WALK`]), and come back as literals with their type. The
//! comparison is always PostgreSQL's: this program never orders keys.

use dunlin_shared::key::comparison;
use dunlin_shared::key::{KeyBound, KeyColumn};
use dunlin_shared::sql::quote_ident;
use tokio_postgres::SimpleQueryMessage;

use super::Table;
use super::facts::column_list;
use crate::frame::{Durability, Frame};
use crate::limits;
use crate::target::Connection;

/// A table, its key, and how a walk goes about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk<'a> {
    /// The table.
    pub(crate) table: &'a Table,
    /// Its key.
    pub(crate) key: &'a [KeyColumn],
    /// How its transactions begin.
    pub(crate) frame: &'a Frame,
}

impl Walk<'_> {
    /// The key of the `n`th row above `low` (from 1), up to and with `high`.
    pub(crate) async fn nth(
        &self,
        connection: &mut Connection,
        low: Option<&KeyBound>,
        high: Option<&KeyBound>,
        n: u32,
    ) -> Result<Option<KeyBound>, tokio_postgres::Error> {
        let sql = self.nth_sql(low, high, n);
        Ok(self.read(connection, &sql).await?.into_iter().next().map(KeyBound))
    }

    pub(crate) fn nth_sql(&self, low: Option<&KeyBound>, high: Option<&KeyBound>, n: u32) -> String {
        // Written as text outside, so that what is passed over is not.
        format!(
            "SELECT {texts} FROM (SELECT {named} FROM {table} AS t WHERE {condition} ORDER BY {order} \
             OFFSET {offset} LIMIT 1) AS s",
            texts = self.texts("s"),
            named = self.named(),
            table = self.table.source(),
            condition = self.condition(low, high),
            order = column_list(self.key, "t"),
            offset = n.saturating_sub(1),
        )
    }

    /// The last key of all, read in the transaction that is open: with the settings of a walk from there on.
    pub(crate) async fn last(&self, connection: &Connection) -> Result<Option<KeyBound>, tokio_postgres::Error> {
        let sql = format!(
            "SELECT {texts} FROM (SELECT {named} FROM {table} AS t ORDER BY {order} LIMIT 1) AS s",
            texts = self.texts("s"),
            named = self.named(),
            table = self.table.source(),
            order = self.descending(),
        );
        let messages = connection.simple_query(&format!("{};{};{sql}", self.frame.see(), limits::WALK)).await?;
        // Statements of the agent come next.
        connection.batch_execute(&self.frame.settings(Durability::AtCommit)).await?;
        Ok(rows(&messages).into_iter().next().map(KeyBound))
    }

    /// The last key above `low`, up to and with `high`, and how many rows lie there; `None` when there are none.
    pub(crate) async fn rest(
        &self,
        connection: &mut Connection,
        low: Option<&KeyBound>,
        high: &KeyBound,
    ) -> Result<Option<(KeyBound, i64)>, tokio_postgres::Error> {
        let sql = self.rest_sql(low, high);
        let Some(mut row) = self.read(connection, &sql).await?.into_iter().next() else { return Ok(None) };
        let count = row.pop().and_then(|count| count.parse().ok()).unwrap_or(0);
        Ok(Some((KeyBound(row), count)))
    }

    fn descending(&self) -> String {
        let columns = self.key.iter().map(|column| format!("t.{} DESC", quote_ident(&column.name)));
        columns.collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn rest_sql(&self, low: Option<&KeyBound>, high: &KeyBound) -> String {
        let condition = self.condition(low, Some(high));
        let table = self.table.source();
        format!(
            "SELECT {texts}, (SELECT pg_catalog.count(*) FROM {table} AS t WHERE {condition}) FROM (SELECT {named} FROM {table} AS t \
             WHERE {condition} ORDER BY {order} LIMIT 1) AS s",
            texts = self.texts("s"),
            named = self.named(),
            order = self.descending(),
        )
    }

    /// Every `n`th key above `low`, up to and with `high`: bounds between batches of `n` rows.
    pub(crate) async fn grid(
        &self,
        connection: &mut Connection,
        low: Option<&KeyBound>,
        high: &KeyBound,
        n: u32,
    ) -> Result<Vec<KeyBound>, tokio_postgres::Error> {
        let sql = self.grid_sql(low, high, n);
        Ok(self.read(connection, &sql).await?.into_iter().map(KeyBound).collect())
    }

    pub(crate) fn grid_sql(&self, low: Option<&KeyBound>, high: &KeyBound, n: u32) -> String {
        let numbered =
            |alias: &str| -> Vec<String> { (1..=self.key.len()).map(|number| format!("{alias}.k{number}")).collect() };
        let named = self.named();
        let table = self.table.source();
        let order = column_list(self.key, "t");
        let offset = n.saturating_sub(1);
        format!(
            "WITH RECURSIVE g AS ((SELECT {named}, 1 AS n FROM {table} AS t WHERE {first} ORDER BY {order} \
             OFFSET {offset} LIMIT 1) UNION ALL SELECT {next_names}, g.n + 1 FROM g CROSS JOIN LATERAL \
             (SELECT {named} FROM {table} AS t WHERE {further} ORDER BY {order} \
             OFFSET {offset} LIMIT 1) AS s) SELECT {texts} FROM g ORDER BY g.n",
            first = self.condition(low, Some(high)),
            next_names = numbered("s").join(", "),
            further = comparison::ordered(
                &comparison::operands(self.key, "t"),
                Some(&numbered("g")),
                Some(&comparison::literals(self.key, high)),
                comparison::shared_columns(low, Some(high)),
            ),
            texts = self.texts("g"),
        )
    }

    pub(super) fn condition(&self, low: Option<&KeyBound>, high: Option<&KeyBound>) -> String {
        let literals = |bound| comparison::literals(self.key, bound);
        comparison::ordered(
            &comparison::operands(self.key, "t"),
            low.map(literals).as_deref(),
            high.map(literals).as_deref(),
            comparison::shared_columns(low, high),
        )
    }

    /// The columns of the key under the names `k1`, `k2`, ....
    fn named(&self) -> String {
        let named =
            self.key.iter().zip(1..).map(|(column, number)| format!("t.{} AS k{number}", quote_ident(&column.name)));
        named.collect::<Vec<_>>().join(", ")
    }

    /// Those of [`named`](Self::named) as text.
    fn texts(&self, alias: &str) -> String {
        (1..=self.key.len()).map(|number| format!("{alias}.k{number}::pg_catalog.text")).collect::<Vec<_>>().join(", ")
    }

    /// Executes one query in a transaction of its own, in one message.
    pub(super) async fn read(
        &self,
        connection: &mut Connection,
        sql: &str,
    ) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
        let begin = format!("{};{}", self.frame.begin(Durability::Later), self.frame.see());
        let answer = connection.begin(&format!("{begin};{};{sql};COMMIT", limits::WALK)).await;
        match answer {
            Ok(messages) => {
                connection.closed();
                Ok(rows(&messages))
            }
            Err(error) => {
                connection.rollback().await;
                Err(error)
            }
        }
    }
}

/// The values of all rows.
fn rows(messages: &[SimpleQueryMessage]) -> Vec<Vec<String>> {
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|index| row.get(index).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    });
    rows.collect()
}
