//! What IF NOT EXISTS has met: the same as the statement would have made, or something else of that name.
//!
//! PostgreSQL says "already exists, skipping" and looks no further: an index over another column, one that is not valid, or a table of
//! that name all count. So where it has said that (by SQLSTATE, nothing is done otherwise), the same is made once more of a temporary
//! table, the catalog is asked for both, and what was made is rolled back to a savepoint. What differs ends the step: it is not done.
//! What is not compared, or cannot be, is said in the history.
//!
//! An index that was built concurrently is compared in the same way: what has its name may be somebody else's by now.

use dunlin_proto::v1::Severity;
use dunlin_shared::figures::counted;
use dunlin_shared::postgres::Session;
use dunlin_shared::postgres::{Heard, Notice};
use dunlin_shared::sql::{Created, built_concurrently, created, quote_ident};
use tokio_postgres::types::Type;

use super::framed::Framed;
use super::{Context, Error, notices};
use crate::failure::Place;
use crate::own;

/// The table that is made to compare with.
const TEMPORARY: &str = "pg_temp.dunlin_compared";

/// Whether what is there is what the statement makes.
enum Compared {
    /// It is.
    Same,
    /// It is not.
    Other(Other),
    /// That cannot be told.
    Unknown(String),
}

/// What is there instead of what the statement makes.
enum Other {
    /// Another of that name.
    Different {
        /// What it is.
        what: String,
        /// How it is there.
        there: String,
        /// How the statement makes it.
        wanted: String,
        /// What removes it, where it is an index.
        drop: Option<String>,
    },
    /// An index that queries do not use.
    HalfBuilt {
        /// Its name.
        name: String,
        /// What removes it.
        drop: String,
    },
}

impl Other {
    fn error(self, place: &Place) -> Error {
        let migration = &place.migration;
        Error::Final(match self {
            Self::HalfBuilt { name, drop } => place.refuse(
                format!("the index {name} was there before this step, half-built: queries do not use it"),
                format!("{drop}; then `dunlin run {migration}`."),
            ),
            Self::Different { what, there, wanted, drop } => {
                let change = drop.map_or_else(|| "change it".to_owned(), |drop| format!("remove it ({drop})"));
                place.refuse(
                    format!(
                        "{what} already exists and is not what the step describes. There is: {there}. The step describes: {wanted}"
                    ),
                    format!(
                        "Look at what is there and who uses it. Then {change}, or correct the step (another name, or what it \
                         describes), `dunlin register DIR` and `dunlin run {migration}`."
                    ),
                )
            }
        })
    }
}

/// Compares within a transaction of the agent, with the names of the definition.
///
/// # Errors
/// As [`compare`].
pub(super) async fn compare_within(
    context: &Context,
    client: &Session,
    framed: &Framed,
    sql: &str,
    heard: &Heard,
    place: &Place,
) -> Result<(), Error> {
    let comparing = compare(context, client, sql, heard, place);
    if heard.skips.is_empty() { comparing.await } else { framed.around(client, comparing, place).await }
}

