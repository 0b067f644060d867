//! What an interrupted build of an index leaves behind, and what is done about it.
//!
//! An index that is built concurrently and not finished stays in the catalog: every write keeps it up to date, and no query uses
//! it (`indisvalid` is false). Nothing of the kind may be left by a step that counts as done. What is removed belongs to the step:
//! the index that it names, or what PostgreSQL calls `..._ccnew` and `..._ccold` beside the indexes that it builds anew. An attempt of
//! somebody else that is still under way holds a lock that the removal does not get. A partition that is detached by half is detached.
//!
//! An index counts as built when it is there under its name, valid, on the table of the statement, and with the definition that the
//! statement gives it: the same is built on an empty temporary table, and rolled back. Another one is somebody else's, or of an earlier
//! text of the step, and is never taken for it.

use std::time::Duration;

use dunlin_proto::v1::EventType;
use dunlin_shared::postgres::Session;
use dunlin_shared::sql::{
    ConcurrentDetach, ConcurrentIndex, ConcurrentReindex, commits_by_itself, concurrent_detach, concurrent_index,
    concurrent_reindex, quote_ident,
};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::watched::{self, Patience};
use super::{Context, Error, existing};
use crate::failure::Place;
use crate::frame::{Durability, Frame};
use crate::own;
use crate::target::Ground;

/// How long the removal of what is half-built may wait for transactions at most. What is not removed by then is removed by the next attempt.
const REMOVED_WITHIN: Duration = Duration::from_secs(30);

/// The indexes of a table, or of a table that is a partition of it, and those of their TOAST tables.
const OF_TABLES: &str = "
    x.oid IN (
        SELECT i.indexrelid FROM pg_index i JOIN pg_class t ON i.indrelid IN (t.oid, t.reltoastrelid)
        WHERE t.oid IN (SELECT named.oid UNION SELECT relid FROM pg_partition_tree(named.oid)))";

/// A repair within the session that holds the lock of the step.
pub(super) struct Repair<'a> {
    pub(super) session: &'a Session,
    pub(super) context: &'a Context,
    pub(super) place: &'a Place,
    /// The role of the session, quoted where that is needed.
    pub(super) role: &'a str,
    /// What it stands on.
    pub(super) ground: Ground,
}

