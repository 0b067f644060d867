//! Definitions that nobody writes on purpose: whatever it is, it is read or refused, soon, and what is told of it points into it.

use std::fmt::Write;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::migration::StepBody;

const HEAD: &str = "id = \"a\"\nname = \"A\"\ndescription = \"d\"\nversion = 5\n";
const STEP: &str = "[[step]]\nname = \"s\"\nsql = \"SELECT 1\"\n";

/// A definition with all that there can be.
const WHOLE: &str = r#"
id = "a"
name = "Ä"
description = """
Many
lines."""
version = 7
run_after = []
impacts = ["t.a", "u"]
[[before]]
name = "b"
sql = "SELECT true"
[[step]]
name = "one"
sql = '''
ALTER TABLE t ADD a int; -- no :batc
CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END'''
[[step]]
name = "two"
transaction = false
sql = "CREATE INDEX CONCURRENTLY i ON t (a)"
[[step]]
name = "three"
batch = { table = "shop.\"T\"", key = ["a", "b"], size = 10, range = 100, stripes = 4 }
sql = "UPDATE shop.\"T\" AS t SET c = $$:batch$$ || E'\\'' WHERE :batch(t)"
[[step]]
name = "four"
batch.table = "t"
transform = "code"
[[step]]
name = "five"
file = "sql/five.sql"
[[after]]
name = "c"
sql = "SELECT NOT EXISTS (SELECT FROM t WHERE a IS NULL)"
[[rollback]]
name = "r"
sql = "DROP TABLE t"
"#;

const FIVE: &str = "INSERT INTO t VALUES ('five');\n/* é */ DELETE FROM t;\n";

fn file(path: &str, content: impl Into<String>) -> SourceFile {
    SourceFile { path: path.to_owned(), content: content.into() }
}

/// Reads a definition. Every problem must name a place that there is.
fn read(definition: &str) -> Result<Definition, Vec<Problem>> {
    let files = [file("a.toml", definition), file("sql/five.sql", FIVE)];
    let read = Set::parse(&files, &[]);
    for problem in read.as_ref().err().into_iter().flatten() {
        let file = files.iter().find(|file| file.path == problem.file).expect("a file of the set");
        let text = file.content.trim_start_matches('\u{feff}');
        let line = text.split('\n').nth(usize::try_from(problem.line).unwrap() - 1);
        let line = line.unwrap_or_else(|| panic!("there is no such line: {problem}"));
        assert!(usize::try_from(problem.column).unwrap() <= line.chars().count() + 1, "{problem}");
    }
    read.map(|mut set| set.entries.remove(0).definition).inspect_err(|problems| assert!(!problems.is_empty()))
}

/// A piece that can stand, or be, anywhere.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "\"",
        "'",
        "'''",
        "\"\"\"",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        "\r",
        "\0",
        "\\",
        "\\u0000",
        "\\UFFFFFFFF",
        "#",
        "é",
        "\u{feff}",
        "\u{202e}",
        ":batch",
        ":batch(",
        "$$",
        "$a$",
        "/*",
        "*/",
        "--",
        "E'",
        "U&\"",
        ";",
        "-9223372036854775809",
        "1e999",
        "nan",
        "1979-05-27",
        "version = 1",
        "[[step]]",
        "step = []",
        "batch = {}",
        "id = 1",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

/// The definition with changes: where, how much goes, and what comes.
fn mutated() -> impl Strategy<Value = String> {
    let change = (any::<prop::sample::Index>(), 0..12_usize, prop::option::of(piece()));
    prop::collection::vec(change, 1..6).prop_map(|changes| {
        let mut text: Vec<char> = WHOLE.chars().collect();
        for (at, gone, come) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + gone).min(text.len());
            text.splice(at..end, come.unwrap_or_default().chars());
        }
        text.into_iter().collect()
    })
}

/// Another way to write the same definition.
fn restyled() -> impl Strategy<Value = String> {
    let filler = prop::sample::select(vec!["", "\n", "# a comment = \"x\"\n", "  \t", "\r\n"]);
    prop::collection::vec(filler, 1..64).prop_map(|fillers| {
        let mut fillers = fillers.into_iter().cycle();
        let mut inside = false;
        let mut text = String::new();
        for line in WHOLE.lines() {
            if !inside {
                text.push_str(fillers.next().unwrap_or_default());
            }
            text.push_str(line);
            inside ^= (line.matches("'''").count() + line.matches("\"\"\"").count()) % 2 == 1;
            if !inside && fillers.next() == Some("  \t") {
                text.push_str(" \t # behind it");
            }
            text.push('\n');
        }
        text
    })
}

