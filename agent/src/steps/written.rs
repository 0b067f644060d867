//! What a transaction writes, as its locks tell: tables whose rows a crash of the server empties, and tables of other servers.
//!
//! A checkpoint stands for rows that are there. An *unlogged* table is emptied when the server crashes, and the checkpoint says done
//! all the same; what is written to a *foreign* table is committed by another server, at another moment. Both are refused unless the
//! step says that it means it. What counts is what the transaction holds locks on, not what its SQL says: functions, triggers and
//! partitions write, too.
//!
//! Where unlogged tables are permitted, their loss is noticed by a *witness*: a row in an unlogged table of the schema `dunlin`, which a
//! crash empties together with them. The checkpoint keeps which tables were filled. Whoever takes a task, and the seal, refuses to go on
//! where tables were filled that still are unlogged, and the witness is gone. A clean restart loses neither.

use dunlin_proto::v1::Step;
use dunlin_shared::ids::MigrationId;
use dunlin_shared::sql::quote_literal;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::Error;
use crate::failure::Place;
use crate::ledger::{self, Address};

/// The name of the first column of the answer to [`ASK`].
pub(super) const COLUMN: &str = "dunlin_written";

/// That of what stands in front of it.
pub(super) const PATH: &str = "dunlin_path";

/// The relations that the transaction writes, and that are not as others: each with its oid, persistence, kind and name.
///
/// INSERT, UPDATE, DELETE and COPY lock in this mode each table and partition that they write. CREATE TABLE AS locks more, and is known
/// by the rows that it has inserted.
///
/// Behind SQL of a definition: whatever that has set, the names mean PostgreSQL's own.
pub(super) const ASK: &str = "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true) AS dunlin_path;SELECT DISTINCT c.oid AS dunlin_written, c.relpersistence, c.relkind, \
    pg_catalog.format('%I.%I', n.nspname, c.relname) \
    FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE l.locktype = 'relation' AND l.pid = pg_catalog.pg_backend_pid() \
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
    AND (l.mode = 'RowExclusiveLock' OR l.mode = 'AccessExclusiveLock' AND pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) > 0) \
    AND c.relkind IN ('r', 'f') AND (c.relpersistence <> 'p' OR c.relkind = 'f') AND n.nspname <> 'dunlin'";

/// A relation that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    oid: u32,
    kind: Kind,
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unlogged,
    Temporary,
    Foreign,
}

/// Where it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// One transaction, at whose end temporary tables may go.
    Statement,
    /// One of many transactions, each in whatever session.
    Batches,
}

/// Asks what the transaction has written so far.
///
/// # Errors
/// Those of PostgreSQL.
pub(super) async fn ask(client: &Client) -> Result<Vec<Written>, tokio_postgres::Error> {
    Ok(of(&client.simple_query(ASK).await?))
}

/// What was written, in an answer that has the one to [`ASK`] in it.
pub(super) fn of(answer: &[SimpleQueryMessage]) -> Vec<Written> {
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.filter(|row| row.columns().first().is_some_and(|column| column.name() == COLUMN)).filter_map(read).collect()
}

fn read(row: &SimpleQueryRow) -> Option<Written> {
    let kind = match (row.get(1)?, row.get(2)?) {
        (_, "f") => Kind::Foreign,
        ("u", _) => Kind::Unlogged,
        _ => Kind::Temporary,
    };
    Some(Written { oid: row.get(0)?.parse().ok()?, kind, name: row.get(3)?.to_owned() })
}

/// The unlogged tables among what a step writes, for the witness.
///
/// # Errors
/// The step does not permit it.
pub(super) fn permitted(step: &Step, by: By, written: &[Written], place: &Place) -> Result<Vec<u32>, Error> {
    let mut unlogged = Vec::new();
    for Written { oid, kind, name } in written {
        match kind {
            Kind::Unlogged if step.unlogged => unlogged.push(*oid),
            Kind::Foreign if step.foreign => {}
            Kind::Temporary if by == By::Statement => {}
            Kind::Unlogged => {
                return Err(refused(
                    place,
                    format!(
                        "the step {} writes the unlogged table {name}: a crash of the server empties it, and what was done would be lost \
                 without a word",
                        place.step
                    ),
                    "set the table LOGGED before, or say `unlogged = true` in the step: the loss is then noticed",
                ));
            }
            Kind::Foreign => {
                return Err(refused(
                    place,
                    format!(
                        "the step {} writes the foreign table {name}: its server commits by itself, so that a batch may be applied there and \
                 not here, and then once more",
                        place.step
                    ),
                    "write it without Dunlin, or say `foreign = true` in the step, if it bears that",
                ));
            }
            Kind::Temporary => {
                return Err(refused(
                    place,
                    format!(
                        "the step {} changes the temporary table {name}, which each session has for itself",
                        place.step
                    ),
                    "use a table that is not temporary",
                ));
            }
        }
    }
    Ok(unlogged)
}

