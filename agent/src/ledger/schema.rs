//! The schema `dunlin` in a target: made when it is missing, and brought up to date when it is behind, by whichever agent comes first.
//!
//! A role that may not create schemas can work where someone else has made it, who must be trusted ([`Foreign`]). Each version of the ledger
//! only adds to the one before, so a newer ledger than this agent's is no obstacle, unless it says that this agent is too old for it.

use dunlin_shared::postgres::Session;
use dunlin_shared::postgres::told_pid;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::foreign::{FOREIGN, Foreign};
use crate::failure;
use crate::limits::IDLE_LIMIT;
use crate::own;

/// One version of the ledger, as what it adds to the one before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    /// The statements.
    pub(super) sql: &'static str,
    /// The tables that it makes.
    pub(super) tables: &'static [&'static str],
    /// The oldest version whose agents can work on it.
    pub(super) oldest_reader: i32,
}

/// All versions, from 1 upwards. A change that has been released is never edited.
pub(super) const CHANGES: [Change; 1] = [Change {
    sql: include_str!("changes/1.sql"),
    tables: &["checkpoints", "identity", "meta", "migrations_registry", "unlogged_witness"],
    oldest_reader: 1,
}];

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
    /// The role of `--role` cannot be used.
    #[error(
        "the agent's --role {role} cannot be used: {reason}. Where it exists, GRANT {role} TO the role of the agent's URL (from \
         PostgreSQL 16 on WITH SET TRUE)"
    )]
    Role {
        /// The role, quoted.
        role: String,
        /// What PostgreSQL says.
        reason: String,
    },
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
    /// It says of itself what cannot be read.
    #[error(
        "dunlin.meta in this database has no {name} that is a number (it has {value:?}): it was changed by hand and must be restored"
    )]
    Unsaid {
        /// What it should say.
        name: &'static str,
        /// What it says.
        value: String,
    },
    /// It is not for agents as old as this one.
    #[error(
        "the schema `dunlin` in this database is of version {version}, which needs agents that know version {oldest_reader}, and this agent \
         knows version {known}: it needs a newer agent"
    )]
    Newer {
        /// The version of the ledger.
        version: i32,
        /// The oldest version of agents that can work on it.
        oldest_reader: i32,
        /// The newest version that this agent knows.
        known: i32,
    },
    /// The role may not change it.
    #[error(
        "the role `{role}` may not bring the schema `dunlin` in this database from version {from} to version {to}: start one agent of this \
         version under the role that owns the schema; the others go on"
    )]
    NotUpgraded {
        /// The role, quoted.
        role: String,
        /// The version of the ledger.
        from: i32,
        /// The version of this agent.
        to: i32,
    },
}

/// How a target was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Its server.
    pub(crate) facts: Facts,
    /// Whether it has the ledger.
    pub(crate) ledger: bool,
    /// Whether that is of an earlier version than this agent's.
    pub(crate) behind: bool,
    /// Its version; 0 where there is none.
    version: i32,
    role: String,
    database: String,
}

const SURVEY: &str = "
SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
       current_setting('transaction_read_only')::bool, quote_ident(current_user), quote_ident(current_database()),
       pg_backend_pid(),
       ARRAY (SELECT t.name FROM unnest($1) AS t(name) WHERE EXISTS (
           SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = 'dunlin' AND c.relname = t.name)),
       (SELECT coalesce(bool_and(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
                                 AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
                                 AND has_table_privilege(c.oid, 'DELETE')), true)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'dunlin' AND c.relname <> 'meta' AND c.relname = ANY ($1)),
       current_setting('server_encoding'),";

/// Looks at a target and changes nothing. The ledger may belong to the role `owner`, too.
///
/// # Errors
/// The target is read-only, too old, has a ledger that is not whole, that others have a part in, that may not be used or is not for this
/// agent, or refuses.
pub(crate) async fn survey(client: &Session, owner: Option<&str>) -> Result<Survey, Error> {
    survey_for(client, owner, &CHANGES).await
}

pub(super) async fn survey_for(client: &Session, owner: Option<&str>, changes: &[Change]) -> Result<Survey, Error> {
    let tables: Vec<&str> = changes.iter().flat_map(|change| change.tables).copied().collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&tables, Type::TEXT_ARRAY), (&owner, Type::TEXT)];
    let row = match own::query_one(client, &format!("{SURVEY}{FOREIGN}"), &parameters).await {
        Err(error) if error.code().is_some() => return Err(of_role(client).await.unwrap_or(Error::Postgres(error))),
        found => found?,
    };
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
    let there: Vec<String> = row.try_get(7)?;
    let known = last(changes);
    if there.is_empty() {
        return Ok(Survey { facts, ledger: false, behind: true, version: 0, role, database });
    }
    let has = |table: &&str| there.iter().any(|name| name == table);
    let lacks = |version: i32| -> Vec<String> {
        let wanted =
            changes.iter().zip(1..).filter(|(_, number)| *number <= version).flat_map(|(change, _)| change.tables);
        wanted.filter(|table| !has(table)).map(|table| (*table).to_owned()).collect()
    };
    if !has(&"meta") {
        return Err(Error::Partial(lacks(1)));
    }
    let (version, oldest_reader) = match said(client).await {
        Err(Error::Postgres(error)) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            return Err(Error::NotGranted { role });
        }
        said => said?,
    };
    let missing = lacks(version);
    if !missing.is_empty() {
        return Err(Error::Partial(missing));
    }
    if oldest_reader > known {
        return Err(Error::Newer { version, oldest_reader, known });
    }
    if !row.try_get::<_, bool>(8)? {
        return Err(Error::NotGranted { role });
    }
    Ok(Survey { facts, ledger: true, behind: version < known, version, role, database })
}

