//! A database of a test, and what a test asks it.

use std::fmt::Debug;
use std::sync::Arc;

use dunlin_shared::postgres::throwaway;
use tokio_postgres::types::{FromSqlOwned, ToSql};
use tokio_postgres::{Client, NoTls, Row};

/// A connection to a database of the throwaway server.
#[derive(Debug, Clone)]
pub struct Database {
    url: String,
    client: Arc<Client>,
}

impl Database {
    /// Makes an empty database.
    ///
    /// # Panics
    /// When PostgreSQL cannot be started or refuses.
    pub async fn create(prefix: &str) -> Self {
        let url = throwaway::shared().await.database(prefix).await.expect("a database of its own");
        Self::connect(&url).await
    }

    /// Connects to the database at a URL.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub async fn connect(url: &str) -> Self {
        let (client, connection) =
            tokio_postgres::connect(url, NoTls).await.expect("a connection to the test's database");
        tokio::spawn(connection);
        Self { url: url.to_owned(), client: Arc::new(client) }
    }

    /// A second connection to the same database.
    pub async fn again(&self) -> Self {
        Self::connect(&self.url).await
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Executes statements.
    ///
    /// # Panics
    /// When PostgreSQL refuses them.
    pub async fn execute(&self, sql: &str) {
        if let Err(error) = self.client.batch_execute(sql).await {
            panic!("{sql}: {error:?}");
        }
    }

    /// The rows of a query.
    ///
    /// # Panics
    /// When PostgreSQL refuses it.
    pub async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        self.client.query(sql, parameters).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The only value of a query.
    ///
    /// # Panics
    /// When PostgreSQL refuses it, or it does not return one row with a value of the type.
    pub async fn value<T: FromSqlOwned + Debug>(&self, sql: &str) -> T {
        let row = self.client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        row.try_get(0).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The first column of a query.
    ///
    /// # Panics
    /// As [`value`](Self::value).
    pub async fn values<T: FromSqlOwned + Debug>(&self, sql: &str) -> Vec<T> {
        let rows = self.rows(sql, &[]).await;
        rows.iter().map(|row| row.try_get(0).unwrap_or_else(|error| panic!("{sql}: {error:?}"))).collect()
    }
}
