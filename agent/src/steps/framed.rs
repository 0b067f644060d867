//! SQL of a definition inside a transaction of the agent: the way in, the SQL, and the way out, in one flight.
//!
//! What must stay true: after the way out the transaction is the one that it was, under the agent's own role and settings. Where the
//! SQL fails, the way out fails, too, since PostgreSQL executes nothing more in that transaction: the error of the SQL is the one
//! that counts.

use dunlin_shared::sql::quote_ident;
use futures::future::join4;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Error, statement};
use crate::failure::Place;
use crate::frame::{Durability, Frame, PREPARED_BY_SQL, WHICH};
use crate::target::Connection;

/// A transaction that SQL of definitions is executed in.
#[derive(Debug)]
pub(super) struct Framed {
    frame: Frame,
    durability: Durability,
    transaction: String,
}

impl Framed {
    /// The transaction that is open on a connection.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub(super) async fn within(
        connection: &mut Connection,
        frame: Frame,
        durability: Durability,
    ) -> Result<Self, tokio_postgres::Error> {
        connection.lend_to_definition();
        let transaction = number(&connection.simple_query(WHICH).await?);
        Ok(Self { frame, durability, transaction })
    }

    /// Executes SQL of a definition. `row_security`: it sees only the rows that policies let the role see. `settings`: statements, each
    /// with a semicolon in front, that hold for this SQL alone.
    ///
    /// # Errors
    /// Those of the SQL; or it has ended its transaction.
    pub(super) async fn execute<T>(
        &self,
        client: &Client,
        row_security: bool,
        settings: &str,
        sql: impl Future<Output = Result<T, tokio_postgres::Error>>,
        place: &Place,
    ) -> Result<T, Error> {
        let of_postgres = |error| Error::of_postgres(&error, place);
        let frame = Frame { row_security, ..self.frame.clone() };
        let (enter, leave) = (frame.enter() + settings, frame.leave(&self.transaction, self.durability));
        let (enter, leave) = (client.batch_execute(&enter), client.batch_execute(&leave));
        let prepared = client.simple_query(PREPARED_BY_SQL);
        let (entered, done, left, prepared) = join4(enter, sql, leave, prepared).await;
        entered.map_err(of_postgres)?;
        let done = done.map_err(of_postgres)?;
        match left {
            Err(error) if error.code() == Some(&SqlState::DIVISION_BY_ZERO) => {
                return Err(statement::ended_transaction(place));
            }
            left => left.map_err(of_postgres)?,
        }
        for message in prepared.map_err(of_postgres)? {
            if let SimpleQueryMessage::Row(row) = message {
                let name = quote_ident(row.get(0).unwrap_or_default());
                client.batch_execute(&format!("DEALLOCATE {name}")).await.map_err(of_postgres)?;
            }
        }
        Ok(done)
    }
}

impl Framed {
    /// Does something of the agent's own with the names of a definition, between the way in and the way out.
    ///
    /// # Errors
    /// Those of the work, and of PostgreSQL.
    pub(super) async fn around<T>(
        &self,
        client: &Client,
        work: impl Future<Output = Result<T, Error>>,
        place: &Place,
    ) -> Result<T, Error> {
        let of_postgres = |error| Error::of_postgres(&error, place);
        client.batch_execute(&self.frame.enter()).await.map_err(of_postgres)?;
        let done = work.await?;
        let leave = self.frame.leave(&self.transaction, self.durability);
        client.batch_execute(&leave).await.map_err(of_postgres)?;
        Ok(done)
    }
}

/// The number of a transaction, in the answer to [`WHICH`].
pub(super) fn number(answer: &[SimpleQueryMessage]) -> String {
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap_or_default().to_owned()
}
