//! What definitions may say of the transactions of their steps.

use super::*;
use crate::migration::Isolation;

const HEAD: &str = "id = \"a\"\nname = \"A\"\ndescription = \"d\"\nversion = 5\n";

fn parse(content: &str) -> Result<Set, Vec<Problem>> {
    Set::parse(&[SourceFile { path: "a.toml".to_owned(), content: format!("{HEAD}{content}") }], &[])
}

fn read(content: &str) -> Definition {
    parse(content).unwrap().entries.remove(0).definition
}

fn told_of(content: &str) -> Vec<String> {
    parse(content).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn a_transaction_of_its_own_makes_a_migration_not_atomic() {
    let of = |more: &str| {
        read(&format!("[[step]]\nname = \"a\"\nsql = \"SELECT 1\"\n{more}\n[[step]]\nname = \"b\"\nsql = \"SELECT 2\""))
    };
    let (shared, own) = (of(""), of("transaction = \"own\""));
    assert!(shared.is_atomic() && !own.is_atomic());
    assert_eq!(shared.steps[0].checksum(), own.steps[0].checksum(), "the step does the same");
    assert_ne!(shared.checksum(), own.checksum());
    assert_eq!(shared.checksum(), of("transaction = true\nrow_security = false").checksum());
}

#[test]
fn isolation_and_row_security_count_for_what_a_step_does() {
    let of = |more: &str| read(&format!("[[step]]\nname = \"a\"\nsql = \"SELECT 1\"\n{more}"));
    let plain = of("");
    for more in ["isolation = \"serializable\"", "isolation = \"repeatable read\"", "row_security = true"] {
        assert_ne!(plain.steps[0].checksum(), of(more).steps[0].checksum(), "{more}");
    }
    assert_eq!(of("isolation = \"serializable\"").steps[0].isolation, Some(Isolation::Serializable));
}

#[test]
fn what_lasts_to_the_end_of_a_transaction_is_refused_where_steps_share_it() {
    let two = |sql: &str, more: &str| {
        told_of(&format!("[[step]]\nname = \"a\"\nsql = \"{sql}\"\n{more}\n[[step]]\nname = \"b\"\nsql = \"SELECT 2\""))
    };
    for sql in ["SET CONSTRAINTS ALL DEFERRED", "SET TRANSACTION READ WRITE", "SET LOCAL transaction_deferrable = on"] {
        let told = two(sql, "");
        assert!(
            told.len() == 1
                && told[0].contains("would last beyond this step")
                && told[0].contains("transaction = \"own\""),
            "{told:#?}"
        );
        assert_eq!(two(sql, "transaction = \"own\""), [""; 0], "{sql}");
        assert_eq!(told_of(&format!("[[step]]\nname = \"a\"\nsql = \"{sql}\"")), [""; 0], "{sql}");
    }
    for sql in ["SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET LOCAL transaction_isolation = 'serializable'"] {
        let told = told_of(&format!("[[step]]\nname = \"a\"\nsql = \"{sql}\""));
        assert!(told.len() == 1 && told[0].contains("isolation = \"serializable\""), "{told:#?}");
    }
    let told = told_of("[[step]]\nname = \"a\"\nsql = \"SET TRANSACTION READ ONLY\"");
    assert!(told.len() == 1 && told[0].contains("cannot be read-only"), "{told:#?}");
}

#[test]
fn isolation_stands_where_the_transaction_is() {
    let step = |name: &str, more: &str| format!("[[step]]\nname = \"{name}\"\nsql = \"SELECT 1\"\n{more}\n");
    let level = "isolation = \"serializable\"";
    for (content, expected) in [
        (step("a", level), None),
        (format!("{level}\n{}{}", step("a", ""), step("b", "")), None),
        (step("a", level) + &step("b", ""), Some("put `isolation` on the migration")),
        (step("a", &format!("{level}\ntransaction = \"own\"")) + &step("b", ""), None),
        (format!("{level}\n{}", step("a", "transaction = \"own\"")), Some("move it to the steps that need it")),
        (step("a", "isolation = \"snapshot\""), Some("is not an isolation level to choose")),
        (step("a", &format!("{level}\ntransaction = false")), Some("a step outside a transaction has no isolation")),
        (step("a", "transaction = \"mine\""), Some("`transaction` must be true, false or \"own\"")),
    ] {
        let told = told_of(&content);
        match expected {
            None => assert_eq!(told, [""; 0], "{content}"),
            Some(expected) => assert!(told.len() == 1 && told[0].contains(expected), "{content}\n{told:#?}"),
        }
    }
}
