//! What definitions may say, and what is told of those that say something else.

use proptest::prelude::*;

use super::*;
use crate::migration::StepBody;

const HEAD: &str = "id = \"a\"\nname = \"A\"\ndescription = \"d\"\nversion = 5\n";
const STEP: &str = "[[step]]\nname = \"s\"\nsql = \"SELECT 1\"\n";

fn file(path: &str, content: &str) -> SourceFile {
    SourceFile { path: path.to_owned(), content: content.to_owned() }
}

/// A definition that is right.
fn small(id: &str, version: u32, more: &str) -> SourceFile {
    let content = format!("id = \"{id}\"\nname = \"n\"\ndescription = \"d\"\nversion = {version}\n{more}\n{STEP}");
    file(&format!("{id}.toml"), &content)
}

fn known(id: &str, version: i64) -> Known {
    Known { id: MigrationId::parse(id).unwrap(), version: Version::new(version).unwrap() }
}

fn told(files: &[SourceFile], known: &[Known]) -> Vec<String> {
    match Set::parse(files, known) {
        Ok(set) => set.warnings.iter().map(ToString::to_string).collect(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// What is told of one definition with this behind its head; "a.toml:" is cut off.
fn told_of(content: &str) -> Vec<String> {
    let told = told(&[file("a.toml", &format!("{HEAD}{content}"))], &[]);
    told.iter().map(|line| line.trim_start_matches("a.toml:").to_owned()).collect()
}

fn parsed(content: &str) -> Definition {
    Set::parse(&[file("a.toml", content)], &[]).unwrap().entries.remove(0).definition
}

#[test]
fn the_example_of_the_documentation_is_read_whole() {
    let content = r#"
id          = "update-user-roles"
name        = "Rename the teacher role"
description = "Teachers are called instructors from now on."
version     = 5
run_after   = ["add-course-level-field"]
impacts     = ["users.role"]

[[before]]
name = "only known roles"
sql  = "SELECT NOT EXISTS (SELECT FROM users WHERE role NOT IN ('student', 'teacher', 'admin'))"

[[step]]
name  = "rename"
batch = { table = "users" }        # optional: key = ["id"], size = 1000, range = 100000
sql   = "UPDATE users SET role = 'instructor' WHERE role = 'teacher' AND :batch"

[[after]]
name = "no teacher is left"
sql  = "SELECT NOT EXISTS (SELECT FROM users WHERE role = 'teacher')"

[[rollback]]
name  = "rename back"
batch = { table = "users" }
sql   = "UPDATE users SET role = 'teacher' WHERE role = 'instructor' AND :batch"
"#;
    let set = Set::parse(&[file("5.toml", content)], &[known("add-course-level-field", 4)]).unwrap();
    let entry = &set.entries[0];
    let definition = &entry.definition;
    assert_eq!((entry.path.as_str(), entry.text.as_str()), ("5.toml", content));
    assert_eq!((definition.id.as_str(), definition.version.get()), ("update-user-roles", 5));
    assert_eq!(definition.run_after[0].as_str(), "add-course-level-field");
    assert_eq!(definition.impacts, ["users.role"]);
    assert_eq!(definition.before[0].name, "only known roles");
    assert!(!definition.is_atomic());
    let StepBody::Batch { batch, sql } = &definition.steps[0].body else { panic!("{definition:?}") };
    assert_eq!((batch.table.as_str(), batch.key.len(), batch.size), ("users", 0, None));
    assert!(sql.ends_with("AND :batch"));
    assert_eq!(definition.rollback[0].name.as_str(), "rename back");
}

#[test]
fn every_kind_of_step_is_read() {
    let definition = parsed(&format!(
        "{HEAD}{STEP}[[step]]\nname = \"t\"\ntransform = \"parents\"\n\
         batch = {{ table = \"shop.\\\"Order\\\"\", key = [\"a\", \"b\"], size = 5, range = 50, stripes = 1 }}\n\
         [[step]]\nname = \"i\"\nsql = \"CREATE INDEX CONCURRENTLY i ON t (a)\"\ntransaction = false\n"
    ));
    assert!(matches!(definition.steps[0].body, StepBody::Sql { transaction: true, .. }));
    let StepBody::Transform { batch, transform } = &definition.steps[1].body else { panic!("{definition:?}") };
    assert_eq!((transform.as_str(), batch.table.as_str()), ("parents", "shop.\"Order\""));
    assert_eq!((batch.key.len(), batch.size, batch.range, batch.stripes), (2, Some(5), Some(50), Some(1)));
    assert!(matches!(definition.steps[2].body, StepBody::Sql { transaction: false, .. }));
}

#[test]
fn all_problems_of_all_files_are_told_in_one_go() {
    let files = [
        file(
            "a.toml",
            "id = \"A b\"\nnmae = \"x\"\nversion = 0\nimpacts = \"users\"\n[[step]]\nname = 4\nsql = \"\"\n",
        ),
        file("b.toml", "id = "),
        file("c.toml", &format!("{HEAD}run_after = [\"nowhere\"]\n[[step]]\nname = \"s\"\nsql = \"BEGIN\"\n")),
    ];
    assert_eq!(
        told(&files, &[]),
        [
            "a.toml:1:1: a migration needs the field `description`",
            "a.toml:1:1: a migration needs the field `name`",
            "a.toml:1:7: \"A b\" is not a migration id: 1 to 100 lower-case letters, digits and '-', the first a letter or digit",
            "a.toml:2:1: a migration has no field `nmae` (did you mean `name`?)",
            "a.toml:3:11: 0 is not a version: 1 to 9007199254740991",
            "a.toml:4:12: `impacts` must be a list of texts, not a text",
            "a.toml:6:8: `name` must be a text in quotes, not a whole number",
            "a.toml:7:7: `sql` must not be empty",
            "b.toml:1:6: this is not TOML: unexpected eof encountered",
            "c.toml:8:8: BEGIN is not allowed: transactions are the agent's (leave it out; every step runs in a transaction \
             of its own unless it says `transaction = false`)",
        ]
    );
}

#[test]
fn what_breaks_a_rule_is_told_where_it_stands() {
    let batch = "batch = { table = \"t\" }";
    for (content, expected) in [
        (
            "[step]\nname = \"s\"".to_owned(),
            "5:2: `step` must be a list of tables, not a table (begin each with [[step]])",
        ),
        ("[[step]]\nname = \"s\"".to_owned(), "5:1: a step needs something to do"),
        ("[[step]]\nsql = \"SELECT 1\"".to_owned(), "5:1: a step needs the field `name`"),
        (
            format!("{STEP}{STEP}"),
            "9:9: the step name `s` is taken already in [[step]] (the first stands at a.toml:6:9)",
        ),
        (format!("{STEP}file = \"x.sql\""), "8:1: `sql` and `file` exclude each other"),
        (format!("{STEP}transform = \"x\""), "8:1: `sql` and `transform` exclude each other"),
        ("[[step]]\nname = \"s\"\ntransform = \"x\"".to_owned(), "7:1: a step with `transform` needs `batch`"),
        (format!("[[step]]\nname = \"s\"\ntransform = \"x y\"\n{batch}"), "7:14: \"x y\" is not a transform name"),
        (
            format!("[[step]]\nname = \"s\"\nsql = \"DELETE FROM t WHERE :batch\"\ntransaction = false\n{batch}"),
            "8:1: a step with `batch` cannot run outside a transaction",
        ),
        (format!("{STEP}transaction = \"no\""), "8:16: `transaction` must be true, false or \"own\""),
        ("[[step]]\nname = \"s\"\nfile = \"x.sql\"".to_owned(), "7:9: there is no file `x.sql`"),
        (
            "[[step]]\nname = \"s\"\nfile = \"../x.sql\"".to_owned(),
            "7:9: `../x.sql` lies outside the directory of the set",
        ),
        (format!("{STEP}batch = {{ table = \"t; DROP\" }}"), "8:20: `table` must name a table as SQL does"),
        (format!("{STEP}batch = {{ table = \"t\", key = [] }}"), "8:24: `key` must name at least one column"),
        (
            format!("{STEP}batch = {{ table = \"t\", key = [\"a\", \"a\"] }}"),
            "8:37: the column `a` stands in `key` twice",
        ),
        (format!("{STEP}batch = {{ table = \"t\", size = 0 }}"), "8:31: `size` must be from 1 to 1000000, not 0"),
        (format!("{STEP}batch = {{ table = \"t\", stripes = 65 }}"), "8:34: `stripes` must be from 1 to 64, not 65"),
        (format!("{STEP}batch = {{ table = \"t\", size = 9, range = 8 }}"), "8:42: `range` is 8, less than `size`"),
        (format!("{STEP}{batch}"), "7:8: a batch step needs `:batch` in its SQL"),
        (format!("{STEP}batch = {{ tabel = \"t\" }}"), "8:9: `batch` needs the field `table`"),
        (format!("run_after = [\"b\", \"b\"]\n{STEP}"), "5:20: `b` stands in `run_after` twice"),
        (
            format!("{STEP}[[before]]\nname = \"c\"\nsql = \"SELECT :batch\""),
            "10:15: `:batch` has no meaning in a check",
        ),
        (format!("{STEP}[[after]]\nname = \"c\"\nsql = \"SELECT true; SELECT 1\""), "10:21: a check is one query"),
        (format!("{STEP}[[after]]\nname = \"c\"\nsql = \"DELETE FROM t\""), "10:8: a check is a query"),
        (format!("{STEP}[[after]]\nname = \"c\"\nfile = \"x.sql\""), "10:1: a check has no field `file`"),
    ] {
        let told = told_of(&content);
        assert!(told.iter().any(|line| line.starts_with(expected)), "{content}\n{expected}\n{told:#?}");
    }
}

#[test]
fn sql_that_cannot_work_is_refused_where_it_stands() {
    let plain = "";
    let outside = "transaction = false";
    let batch = "batch = { table = \"t\", key = [\"id\"] }";
    for (sql, more, expected) in [
        ("-- nothing", outside, "7:8: there is no statement"),
        ("SELECT 'a", plain, "7:15: a string begins here and never ends"),
        ("SELECT 1; COMMIT", plain, "7:18: COMMIT is not allowed"),
        ("SAVEPOINT a", outside, "7:8: SAVEPOINT is not allowed"),
        ("SELECT 1;  VACUUM t", plain, "7:19: VACUUM cannot run in a transaction (put it alone"),
        ("CREATE INDEX CONCURRENTLY i ON t (a)", plain, "7:8: CREATE INDEX CONCURRENTLY cannot run in a transaction"),
        ("CREATE INDEX CONCURRENTLY ON t (a)", outside, "7:8: an index that is built concurrently needs a name"),
        ("VACUUM a; VACUUM b", outside, "7:18: a step outside a transaction is one statement"),
        ("SET ROLE a", plain, "7:8: this SET is meant for the session"),
        ("SET SESSION AUTHORIZATION a", plain, "7:8: this SET is meant for the session"),
        ("SET lock_timeout = 0", outside, "7:8: this SET is meant for the session"),
        ("COPY t FROM STDIN", plain, "7:8: COPY to or from the client"),
        ("DELETE FROM t WHERE :batch", plain, "7:28: `:batch` has a meaning only in a step with `batch`"),
        ("VACUUM :batch", outside, "7:15: `:batch` has a meaning only in a step with `batch`"),
        ("DELETE FROM t WHERE :batch()", batch, "7:28: `:batch(` must be followed by"),
        ("DELETE FROM t WHERE ':batch' = ''", batch, "7:8: a batch step needs `:batch` in its SQL"),
        ("DELETE FROM t WHERE :batch; SELECT 1", batch, "7:36: a batch step is one statement"),
        ("VACUUM :batch", batch, "7:8: VACUUM cannot run in a transaction (move it"),
        ("UPDATE t SET id = 1 WHERE :batch", batch, "7:8: the statement assigns the key column `id`"),
        (
            "UPDATE t AS u SET a = 1 WHERE :batch",
            batch,
            "7:38: warning: the statement calls the table `t` by the alias `u`, and `:batch` does not (write `:batch(u)`",
        ),
        ("TRUNCATE t; -- :batch", batch, "7:8: a batch step needs"),
        ("EXPLAIN UPDATE t SET a = 1 WHERE :batch", batch, "7:8: what this statement changes cannot be told"),
    ] {
        let told = told_of(&format!("[[step]]\nname = \"s\"\nsql = \"{sql}\"\n{more}"));
        assert_eq!(told.len(), 1, "{sql}\n{told:#?}");
        assert!(told[0].starts_with(expected), "{sql}\n{expected}\n{told:#?}");
    }
}

#[test]
fn sql_that_no_rule_speaks_against_is_taken_whatever_it_is() {
    for sql in [
        "FROBNICATE TABLE t WITH NEW SYNTAX",
        "DO $$ BEGIN COMMIT; END $$",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END; SELECT f()",
        "SELECT '2024-01-01'::date, a[1:batch] FROM t; SET LOCAL lock_timeout = 0",
        "UPDATE t SET a = ':batch' -- :batch",
        "SET statement_timeout = 0; SET SESSION search_path = a; SET TIME ZONE 'UTC'; SET client_encoding = 'UTF8'",
    ] {
        assert_eq!(told_of(&format!("[[step]]\nname = \"s\"\nsql = \"{sql}\"")), [""; 0], "{sql}");
    }
    let key =
        "[[step]]\nname = \"s\"\nsql = \"UPDATE t SET a = 1 WHERE :batch\"\nbatch = { table = \"t\", key = [\"id\"] }";
    assert_eq!(told_of(key), [""; 0]);
}

#[test]
fn a_migration_without_steps_only_checks_and_a_step_of_comments_does_nothing() {
    let check = "[[after]]\nname = \"it is there\"\nsql = \"SELECT true\"\n";
    for (content, expected) in [
        (
            String::new(),
            "1:1: warning: this migration has no steps and no checks: a run of it does nothing but record it",
        ),
        (format!("step = []\n{check}"), "5:1: warning: this migration does nothing but check: it has no steps"),
        (
            "[[step]]\nname = \"s\"\nsql = \"-- made by the ORM\"".to_owned(),
            "7:8: warning: there is no statement in this SQL: the step does nothing",
        ),
    ] {
        let told = told_of(&content);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].starts_with(expected), "{expected}\n{told:#?}");
        assert!(parsed(&format!("{HEAD}{content}")).is_atomic());
    }
    let empty = [file("a.toml", &format!("{HEAD}[[step]]\nname = \"s\"\nfile = \"x.sql\"")), file("x.sql", "")];
    assert!(told(&empty, &[])[0].starts_with("x.sql:1:1: warning: there is no statement"));
}

#[test]
fn warnings_hinder_nothing_and_are_told_beside_problems() {
    let idle = file("a.toml", HEAD);
    let set = Set::parse(std::slice::from_ref(&idle), &[]).unwrap();
    assert_eq!((set.entries.len(), set.warnings.len()), (1, 1));
    let problems = Set::parse(&[idle, file("b.toml", "id = ")], &[]).unwrap_err();
    assert_eq!(problems.iter().map(Problem::is_warning).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_set_that_the_controller_would_refuse_for_its_size_is_refused_before() {
    let many: Vec<SourceFile> = (0..=limits::FILES).map(|number| file(&format!("{number}.sql"), "")).collect();
    assert!(told(&many, &[])[0].starts_with("a set has at most 10,000 files, and these are 10,001"));
    let large = [small("a", 1, ""), file("x.sql", &"x".repeat(limits::BYTES))];
    assert!(told(&large, &[])[0].starts_with("a set has at most 16,777,216 bytes"));
    let null = [file("a.toml", &format!("{HEAD}{STEP}# a\0"))];
    assert_eq!(told(&null, &[]), ["a.toml:8:4: the character U+0000, which PostgreSQL cannot store"]);
}

/// What is told of a step whose SQL is this file; "x.sql:" is cut off.
fn told_of_file(sql: &str) -> Vec<String> {
    let step = "[[step]]\nname = \"s\"\nfile = \"x.sql\"";
    let told = told(&[file("a.toml", &format!("{HEAD}{step}")), file("x.sql", sql)], &[]);
    told.iter().map(|line| line.trim_start_matches("x.sql:").to_owned()).collect()
}

#[test]
fn what_is_no_definition_is_told_in_one_sentence() {
    for content in
        ["provider = \"postgresql\"\n", "run_in_transaction = false\n", "", "# nothing\n", "[package]\nid = 1\n"]
    {
        let told = told(&[file("migration_lock.toml", content)], &[]);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].contains(": this is not a definition of a migration: it has none of the fields"), "{told:#?}");
    }
}

#[test]
fn a_name_has_no_character_that_nobody_sees() {
    for (written, code) in [("\\u001b[2J", "001B"), ("\u{202e}x", "202E"), ("a\\nb", "000A"), ("\\u2028b", "2028")] {
        let head = format!("id = \"a\"\nname = \"n{written}\"\ndescription = \"{written}\"\nversion = 1\n{STEP}");
        let told = told(&[file("a.toml", &head)], &[]);
        let expected = format!("a.toml:2:9: `name` has the character U+{code}, which nobody sees");
        assert!(told.len() == 1 && told[0].starts_with(&expected), "{told:#?}");
    }
}

#[test]
fn what_is_written_for_other_tools_is_named_for_what_it_is() {
    for (sql, expected) in [
        (
            "\\set ON_ERROR_STOP on\nSELECT 1",
            "1:1: `\\set` is a command of psql, not SQL: there is no psql (Dunlin has no variables",
        ),
        (
            "SELECT 1;\n\\echo it's done\n",
            "2:1: `\\echo` is a command of psql, not SQL: there is no psql (leave it out)",
        ),
        ("\\copy t from 'a.csv'", "1:1: `\\copy` is a command of psql, not SQL: there is no psql (write INSERT"),
        ("COPY t (a) FROM stdin;\nit's\t$$\n\\.\nSELECT 1;\n", "1:1: COPY to or from the client is not possible"),
        ("{{ config(a='b') }}\nSELECT 1", "1:1: `{{` is not SQL: it looks like a template"),
        (":setup", "1:1: no statement begins with `:setup`: it looks like a variable of psql"),
        ("SELECT 1; ${ddl}", "1:11: `${` is not SQL: it looks like a template"),
        ("$DDL", "1:1: no statement begins with `$DDL`: it looks like a variable of a shell"),
    ] {
        let told = told_of_file(sql);
        assert_eq!(told.len(), 1, "{sql}\n{told:#?}");
        assert!(told[0].starts_with(expected), "{sql}\n{expected}\n{told:#?}");
    }
}

#[test]
fn characters_that_nobody_sees_are_refused_where_they_stand() {
    assert_eq!(told_of_file("\u{feff}SELECT '\t\u{c}'\r\n"), [""; 0]);
    for (sql, expected) in [
        ("SELECT 1;\n\u{feff}SELECT 2", "2:1: a byte order mark (U+FEFF) inside of SQL"),
        ("\u{feff}\u{feff}SELECT 2", "1:1: a byte order mark (U+FEFF) inside of SQL"),
        ("SELECT '\u{8}'", "1:9: the control character U+0008 (backspace) in SQL (remove it; in a value"),
        ("SELECT 1\u{b}", "1:9: the control character U+000B (vertical tab) in SQL"),
        ("SELECT 1\u{1a}", "1:9: the control character U+001A"),
        ("SELECT 1 -- \u{7f}", "1:13: the control character U+007F"),
    ] {
        let told = told_of_file(sql);
        assert_eq!(told.len(), 1, "{sql:?}\n{told:#?}");
        assert!(told[0].starts_with(expected), "{expected}\n{told:#?}");
    }
    let told = told_of("[[step]]\nname = \"s\"\nsql = \"UPDATE t SET a = 1 WHERE b ~ '\\bfoo'\"");
    assert!(told[0].contains("`\\b` is a backspace: write the SQL in single quotes"), "{told:#?}");
}

#[test]
fn sql_is_kept_as_it_stands_in_the_file_and_its_line_ends_do_not_count_in_the_checksum() {
    let sql = |definition: &Definition| match &definition.steps[0].body {
        StepBody::Sql { sql, .. } => sql.clone(),
        other => panic!("{other:?}"),
    };
    let files =
        |sql: &str| [file("a.toml", &format!("{HEAD}[[step]]\nname = \"s\"\nfile = \"x.sql\"")), file("x.sql", sql)];
    let unix = Set::parse(&files("SELECT 'a\nb';\nSELECT 2\n"), &[]).unwrap();
    let windows = Set::parse(&files("SELECT 'a\r\nb';\r\nSELECT 2\r\n"), &[]).unwrap();
    assert_eq!(sql(&unix.entries[0].definition), "SELECT 'a\nb';\nSELECT 2");
    assert_eq!(sql(&windows.entries[0].definition), "SELECT 'a\r\nb';\r\nSELECT 2");
    assert_eq!(unix.entries[0].definition.checksum(), windows.entries[0].definition.checksum());
    assert_eq!(unix.entries[0].definition.steps[0].checksum(), windows.entries[0].definition.steps[0].checksum());
    for quotes in ["'''", "\"\"\""] {
        let inline = format!("{HEAD}[[step]]\nname = 's'\nsql = {quotes}\nSELECT 'a\nb';\nSELECT 2{quotes}\n");
        assert_eq!(sql(&parsed(&inline.replace('\n', "\r\n"))), "SELECT 'a\r\nb';\r\nSELECT 2");
    }

    assert_eq!(unix.warnings, []);
    let warned: Vec<String> = windows.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warned.len(), 1);
    assert!(warned[0].starts_with("x.sql:1:10: warning: this string has a carriage return"), "{warned:#?}");
    assert!(warned[0].contains(".gitattributes"));
    assert_eq!(told_of_file("SELECT 1,\r\n  2 -- a\r\n"), [""; 0], "only in strings");
    assert_eq!(told_of("[[step]]\nname = \"s\"\nsql = \"SELECT 'a\\r\\nb'\""), [""; 0], "it is written on purpose");
}

