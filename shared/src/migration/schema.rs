//! The JSON Schema of the definition format, for editors: completion, descriptions, and the mistakes that need no SQL.
//!
//! The types here mirror the TOML and exist for their schema alone. Reading is done elsewhere, with positions; tests keep
//! both to the same fields and bounds.
#![expect(dead_code, reason = "the fields of the mirrors are never read, only described")]

use std::num::NonZeroU32;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};

use super::limits;

/// The JSON Schema of a definition file.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    // TOML has no null, so that no field has it for its default.
    let no_null = RecursiveTransform(|schema: &mut Schema| {
        if schema.get("default").is_some_and(serde_json::Value::is_null) {
            schema.remove("default");
        }
    });
    let settings = SchemaSettings::draft07().with_transform(no_null);
    let mut schema = settings.into_generator().into_root_schema_for::<Migration>();
    schema.insert("title".to_owned(), "Dunlin migration".into());
    schema.to_value()
}

/// A migration: a declared change of a PostgreSQL database, with the data transforms that go with it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Migration {
    /// The name of the migration in every command, message and table.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9-]{0,99}$"))]
    id: String,
    /// A short title for people.
    #[schemars(length(min = 1))]
    name: String,
    /// What changes and why, for people.
    #[schemars(length(min = 1))]
    description: String,
    /// The schema version that a target has once this migration is applied; unique.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_i64))]
    version: i64,
    /// Ids of the migrations that must be applied on a target before this one starts there; their versions are lower.
    #[schemars(default, inner(regex(pattern = r"^[a-z0-9][a-z0-9-]{0,99}$")), extend("uniqueItems" = true))]
    run_after: Vec<String>,
    /// What the migration touches, such as "users.role".
    #[schemars(default, inner(length(min = 1)))]
    impacts: Vec<String>,
    /// Checks that must hold before the first step.
    #[schemars(default)]
    before: Vec<Check>,
    /// The steps, in the order in which they run. None: the change is made elsewhere, and is only checked and recorded.
    #[schemars(default)]
    step: Vec<Step>,
    /// Checks that must hold after the last step.
    #[schemars(default)]
    after: Vec<Check>,
    /// The steps that undo the migration.
    #[schemars(default)]
    rollback: Vec<Step>,
    /// The isolation of the migration's transaction, where all steps share one. Left out: read committed.
    #[schemars(default, with = "IsolationOf")]
    isolation: Option<IsolationOf>,
}

/// A query that must return true.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Check {
    /// What is checked, in words; unique in its list.
    #[schemars(length(min = 1, max = 100))]
    name: String,
    /// One query that returns one row with one boolean.
    #[schemars(length(min = 1))]
    sql: String,
    /// True lets the check see only the rows that row-level security lets the agent's role see. Otherwise such a table is an error.
    #[schemars(default)]
    row_security: bool,
}

