//! `dunlin target grants`: the SQL that an administrator executes once, so that an agent can work under a role that is no superuser.

use std::fmt::Write as _;

use dunlin_shared::sql::{quote_ident, quote_literal};
use serde::Serialize;

use crate::error::Error;
use crate::output::Output;

/// The options of `dunlin target grants`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The role that the agent works under: that of its URL, or of its --role
    #[arg(long, value_name = "ROLE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    role: String,
    /// A schema in which migrations make things; can be given several times
    #[arg(
        long,
        value_name = "SCHEMA",
        default_value = "public",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    schema: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Answer {
    sql: String,
}

/// What is said at the end. No remark holds a name: one with a line break in it would go on behind the remark.
const AFTERWARDS: &str = "\
-- Tables that migrations change must belong to the role, or to one that it is a member of: ALTER TABLE ... OWNER TO ...
-- Not needed, but then waits tell the statements of other roles that are in the way: GRANT pg_read_all_stats TO ...
";

/// Prints the SQL.
pub(super) fn execute(args: &Args, output: &Output) -> Result<(), Error> {
    let answer = Answer { sql: sql(&args.role, &args.schema) };
    output.answer(&answer, |_| answer.sql.trim_end().to_owned())
}

fn sql(role: &str, schemas: &[String]) -> String {
    let (named, quoted) = (quote_literal(role), quote_ident(role));
    let mut sql = format!(
        "-- For an administrator, in the database of the target: a superuser, or a member of the role.
BEGIN;
DO $$ BEGIN
    EXECUTE pg_catalog.format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', pg_catalog.current_database(), {named});
END $$;
-- The ledger: what was done to this database, and how far what is under way has come.
CREATE SCHEMA IF NOT EXISTS dunlin AUTHORIZATION {quoted};
-- Where it was there and belongs to another role, which agents are told of by --ledger-owner.
GRANT USAGE, CREATE ON SCHEMA dunlin TO {quoted};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dunlin TO {quoted};
"
    );
    for schema in schemas {
        let _infallible = writeln!(sql, "GRANT USAGE, CREATE ON SCHEMA {} TO {quoted};", quote_ident(schema));
    }
    sql.push_str("COMMIT;\n");
    sql.push_str(AFTERWARDS);
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_stand_in_no_remark() {
        let sql = sql("a \"b'\nDROP", &["Mine".to_owned()]);
        assert!(sql.contains("GRANT USAGE, CREATE ON SCHEMA \"Mine\" TO \"a \"\"b'"), "{sql}");
        assert!(sql.lines().filter(|line| line.starts_with("--")).all(|line| !line.contains("b'")), "{sql}");
    }
}
