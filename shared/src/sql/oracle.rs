//! What the scanner takes for code is what PostgreSQL takes for code.
//!
//! PL/pgSQL reads a statement token by token up to its semicolon, and does not parse it where it is not told to check bodies. So
//! a semicolon put in the place of a `:batch` breaks the block if that place is code, and changes nothing if it is inside a string,
//! a quoted name or a comment.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio_postgres::{Client, NoTls};

use super::placeholder::BatchSql;
use super::quote_literal;
use crate::postgres::throwaway;

const PLACEHOLDER: &str = ":batch ";

/// Text of what opens, closes and escapes; much of it is no SQL.
fn soup() -> impl Strategy<Value = String> {
    let quotes = vec![
        "'", "'", "''", "\"", "\"\"", "$$", "$$", "$a$", "$a$", "$é$", "E'", "e'", "U&'", "u&\"", "N'", "B'", "x'",
        "e''\n'",
    ];
    let comments = vec!["--", "\n", "/*", "*/", "/*", "*/", "/", "*"];
    let others =
        vec!["\\", "\\'", "$1", "$", "a", "a$", "é", "1", "1e", "_", " ", "+", "-", "|", ",", ".", "@", "'\n'", "' '"];
    let piece = prop_oneof![
        3 => prop::sample::select(quotes),
        2 => prop::sample::select(comments),
        2 => prop::sample::select(others),
        3 => Just(PLACEHOLDER),
    ];
    prop::collection::vec(piece, 1..14).prop_map(|pieces| pieces.concat() + "\n")
}

/// True when the server reads the block to its end.
async fn whole(client: &Client, statement: &str) -> bool {
    let block = format!("BEGIN IF false THEN PERFORM 1 + {statement}; END IF; END");
    client.batch_execute(&format!("DO {}", quote_literal(&block))).await.is_ok()
}

#[tokio::test]
async fn a_placeholder_is_found_exactly_where_the_server_reads_code() {
    let url = throwaway::shared().await.database("oracle").await.unwrap();
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("SET check_function_bodies = off").await.unwrap();
    assert!(whole(&client, "a :batch b\n").await && !whole(&client, "a ; END; b\n").await, "the oracle knows code");
    assert!(whole(&client, "' ; END; '\n").await && !whole(&client, "'\n").await, "and strings");

    let mut runner = TestRunner::default();
    let soup = soup();
    let (mut code, mut quoted, mut open) = (0, 0, 0);
    for _ in 0..3000 {
        let sql = soup.new_tree(&mut runner).unwrap().current();
        let readable = whole(&client, &sql).await;
        let Ok(parsed) = BatchSql::parse(&sql) else {
            assert!(!readable, "the server finds nothing left open in {sql:?}");
            open += 1;
            continue;
        };
        if !readable {
            // The server looks closer: at escapes, at digits.
            continue;
        }
        for (offset, _) in sql.match_indices(PLACEHOLDER) {
            let cut = format!("{}; END; {}", &sql[..offset], &sql[offset + PLACEHOLDER.len()..]);
            let is_code = !whole(&client, &cut).await;
            assert_eq!(parsed.offsets().any(|found| found == offset), is_code, "{offset} in {sql:?}");
            *(if is_code { &mut code } else { &mut quoted }) += 1;
        }
    }
    println!("{code} in code, {quoted} quoted, {open} texts left open");
    assert!(code > 100 && quoted > 100 && open > 100, "{code} in code, {quoted} quoted, {open} texts left open");
    drop(client);
    connection.await.unwrap().unwrap();
}

/// Text of what psql, templates and SQL have in common; some of it is SQL.
fn mixture() -> impl Strategy<Value = String> {
    let foreign = vec!["\\", "\\d", "{{", "}}", "{%", "${x}", "$x", ":x", ":'x'", "$(x)", "\\.\n", "\\restrict a\n"];
    let sql = vec![
        "SELECT 1",
        "SELECT a",
        ";",
        "; SELECT 2",
        "::int",
        "[1:b]",
        "$1",
        " x ",
        ", ",
        " + ",
        "COPY t FROM STDIN;\n",
        "a$b",
        "(",
        ")",
    ];
    let hidden =
        vec![", '{{ \\d'", ", $$ \\set ${x} $$", " -- \\x {{\n", " /* \\q {% */ ", ", E'\\\\{{'", ", 1 AS \"a\\{{b\""];
    let quotes = vec!["'", "'", "\"", "\"", "$$", "$$", "$a$", "E'", "--", "\n", "/*", "*/", "U&'", " "];
    let piece = prop_oneof![
        2 => prop::sample::select(foreign),
        3 => prop::sample::select(hidden),
        4 => prop::sample::select(sql),
        3 => prop::sample::select(quotes),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("SELECT 1 {}\n", pieces.concat()))
}