/// Compares what statements with IF NOT EXISTS have met with what they say, in the transaction that is open and in which they were
/// executed by one message.
///
/// # Errors
/// Something else of the name is there; or those of PostgreSQL that end the transaction.
pub(super) async fn compare(
    context: &Context,
    client: &Session,
    sql: &str,
    heard: &Heard,
    place: &Place,
) -> Result<(), Error> {
    let statements = created(sql);
    if sql.to_ascii_lowercase().contains("client_min_messages") && statements.iter().any(Option::is_some) {
        let message =
            "the step sets client_min_messages: what IF NOT EXISTS has met may not be told, and is not compared then";
        notices::say(context, &place.step, Severity::Warning, message.to_owned());
    }
    if heard.skips.is_empty() {
        return Ok(());
    }
    let mut compared: Option<usize> = None;
    for skip in &heard.skips {
        let made = statements.get(skip.command).and_then(Option::as_ref).filter(|_| skip.context.is_empty());
        let Some(made) = made.filter(|made| **made != Created::Other) else {
            tell(context, place, skip, Severity::Warning, "it existed already, and was not compared");
            continue;
        };
        // A statement that adds several columns says so of each.
        if compared == Some(skip.command) {
            continue;
        }
        compared = Some(skip.command);
        // What the step has set is gone, and its names may have meant something else.
        if sql.to_ascii_lowercase().contains("search_path") {
            tell(
                context,
                place,
                skip,
                Severity::Warning,
                "it existed already, and was not compared, since the step sets search_path",
            );
            continue;
        }
        match with_savepoint(client, made, place).await.map_err(|error| Error::of_postgres(&error, place))? {
            Compared::Same => tell(context, place, skip, Severity::Info, "what is there is what the step describes"),
            Compared::Unknown(why) => {
                let why = format!("it existed already, and could not be compared: {why}");
                tell(context, place, skip, Severity::Warning, &why);
            }
            Compared::Other(other) => return Err(other.error(place)),
        }
    }
    if heard.skips_left_out > 0 {
        let left_out = i64::try_from(heard.skips_left_out).unwrap_or(i64::MAX);
        let message = format!("{} more existed already, and were not compared", counted(left_out, "thing", "things"));
        notices::say(context, &place.step, Severity::Warning, message);
    }
    Ok(())
}

/// Compares the index that a statement has built concurrently with what the statement says, in the transaction that is open. Why that
/// cannot be told, where it cannot.
///
/// # Errors
/// It is another one; or those of PostgreSQL that end the transaction.
pub(super) async fn compare_built(client: &Session, sql: &str, place: &Place) -> Result<Option<String>, Error> {
    let Some(built) = built_concurrently(sql) else { return Ok(None) };
    match with_savepoint(client, &built, place).await.map_err(|error| Error::of_postgres(&error, place))? {
        Compared::Same => Ok(None),
        Compared::Unknown(why) => Ok(Some(why)),
        Compared::Other(other) => Err(other.error(place)),
    }
}

fn tell(context: &Context, place: &Place, skip: &Notice, severity: Severity, then: &str) {
    notices::say(context, &place.step, severity, format!("{}; {then}", notices::text(context, skip)));
}

async fn with_savepoint(client: &Session, made: &Created, place: &Place) -> Result<Compared, tokio_postgres::Error> {
    client.batch_execute("SAVEPOINT dunlin_compare").await?;
    let compared = match made {
        Created::Index { name, table, build } => index(client, name, table, build).await,
        Created::Columns { table, columns } => added(client, table, columns).await,
        Created::Table { table, definition, persistence } => whole(client, table, definition, *persistence).await,
        Created::Other => Ok(Compared::Unknown("it is not known how".to_owned())),
    };
    // Only what the savepoint undoes leaves the transaction fit to go on.
    client.batch_execute("ROLLBACK TO SAVEPOINT dunlin_compare;RELEASE SAVEPOINT dunlin_compare").await?;
    match compared {
        Err(error) if crate::failure::classify(&error) == crate::failure::Class::Final => {
            Ok(Compared::Unknown(place.words(&error)))
        }
        compared => compared,
    }
}

/// The definition of an index without its name and table; NULL where it has another shape than expected.
const WITHOUT_NAMES: &str = "(SELECT substr(d.text, length(b.names) + 1)
    FROM unnest(ARRAY[quote_ident(n.nspname), CASE WHEN n.oid = pg_my_temp_schema() THEN 'pg_temp' END]) AS schema,
        LATERAL (SELECT d.before || schema || '.' || quote_ident(t.relname) || ' ' AS names) b
    WHERE starts_with(d.text, b.names))";

/// The definition of an index `i` on a table `t`, and what it begins with.
const DEFINITION: &str = "LATERAL (SELECT pg_get_indexdef(i.indexrelid) AS text, 'CREATE ' || CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END ||
    'INDEX ' || quote_ident(x.relname) || ' ON ' || CASE WHEN x.relkind = 'I' THEN 'ONLY ' ELSE '' END AS before) d";

