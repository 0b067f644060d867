//! The schema `dunlin` in a target: made when it is missing, by whichever agent comes first.
//!
//! A role that may not create schemas can work where someone else has made it, who must be trusted ([`Foreign`]). Later versions of the ledger only add to the
//! schema, so a newer ledger than this agent's is no obstacle.

use dunlin_shared::postgres::told_pid;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::foreign::{FOREIGN, Foreign};
use crate::failure;
use crate::frame::OWN_PATH;
use crate::limits::IDLE_LIMIT;
use crate::own;

const SCHEMA: &str = include_str!("schema.sql");
const VERSION: i32 = 1;

/// Serialises agents that prepare a target at the same time. Any number does that nothing else locks.
pub(crate) const LOCK: i64 = 0x64_756e_6c69_6e01;

/// The oldest server that has all that is used here (`hash_record_extended`).
const OLDEST_SERVER: i32 = 140_000;

/// What the ledger consists of.
const TABLES: [&str; 5] = ["checkpoints", "identity", "meta", "migrations_registry", "unlogged_witness"];

/// What an agent knows about the server of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The version in words, such as `15.18`.
    pub(crate) version: String,
    /// The version as a number, such as 150018.
    pub(crate) number: i32,
    /// True when a pooler stands between: the connection was told another process than the one that answers.
    pub(crate) pooled: bool,
    /// The role that the agent works under, quoted where that is needed: the one of the connection, or the one that it is set to.
    pub(crate) role: String,
}

/// Why a target cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// PostgreSQL's error.
    #[error("{}", failure::chain(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// Nothing can be written to a standby.
    #[error("the target is a read-only standby: give the agent the URL of the primary server")]
    Standby,
    /// Nothing can be written, by a setting.
    #[error(
        "the target is read-only: default_transaction_read_only is on for the role `{role}` in this database; set it off, or \
         give the agent a role for which it is off"
    )]
    ReadOnly {
        /// The role, quoted.
        role: String,
    },
    /// Texts come out of such a database as whatever bytes were put in.
    #[error(
        "the encoding of this database is SQL_ASCII, which says of no text what its bytes mean, so that neither keys nor messages \
         can be read: use a database with an encoding, such as one made by CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0 and \
         filled from a dump"
    )]
    NoEncoding,
    /// The server lacks what the agent needs.
    #[error("the target is PostgreSQL {0}: PostgreSQL 14 or later is needed")]
    TooOld(String),
    /// The role may not make the schema.
    #[error(
        "the role `{role}` may not create the schema `dunlin` in this database: GRANT CREATE ON DATABASE {database} TO {role}, \
         or CREATE SCHEMA dunlin AUTHORIZATION {role}"
    )]
    NotAllowed {
        /// The role, quoted.
        role: String,
        /// The database, quoted.
        database: String,
    },
    /// The role may not use what another has made.
    #[error(
        "the role `{role}` may not read and write the ledger in this database: GRANT USAGE ON SCHEMA dunlin TO {role}, and \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dunlin TO {role}"
    )]
    NotGranted {
        /// The role, quoted.
        role: String,
    },
    /// Others have a part in it.
    #[error("{}", Foreign::told(.found, .role))]
    Foreign {
        /// What is theirs.
        found: Vec<Foreign>,
        /// The agent's role, quoted.
        role: String,
    },
    /// Some of the ledger is there and some is not.
    #[error(
        "the schema `dunlin` in this database lacks {}: either it is being restored, or it was damaged by hand and must be \
         restored",
        .0.join(", ")
    )]
    Partial(Vec<String>),
}

/// How a target was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Its server.
    pub(crate) facts: Facts,
    /// Whether it has the ledger.
    pub(crate) ledger: bool,
    role: String,
    database: String,
}

const SURVEY: &str = "
SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
       current_setting('transaction_read_only')::bool, quote_ident(current_user), quote_ident(current_database()),
       pg_backend_pid(),
       ARRAY (SELECT t.name FROM unnest($1) AS t(name) WHERE NOT EXISTS (
           SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = 'dunlin' AND c.relname = t.name)),
       (SELECT coalesce(bool_and(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
                                 AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
                                 AND has_table_privilege(c.oid, 'DELETE')), true)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'dunlin' AND c.relname IN ('checkpoints', 'identity', 'migrations_registry', 'unlogged_witness')),
       current_setting('server_encoding'),";

