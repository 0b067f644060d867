//! Row-level security that would have hidden rows: which policies of which table, and the ways out.
//!
//! Agents set `row_security = off`, so that PostgreSQL refuses a query that policies would filter. It names the table only, without its
//! schema, and only in words. What the words decide here is which tables are looked at, not what kind of error it is. Where the look
//! fails, the error stands as PostgreSQL has told it.

use dunlin_proto::v1::RunError;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::Context;
use crate::failure::Place;
use crate::own;

/// The function of the server that refuses. It is the same in all languages.
const REFUSES: &str = "check_enable_rls";

/// Tables with policies whose name stands in the words of the error: the table, its owner, whether that is the agent's role, FORCE, and
/// the policies.
const TABLES: &str = "
SELECT format('%I.%I', n.nspname, c.relname), pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE'), c.relforcerowsecurity,
       coalesce((SELECT string_agg(format('%I for %s to %s%s', p.polname,
                    CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                    (SELECT string_agg(CASE r.oid WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.oid)) END, ', ') FROM unnest(p.polroles) AS r(oid)),
                    ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')'), '; ' ORDER BY p.polname)
                 FROM pg_policy p WHERE p.polrelid = c.oid), 'none: without a policy no row is seen')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relrowsecurity AND position('\"' || c.relname || '\"' IN $1) > 0
ORDER BY pg_table_is_visible(c.oid) DESC, 1 LIMIT 5";

/// An error of row-level security.
#[derive(Debug)]
pub(crate) struct Hidden {
    error: Box<RunError>,
    /// Where in functions it happened.
    functions: Option<String>,
}

impl Hidden {
    /// Tells whether an error is one.
    pub(super) fn read(error: &tokio_postgres::Error, place: &Place) -> Option<Self> {
        let db = error.as_db_error()?;
        let refused = *db.code() == SqlState::INSUFFICIENT_PRIVILEGE && db.routine() == Some(REFUSES);
        refused.then(|| Self {
            error: place.blame(error),
            functions: db.where_().filter(|_| !place.redact).map(str::to_owned),
        })
    }

    /// Says more about it. Not in its message, whose words say which tables are looked at.
    pub(super) fn add(&mut self, more: &str) {
        let detail = &mut self.error.detail;
        *detail = if detail.is_empty() { more.to_owned() } else { format!("{detail}; {more}") };
    }
}

impl From<Hidden> for Box<RunError> {
    fn from(hidden: Hidden) -> Self {
        hidden.error
    }
}

/// The error with everything that the catalog says about it.
pub(super) async fn explain(context: &Context, hidden: Hidden) -> Box<RunError> {
    let Hidden { mut error, functions } = hidden;
    let tables = tables(context, &error.message).await;
    let mut details: Vec<String> = tables.iter().map(Protected::to_string).collect();
    if let Some(functions) = functions {
        details.push(format!("it is read in: {}", functions.replace('\n', ", in ")));
    }
    if !error.detail.is_empty() {
        details.insert(0, std::mem::take(&mut error.detail));
    }
    error.detail = details.join(". ");
    let role = context.target.facts().map_or_else(|| "ROLE".to_owned(), |facts| facts.role);
    let owner = match tables.iter().find(|table| table.forced) {
        Some(table) if table.mine => format!(
            "take the policies off its owner (ALTER TABLE {} NO FORCE ROW LEVEL SECURITY), if that is meant",
            table.name
        ),
        _ => "use a role that owns the table, where FORCE ROW LEVEL SECURITY is off".to_owned(),
    };
    let place = if error.check.is_empty() { "step" } else { "check" };
    error.next = format!(
        "Rows that policies hide would be left out. Let the agent's role see all rows (ALTER ROLE {role} BYPASSRLS), or {owner}; or, \
         where only the rows are meant that this role sees, write `row_security = true` on the {place} and `dunlin register DIR`; then \
         `dunlin run {}`.",
        context.migration
    );
    error
}

/// A table that has policies.
#[derive(Debug)]
struct Protected {
    name: String,
    owner: String,
    /// True when the agent's role counts as its owner.
    mine: bool,
    forced: bool,
    policies: String,
}

impl Protected {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            name: row.try_get(0)?,
            owner: row.try_get::<_, &str>(1)?.to_owned(),
            mine: row.try_get(2)?,
            forced: row.try_get(3)?,
            policies: row.try_get(4)?,
        })
    }
}

impl std::fmt::Display for Protected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, owner, forced, policies, .. } = self;
        let forced = if *forced { "on: they hold for its owner, too" } else { "off: they do not hold for its owner" };
        write!(f, "{name} belongs to {owner}, FORCE is {forced}; its policies: {policies}")
    }
}

async fn tables(context: &Context, message: &str) -> Vec<Protected> {
    let Ok(connection) = context.target.lend().await else { return Vec::new() };
    let rows = own::query(&connection, TABLES, &[(&message, Type::TEXT)]).await.unwrap_or_else(|error| {
        tracing::warn!(error = dunlin_shared::postgres::describe(&error), "the policies could not be read");
        Vec::new()
    });
    rows.iter().filter_map(|row| Protected::read(row).ok()).collect()
}