async fn index(
    client: &Session,
    name: &str,
    table: &str,
    (before, behind): &(String, String),
) -> Result<Compared, tokio_postgres::Error> {
    let sql = format!(
        "SELECT x.relkind::text, i.indrelid = $2, i.indisvalid, d.text, {WITHOUT_NAMES}, (SELECT nspname::text FROM pg_namespace WHERE oid = x.relnamespace), x.relname::text,
             x.relkind = 'i' AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = x.oid AND c.contype IN ('p', 'u', 'x'))
         FROM pg_class x LEFT JOIN (pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace)
             ON i.indexrelid = x.oid LEFT JOIN {DEFINITION} ON true
         WHERE x.relname = $1::text::name
           AND x.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = $2)"
    );
    let relation = own::relation(client, table).await?;
    let there = own::query_within(client, &sql, &[(&name, Type::TEXT), (&relation, Type::OID)]).await?;
    let Some(there) = there.first() else { return Ok(Compared::Unknown("it is there no more".to_owned())) };
    let wanted = format!("{before} {table} {behind}");
    let quoted = format!("{}.{}", quote_ident(there.try_get(5)?), quote_ident(there.try_get(6)?));
    let drop = format!("DROP INDEX CONCURRENTLY {quoted}");
    let removable: bool = there.try_get(7)?;
    let different = |there: String| {
        let (what, wanted, drop) = (format!("{name:?}"), wanted.clone(), removable.then(|| drop.clone()));
        Compared::Other(Other::Different { what, there, wanted, drop })
    };
    let kind: String = there.try_get(0)?;
    let Some(text) = there.try_get::<_, Option<String>>(3)? else {
        return Ok(different(of_kind(&kind).to_owned()));
    };
    if there.try_get::<_, Option<bool>>(1)? != Some(true) {
        return Ok(different(text));
    }
    if there.try_get::<_, Option<bool>>(2)? == Some(false) {
        return Ok(Compared::Other(Other::HalfBuilt { name: name.to_owned(), drop }));
    }
    let make = format!(
        "CREATE TEMP TABLE dunlin_compared (LIKE {table} INCLUDING DEFAULTS INCLUDING GENERATED);{before} {TEMPORARY} {behind}"
    );
    client.batch_execute(&make).await?;
    let sql = format!(
        "SELECT {WITHOUT_NAMES}, i.indisunique FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
             JOIN pg_namespace n ON n.oid = t.relnamespace, {DEFINITION}
         WHERE i.indrelid = to_regclass('{TEMPORARY}')"
    );
    let made = own::query_within(client, &sql, &[]).await?;
    let Some(made) = made.first() else { return Ok(Compared::Unknown("no such index could be made".to_owned())) };
    let (found, made, unique): (Option<String>, Option<String>, bool) =
        (there.try_get(4)?, made.try_get(0)?, made.try_get(1)?);
    match (found, made) {
        (Some(found), Some(made)) if found == made && text.starts_with("CREATE UNIQUE ") == unique => {
            Ok(Compared::Same)
        }
        (Some(_), Some(_)) => Ok(different(text)),
        _ => Ok(Compared::Unknown("PostgreSQL describes them in another way than expected".to_owned())),
    }
}

/// The columns of a relation: name, and type, collation, NOT NULL, default, identity and generation in SQL's words. Where a default
/// draws from the column's own sequence, the sequence's name does not count.
async fn columns(client: &Session, relation: &str) -> Result<Vec<(String, String)>, tokio_postgres::Error> {
    let relation = own::relation(client, relation).await?;
    let rows = own::query_within(
            client,
            "SELECT a.attname::text, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
                 CASE WHEN a.attcollation NOT IN (0, t.typcollation) THEN 'COLLATE ' || a.attcollation::regcollation END,
                 CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                 CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY' WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END,
                 CASE WHEN a.attgenerated = '' THEN 'DEFAULT ' ELSE 'GENERATED ALWAYS AS ' END ||
                     replace(pg_get_expr(d.adbin, d.adrelid), coalesce(s.name::regclass::text, ''), '...'))
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             LEFT JOIN LATERAL (SELECT pg_get_serial_sequence(a.attrelid::regclass::text, a.attname) AS name) s ON true
             WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            &[(&relation, Type::OID)],
        )
        .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

