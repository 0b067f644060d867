//! The transform `link-books-to-authors`: `books.author_name`, as people have typed it, becomes `books.author_id`. Authors that
//! are not there yet are made.
//!
//! Several agents do this at the same time, and the same author can turn up in two batches at once. `INSERT ... ON CONFLICT DO
//! NOTHING` waits for the other transaction, and the look-up behind it sees what that one has made. The names are in order, so
//! that two batches never wait for each other.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use dunlin_agent::tokio_postgres::Transaction;
use dunlin_agent::tokio_postgres::types::Type;
use dunlin_agent::transform::{Batch, Error, Outcome, Transform};

use crate::name;

/// See the [module](self).
pub(crate) struct LinkBooks;

#[async_trait]
impl Transform for LinkBooks {
    async fn apply(&self, batch: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, Error> {
        let books = books_by_author(batch, transaction).await?;
        let names: Vec<&str> = books.keys().map(String::as_str).collect();
        if names.is_empty() {
            return Ok(Outcome::default());
        }
        let created = transaction
            .execute_typed(
                "INSERT INTO authors (name) SELECT unnest($1) ON CONFLICT (name) DO NOTHING",
                &[(&names, Type::TEXT_ARRAY)],
            )
            .await?;
        let mut authors: HashMap<String, i64> = HashMap::new();
        let rows = transaction
            .query_typed("SELECT name, id FROM authors WHERE name = ANY ($1)", &[(&names, Type::TEXT_ARRAY)])
            .await?;
        for row in &rows {
            authors.insert(row.try_get(0)?, row.try_get(1)?);
        }

        let (mut book_ids, mut author_ids): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
        for (name, ids) in &books {
            let author =
                authors.get(name).ok_or_else(|| Error::other(format!("the author {name:?} has disappeared")))?;
            book_ids.extend(ids);
            author_ids.extend(ids.iter().map(|_| *author));
        }
        let updated = transaction
            .execute_typed(
                "UPDATE books SET author_id = x.author FROM unnest($1, $2) AS x(book, author) WHERE books.id = x.book",
                &[(&book_ids, Type::INT8_ARRAY), (&author_ids, Type::INT8_ARRAY)],
            )
            .await?;
        Ok(Outcome::rows(updated).count("books_updated", updated).count("authors_created", created))
    }
}

/// The ids of the batch's books that have no author yet, by the author's name, in the order of names.
async fn books_by_author(batch: &Batch, transaction: &Transaction<'_>) -> Result<BTreeMap<String, Vec<i64>>, Error> {
    let sql = format!(
        "SELECT b.id, b.author_name FROM {} AS b WHERE b.author_id IS NULL AND {}",
        batch.table(),
        batch.predicate("b")
    );
    let mut books: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in transaction.query_typed(&sql, &[]).await? {
        let (id, typed): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
        let name = name::normal(&typed);
        if name.is_empty() {
            return Err(Error::other(format!(
                "book {id} has no author's name: fill in author_name, or delete the book"
            )));
        }
        books.entry(name).or_default().push(id);
    }
    Ok(books)
}

#[cfg(test)]
mod tests {
    use dunlin_agent::tokio_postgres::{Client, NoTls};
    use dunlin_shared::postgres::throwaway;

    use super::*;

    async fn connect(url: &str) -> Client {
        let (client, connection) = dunlin_agent::tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn library() -> (String, Client) {
        let url = throwaway::shared().await.database("library").await.unwrap();
        let client = connect(&url).await;
        let tables =
            "CREATE TABLE authors (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL UNIQUE)";
        client.batch_execute(tables).await.unwrap();
        client.batch_execute(include_str!("../sample-data.sql")).await.unwrap();
        client.batch_execute("ALTER TABLE books ADD author_id bigint").await.unwrap();
        (url, client)
    }

    fn batch(low: &str, high: &str) -> Batch {
        Batch::new("public", "books", &[("id", "bigint")], Some(&[low]), &[high])
    }

    #[tokio::test]
    async fn batches_at_the_same_time_make_each_author_once() {
        let (url, client) = library().await;
        let work = (0..8_i32).map(|part| {
            let url = url.clone();
            async move {
                let mut client = connect(&url).await;
                let transaction = client.transaction().await.unwrap();
                let batch = batch(&(part * 2500).to_string(), &(part * 2500 + 2500).to_string());
                let outcome = LinkBooks.apply(&batch, &transaction).await.unwrap();
                transaction.commit().await.unwrap();
                outcome
            }
        });
        let mut tasks = tokio::task::JoinSet::new();
        work.for_each(|work| {
            tasks.spawn(work);
        });
        assert_eq!(tasks.join_all().await.len(), 8);
        let row = client
            .query_one(
                "SELECT (SELECT count(*) FROM authors), (SELECT count(*) FROM books WHERE author_id IS NULL)",
                &[],
            )
            .await
            .unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1000, 0));
        let wrong = "SELECT count(*) FROM books b JOIN authors a ON a.id = b.author_id
                     WHERE a.name <> 'A. B. Writer' || (b.id % 1000)";
        assert_eq!(client.query_one(wrong, &[]).await.unwrap().get::<_, i64>(0), 0);
    }

    #[tokio::test]
    async fn a_book_without_a_name_is_named_in_the_error() {
        let (_, mut client) = library().await;
        client.batch_execute("UPDATE books SET author_name = ' ' WHERE id = 7").await.unwrap();
        let transaction = client.transaction().await.unwrap();
        let error = LinkBooks.apply(&batch("0", "10"), &transaction).await.unwrap_err();
        assert!(error.to_string().contains("book 7"), "{error}");
    }
}
