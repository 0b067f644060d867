//! The schema `dunlin` in a target: made when it is missing, by whichever agent comes first.
//!
//! A role that may not create schemas can work where someone else has made it. Later versions of the ledger only add to the
//! schema, so a newer ledger than this agent's is no obstacle.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::failure;
use crate::limits::IDLE_LIMIT;

const SCHEMA: &str = include_str!("schema.sql");
const VERSION: i32 = 1;

/// Serialises agents that prepare a target at the same time. Any number does that nothing else locks.
pub(crate) const LOCK: i64 = 0x64_756e_6c69_6e01;

/// The oldest server that has all that is used here (`hash_record_extended`).
const OLDEST_SERVER: i32 = 140_000;

/// What an agent knows about the server of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The version in words, such as `15.18`.
    pub(crate) version: String,
    /// The version as a number, such as 150018.
    pub(crate) number: i32,
}

/// Why a target cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// PostgreSQL's error.
    #[error("{}", failure::chain(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// Nothing can be written.
    #[error("the target is a read-only standby: give the agent the URL of the primary server")]
    Standby,
    /// The server lacks what the agent needs.
    #[error("the target is PostgreSQL {0}: PostgreSQL 14 or later is needed")]
    TooOld(String),
    /// The role may not make the schema.
    #[error(
        "the role `{role}` may not create the schema `dunlin` in this database: GRANT CREATE ON DATABASE {database} TO {role}, \
         or let an agent with a role that may do so connect once and then GRANT USAGE ON SCHEMA dunlin and SELECT, INSERT, \
         UPDATE, DELETE ON ALL TABLES IN SCHEMA dunlin TO {role}"
    )]
    NotAllowed {
        /// The role, quoted.
        role: String,
        /// The database, quoted.
        database: String,
    },
}

/// Makes sure that the target has the ledger, and tells about its server.
///
/// # Errors
/// The target is read-only, too old, or refuses.
pub(crate) async fn prepare(client: &Client) -> Result<Facts, Error> {
    let row = client
        .query_typed_one(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::int,
                    pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,
                    to_regclass('dunlin.meta') IS NOT NULL, quote_ident(current_user), quote_ident(current_database())",
            &[],
        )
        .await?;
    let version: String = row.try_get(0)?;
    // Debian appends its own name: "15.18 (Debian 15.18-0+deb12u1)".
    let version = version.split(' ').next().unwrap_or_default().to_owned();
    let facts = Facts { version, number: row.try_get(1)? };
    if facts.number < OLDEST_SERVER {
        return Err(Error::TooOld(facts.version));
    }
    if row.try_get(2)? {
        return Err(Error::Standby);
    }
    if row.try_get(3)? {
        return Ok(facts);
    }
    match create(client).await {
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            Err(Error::NotAllowed { role: row.try_get(4)?, database: row.try_get(5)? })
        }
        Err(error) => Err(error.into()),
        Ok(()) => Ok(facts),
    }
}

async fn create(client: &Client) -> Result<(), tokio_postgres::Error> {
    client
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '30s'; \
             SET LOCAL idle_in_transaction_session_timeout = {}; SELECT pg_advisory_xact_lock({LOCK})",
            IDLE_LIMIT.as_millis()
        ))
        .await?;
    let done = create_locked(client).await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await;
    done.and(ended)
}

async fn create_locked(client: &Client) -> Result<(), tokio_postgres::Error> {
    // Another agent may have been first: then its commit is visible now that the lock is ours.
    // The catalog itself is read, since a name that was looked up before the wait is remembered as missing.
    let there = client
        .query_typed_one(
            "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                            WHERE n.nspname = 'dunlin' AND c.relname = 'meta')",
            &[],
        )
        .await?;
    if there.try_get(0)? {
        return Ok(());
    }
    client.batch_execute(SCHEMA).await?;
    tracing::info!(version = VERSION, "made the schema dunlin in the target");
    Ok(())
}