async fn added(client: &Session, table: &str, wanted: &[(String, String)]) -> Result<Compared, tokio_postgres::Error> {
    let there = columns(client, table).await?;
    client
        .batch_execute(&format!(
            "CREATE TEMP TABLE dunlin_compared (LIKE {table} INCLUDING DEFAULTS INCLUDING GENERATED)"
        ))
        .await?;
    for (number, (name, written)) in wanted.iter().enumerate() {
        let name = quote_ident(name);
        let aside = format!(
            "ALTER TABLE {TEMPORARY} RENAME COLUMN {name} TO dunlin_there_{number};ALTER TABLE {TEMPORARY} ADD COLUMN {written}"
        );
        client.batch_execute(&aside).await?;
    }
    let made = columns(client, TEMPORARY).await?;
    let new: Vec<&(String, String)> = made.iter().rev().take(wanted.len()).rev().collect();
    for (name, written) in new {
        let found = there.iter().find(|(other, _)| other == name).map(|(_, found)| found);
        match found {
            Some(found) if found == written => {}
            Some(found) => {
                return Ok(Compared::Other(Other::Different {
                    what: format!("the column {name:?} of {table}"),
                    there: found.clone(),
                    wanted: written.clone(),
                    drop: None,
                }));
            }
            None => return Ok(Compared::Unknown("it is there no more".to_owned())),
        }
    }
    Ok(Compared::Same)
}

/// The kind and the persistence of a relation, as the catalog has them.
async fn kind(client: &Session, relation: &str) -> Result<Option<(String, String)>, tokio_postgres::Error> {
    let relation = own::relation(client, relation).await?;
    let kind = "SELECT relkind::text, relpersistence::text FROM pg_class WHERE oid = $1";
    let rows = own::query_within(client, kind, &[(&relation, Type::OID)]).await?;
    rows.first().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
}

async fn whole(
    client: &Session,
    table: &str,
    definition: &str,
    persistence: char,
) -> Result<Compared, tokio_postgres::Error> {
    let Some((found_kind, found_lives)) = kind(client, table).await? else {
        return Ok(Compared::Unknown("it is there no more".to_owned()));
    };
    let there = columns(client, table).await?;
    client.batch_execute(&format!("CREATE TEMP TABLE dunlin_compared {definition}")).await?;
    let made_kind = kind(client, TEMPORARY).await?.map_or_else(String::new, |(kind, _)| kind);
    let made = columns(client, TEMPORARY).await?;
    let mut sorted = (there.clone(), made.clone());
    sorted.0.sort();
    sorted.1.sort();
    let lives = persistence.to_string();
    if found_kind == made_kind && found_lives == lives && sorted.0 == sorted.1 {
        return Ok(Compared::Same);
    }
    Ok(Compared::Other(Other::Different {
        what: table.to_owned(),
        there: described(&found_kind, &found_lives, &there),
        wanted: described(&made_kind, &lives, &made),
        drop: None,
    }))
}

fn described(kind: &str, persistence: &str, columns: &[(String, String)]) -> String {
    let lives = match persistence {
        "u" => "an unlogged relation, ",
        "t" => "a temporary relation, ",
        _ => "",
    };
    let columns: Vec<String> = columns.iter().map(|(name, written)| format!("{name} {written}")).collect();
    format!("{lives}{} ({})", of_kind(kind), columns.join(", "))
}

fn of_kind(kind: &str) -> &'static str {
    match kind {
        "r" => "a table",
        "p" => "a partitioned table",
        "v" => "a view",
        "m" => "a materialized view",
        "f" => "a foreign table",
        "S" => "a sequence",
        "i" | "I" => "an index",
        "c" => "a composite type",
        _ => "another relation",
    }
}
