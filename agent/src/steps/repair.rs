//! What an interrupted build of an index leaves behind, and what is done about it.
//!
//! An index that is built concurrently and not finished stays in the catalog: every write keeps it up to date, and no query uses
//! it (`indisvalid` is false). Nothing of the kind may be left by a step that counts as done. What is removed belongs to the step:
//! the index that it names, or what PostgreSQL calls `..._ccnew` and `..._ccold` beside the indexes that it builds anew. An attempt of
//! somebody else that is still under way holds a lock that the removal does not get.

use dunlin_proto::v1::EventType;
use dunlin_shared::sql::{
    ConcurrentIndex, ConcurrentReindex, commits_by_itself, concurrent_index, concurrent_reindex, quote_ident,
};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::{Context, Error};
use crate::catalog;
use crate::failure::Place;

/// The indexes of a table, or of a table that is a partition of it, and those of their TOAST tables.
const OF_TABLES: &str = "
    x.oid IN (
        SELECT i.indexrelid FROM pg_index i JOIN pg_class t ON i.indrelid IN (t.oid, t.reltoastrelid)
        WHERE t.oid IN (SELECT named.oid UNION SELECT relid FROM pg_partition_tree(named.oid)))";

/// A repair within the session that holds the lock of the step.
pub(super) struct Repair<'a> {
    pub(super) session: &'a Client,
    pub(super) context: &'a Context,
    pub(super) place: &'a Place,
}

impl Repair<'_> {
    fn failed(&self, error: &tokio_postgres::Error) -> Error {
        Error::of_postgres(error, self.place)
    }

    /// Removes what an earlier attempt at a statement has left half-built. True when it has carried the statement out.
    pub(super) async fn begun(&self, sql: &str) -> Result<bool, Error> {
        if let Some(ConcurrentIndex { index: Some(index), table, .. }) = concurrent_index(sql) {
            return match self.look(&index, &table).await? {
                None => Ok(false),
                Some(Found { valid: true, .. }) => {
                    self.note(format!(
                        "the index {index} was built by an earlier attempt whose end was not recorded: it counts as done"
                    ));
                    Ok(true)
                }
                Some(found) => {
                    self.remove(&found).await?;
                    self.note(format!(
                        "the index {index}, left invalid by an attempt that did not finish, was removed"
                    ));
                    Ok(false)
                }
            };
        }
        if let Some(reindex) = concurrent_reindex(sql) {
            for found in self.half_built(&reindex).await? {
                self.remove(&found).await?;
                self.note(format!("the index {}, left by a REINDEX that did not finish, was removed", found.name));
            }
        }
        Ok(false)
    }

    /// Tells that a statement which commits by itself is begun again: nothing says how far it came.
    pub(super) fn repeated(&self, sql: &str) {
        if let Some(what) = commits_by_itself(sql) {
            self.note(format!(
                "an earlier attempt at this {what} did not end: what it had committed is kept, and it is begun again from its start"
            ));
        }
    }

    /// The index that a statement builds is there and valid. With IF NOT EXISTS, PostgreSQL is content with one that is not.
    pub(super) async fn assert_whole(&self, sql: &str) -> Result<(), Error> {
        let Some(ConcurrentIndex { index: Some(index), table, .. }) = concurrent_index(sql) else { return Ok(()) };
        match self.look(&index, &table).await? {
            Some(found) if !found.valid => Err(Error::Final(self.place.refuse(
                format!("the index {index} was there before this step, half-built: queries do not use it"),
                format!("DROP INDEX CONCURRENTLY {}; then `dunlin run {}`.", found.quoted(), self.place.migration),
            ))),
            Some(_) | None => Ok(()),
        }
    }

    async fn look(&self, index: &str, table: &str) -> Result<Option<Found>, Error> {
        let table = catalog::find(self.session, table).await;
        let table = table.map_err(|error| super::range::of_catalog(error, self.place))?;
        let row = self
            .session
            .query_typed_opt(
                "SELECT n.nspname, x.relname, i.indisvalid FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                 JOIN pg_namespace n ON n.oid = x.relnamespace
                 WHERE i.indrelid = $1 AND x.relname = $2",
                &[(&table.oid, Type::OID), (&index, Type::TEXT)],
            )
            .await
            .map_err(|error| self.failed(&error))?;
        row.as_ref().map(read).transpose().map_err(|error| self.failed(&error))
    }

    async fn half_built(&self, reindex: &ConcurrentReindex) -> Result<Vec<Found>, Error> {
        let (named, of, name) = match reindex {
            ConcurrentReindex::Index(name) => (
                "SELECT indrelid AS oid FROM pg_index WHERE indexrelid IN (
                     SELECT to_regclass($1)::oid UNION SELECT relid FROM pg_partition_tree(to_regclass($1)))",
                OF_TABLES,
                name.as_str(),
            ),
            ConcurrentReindex::Table(name) => ("SELECT to_regclass($1)::oid AS oid", OF_TABLES, name.as_str()),
            ConcurrentReindex::Schema(name) => (
                "SELECT oid FROM pg_class WHERE relkind IN ('r', 'm') AND relnamespace = to_regnamespace($1)",
                OF_TABLES,
                name.as_str(),
            ),
            ConcurrentReindex::Database => ("SELECT $1 AS oid", "true", ""),
        };
        let sql = format!(
            "SELECT DISTINCT n.nspname, x.relname, y.indisvalid FROM pg_index y JOIN pg_class x ON x.oid = y.indexrelid
             JOIN pg_namespace n ON n.oid = x.relnamespace, ({named}) AS named
             WHERE NOT y.indisvalid AND x.relname ~ '_cc(new|old)[0-9]*$' AND {of}"
        );
        let rows = self.session.query_typed(&sql, &[(&name, Type::TEXT)]).await.map_err(|error| self.failed(&error))?;
        rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| self.failed(&error))
    }

    async fn remove(&self, found: &Found) -> Result<(), Error> {
        let limit = self.context.limits.lock_timeout.as_millis();
        let settings = format!("SET lock_timeout = {limit}");
        self.session.batch_execute(&settings).await.map_err(|error| self.failed(&error))?;
        let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {}", found.quoted());
        self.session.batch_execute(&drop).await.map_err(|error| self.failed(&error))
    }

    fn note(&self, message: String) {
        self.context.lease.note(EventType::StepRepaired, message);
    }
}

/// An index as the catalog has it.
struct Found {
    schema: String,
    name: String,
    valid: bool,
}

impl Found {
    fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }
}

fn read(row: &Row) -> Result<Found, tokio_postgres::Error> {
    Ok(Found { schema: row.try_get(0)?, name: row.try_get(1)?, valid: row.try_get(2)? })
}