/// One part of a migration: `sql`, or `file`, or `transform` with `batch`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["sql"]}, {"required": ["file"]}, {"required": ["transform", "batch"]}]))]
struct Step {
    /// The name of the step, unique in its list.
    #[schemars(length(min = 1, max = 100))]
    name: String,
    /// The name that the step had in an earlier text: what a target has of it goes on under the new name.
    #[schemars(default, length(min = 1, max = 100), with = "String")]
    was: Option<String>,
    /// SQL; one statement with `:batch` where the step has `batch`.
    #[schemars(default, length(min = 1), with = "String")]
    sql: Option<String>,
    /// A file with the SQL, relative to the definition.
    #[schemars(default, length(min = 1), with = "String")]
    file: Option<String>,
    /// The name of code in an agent that transforms each batch.
    #[schemars(default, regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"), with = "String")]
    transform: Option<String>,
    /// Walk a table in batches in key order.
    #[schemars(default, with = "Batch")]
    batch: Option<Batch>,
    /// False runs the one statement of the step outside a transaction, such as CREATE INDEX CONCURRENTLY. "own" runs the step in a
    /// transaction that no other step shares.
    #[schemars(default = "shared", with = "TransactionOf")]
    transaction: TransactionOf,
    /// The isolation of the step's transactions. Left out: read committed.
    #[schemars(default, with = "IsolationOf")]
    isolation: Option<IsolationOf>,
    /// True lets the step see and change only the rows that row-level security lets the agent's role see. Otherwise such a table is an
    /// error.
    #[schemars(default)]
    row_security: bool,
    /// True when the step may be carried out again over what it has done already.
    #[schemars(default)]
    idempotent: bool,
    /// True permits the step to fill unlogged tables, which a crash of the server empties; the loss is then noticed.
    #[schemars(default)]
    unlogged: bool,
    /// True permits the step to write foreign tables, whose server commits by itself: a batch may then be applied twice.
    #[schemars(default)]
    foreign: bool,
    /// True where nobody is to look where `:batch` stands in the statement. That is recorded.
    #[schemars(default)]
    batch_is_mine: bool,
    /// "elsewhere" permits the statement to change rows of the table outside of its batch. Left out: a batch that does is rolled back.
    #[schemars(default, with = "Changes")]
    changes: Option<Changes>,
}

/// How a table is cut into ranges and batches.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Batch {
    /// The table as SQL writes it, with its schema or found through the search path.
    #[schemars(length(min = 1))]
    table: String,
    /// The columns of a unique, not-null, indexed key. Left out: the primary key.
    #[schemars(default, length(min = 1), inner(length(min = 1)), extend("uniqueItems" = true), with = "Vec<String>")]
    key: Option<Vec<String>>,
    /// Rows in one batch, which is one transaction. Left out: the agent decides.
    #[schemars(default, range(min = 1, max = limits::SIZE), with = "NonZeroU32")]
    size: Option<u32>,
    /// Rows in one range, which is the unit that is leased. Left out: the agent decides.
    #[schemars(default, range(min = 1, max = limits::RANGE), with = "NonZeroU32")]
    range: Option<u32>,
    /// Stripes in a window; 1 is plain key order. Left out: chosen by what the agent measures.
    #[schemars(default, range(min = 1, max = limits::STRIPES), with = "NonZeroU32")]
    stripes: Option<u32>,
    /// "strict" refuses the step where the server would read the whole table for each batch. Left out: it is told in an event.
    #[schemars(default, with = "PlanRule")]
    plan: Option<PlanRule>,
}

/// Which rows of the table that is walked a statement changes.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Changes {
    Elsewhere,
}

/// Which plans of a statement are refused.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum PlanRule {
    Strict,
}

/// In which transaction a step is executed.
#[derive(JsonSchema, serde::Serialize)]
#[serde(untagged)]
enum TransactionOf {
    Shared(bool),
    Own(Own),
}

#[derive(JsonSchema, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Own {
    Own,
}

fn shared() -> TransactionOf {
    TransactionOf::Shared(true)
}

/// An isolation level.
#[derive(JsonSchema, serde::Serialize)]
enum IsolationOf {
    #[serde(rename = "repeatable read")]
    RepeatableRead,
    #[serde(rename = "serializable")]
    Serializable,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::document;
    use super::*;

    #[test]
    fn the_schema_knows_the_fields_that_are_read_and_no_others() {
        let schema = json_schema();
        for (table, fields) in [
            (&schema, document::MIGRATION),
            (&schema["definitions"]["Check"], document::CHECK),
            (&schema["definitions"]["Step"], document::STEP),
            (&schema["definitions"]["Batch"], document::BATCH),
        ] {
            let described: BTreeSet<&str> =
                table["properties"].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(described, fields.iter().copied().collect());
            assert_eq!(table["additionalProperties"], Value::Bool(false));
        }
    }

    #[test]
    fn the_schema_in_docs_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/definition.schema.json");
        let written: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(written, json_schema(), "run: cargo run -p dunlin-shared --example definition-schema");
    }
}
