//! Which database a target is. A name is not enough: two agents may give it to two databases, and a copy of a database has all that
//! the original had.
//!
//! - The *place*: the server (its system identifier, where the role may read that) and the database (its oid).
//! - The *data*: a UUID in the schema `dunlin`. It goes wherever the data goes: into dumps, clones and standbys.
//! - The *line*: a counter beside it, raised whenever an agent connects, with a *mark* of whoever raised it last. A copy has it too, but
//!   does not see it rise any more.
//!
//! Controllers compare; here it is only read, and written once they have said so. The line is raised before its commit is
//! answered, whatever the role's settings: a crash of the server that took it back would look like a copy.

use dunlin_proto::v1::TargetIdentity;
use dunlin_shared::postgres::Session;
use futures::future::join3;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::own;

/// Where a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The system identifier of the server; `None` where the role may not read it.
    pub(crate) system: Option<String>,
    /// The oid of the database.
    pub(crate) database: u32,
}

/// What tells a database apart from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Where it is.
    pub(crate) place: Place,
    /// What it holds; `None` where nobody has written that yet.
    pub(crate) data: Option<Uuid>,
    /// How often agents have connected to it.
    pub(crate) line: i64,
    /// Drawn by the agent that has raised the line last.
    pub(crate) mark: Option<Uuid>,
}

impl Place {
    /// Whether two places can be one.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let systems = self.system.as_ref().zip(other.system.as_ref());
        self.database == other.database && systems.is_none_or(|(one, other)| one == other)
    }
}

impl Identity {
    /// Whether this is the same database as before, at the same moment of its history or later.
    pub(crate) fn follows(&self, before: &Self) -> bool {
        let later = self.line > before.line || self.line == before.line && self.mark == before.mark;
        self.place.same(&before.place) && self.data.is_some() && self.data == before.data && later
    }
}

impl From<&Identity> for TargetIdentity {
    fn from(identity: &Identity) -> Self {
        let text = |uuid: Option<Uuid>| uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
        Self {
            system: identity.place.system.clone().unwrap_or_default(),
            database: identity.place.database,
            data: text(identity.data),
            line: identity.line,
            mark: text(identity.mark),
        }
    }
}

impl TryFrom<&TargetIdentity> for Identity {
    type Error = uuid::Error;

    fn try_from(said: &TargetIdentity) -> Result<Self, uuid::Error> {
        let uuid = |text: &str| if text.is_empty() { Ok(None) } else { Uuid::parse_str(text).map(Some) };
        let system = Some(said.system.clone()).filter(|system| !system.is_empty());
        let place = Place { system, database: said.database };
        Ok(Self { place, data: uuid(&said.data)?, line: said.line, mark: uuid(&said.mark)? })
    }
}

/// Where the database is.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn place(client: &Session) -> Result<Place, tokio_postgres::Error> {
    const DATABASE: &str = "SELECT oid, has_function_privilege('pg_control_system()', 'EXECUTE')
                            FROM pg_database WHERE datname = current_database()";
    let row = own::query_one(client, DATABASE, &[]).await?;
    let (database, readable): (u32, bool) = (row.try_get(0)?, row.try_get(1)?);
    let system = if readable {
        match own::query_one(client, "SELECT system_identifier::text FROM pg_control_system()", &[]).await {
            Ok(row) => Some(row.try_get(0)?),
            // Services that are not quite PostgreSQL have the function and not the file.
            Err(error) if error.code().is_some() => None,
            Err(error) => return Err(error),
        }
    } else {
        None
    };
    Ok(Place { system, database })
}

/// What tells the database at a place apart from others.
///
/// # Errors
/// Those of PostgreSQL. There must be a ledger.
pub(crate) async fn identity(client: &Session, place: Place) -> Result<Identity, tokio_postgres::Error> {
    let rows = own::query(client, "SELECT data, line, mark FROM dunlin.identity", &[]).await?;
    let Some(row) = rows.first() else { return Ok(Identity { place, data: None, line: 0, mark: None }) };
    Ok(Identity { place, data: row.try_get(0)?, line: row.try_get(1)?, mark: row.try_get(2)? })
}