fn refused(place: &Place, message: String, remedy: &str) -> Error {
    Error::Final(place.refuse(
        message,
        format!("Mend the step: {remedy}. Then `dunlin register DIR` and `dunlin run {}`.", place.migration),
    ))
}

/// The table that a batch step walks, if it is not as others: what is read from it is lost with it, too.
///
/// # Errors
/// The step does not permit it; or those of PostgreSQL.
pub(super) async fn walked(client: &Client, step: &Step, table: u32, place: &Place) -> Result<Vec<u32>, Error> {
    let rows = client
        .query_typed(
            "SELECT c.oid, c.relpersistence::text, format('%I.%I', n.nspname, c.relname)
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid IN (SELECT $1 UNION SELECT relid FROM pg_partition_tree($1) WHERE isleaf) AND c.relpersistence <> 'p'
             ORDER BY c.oid",
            &[(&table, Type::OID)],
        )
        .await;
    let of_postgres = |error| Error::of_postgres(&error, place);
    let mut unlogged = Vec::new();
    for row in rows.map_err(of_postgres)? {
        let (oid, persistence, name): (u32, String, String) = (
            row.try_get(0).map_err(of_postgres)?,
            row.try_get(1).map_err(of_postgres)?,
            row.try_get(2).map_err(of_postgres)?,
        );
        match persistence.as_str() {
            "u" if step.unlogged => unlogged.push(oid),
            "u" => {
                return Err(refused(
                    place,
                    format!(
                        "the step {} walks the unlogged table {name}: a crash of the server empties it, and what was not yet walked \
                         would be left out without a word",
                        place.step
                    ),
                    "set the table LOGGED before, or say `unlogged = true` in the step: the loss is then noticed",
                ));
            }
            _ => {
                return Err(refused(
                    place,
                    format!(
                        "the step {} walks the temporary table {name}, which each session has for itself",
                        place.step
                    ),
                    "use a table that is not temporary",
                ));
            }
        }
    }
    Ok(unlogged)
}

/// The statements that keep in a checkpoint, which this transaction has taken, that unlogged tables are filled, and leave a witness. One
/// message with a semicolon at its end; empty without such tables.
pub(super) fn witness(address: &Address, unlogged: &[u32]) -> String {
    if unlogged.is_empty() {
        return String::new();
    }
    let oids: Vec<String> = unlogged.iter().map(u32::to_string).collect();
    let migration = quote_literal(address.migration.as_str());
    let step = quote_literal(address.step.as_ref().map_or("", |step| step.as_str()));
    format!(
        "INSERT INTO dunlin.unlogged_witness (migration) VALUES ({migration}) ON CONFLICT DO NOTHING;\
         UPDATE dunlin.checkpoints SET unlogged = ARRAY (SELECT pg_catalog.unnest(unlogged) UNION \
         SELECT pg_catalog.unnest(ARRAY[{}]::oid[])) WHERE migration = {migration} AND step = {step} AND range = {};",
        oids.join(", "),
        address.range
    )
}

/// A table that was filled and emptied by a crash, and the step that had filled it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    table: String,
    step: String,
}

/// Looks whether a crash has emptied what steps of a migration had filled.
///
/// # Errors
/// Those of PostgreSQL.
pub(super) async fn lost(client: &Client, migration: &MigrationId) -> Result<Option<Lost>, ledger::Error> {
    let row = client
        .query_typed_opt(
            "SELECT format('%I.%I', n.nspname, c.relname), p.step
             FROM dunlin.checkpoints p JOIN pg_catalog.pg_class c ON c.oid = ANY (p.unlogged)
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE p.migration = $1 AND p.unlogged IS NOT NULL AND c.relpersistence = 'u'
               AND NOT EXISTS (SELECT FROM dunlin.unlogged_witness WHERE migration = $1)
             LIMIT 1",
            &[(&migration.as_str(), Type::TEXT)],
        )
        .await?;
    Ok(row
        .map(|row| Ok::<_, tokio_postgres::Error>(Lost { table: row.try_get(0)?, step: row.try_get(1)? }))
        .transpose()?)
}

impl Lost {
    /// The failure that it is.
    pub(super) fn failure(&self, place: &Place) -> Error {
        let Self { table, step } = self;
        let (migration, filled) = (quote_literal(&place.migration), quote_literal(step));
        Error::Final(place.refuse(
            format!(
                "the server has crashed, or was restored, since the step {step} filled the unlogged table {table}: the table was emptied"
            ),
            format!(
                "Do that step again from its beginning, after emptying whatever else it had filled: on the target, DELETE FROM \
                 dunlin.checkpoints WHERE migration = {migration} AND step = {filled}; then `dunlin run {}`.",
                place.migration
            ),
        ))
    }
}
