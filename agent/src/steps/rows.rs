//! How many rows SQL of a definition has changed.
//!
//! Each statement says it at its end, whether or not it returns rows, and what it says is told apart by its text. Only of what a query
//! changes by functions or in a WITH, and of what a block of code changes, nobody says it: there the server's own counters of the transaction
//! are compared before and behind it, which count the rows of triggers, too.

use dunlin_shared::sql::{Change, changes};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::answer;

/// The name of the column with what the server has counted.
pub(super) const COLUMN: &str = "dunlin_changed";

/// What the server has counted so far in this session and not yet handed to its statistics.
const COUNTED: &str =
    "SELECT coalesce(pg_catalog.sum(n_tup_ins OPERATOR(pg_catalog.+) n_tup_upd OPERATOR(pg_catalog.+) n_tup_del), 0)::pg_catalog.int8
    AS dunlin_changed FROM pg_catalog.pg_stat_xact_user_tables WHERE schemaname OPERATOR(pg_catalog.<>) 'dunlin'";

/// How the rows of a text of SQL are counted.
#[derive(Debug)]
pub(super) struct Count {
    statements: Vec<Change>,
}

impl Count {
    /// For this SQL.
    pub(super) fn of(sql: &str) -> Self {
        Self { statements: changes(sql) }
    }

    /// True when rows can have been changed that no statement tells of.
    pub(super) fn by_the_server(&self) -> bool {
        self.statements.iter().any(|change| change.tells_not_all())
    }

    /// What stands before the SQL in its message, and what behind it.
    pub(super) fn around(&self) -> (String, String) {
        // A comment at the end of the SQL ends with its line.
        if self.by_the_server() { (format!("{COUNTED};"), format!("\n;{COUNTED}")) } else { Default::default() }
    }

    /// Executes the SQL in a message of its own, and counts.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub(super) async fn execute(&self, client: &Client, sql: &str) -> Result<i64, tokio_postgres::Error> {
        if !self.by_the_server() {
            return Ok(self.rows(&answer::without_rows(client, sql).await?));
        }
        let (before, answer, behind) = futures::join!(
            client.simple_query(COUNTED),
            answer::without_rows(client, sql),
            client.simple_query(COUNTED)
        );
        // The error of the SQL is the one that counts.
        let mut messages = before?;
        messages.extend(answer?);
        let said = self.rows(&messages);
        messages.extend(behind?);
        Ok(said.max(counted(&messages)))
    }

    /// The rows that an answer tells of: to the SQL with what stands [around](Self::around) it, and to anything before that.
    pub(super) fn rows(&self, messages: &[SimpleQueryMessage]) -> i64 {
        let mut ends: Vec<(bool, u64)> = Vec::new();
        let (mut returns, mut ours) = (false, false);
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    returns = true;
                    ours = columns.first().is_some_and(|column| answer::is_own(column.name()));
                }
                SimpleQueryMessage::CommandComplete(rows) => {
                    if !ours {
                        ends.push((returns, *rows));
                    }
                    (returns, ours) = (false, false);
                }
                _ => {}
            }
        }
        // What is before the SQL in its message changes none.
        let before = ends.len().saturating_sub(self.statements.len());
        let ends = ends.into_iter().skip(before).zip(&self.statements);
        let rows = ends.filter_map(|((returns, rows), change)| match change {
            Change::Rows => Some(rows),
            Change::Unknown | Change::Untold => (!returns).then_some(rows),
            Change::Returned => None,
        });
        i64::try_from(rows.fold(0, u64::saturating_add)).unwrap_or(i64::MAX).max(counted(messages))
    }
}

/// What the server has counted between the two looks at its counters; 0 where nobody looked.
fn counted(messages: &[SimpleQueryMessage]) -> i64 {
    let looks: Vec<i64> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.try_get(COLUMN).ok().flatten()?.parse().ok(),
            _ => None,
        })
        .collect();
    match looks.as_slice() {
        [before, .., behind] => (behind - before).max(0),
        _ => 0,
    }
}