#[test]
fn the_whole_definition_is_right() {
    let definition = read(WHOLE).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(definition.steps.len(), 5);
    assert!(matches!(&definition.steps[4].body, StepBody::Sql { sql, .. } if sql == FIVE.trim()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_definition_with_anything_in_it_is_read_or_refused_where_it_is_wrong(definition in mutated()) {
        if let Ok(definition) = read(&definition) {
            let again: Definition = serde_json::from_str(&serde_json::to_string(&definition).unwrap()).unwrap();
            prop_assert_eq!(again.checksum(), definition.checksum());
            prop_assert_eq!(again, definition);
        }
    }

    #[test]
    fn any_text_is_read_or_refused_where_it_is_wrong(pieces in prop::collection::vec(piece(), 0..40)) {
        let _read = read(&pieces.concat());
    }

    #[test]
    fn comments_and_blanks_change_neither_the_definition_nor_its_checksum(definition in restyled()) {
        let plain = read(WHOLE).unwrap();
        let restyled = read(&definition).unwrap();
        prop_assert_eq!(restyled.checksum(), plain.checksum());
        prop_assert_eq!(restyled, plain);
    }
}

/// What is said of a set, in a thread with little stack, and within a time that nothing comes near unless it takes longer with
/// the square of its length.
fn told_soon(files: Vec<SourceFile>) -> Vec<Problem> {
    let read = move || {
        let start = Instant::now();
        (Set::parse(&files, &[]).err().unwrap_or_default(), start.elapsed())
    };
    let (problems, took) = std::thread::Builder::new().stack_size(1 << 20).spawn(read).unwrap().join().unwrap();
    assert!(took < Duration::from_secs(60), "it took {took:?}");
    problems
}

fn told_of(definition: String) -> Vec<Problem> {
    told_soon(vec![file("a.toml", definition)])
}

fn step(sql: &str, more: &str) -> String {
    format!("{HEAD}[[step]]\nname = \"s\"\n{more}\nsql = '''{sql}'''\n")
}

#[test]
fn of_any_number_of_problems_in_a_file_a_hundred_are_told() {
    let mut twice = format!("{HEAD}run_after = [");
    let mut unknown = twice.clone();
    for number in 0..50_000 {
        write!(twice, "\"b{}\", ", number / 2).unwrap();
        write!(unknown, "\"nobody-{number}\", ").unwrap();
    }
    let lists = [twice, unknown].map(|list| list + "]\n" + STEP);
    let one_name = HEAD.to_owned() + &STEP.repeat(20_000);
    let fields = (0..20_000).fold(HEAD.to_owned(), |text, number| text + &format!("f{number} = 1\n")) + STEP;
    let sql = [":batch ".repeat(50_000), "SET ROLE a;".repeat(50_000)].map(|sql| step(&sql, ""));
    for definition in lists.into_iter().chain(sql).chain([one_name, fields]) {
        let problems = told_of(definition);
        // Once more for what is wrong between files.
        assert!((100..=200).contains(&problems.len()), "{}: {:?}", problems.len(), problems.first());
    }
}

#[test]
fn what_is_long_or_deep_is_read_or_refused_soon() {
    assert_eq!(told_of(step(&"VACUUM;".repeat(20_000), "transaction = false")).len(), 1);
    assert_eq!(told_of(step(&"SELECT 1;".repeat(20_000), "")), []);
    for (open, close) in [("(", ")"), ("/*", "*/"), ("[", "]"), ("CASE ", "END ")] {
        let deep = format!("SELECT {}1{}", open.repeat(20_000), close.repeat(20_000));
        let _told = told_of(step(&deep, ""));
        let batch = "batch = { table = \"t\", key = [\"a\"] }";
        let _told = told_of(step(&format!("UPDATE t SET a = ({deep}) WHERE :batch"), batch));
    }
    for deep in
        ["a = ".to_owned() + &"[".repeat(200_000), "a = ".to_owned() + &"{ a = ".repeat(50_000), "a.".repeat(50_000)]
    {
        assert_eq!(told_of(format!("{HEAD}{deep}")).len(), 1);
    }
    let keys: Vec<String> = (0..20_000).map(|number| format!("\"k{number}\"")).collect();
    let batch = format!("batch = {{ table = \"t\", key = [{}] }}", keys.join(", "));
    let told = told_of(step("UPDATE t SET a = 1 WHERE :batch", &batch));
    assert!(told[0].message.contains("an index has at most 32"), "{told:?}");
}

#[test]
fn a_file_that_is_named_often_counts_as_often() {
    let steps: String =
        (0..1000).map(|number| format!("[[step]]\nname = \"s{number}\"\nfile = \"big.sql\"\n")).collect();
    let big = format!("SELECT '{}'", "x".repeat(1 << 20));
    let told = told_soon(vec![file("a.toml", HEAD.to_owned() + &steps), file("big.sql", big)]);
    assert!(told[0].message.contains("comes to more than 33,554,432 bytes"), "{:?}", told[0]);
}

#[test]
fn a_chain_of_dependencies_can_be_as_long_as_a_set() {
    let definition = |number: u32| {
        let before = if number > 1 { format!("\"m{}\"", number - 1) } else { String::new() };
        let head = format!("id = \"m{number}\"\nname = \"n\"\ndescription = \"d\"\nversion = {number}\n");
        file(&format!("{number}.toml"), format!("{head}run_after = [{before}]\n{STEP}"))
    };
    assert_eq!(told_soon((1..=10_000).map(definition).collect()), []);
}

#[test]
fn what_takes_too_much_to_read_is_refused_before_it_is_read() {
    let batch = "batch = { table = \"t\", key = [\"a\"] }";
    let values = format!("{HEAD}impacts = [{}]\n{STEP}", "\"\",".repeat(200_000));
    for (definition, said) in [
        (values, "a definition has at most 200,000 values"),
        (step(&"1,".repeat(2_000_001), ""), "this SQL has more than 4,000,000 words and signs"),
        (
            step(&format!("UPDATE t SET a = 1 WHERE :batch AND b IN ({}1)", "1,".repeat(250_000)), batch),
            "has at most 500,000 words",
        ),
    ] {
        let problems = told_of(definition);
        assert_eq!(problems.len(), 1, "{said}");
        assert!(problems[0].message.contains(said) && problems[0].help.is_some(), "{:?}", problems[0]);
    }
}
