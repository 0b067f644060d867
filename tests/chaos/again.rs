//! A connection to a server that crashes: made again when it is lost.

use tokio_postgres::{Client, NoTls, Row};

/// A database, connected to when it is asked.
#[derive(Debug)]
pub(crate) struct Again {
    url: String,
    client: Option<Client>,
}

impl Again {
    /// The database at a URL.
    pub(crate) fn new(url: String) -> Self {
        Self { url, client: None }
    }

    /// A connection; `None` while the server is down.
    pub(crate) async fn client(&mut self) -> Option<&Client> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.ok()?;
            tokio::spawn(connection);
            self.client = Some(client);
        }
        self.client.as_ref()
    }

    /// The rows of a query; `None` while the server is down.
    pub(crate) async fn rows(&mut self, sql: &str) -> Option<Vec<Row>> {
        self.client().await?.query(sql, &[]).await.ok()
    }
}
