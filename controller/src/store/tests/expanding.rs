//! The rule for changes of the controllers' own schema: they only ever expand it.
//!
//! While controllers are replaced one after the other, those of the version before go on working on a schema that is newer
//! than they are. So a file of `controller/migrations` behind the first may make new tables, and fill those; add columns that
//! may be left out; and make indexes that refuse nothing. What is not named here is refused, also when it would be harmless:
//! who needs it adds it to this list, with the reason why a controller that knows nothing of it does not mind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use squawk_syntax::SourceFile;
use squawk_syntax::ast::{AddColumn, AlterTableAction, AstNode, Constraint, Stmt};

/// The ledger's versions, from here.
const LEDGER: &str = "../agent/src/ledger/changes";

/// Why a text is no expansion; empty when it is one.
fn objections(sql: &str) -> Vec<String> {
    let parsed = SourceFile::parse(sql);
    let mut objections: Vec<String> =
        parsed.errors().iter().map(|error| format!("it cannot be read: {error}")).collect();
    let mut new: BTreeSet<String> = BTreeSet::new();
    for statement in parsed.tree().stmts() {
        let text = statement.syntax().text().to_string();
        let mut refuse = |why: &str| objections.push(format!("{why}: {text}"));
        let name = |name: Option<String>| name.unwrap_or_default();
        match &statement {
            Stmt::CreateTable(table) => {
                let table = table.table_name().map(|name| name.syntax().text().to_string());
                new.insert(name(table));
            }
            Stmt::CreateIndex(index) => {
                let table = index.table_relation_name().map(|name| name.syntax().text().to_string());
                if index.unique_token().is_some() && !new.contains(&name(table)) {
                    refuse("a unique index refuses what older controllers write");
                }
                if index.concurrently_token().is_some() {
                    refuse("the migrations run in transactions");
                }
            }
            Stmt::AlterTable(table) => {
                if table.actions().next().is_none() {
                    refuse("not known to be harmless");
                }
                for action in table.actions() {
                    match action {
                        AlterTableAction::AddColumn(column) => {
                            if let Some(why) = column_objection(&column) {
                                refuse(why);
                            }
                        }
                        _ => refuse("of the changes of an existing table only ADD COLUMN is harmless"),
                    }
                }
            }
            Stmt::Insert(insert) => {
                let table = insert.relation_name_ref().map(|name| name.syntax().text().to_string());
                if !new.contains(name(table).trim()) {
                    refuse("rows of existing tables are those of controllers of any version");
                }
            }
            Stmt::CommentOn(_) => {}
            _ => refuse("not known to be harmless"),
        }
    }
    objections
}

fn column_objection(column: &AddColumn) -> Option<&'static str> {
    let has = |wanted: fn(&Constraint) -> bool| column.constraints().any(|constraint| wanted(&constraint));
    if has(|one| matches!(one, Constraint::NotNullConstraint(_)))
        && !has(|one| matches!(one, Constraint::DefaultConstraint(_)))
    {
        return Some("older controllers leave the column out: it needs a default, or must allow NULL");
    }
    let harmless = |one: &Constraint| {
        matches!(
            one,
            Constraint::NotNullConstraint(_)
                | Constraint::NullConstraint(_)
                | Constraint::DefaultConstraint(_)
                | Constraint::ReferencesConstraint(_)
        )
    };
    let all_harmless = column.constraints().all(|one| harmless(&one));
    (!all_harmless).then_some("a constraint may refuse what older controllers write")
}

fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

#[test]
fn every_migration_of_the_controllers_schema_behind_the_first_only_expands_it() {
    let files = files("migrations", "sql");
    let first = files.iter().position(|file| file.file_name().unwrap().to_string_lossy().starts_with("V1__")).unwrap();
    for (place, file) in files.iter().enumerate().filter(|(place, _)| *place != first) {
        let found = objections(&std::fs::read_to_string(file).unwrap());
        assert!(found.is_empty(), "{place}: {}: {found:#?}", file.display());
    }
}

/// Agents of several versions work on the ledger of a target, as controllers do on their own schema.
#[test]
fn every_change_of_the_ledger_behind_the_first_only_expands_it() {
    let files = files(LEDGER, "sql");
    assert!(files[0].ends_with("1.sql"), "{files:?}");
    for file in &files[1..] {
        let found = objections(&std::fs::read_to_string(file).unwrap());
        assert!(found.is_empty(), "{}: {found:#?}", file.display());
    }
}

/// A list could never grow: neither schema is ever narrowed or widened where it is.
#[test]
fn no_column_has_a_list_of_the_words_that_it_may_hold() {
    for file in [files("migrations", "sql"), files(LEDGER, "sql")].concat() {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let list = line.split_once("CHECK (").and_then(|(_, check)| check.split_once(" IN ('"));
            let of_a_column = list.is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            let alone = line.trim_end_matches(',').ends_with("'))");
            assert!(!(of_a_column && alone), "{}:{}: {line}", file.display(), number + 1);
        }
    }
}