#[test]
fn a_problem_in_a_file_is_told_in_that_file() {
    let step = "[[step]]\nname = \"s\"\nfile = \"sql/x.sql\"";
    let files = [file("a.toml", &format!("{HEAD}{step}")), file("sql/x.sql", "SELECT 1;\n  COMMIT;\n")];
    assert!(told(&files, &[])[0].starts_with("sql/x.sql:2:3: COMMIT is not allowed"));
}

#[test]
fn a_text_with_escapes_is_pointed_at_as_a_whole() {
    let told = told_of("[[step]]\nname = \"s\"\nsql = \"\"\"\nSELECT '\\t';\nCOMMIT\"\"\"");
    assert!(told[0].starts_with("8:1: COMMIT"), "{told:#?}");
    let told = told_of("[[step]]\nname = \"s\"\nsql = '''\nSELECT 1;\nCOMMIT'''");
    assert!(told[0].starts_with("9:1: COMMIT"), "{told:#?}");
}

#[test]
fn duplicate_ids_and_versions_name_both_places() {
    let mut second = small("a", 3, "");
    second.path = "z.toml".to_owned();
    let files = [small("a", 1, ""), small("b", 1, ""), second];
    assert_eq!(
        told(&files, &[known("c", 3), known("b", 9)]),
        [
            "b.toml:4:11: the version 1 is taken already (`a` has it at a.toml:4:11; the next free version is 10)",
            "z.toml:1:7: the id `a` is taken already (the first stands at a.toml:1:7)",
            "z.toml:4:11: the version 3 is taken already (`c`, which is registered, has it; the next free version is 10)",
        ]
    );
}