impl Repair<'_> {
    fn failed(&self, error: &tokio_postgres::Error) -> Error {
        Error::of_postgres(error, self.place)
    }

    /// Finishes or removes what an earlier attempt at a statement has left half-built. True when the statement is carried out. `again`: it
    /// is asked for over what it has done before.
    pub(super) async fn begun(&self, sql: &str, again: bool) -> Result<bool, Error> {
        if let Some(detach) = concurrent_detach(sql) {
            return self.detached(&detach).await;
        }
        if let Some(ConcurrentIndex { index: Some(index), table, .. }) = concurrent_index(sql) {
            return match self.look(&index, &table).await? {
                None => Ok(false),
                Some(Found { valid: true, .. }) => {
                    let unknown = self.compare(sql).await?;
                    let unknown = unknown.map_or_else(String::new, |why| {
                        format!("; whether it is what the step describes could not be compared: {why}")
                    });
                    let built = if again { "before" } else { "by an earlier attempt whose end was not recorded" };
                    self.note(format!("the index {index} was built {built}: it counts as done{unknown}"));
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

    /// Removes what a statement that has failed has left half-built. What it could not remove, in words.
    pub(super) async fn remove_left(&self, sql: &str) -> Result<Option<String>, Error> {
        if let Some(detach) = concurrent_detach(sql) {
            let pending = self.pending(&detach).await? == Some(true);
            return Ok(pending.then(|| {
                format!(
                    "the partition {} is detached by half, which the next attempt finishes, as does ALTER TABLE {} DETACH \
                     PARTITION {} FINALIZE",
                    detach.partition, detach.table, detach.partition
                )
            }));
        }
        let mut left = Vec::new();
        if let Some(ConcurrentIndex { index: Some(index), table, .. }) = concurrent_index(sql) {
            left.extend(self.look(&index, &table).await?.filter(|found| !found.valid));
        }
        if let Some(reindex) = concurrent_reindex(sql) {
            left.extend(self.half_built(&reindex).await?);
        }
        let mut kept = Vec::new();
        for found in left {
            match self.remove(&found).await {
                Ok(()) => {
                    self.note(format!("the index {}, left invalid by the step that failed, was removed", found.name))
                }
                Err(Error::Passing(error) | Error::Final(error)) => {
                    kept.push(format!(
                        "the half-built index {} could not be removed, which the next attempt does first ({})",
                        found.quoted(),
                        error.message
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((!kept.is_empty()).then(|| kept.join("; ")))
    }

    /// Whether a partition is detached by half; `None` where it is no partition of the table.
    async fn pending(&self, detach: &ConcurrentDetach) -> Result<Option<bool>, Error> {
        let names = [detach.table.clone(), detach.partition.clone()];
        let found = own::relations(self.session, &names).await.map_err(|error| self.failed(&error))?;
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            found.iter().map(|oid| (oid as &(dyn ToSql + Sync), Type::OID)).collect();
        let sql = "SELECT inhdetachpending FROM pg_inherits WHERE inhparent = $1 AND inhrelid = $2";
        let rows = own::query(self.session, sql, &parameters).await.map_err(|error| self.failed(&error))?;
        rows.first().map(|row| row.try_get(0)).transpose().map_err(|error| self.failed(&error))
    }

    async fn detached(&self, detach: &ConcurrentDetach) -> Result<bool, Error> {
        let ConcurrentDetach { table, partition } = detach;
        match self.pending(detach).await? {
            Some(false) => return Ok(false),
            Some(true) => {
                let finalize = format!("ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE");
                self.patiently(&finalize, &format!("finishing to detach {partition}"), Duration::ZERO).await?;
                self.note(format!(
                    "the partition {partition}, detached by half by an attempt that did not finish, was detached (FINALIZE)"
                ));
            }
            None => self.note(format!(
                "the partition {partition} was detached by an earlier attempt whose end was not recorded: it counts as done"
            )),
        }
        Ok(true)
    }

    /// Tells that a statement which commits by itself is begun again: nothing says how far it came.
    pub(super) fn repeated(&self, sql: &str) {
        if let Some(what) = commits_by_itself(sql) {
            self.note(format!(
                "an earlier attempt at this {what} did not end: what it had committed is kept, and it is begun again from its start"
            ));
        }
    }

    /// The index that a statement builds is there, valid, and as the statement describes it. With IF NOT EXISTS, PostgreSQL is content
    /// with any of that name.
    pub(super) async fn assert_whole(&self, sql: &str) -> Result<(), Error> {
        if let Some(reindex) = concurrent_reindex(sql) {
            return self.assert_rebuilt(&reindex).await;
        }
        let Some(ConcurrentIndex { index: Some(index), table, .. }) = concurrent_index(sql) else { return Ok(()) };
        match self.look(&index, &table).await? {
            Some(found) if !found.valid => Err(Error::Final(self.place.refuse(
                format!("the index {index} was there before this step, half-built: queries do not use it"),
                format!("DROP INDEX CONCURRENTLY {}; then `dunlin run {}`.", found.quoted(), self.place.migration),
            ))),
            Some(_) => self.compare(sql).await.map(|_unknown| ()),
            None => Err(Error::Final(self.place.refuse(
                format!(
                    "the table {table} has no index {index} behind the step that builds it: something else has the name"
                ),
                format!(
                    "Give the index another name, then `dunlin register DIR` and `dunlin run {}`.",
                    self.place.migration
                ),
            ))),
        }
    }

    /// The indexes that a REINDEX names are valid. PostgreSQL leaves out what is not, with a warning, where it is told a table. Of those
    /// of a whole schema or database the warnings must do: they can be others' business.
    async fn assert_rebuilt(&self, reindex: &ConcurrentReindex) -> Result<(), Error> {
        let (of, name) = match reindex {
            ConcurrentReindex::Index(name) => {
                ("y.indexrelid IN (SELECT $1 UNION SELECT relid FROM pg_partition_tree($1))", name)
            }
            ConcurrentReindex::Table(name) => {
                ("y.indrelid IN (SELECT $1 UNION SELECT relid FROM pg_partition_tree($1))", name)
            }
            ConcurrentReindex::Schema(_) | ConcurrentReindex::Database => return Ok(()),
        };
        let oid = own::relation(self.session, name).await.map_err(|error| self.failed(&error))?;
        // Whoever builds one at this moment holds a lock on its table.
        let sql = format!(
            "SELECT n.nspname, x.relname, y.indisvalid FROM pg_index y JOIN pg_class x ON x.oid = y.indexrelid
             JOIN pg_namespace n ON n.oid = x.relnamespace
             WHERE NOT y.indisvalid AND x.relkind = 'i' AND {of} AND NOT EXISTS (
                 SELECT FROM pg_locks l WHERE l.locktype = 'relation' AND l.relation = y.indrelid AND l.pid <> pg_backend_pid()
                 AND l.mode = 'ShareUpdateExclusiveLock'
                 AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
             ORDER BY 1, 2 LIMIT 1"
        );
        let rows = own::query(self.session, &sql, &[(&oid, Type::OID)]).await.map_err(|error| self.failed(&error))?;
        let left = rows.first().map(read).transpose().map_err(|error| self.failed(&error))?;
        let Some(left) = left.map(|found| found.quoted()) else { return Ok(()) };
        Err(Error::Final(self.place.refuse(
            format!("the index {left} is not valid behind the step that indexes anew: PostgreSQL has left it out, and queries do not use it"),
            format!(
                "REINDEX INDEX CONCURRENTLY {left}, or DROP INDEX CONCURRENTLY {left} where nobody needs it; then `dunlin run {}`.",
                self.place.migration
            ),
        )))
    }

    /// Compares the index that is there with the one that the statement builds, in a transaction that is rolled back. Why that cannot be
    /// told, where it cannot.
    async fn compare(&self, sql: &str) -> Result<Option<String>, Error> {
        let frame = Frame::new(self.context.limits, self.context.mark(), Some(self.role.to_owned())).on(self.ground);
        let begin = frame.begin_entered(Durability::Later);
        self.session.batch_execute(&begin).await.map_err(|error| self.failed(&error))?;
        let compared = existing::compare_built(self.session, sql, self.place).await;
        self.session.batch_execute("ROLLBACK").await.map_err(|error| self.failed(&error))?;
        compared
    }

    async fn look(&self, index: &str, table: &str) -> Result<Option<Found>, Error> {
        let table = own::relation(self.session, table).await.map_err(|error| self.failed(&error))?;
        // The server cuts a name that is too long, in its own encoding.
        let rows = own::query(
            self.session,
            "SELECT n.nspname, x.relname, i.indisvalid FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
             JOIN pg_namespace n ON n.oid = x.relnamespace
             WHERE i.indrelid = $1 AND x.relname = $2::text::name",
            &[(&table, Type::OID), (&index, Type::TEXT)],
        )
        .await
        .map_err(|error| self.failed(&error))?;
        rows.first().map(read).transpose().map_err(|error| self.failed(&error))
    }

    async fn half_built(&self, reindex: &ConcurrentReindex) -> Result<Vec<Found>, Error> {
        let (named, of, name) = match reindex {
            ConcurrentReindex::Index(name) => (
                "SELECT indrelid AS oid FROM pg_index WHERE indexrelid IN (SELECT $1 UNION SELECT relid FROM pg_partition_tree($1))",
                OF_TABLES,
                Some(name),
            ),
            ConcurrentReindex::Table(name) => ("SELECT $1 AS oid", OF_TABLES, Some(name)),
            ConcurrentReindex::Schema(name) => {
                ("SELECT oid FROM pg_class WHERE relkind IN ('r', 'm') AND relnamespace = $1", OF_TABLES, Some(name))
            }
            ConcurrentReindex::Database => ("SELECT $1 AS oid", "true", None),
        };
        let oid = match (reindex, name) {
            (_, None) => Ok(None),
            (ConcurrentReindex::Schema(_), Some(name)) => own::schema(self.session, name).await,
            (_, Some(name)) => own::relation(self.session, name).await,
        };
        let oid = oid.map_err(|error| self.failed(&error))?;
        let sql = format!(
            "SELECT DISTINCT n.nspname, x.relname, y.indisvalid FROM pg_index y JOIN pg_class x ON x.oid = y.indexrelid
             JOIN pg_namespace n ON n.oid = x.relnamespace, ({named}) AS named
             WHERE NOT y.indisvalid AND x.relname ~ '_cc(new|old)[0-9]*$' AND {of}"
        );
        let rows = own::query(self.session, &sql, &[(&oid, Type::OID)]).await.map_err(|error| self.failed(&error))?;
        rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| self.failed(&error))
    }

    async fn remove(&self, found: &Found) -> Result<(), Error> {
        let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {}", found.quoted());
        let deadline = self.context.limits.build_deadline;
        let within = if deadline.is_zero() { REMOVED_WITHIN } else { deadline.min(REMOVED_WITHIN) };
        self.patiently(&drop, &format!("removing the index {}", found.name), within).await
    }

    /// Executes a statement that waits for transactions that began before it, `transactions` long at most; zero: without end.
    async fn patiently(&self, sql: &str, what: &str, transactions: Duration) -> Result<(), Error> {
        let settings = "SET lock_timeout = 0;SET statement_timeout = 0";
        self.session.batch_execute(settings).await.map_err(|error| self.failed(&error))?;
        let patience = Patience { locks: self.context.schema_lock_timeout(), transactions };
        let work = self.session.batch_execute(sql);
        watched::execute(self.context, self.session, what, patience, work).await.map_err(|failed| match failed {
            watched::Failed::Postgres(error) => self.failed(&error),
            watched::Failed::Cancelled(cancelled) => cancelled.passing(self.place),
        })
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