#[test]
fn what_expands_the_schema_is_allowed() {
    let samples = [
        "-- Why.\nCREATE TABLE dunlin_controller.notes (id bigint PRIMARY KEY, text text NOT NULL CHECK (text <> ''));
         CREATE UNIQUE INDEX ON dunlin_controller.notes (text);
         INSERT INTO dunlin_controller.notes VALUES (1, 'first');
         COMMENT ON TABLE dunlin_controller.notes IS 'notes';",
        "ALTER TABLE dunlin_controller.runs ADD COLUMN note text, ADD COLUMN weight int NOT NULL DEFAULT 1;",
        "ALTER TABLE dunlin_controller.runs ADD COLUMN parent bigint REFERENCES dunlin_controller.runs;",
        "CREATE INDEX runs_by_note ON dunlin_controller.runs (note) WHERE note IS NOT NULL;",
    ];
    for sql in samples {
        assert_eq!(objections(sql), Vec::<String>::new(), "{sql}");
    }
}

#[test]
fn what_an_older_controller_would_stumble_over_is_refused() {
    let samples = [
        "DROP TABLE dunlin_controller.events",
        "DROP INDEX dunlin_controller.tasks_ready",
        "ALTER TABLE dunlin_controller.runs DROP COLUMN kind",
        "ALTER TABLE dunlin_controller.runs DROP CONSTRAINT runs_state_check",
        "ALTER TABLE dunlin_controller.runs RENAME TO attempts",
        "ALTER TABLE dunlin_controller.runs RENAME COLUMN kind TO sort",
        "ALTER TABLE dunlin_controller.runs ALTER COLUMN version TYPE bigint",
        "ALTER TABLE dunlin_controller.runs ALTER COLUMN failure SET NOT NULL",
        "ALTER TABLE dunlin_controller.runs ALTER COLUMN version DROP NOT NULL",
        "ALTER TABLE dunlin_controller.runs ALTER COLUMN kind DROP DEFAULT",
        "ALTER TABLE dunlin_controller.runs ADD COLUMN note text NOT NULL",
        "ALTER TABLE dunlin_controller.runs ADD COLUMN note text, ADD COLUMN other text NOT NULL",
        "ALTER TABLE dunlin_controller.runs ADD COLUMN note text UNIQUE",
        "ALTER TABLE dunlin_controller.runs ADD COLUMN note text CHECK (note <> '' OR rerun)",
        "ALTER TABLE dunlin_controller.runs ADD CHECK (version > 1)",
        "ALTER TABLE dunlin_controller.runs ADD CONSTRAINT one UNIQUE (version)",
        "ALTER TABLE dunlin_controller.runs ADD FOREIGN KEY (version) REFERENCES dunlin_controller.runs",
        "ALTER TABLE dunlin_controller.runs SET SCHEMA public",
        "ALTER SCHEMA dunlin_controller RENAME TO other",
        "CREATE UNIQUE INDEX ON dunlin_controller.runs (version)",
        "CREATE INDEX CONCURRENTLY ON dunlin_controller.runs (version)",
        "CREATE TRIGGER t BEFORE INSERT ON dunlin_controller.runs FOR EACH ROW EXECUTE FUNCTION refuse()",
        "INSERT INTO dunlin_controller.runs (id) VALUES (1)",
        "UPDATE dunlin_controller.runs SET version = 1",
        "DELETE FROM dunlin_controller.events",
        "TRUNCATE dunlin_controller.events",
        "DO $$ BEGIN DROP TABLE dunlin_controller.events; END $$",
        "WITH gone AS (DELETE FROM dunlin_controller.events RETURNING id) SELECT count(*) FROM gone",
        "REVOKE SELECT ON dunlin_controller.events FROM PUBLIC",
        "CREATE TABLE dunlin_controller.notes (id bigint",
    ];
    for sql in samples {
        assert!(!objections(sql).is_empty(), "it was allowed: {sql}");
        let among_others = format!("CREATE TABLE dunlin_controller.notes (id int);\n{sql}");
        assert!(!objections(&among_others).is_empty(), "it was allowed: {among_others}");
    }
}

/// A statement whose result has all columns of a table cannot be executed again where it was prepared, once the table has
/// one more.
#[test]
fn statements_name_the_columns_that_they_return() {
    for file in files("src/store", "rs") {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let of_table = line.contains("SELECT *") && !line.contains("jsonb_to_recordset");
            let of_alias = line.split([' ', ',', '(']).any(|word| {
                word.strip_suffix(".*").is_some_and(|alias| alias.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            });
            assert!(!of_table && !of_alias, "{}:{}: {line}", file.display(), number + 1);
        }
    }
}