#[test]
fn a_dependency_must_exist_and_have_a_lower_version() {
    let files = [small("add-users", 2, ""), small("b", 5, "run_after = [\"add-user\", \"elsewhere\", \"c\"]")];
    assert_eq!(
        told(&files, &[known("c", 7)]),
        [
            "b.toml:5:15: there is no migration `add-user` in this set, and none is registered (did you mean `add-users`?)",
            "b.toml:5:27: there is no migration `elsewhere` in this set, and none is registered (put its definition into the \
             set, or register it before)",
            "b.toml:5:40: `c` has the version 7, which is not lower than 5 (a migration runs after lower versions only: raise \
             its version, or leave this out)",
        ]
    );
    assert_eq!(told(&[small("b", 5, "run_after = [\"c\"]")], &[known("c", 4)]), [""; 0]);
}

#[test]
fn where_no_registry_was_asked_nothing_is_said_of_it() {
    let problems = Set::parse_offline(&[small("late", 7, "run_after = [\"elsewhere\"]")]).unwrap_err();
    assert_eq!(problems[0].message, "there is no migration `elsewhere` in this set");
    assert!(problems[0].help.as_ref().unwrap().contains("`dunlin register --dry-run` asks"), "{problems:?}");
    assert_eq!(problems.len(), 1);
}