/// True when the grammar of the server takes a text: it reads the body of a function as a whole before it looks closer.
async fn grammatical(client: &Client, sql: &str) -> bool {
    let function = format!("CREATE FUNCTION pg_temp.oracle() RETURNS void LANGUAGE sql AS {}", quote_literal(sql));
    match client.batch_execute(&format!("BEGIN; {function}; ROLLBACK")).await {
        Ok(()) => true,
        Err(error) => {
            client.batch_execute("ROLLBACK").await.unwrap();
            let refused = ["42601", "42602", "42622", "22025", "22P05", "22019"];
            error.code().is_some_and(|state| !refused.contains(&state.code()))
        }
    }
}

#[tokio::test]
async fn nothing_that_the_servers_grammar_takes_is_called_foreign() {
    let url = throwaway::shared().await.database("oracle").await.unwrap();
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    assert!(
        grammatical(&client, "SELECT a FROM nowhere; VACUUM").await && !grammatical(&client, "SELECT 1; \\d").await
    );

    let mut runner = TestRunner::default();
    let mixture = mixture();
    let (mut taken, mut quoted, mut foreign) = (0, 0, 0);
    for _ in 0..3000 {
        let sql = mixture.new_tree(&mut runner).unwrap().current();
        let found = super::foreign::look(&sql);
        let harmless = super::foreign::without_restrictions(&sql);
        if grammatical(&client, &sql).await {
            // What follows a COPY from the client is data, also where the server would read a comment.
            if !sql.contains("STDIN") {
                let untouched = (&Vec::new(), sql.as_str(), sql.as_str());
                assert_eq!((&found.foreign, found.sql.as_ref(), harmless.as_ref()), untouched);
            }
            taken += 1;
            quoted += usize::from(sql.contains(['\\', '{']));
        } else {
            foreign += usize::from(!found.foreign.is_empty());
        }
    }
    println!("{taken} taken, {quoted} of them with something quoted, {foreign} foreign");
    assert!(taken > 100 && quoted > 20 && foreign > 100, "{taken} taken, {quoted} quoted, {foreign} foreign");
    drop(client);
    connection.await.unwrap().unwrap();
}

/// Conditions of `a`, `b`, `n` and the placeholder; most of them are SQL.
fn condition() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        3 => Just(":batch".to_owned()),
        4 => prop::sample::select(vec!["a", "b", "n = 1", "true", "a IS NULL", "b IS NOT TRUE", "n IN (1, 2)", "n BETWEEN 0 AND 1"])
            .prop_map(str::to_owned),
        1 => Just("n NOT BETWEEN 1 AND 2".to_owned()),
    ];
    let joined = atom.prop_recursive(4, 24, 4, |inner| {
        let operators = vec![" AND ", " AND ", " AND ", " OR ", " = ", " <> ", " IS DISTINCT FROM "];
        let chain = prop::collection::vec((inner.clone(), prop::sample::select(operators)), 1..5);
        prop_oneof![
            6 => chain.prop_map(|parts| {
                let mut text = String::new();
                for (place, (part, operator)) in parts.iter().enumerate() {
                    text.push_str(if place == 0 { "" } else { operator });
                    text.push_str(part);
                }
                text
            }),
            2 => inner.clone().prop_map(|inner| format!("({inner})")),
            1 => inner.clone().prop_map(|inner| format!("NOT {inner}")),
            1 => inner.clone().prop_map(|inner| format!("({inner}) IS NOT NULL")),
            1 => inner.prop_map(|inner| format!("CASE WHEN {inner} THEN a ELSE b END")),
        ]
    });
    joined.prop_filter("has a placeholder", |text| text.contains(":batch"))
}

#[tokio::test]
async fn a_condition_that_is_accepted_finds_no_row_outside_of_its_batch() {
    let url = throwaway::shared().await.database("oracle").await.unwrap();
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let values = "FROM (VALUES (true), (false), (NULL)) x(a), (VALUES (true), (false), (NULL)) y(b), (VALUES (0), (1), (2), (NULL)) z(n)";

    let mut runner = TestRunner::default();
    let condition = condition();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..4000 {
        let text = condition.new_tree(&mut runner).unwrap().current();
        if super::placement::Placement::of(&format!("SELECT f(id) FROM t WHERE {text}"), "t").is_err() {
            refused += 1;
            continue;
        }
        let none = text.replace(":batch", "(false)");
        match client.query_one(&format!("SELECT count(*) {values} WHERE {none}"), &[]).await {
            Ok(row) => {
                assert_eq!(row.get::<_, i64>(0), 0, "{text}");
                accepted += 1;
            }
            Err(error) => assert!(error.code().is_some(), "{error}"),
        }
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > 300 && refused > 300, "{accepted} accepted, {refused} refused");
    drop(client);
    connection.await.unwrap().unwrap();
}