/// The number of the last version.
fn last(changes: &[Change]) -> i32 {
    i32::try_from(changes.len()).unwrap_or(i32::MAX)
}

/// The version that the ledger has, and the oldest one whose agents can work on it.
async fn said(client: &Session) -> Result<(i32, i32), Error> {
    let sql = "SELECT (SELECT value FROM dunlin.meta WHERE name = 'ledger_version'),
                      (SELECT value FROM dunlin.meta WHERE name = 'oldest_reader')";
    let row = own::query_one(client, sql, &[]).await?;
    let number = |place: usize, name| {
        let value = row.try_get::<_, Option<String>>(place)?.unwrap_or_default();
        match value.parse() {
            Ok(number) if number >= 1 => Ok(number),
            _ => Err(Error::Unsaid { name, value }),
        }
    };
    Ok((number(0, "ledger_version")?, number(1, "oldest_reader")?))
}

/// Whether it is the agent's role that cannot be worked under.
async fn of_role(client: &Session) -> Option<Error> {
    let role = client.role()?;
    let error = client.batch_execute(&format!("SET LOCAL ROLE {role};SELECT 1")).await.err()?;
    error.as_db_error()?;
    Some(Error::Role { role: role.to_owned(), reason: dunlin_shared::postgres::describe(&error) })
}

/// Makes sure that the target has a ledger that is up to date, and tells about its server. One that is made says that the data is `data`.
///
/// # Errors
/// As [`survey`], or the ledger cannot be made or changed.
pub(crate) async fn prepare(client: &Session, owner: Option<&str>, data: Uuid) -> Result<Facts, Error> {
    prepare_for(client, owner, data, &CHANGES).await
}

pub(super) async fn prepare_for(
    client: &Session,
    owner: Option<&str>,
    data: Uuid,
    changes: &[Change],
) -> Result<Facts, Error> {
    let Survey { facts, ledger, behind, version, role, database } = survey_for(client, owner, changes).await?;
    if ledger && !behind {
        return Ok(facts);
    }
    match change(client, data, changes).await {
        Err(Error::Postgres(error)) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Err(if ledger {
            Error::NotUpgraded { role, from: version, to: last(changes) }
        } else {
            Error::NotAllowed { role, database }
        }),
        Err(error) => Err(error),
        // Somebody may have been faster with a schema of his own.
        Ok(()) => Ok(survey_for(client, owner, changes).await?.facts),
    }
}

async fn change(client: &Session, data: Uuid, changes: &[Change]) -> Result<(), Error> {
    client
        .batch_execute(&format!(
            "{}; SET LOCAL lock_timeout = '30s'; \
             SET LOCAL idle_in_transaction_session_timeout = {}; SELECT pg_advisory_xact_lock({LOCK})",
            own::begin(client),
            IDLE_LIMIT.as_millis()
        ))
        .await?;
    let done = change_locked(client, data, changes).await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await;
    done?;
    Ok(ended?)
}

async fn change_locked(client: &Session, data: Uuid, changes: &[Change]) -> Result<(), Error> {
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
    let there: (bool, bool) = (there.try_get(0)?, there.try_get(1)?);
    // Who may not create schemas may not say IF NOT EXISTS either.
    if !there.1 {
        client.batch_execute("CREATE SCHEMA dunlin").await?;
    }
    let version = if there.0 {
        let sql = "SELECT coalesce(max(value::int), 0) FROM dunlin.meta WHERE name = 'ledger_version'";
        client.query_typed_one(sql, &[]).await?.try_get(0)?
    } else {
        0
    };
    for (change, number) in changes.iter().zip(1..).filter(|(_, number)| *number > version) {
        client.batch_execute(change.sql).await?;
        if number == 1 {
            client.execute_typed("INSERT INTO dunlin.identity (data) VALUES ($1)", &[(&data, Type::UUID)]).await?;
        }
        client
            .execute_typed(
                "INSERT INTO dunlin.meta (name, value) VALUES ('ledger_version', $1), ('oldest_reader', $2)
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                &[(&number.to_string(), Type::TEXT), (&change.oldest_reader.to_string(), Type::TEXT)],
            )
            .await?;
    }
    match version {
        0 => tracing::info!(version = last(changes), "made the schema dunlin in the target"),
        from if from < last(changes) => {
            tracing::info!(from, to = last(changes), "brought the schema dunlin in the target up to date");
        }
        _ => {}
    }
    Ok(())
}