/// Looks at a target and changes nothing. The ledger may belong to the role `owner`, too.
///
/// # Errors
/// The target is read-only, too old, has a ledger that is not whole, that others have a part in or that may not be used, or refuses.
pub(crate) async fn survey(client: &Client, owner: Option<&str>) -> Result<Survey, Error> {
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&TABLES.as_slice(), Type::TEXT_ARRAY), (&owner, Type::TEXT)];
    let row = own::query_one(client, &format!("{SURVEY}{FOREIGN}"), &parameters).await?;
    let version: String = row.try_get(0)?;
    // Debian appends its own name: "15.18 (Debian 15.18-0+deb12u1)".
    let version = version.split(' ').next().unwrap_or_default().to_owned();
    let told = told_pid(&client.cancel_token()).await;
    let pooled = told != Some(row.try_get(6)?);
    let (role, database): (String, String) = (row.try_get(4)?, row.try_get(5)?);
    let facts = Facts { version, number: row.try_get(1)?, pooled, role: role.clone() };
    if facts.number < OLDEST_SERVER {
        return Err(Error::TooOld(facts.version));
    }
    if row.try_get::<_, &str>(9)? == "SQL_ASCII" {
        return Err(Error::NoEncoding);
    }
    if row.try_get(2)? {
        return Err(Error::Standby);
    }
    if row.try_get(3)? {
        return Err(Error::ReadOnly { role });
    }
    let found = Foreign::read(&row.try_get(10)?, &role);
    if !found.is_empty() {
        return Err(Error::Foreign { found, role });
    }
    let missing: Vec<String> = row.try_get(7)?;
    let ledger = missing.is_empty();
    if !ledger && missing.len() < TABLES.len() {
        return Err(Error::Partial(missing));
    }
    if ledger && !row.try_get::<_, bool>(8)? {
        return Err(Error::NotGranted { role });
    }
    Ok(Survey { facts, ledger, role, database })
}

/// Makes sure that the target has a ledger, and tells about its server. One that is made says that the data is `data`.
///
/// # Errors
/// As [`survey`], or the ledger cannot be made.
pub(crate) async fn prepare(client: &Client, owner: Option<&str>, data: Uuid) -> Result<Facts, Error> {
    let Survey { facts, ledger, role, database } = survey(client, owner).await?;
    if ledger {
        return Ok(facts);
    }
    match create(client, data).await {
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            Err(Error::NotAllowed { role, database })
        }
        Err(error) => Err(error.into()),
        // Somebody may have been faster with a schema of his own.
        Ok(()) => Ok(survey(client, owner).await?.facts),
    }
}

async fn create(client: &Client, data: Uuid) -> Result<(), tokio_postgres::Error> {
    client
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; {OWN_PATH}; SET LOCAL lock_timeout = '30s'; \
             SET LOCAL idle_in_transaction_session_timeout = {}; SELECT pg_advisory_xact_lock({LOCK})",
            IDLE_LIMIT.as_millis()
        ))
        .await?;
    let done = create_locked(client, data).await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await;
    done.and(ended)
}

async fn create_locked(client: &Client, data: Uuid) -> Result<(), tokio_postgres::Error> {
    // Another agent may have been first: then its commit is visible now that the lock is ours.
    // The catalog itself is read, since a name that was looked up before the wait is remembered as missing.
    let there = client
        .query_typed_one(
            "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                            WHERE n.nspname = 'dunlin' AND c.relname = 'meta'),
                    EXISTS (SELECT FROM pg_namespace WHERE nspname = 'dunlin')",
            &[],
        )
        .await?;
    if there.try_get(0)? {
        return Ok(());
    }
    // Who may not create schemas may not say IF NOT EXISTS either.
    if !there.try_get::<_, bool>(1)? {
        client.batch_execute("CREATE SCHEMA dunlin").await?;
    }
    client.batch_execute(SCHEMA).await?;
    client.execute_typed("INSERT INTO dunlin.identity (data) VALUES ($1)", &[(&data, Type::UUID)]).await?;
    tracing::info!(version = VERSION, "made the schema dunlin in the target");
    Ok(())
}