/// The same in one statement, for a connection that is to be used for work: of the place the database alone.
///
/// # Errors
/// Those of PostgreSQL. There must be a ledger.
pub(crate) async fn glance(client: &Session) -> Result<Identity, tokio_postgres::Error> {
    const GLANCE: &str =
        "SELECT d.oid, i.data, i.line, i.mark FROM pg_catalog.pg_database d LEFT JOIN dunlin.identity i ON true
                          WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";
    // Every name is qualified, so that it needs no transaction with a path of its own; a role does.
    let row = match client.role() {
        None => client.query_typed_one(GLANCE, &[]).await?,
        Some(_) => own::query_one(client, GLANCE, &[]).await?,
    };
    let place = Place { system: None, database: row.try_get(0)? };
    let line: Option<i64> = row.try_get(2)?;
    Ok(Identity { place, data: row.try_get(1)?, line: line.unwrap_or(0), mark: row.try_get(3)? })
}

/// Raises the line. Returns it, and the mark that was left.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn raise(client: &Session) -> Result<(i64, Uuid), tokio_postgres::Error> {
    let mark = Uuid::new_v4();
    let begin = format!("{};SET LOCAL synchronous_commit = local", own::begin(client));
    let raise = "UPDATE dunlin.identity SET line = line + 1, mark = $1 RETURNING line";
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&mark, Type::UUID)];
    let work = client.query_typed_one(raise, &parameters);
    let (begun, row, ended) = join3(client.batch_execute(&begin), work, client.batch_execute("COMMIT")).await;
    begun?;
    let line = row?.try_get(0)?;
    ended?;
    Ok((line, mark))
}

/// Writes which data this is from now on, where it is still what it was.
///
/// # Errors
/// Those of PostgreSQL.
pub(crate) async fn adopt(client: &Session, was: Option<Uuid>, data: Uuid) -> Result<(), tokio_postgres::Error> {
    let adopt = "INSERT INTO dunlin.identity AS i (data) VALUES ($1)
                 ON CONFLICT (one) DO UPDATE SET data = excluded.data WHERE i.data = $2";
    own::query(client, adopt, &[(&data, Type::UUID), (&was, Type::UUID)]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use dunlin_shared::postgres::throwaway;

    use super::*;
    use crate::testing::{Lab, connect};

    #[tokio::test]
    async fn another_database_is_another_place_and_a_line_only_rises() {
        let lab = Lab::new().await;
        let original = identity(&lab.client, place(&lab.client).await.unwrap()).await.unwrap();
        assert!(original.place.system.is_some() && original.data.is_some(), "{original:?}");
        let other = throwaway::shared().await.database("copy").await.unwrap();
        let other = connect(&other).await;
        let elsewhere = place(&other).await.unwrap();
        assert_eq!(elsewhere.system, original.place.system);
        assert!(!elsewhere.same(&original.place), "another database");
        let (line, mark) = raise(&lab.client).await.unwrap();
        let raised = identity(&lab.client, original.place.clone()).await.unwrap();
        assert_eq!((raised.line, raised.mark), (line, Some(mark)));
        assert!(raised.follows(&original) && !original.follows(&raised));
        assert!(glance(&lab.client).await.unwrap().follows(&raised));
        let forked = Identity { mark: Some(Uuid::new_v4()), ..raised.clone() };
        assert!(!forked.follows(&raised), "two have raised one line to one number");
    }

    #[tokio::test]
    async fn where_the_system_identifier_may_not_be_read_the_place_is_the_database_alone() {
        let lab = Lab::new().await;
        let whole = place(&lab.client).await.unwrap();
        let role = format!("blind_{}", whole.database);
        lab.sql(&format!(
            "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC; CREATE ROLE {role}; SET ROLE {role}"
        ))
        .await;
        let part = place(&lab.client).await.unwrap();
        lab.sql(&format!("RESET ROLE; DROP ROLE {role}; GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC"))
            .await;
        assert_eq!(part, Place { system: None, ..whole.clone() });
        assert!(part.same(&whole));
    }

    #[tokio::test]
    async fn data_is_renamed_only_where_it_is_still_what_it_was() {
        let lab = Lab::new().await;
        let before = glance(&lab.client).await.unwrap();
        let (new, other) = (Uuid::new_v4(), Uuid::new_v4());
        adopt(&lab.client, Some(other), new).await.unwrap();
        assert_eq!(glance(&lab.client).await.unwrap().data, before.data);
        adopt(&lab.client, before.data, new).await.unwrap();
        assert_eq!(glance(&lab.client).await.unwrap().data, Some(new));
    }
}