#[test]
fn a_cycle_is_printed_once_and_nothing_else_is_said_of_it() {
    let files = [
        small("a", 1, "run_after = [\"b\"]"),
        small("b", 2, "run_after = [\"c\"]"),
        small("c", 3, "run_after = [\"a\"]"),
        small("d", 4, "run_after = [\"d\"]"),
    ];
    assert_eq!(
        told(&files, &[]),
        [
            "a.toml:5:15: these migrations wait for each other: a -> b -> c -> a (leave one of them out of `run_after`)",
            "d.toml:5:15: these migrations wait for each other: d -> d (leave one of them out of `run_after`)",
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_not_missed_by_others() {
    let files = [file("a.toml", "id = a"), small("b", 5, "run_after = [\"a\"]")];
    assert_eq!(told(&files, &[]).len(), 1);
}

#[test]
fn entries_come_in_version_order() {
    let set = Set::parse(&[small("a", 9, ""), small("b", 2, ""), small("c", 5, "run_after = [\"b\"]")], &[]).unwrap();
    let ids: Vec<&str> = set.entries.iter().map(|entry| entry.definition.id.as_str()).collect();
    assert_eq!(ids, ["b", "c", "a"]);
}

#[test]
fn the_checksum_of_a_definition_never_changes() {
    // These stand in the registries of targets.
    let definition = parsed(&format!("{HEAD}{STEP}"));
    assert_eq!(definition.checksum().as_str(), "21e0f05844b2bc134d2d560dc775779e75f1880911ddc19836399011f90f0d0c");
    let batch = "[[step]]\nname = \"b\"\nbatch = { table = \"t\" }\nsql = \"DELETE FROM t WHERE :batch\"";
    let definition = parsed(&format!("{HEAD}{batch}"));
    assert_eq!(definition.checksum().as_str(), "dc1a766dcd7e10799e29f98e082c140d44cb0ce451149be48cc5382f1ef783bf");
    assert_eq!(
        definition.steps[0].checksum().as_str(),
        "494986e6c521af930c37390609bd34298f739fd8346f9ac094f74c2c6a4f14dc"
    );
}

#[test]
fn layout_and_the_way_sql_is_given_do_not_count_in_the_checksum() {
    let inline = parsed(&format!("{HEAD}[[step]]\nname = \"s\"\nsql = \"SELECT 1,\\n  2\""));
    let laid_out = parsed(
        "# A comment\nversion=5\nid='a'\nname='A'\ndescription='''\nd'''\nstep=[{sql='''\r\nSELECT 1,\r\n  2\r\n''', name='s'}]",
    );
    let files = [
        file("a.toml", &format!("{HEAD}[[step]]\nname = \"s\"\nfile = \"x.sql\"")),
        file("x.sql", "\u{feff}SELECT 1,\r\n  2\r\n"),
    ];
    let from_file = &Set::parse(&files, &[]).unwrap().entries[0].definition;
    assert_eq!(inline.checksum(), laid_out.checksum());
    assert_eq!(&inline.checksum(), &from_file.checksum());
    let other = parsed(&format!("{HEAD}[[step]]\nname = \"s\"\nsql = \"SELECT 1, 2\""));
    assert_ne!(inline.checksum(), other.checksum());
    assert_ne!(inline.steps[0].checksum(), other.steps[0].checksum());
}

#[test]
fn a_definition_survives_its_json() {
    let definition =
        parsed(&format!("{HEAD}{STEP}[[rollback]]\nname = \"b\"\nbatch = {{ table = \"t\" }}\ntransform = \"x\""));
    let json = serde_json::to_string(&definition).unwrap();
    assert_eq!(serde_json::from_str::<Definition>(&json).unwrap(), definition);
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(content in ".*") {
        let _told = told(&[file("a.toml", &content)], &[]);
    }

    #[test]
    fn no_mixture_of_lines_makes_reading_panic(lines in prop::collection::vec(prop::sample::select(vec![
        "id = \"a\"", "id = 1", "version = 1", "[[step]]", "[step]", "[step.batch]", "[[step.batch]]", "name = \"s\"",
        "sql = \"UPDATE t SET a = 1 WHERE :batch\"", "sql = '''", "'''", "batch = { table = \"t\" }", "batch.table = 't'",
        "file = \"é\"", "[[before]]", "[before]", "step = 1", "step = [1]", "step.name = 1", "run_after = [\"a\", 1]",
        "transaction = false", "\"id\" = \"\\u0000\"", "[a.b]", "[[a]]", "a.b = 1", "a = 1",
    ]), 0..12)) {
        let _told = told(&[file("a.toml", &lines.join("\n"))], &[]);
    }
}

#[test]
fn a_name_that_a_step_had_leads_to_one_step_only() {
    let with = |steps: &[(&str, Option<&str>)]| {
        let steps: String = steps
            .iter()
            .map(|(name, was)| {
                let was = was.map_or_else(String::new, |was| format!("was = \"{was}\"\n"));
                format!("[[step]]\nname = \"{name}\"\n{was}sql = \"SELECT 1\"\n")
            })
            .collect();
        let content = format!("id = \"a\"\nname = \"A\"\ndescription = \"A.\"\nversion = 1\n{steps}");
        let problems = Set::parse(&[SourceFile { path: "a.toml".to_owned(), content }], &[]).err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(with(&[("new", Some("old")), ("b", None)]), none);
    assert_eq!(with(&[("b", Some("a")), ("a", Some("b"))]), none, "two that change their names");
    assert_eq!(with(&[("a", Some("a"))]), ["the step `a` was called `a` already"]);
    assert_eq!(with(&[("new", Some("b")), ("b", None)]), ["another step is called `b`"]);
    assert_eq!(with(&[("x", Some("a")), ("y", Some("a"))]), ["two steps say that they were called `a`"]);
}

#[test]
fn how_a_step_is_cut_and_what_it_is_called_is_no_part_of_what_it_does() {
    let with = |fields: &str, batch: &str| {
        let content = format!(
            "id = \"a\"\nname = \"A\"\ndescription = \"A.\"\nversion = 1\n[[step]]\nname = \"s\"\n{fields}\
             batch = {{ table = \"t\"{batch} }}\nsql = \"DELETE FROM t WHERE :batch\"\n"
        );
        let set = Set::parse(&[SourceFile { path: "a.toml".to_owned(), content }], &[]).unwrap();
        let definition = &set.entries[0].definition;
        (definition.steps[0].checksum(), definition.checksum())
    };
    let plain = with("", "");
    for (fields, batch) in
        [("", ", size = 10"), ("was = \"x\"\n", ""), ("idempotent = true\n", ", range = 5000, stripes = 2")]
    {
        let other = with(fields, batch);
        assert_eq!(other.0, plain.0, "{fields}{batch}");
        assert_ne!(other.1, plain.1, "{fields}{batch}: another text all the same");
    }
    assert_ne!(with("", ", key = [\"id\"]").0, plain.0);
    assert_eq!(with("idempotent = false\n", "").1, plain.1);
}
