//! What definitions may say of where `:batch` stands.

use super::*;
use crate::migration::Changes;

const HEAD: &str = "id = \"a\"\nname = \"A\"\ndescription = \"d\"\nversion = 5\n";

fn parse(more: &str, sql: &str) -> Result<Set, Vec<Problem>> {
    let content = format!("{HEAD}[[step]]\nname = \"s\"\n{more}\nsql = '''{sql}'''\n");
    Set::parse(&[SourceFile { path: "a.toml".to_owned(), content }], &[])
}

/// Everything that is told of a step over `t`.
fn told(more: &str, sql: &str) -> Vec<String> {
    let told = match parse(&format!("batch = {{ table = \"t\" }}\n{more}"), sql) {
        Ok(set) => set.warnings,
        Err(problems) => problems,
    };
    told.iter().map(ToString::to_string).collect()
}

#[test]
fn a_batch_that_restricts_nothing_is_refused_at_its_place_with_the_ways_out() {
    let told = told("", "UPDATE t SET a = 1 WHERE b OR :batch");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].starts_with("a.toml:9:40: `:batch` stands under OR"), "{told:#?}");
    assert!(told[0].contains("WHERE ... AND :batch") && told[0].contains("batch_is_mine = true"), "{told:#?}");
}

#[test]
fn what_is_not_understood_is_refused_where_it_stands_with_the_ways_out() {
    let told = told("", "UPDATE t SET a = 1 WHERE :batch AND b = = 1");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].contains("not understood here") && told[0].contains("write it another way"), "{told:#?}");
    assert!(told[0].contains("batch_is_mine = true"), "{told:#?}");
}

#[test]
fn who_vouches_for_the_place_of_the_batch_is_believed() {
    for sql in ["UPDATE t SET a = 1 WHERE b OR :batch", "UPDATE t SET a = 1 WHERE :batch AND b = = 1"] {
        assert_eq!(told("batch_is_mine = true", sql), [""; 0], "{sql}");
    }
}

#[test]
fn rows_outside_of_the_batch_are_changed_only_where_the_step_says_so() {
    let dedupe = "DELETE FROM t USING t b WHERE t.email = b.email AND t.id > b.id AND :batch(b)";
    let cross = "UPDATE t SET a = 1 FROM t b WHERE :batch(b)";
    let keyed = "batch = { table = \"t\", key = [\"id\"] }";
    for (more, sql) in [(keyed, dedupe), ("batch = { table = \"t\" }", cross)] {
        let problems = parse(more, sql).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        let told = problems[0].to_string();
        assert!(told.contains("rows of `t` that are not those of its batch"), "{told}");
        assert!(told.contains("changes = \"elsewhere\""), "{told}");
        let mut set = parse(&format!("{more}\nchanges = \"elsewhere\""), sql).unwrap();
        assert_eq!(set.entries.remove(0).definition.steps[0].changes, Some(Changes::Elsewhere));
    }
    // Without the names of the key it is the catalog's to say.
    assert!(parse("batch = { table = \"t\" }", dedupe).is_ok());
    let list = "DELETE FROM l WHERE l.t IN (SELECT email FROM t WHERE :batch)";
    assert!(parse(keyed, list).unwrap_err()[0].to_string().contains("does not select the key (id)"));
    assert!(parse("batch = { table = \"t\" }", list).is_ok());
}

#[test]
fn what_is_for_each_batch_is_warned_of() {
    let told = told("", "INSERT INTO x SELECT a, sum(b) FROM t WHERE :batch GROUP BY a");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().all(|told| told.contains("warning") && told.contains("for each batch, and not for the table")));
}

#[test]
fn what_a_step_says_of_its_statement_needs_one() {
    for more in ["batch_is_mine = true", "changes = \"elsewhere\""] {
        let problems = parse(more, "UPDATE t SET a = 1").unwrap_err();
        assert!(problems[0].to_string().contains("is about the statement of a step with `batch`"), "{problems:#?}");
    }
    let told = told("changes = \"all\"", "UPDATE t SET a = 1 WHERE :batch");
    assert!(told[0].contains("`changes` can be \"elsewhere\", not \"all\""), "{told:#?}");
}

#[test]
fn what_a_step_says_of_its_statement_counts_for_the_definition_and_not_for_what_was_done() {
    let sql = "UPDATE t SET a = 1 WHERE :batch";
    let of = |more: &str| {
        let set = parse(&format!("batch = {{ table = \"t\" }}\n{more}"), sql);
        set.unwrap().entries.remove(0).definition
    };
    for more in ["batch_is_mine = true", "changes = \"elsewhere\""] {
        assert_ne!(of("").checksum(), of(more).checksum(), "{more}");
        assert_eq!(of("").steps[0].checksum(), of(more).steps[0].checksum(), "{more}");
    }
}
