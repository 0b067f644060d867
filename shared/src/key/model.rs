//! The properties that ranges and predicates must have, as a pure model and against a real PostgreSQL.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::postgres::{self, throwaway};

fn column(name: &str, type_name: &str) -> KeyColumn {
    KeyColumn::parse(name, type_name).unwrap()
}

fn bound(values: &[&str]) -> KeyBound {
    KeyBound(values.iter().map(|value| (*value).to_owned()).collect())
}

fn range(low: Option<&[&str]>, high: &[&str]) -> KeyRange {
    KeyRange { low: low.map(bound), high: bound(high) }
}

/// A condition without the schema of PostgreSQL's own operators, functions and types.
fn plain(sql: &str) -> String {
    let mut parts = sql.split("OPERATOR(pg_catalog.");
    let first = parts.next().unwrap_or_default().to_owned();
    let whole = parts.fold(first, |text, part| text + &part.replacen(')', "", 1));
    whole.replace("pg_catalog.", "")
}

fn predicate(columns: &[KeyColumn], range: &KeyRange, stripe: Option<Stripe>, qualifier: &str) -> String {
    plain(&super::predicate(columns, range, stripe, qualifier))
}

#[test]
fn operators_are_written_with_their_schema_and_found_only_where_nobody_has_told_it() {
    let stripe = Some(Stripe { of: 4, first: 1, end: 3 });
    let uuid = super::predicate(&[column("id", "uuid")], &range(None, &["a"]), stripe, "");
    let dealt = "pg_catalog.abs(pg_catalog.hash_record_extended(ROW(\"id\"), 0) OPERATOR(pg_catalog.%) 4)";
    assert_eq!(
        uuid,
        format!(
            "((\"id\" OPERATOR(pg_catalog.<=) 'a'::pg_catalog.uuid OR \"id\" OPERATOR(pg_catalog.=) 'a'::pg_catalog.uuid) AND \
             {dealt} OPERATOR(pg_catalog.>=) 1 AND {dealt} OPERATOR(pg_catalog.<) 3)"
        )
    );
    let time = super::predicate(&[column("at", "timestamp with time zone")], &range(None, &["a"]), None, "");
    assert_eq!(time, "(\"at\" OPERATOR(pg_catalog.<=) 'a'::timestamp with time zone)");
    let columns = [column("a", "integer"), column("name", "public.citext")];
    let citext = super::predicate(&columns, &range(Some(&["1", "b"]), &["1", "x"]), None, "");
    assert_eq!(
        plain(&citext),
        "(\"a\" = '1'::integer AND \"name\" > 'b'::public.citext AND \"name\" <= 'x'::public.citext)"
    );
    let told = KeyColumn::with_operators("name", "public.citext", "My schema").unwrap();
    let citext = super::predicate(std::slice::from_ref(&told), &range(None, &["x"]), None, "");
    assert_eq!(citext, "(\"name\" OPERATOR(\"My schema\".<=) 'x'::public.citext)");
    let mixed = [column("a", "integer"), told.clone(), told];
    let row = |operator, values: &[&str]| {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let (columns, high) = (comparison::operands(&mixed, ""), (operator == "<=").then_some(values.as_slice()));
        plain(&comparison::ordered(&columns, high.is_none().then_some(&values), high, 0)).replace("\"My schema\".", "")
    };
    assert_eq!(
        row("<=", &["1", "b", "c"]).replace("OPERATOR(", "").replace(')', ""),
        "(\"a\" < 1 OR \"a\" = 1 AND ROW(\"name\", \"name\" <= ROW(b, c AND \"a\" <= 1"
    );
}

#[test]
fn one_integer_column_is_compared_by_value_and_dealt_by_value() {
    let columns = [column("id", "bigint")];
    let (range, above_zero) = (range(Some(&["-5"]), &["9"]), range(Some(&["0"]), &["9"]));
    assert_eq!(
        predicate(&columns, &range, Some(Stripe { of: 8, first: 3, end: 4 }), "q"),
        "((q.\"id\" > '-5'::bigint AND q.\"id\" <= '9'::bigint OR q.\"id\" = '9'::bigint) AND abs(q.\"id\" % 8) = 3)"
    );
    assert_eq!(
        predicate(&columns, &above_zero, Some(Stripe { of: 8, first: 3, end: 4 }), "q"),
        "((q.\"id\" > '0'::bigint AND q.\"id\" <= '9'::bigint OR q.\"id\" = '9'::bigint) AND (q.\"id\" % 8) = 3)"
    );
    assert_eq!(
        predicate(&columns, &range, None, "public.\"T\""),
        "(public.\"T\".\"id\" > '-5'::bigint AND public.\"T\".\"id\" <= '9'::bigint)"
    );
}

#[test]
fn a_stripe_of_several_remainders_is_compared_with_their_ends() {
    let columns = [column("id", "bigint")];
    let filter = |first, end| {
        let stripe = Stripe { of: 9, first, end };
        let sql = predicate(&columns, &range(Some(&["0"]), &["9"]), Some(stripe), "");
        sql.split_once("AND (\"id\" % 9) ").map(|(_, filter)| filter.trim_end_matches(')').to_owned())
    };
    assert_eq!(filter(0, 3).as_deref(), Some("< 3"));
    assert_eq!(filter(3, 5).as_deref(), Some(">= 3 AND (\"id\" % 9) < 5"));
    assert_eq!(filter(5, 6).as_deref(), Some("= 5"));
    assert_eq!(filter(6, 9).as_deref(), Some(">= 6"));
}

#[test]
fn several_columns_are_compared_as_rows_and_dealt_by_hash() {
    let columns = [column("a", "integer"), column("B", "text")];
    assert_eq!(
        predicate(&columns, &range(None, &["1", "it's \\"]), Some(Stripe { of: 4, first: 0, end: 1 }), "t"),
        "(((t.\"a\" < '1'::integer OR t.\"a\" = '1'::integer AND t.\"B\" <= E'it''s \\\\'::text) OR \
         ROW(t.\"a\", t.\"B\") = ROW('1'::integer, E'it''s \\\\'::text)) AND \
         abs(hash_record_extended(ROW(t.\"a\", t.\"B\"), 0) % 4) = 0)"
    );
}

#[test]
fn leading_columns_that_differ_are_the_ends_of_three_groups() {
    let columns = [column("a", "int"), column("b", "int"), column("c", "int")];
    assert_eq!(
        predicate(&columns[..2], &range(Some(&["1", "8"]), &["7", "3"]), None, ""),
        "((\"a\" = '1'::int AND \"b\" > '8'::int AND ROW(\"a\", \"b\") <= ROW('7'::int, '3'::int) \
         OR \"a\" > '1'::int AND \"a\" < '7'::int \
         OR \"a\" = '7'::int AND \"b\" <= '3'::int AND ROW(\"a\", \"b\") > ROW('1'::int, '8'::int)))"
    );
    assert_eq!(
        predicate(&columns, &range(None, &["7", "3", "1"]), None, ""),
        "((\"a\" < '7'::int OR \"a\" = '7'::int AND \"b\" < '3'::int \
         OR \"a\" = '7'::int AND \"b\" = '3'::int AND \"c\" <= '1'::int))"
    );
}

#[test]
fn leading_columns_that_are_the_same_at_both_ends_are_equal_to_that() {
    let columns = [column("a", "int"), column("b", "int"), column("c", "int")];
    assert_eq!(
        predicate(&columns, &range(Some(&["1", "2", "3"]), &["1", "2", "9"]), None, ""),
        "(\"a\" = '1'::int AND \"b\" = '2'::int AND \"c\" > '3'::int AND \"c\" <= '9'::int)"
    );
    assert_eq!(
        predicate(&columns, &range(Some(&["1", "2", "3"]), &["1", "4", "0"]), None, ""),
        "(\"a\" = '1'::int AND (\"b\" = '2'::int AND \"c\" > '3'::int AND ROW(\"b\", \"c\") <= ROW('4'::int, '0'::int) \
         OR \"b\" > '2'::int AND \"b\" < '4'::int \
         OR \"b\" = '4'::int AND \"c\" <= '0'::int AND ROW(\"b\", \"c\") > ROW('2'::int, '3'::int)))"
    );
    assert_eq!(
        predicate(&columns[..2], &range(Some(&["1", "2"]), &["1", "2"]), None, ""),
        "(\"a\" = '1'::int AND \"b\" > '2'::int AND \"b\" <= '2'::int)",
        "no key lies between a key and itself"
    );
}

#[test]
fn a_walk_has_bounds_of_the_first_column_that_differs_beside_the_row() {
    let columns = [column("a", "int"), column("b", "int"), column("c", "int")];
    let names = comparison::operands(&columns, "");
    let ordered = |low: Option<&[&str]>, high: Option<&[&str]>| {
        let (low, high) = (low.map(bound), high.map(bound));
        let literals = |bound: &KeyBound| comparison::literals(&columns, bound);
        let shared = comparison::shared_columns(low.as_ref(), high.as_ref());
        let (low, high) = (low.as_ref().map(literals), high.as_ref().map(literals));
        let ordered = comparison::ordered(&names, low.as_deref(), high.as_deref(), shared);
        plain(&ordered).replace("::int", "").replace('"', "")
    };
    assert_eq!(ordered(None, None), "true");
    assert_eq!(ordered(Some(&["1", "2", "3"]), None), "ROW(a, b, c) > ROW('1', '2', '3') AND a >= '1'");
    assert_eq!(
        ordered(Some(&["1", "2", "3"]), Some(&["1", "4", "0"])),
        "a = '1' AND ROW(b, c) > ROW('2', '3') AND ROW(b, c) <= ROW('4', '0') AND b >= '2' AND b <= '4'"
    );
    assert_eq!(ordered(Some(&["1", "2", "3"]), Some(&["1", "2", "9"])), "a = '1' AND b = '2' AND c > '3' AND c <= '9'");
}

#[test]
#[should_panic(expected = "does not have one value for each")]
fn a_bound_of_another_length_is_no_predicate() {
    let _sql = predicate(&[column("a", "int"), column("b", "int")], &range(None, &["1"]), None, "t");
}

proptest! {
    /// Ranges cut at any bounds, as a plan cuts them: half-open and contiguous, the last up to the highest key.
    #[test]
    fn half_open_ranges_cover_each_key_once(
        keys in prop::collection::btree_set(any::<i16>(), 1..200),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ends in prop::collection::btree_set(1_i64..100, 1..64),
    ) {
        let keys: Vec<i64> = keys.into_iter().map(i64::from).collect();
        let mut highs: BTreeSet<i64> = cuts.iter().map(|cut| keys[cut.index(keys.len())]).collect();
        highs.insert(keys[keys.len() - 1]);
        let mut low = None;
        let mut ranges = Vec::new();
        for high in highs {
            ranges.push((low, high));
            low = Some(high);
        }
        for key in keys {
            let holding = ranges.iter().filter(|(low, high)| low.is_none_or(|low| key > low) && key <= *high).count();
            prop_assert_eq!(holding, 1);
            // The stripe of the predicate, in the arithmetic of PostgreSQL, which is that of Rust.
            let (mut first, of) = (0, *ends.last().unwrap());
            let holding = ends.iter().filter(|end| (std::mem::replace(&mut first, **end)..**end).contains(&(key % of).abs()));
            prop_assert_eq!(holding.count(), 1);
        }
    }
}

/// Keys of every sort, in SQL: the type, and an expression over `n` from 1 to 1000 that gives unique values.
const TYPES: [(&str, &str); 10] = [
    ("bigint", "(n - 500) * 9007199254740993"),
    ("smallint", "(n - 500) * 65"),
    ("uuid", "md5(n::text)::uuid"),
    ("text", "md5(n::text) || E'''\\\\\"\\n' || n"),
    ("text COLLATE \"und-x-icu\"", "chr(65 + n % 60) || n"),
    ("timestamp with time zone", "'2020-02-29 12:00:00.123456+01'::timestamptz + n * interval '1 day 1 microsecond'"),
    ("numeric", "(n - 500) / 7.0"),
    ("character varying(20)", "repeat('x', n % 3) || n"),
    ("bytea", "decode(md5(n::text), 'hex')"),
    ("date", "'0044-03-15 BC'::date + n"),
];

#[tokio::test]
async fn ranges_and_stripes_cover_each_row_once_for_keys_of_every_type() {
    let url = throwaway::shared().await.database("key").await.unwrap();
    let (client, _connection) = postgres::connect(&url, "test").await.unwrap();
    for (number, (type_name, values)) in TYPES.iter().enumerate() {
        for columns in [vec!["k"], vec!["g", "k"], vec!["h", "g", "k"], vec!["k", "g"]] {
            let table = format!("t{number}_{}", columns.concat());
            let list = columns.join(", ");
            client
                .batch_execute(&format!(
                    "CREATE TABLE {table} (h bool NOT NULL, g int NOT NULL, k {type_name} NOT NULL, hits int NOT NULL DEFAULT 0); \
                     INSERT INTO {table} (h, g, k) SELECT n % 2 = 0, n % 7, {values} FROM generate_series(1, 1000) n; \
                     ALTER TABLE {table} ADD PRIMARY KEY ({list})"
                ))
                .await
                .unwrap();
            let key: Vec<KeyColumn> = key_of(&client, &table, &columns).await;
            let texts: Vec<String> = columns.iter().map(|name| format!("{name}::text")).collect();
            let bounds = client
                .query_typed(
                    &format!(
                        "SELECT ARRAY[{}] FROM (SELECT *, row_number() OVER (ORDER BY {list}) AS place FROM {table}) t \
                         WHERE place % 300 = 0 OR place = 1000 ORDER BY place",
                        texts.join(", ")
                    ),
                    &[],
                )
                .await
                .unwrap();
            let mut low = None;
            for row in bounds {
                let high = KeyBound(row.get(0));
                let range = KeyRange { low: low.replace(high.clone()), high };
                for (first, end) in [(0, 3), (3, 5), (5, 6), (6, 9)] {
                    let rows = super::predicate(&key, &range, Some(Stripe { of: 9, first, end }), "t");
                    client.batch_execute(&format!("UPDATE {table} t SET hits = hits + 1 WHERE {rows}")).await.unwrap();
                }
                let plan = explain(&client, &table, &super::predicate(&key, &range, None, "t")).await;
                assert!(plan.contains("Index Cond"), "{plan}");
                let striped = super::predicate(&key, &range, Some(Stripe { of: 3, first: 0, end: 1 }), "t");
                let plan = explain(&client, &table, &striped).await;
                assert!(plan.contains("Bitmap Index Scan"), "{plan}");
            }
            let row =
                client.query_one(&format!("SELECT count(*), min(hits), max(hits) FROM {table}"), &[]).await.unwrap();
            assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), (1000, 1, 1), "{type_name}");
        }
    }
}

async fn key_of(client: &tokio_postgres::Client, table: &str, columns: &[&str]) -> Vec<KeyColumn> {
    let mut key = Vec::new();
    for name in columns {
        let sql = format!(
            "SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attname = '{name}'"
        );
        let row = client.query_one(&sql, &[]).await.unwrap();
        key.push(column(name, row.get(0)));
    }
    key
}

async fn explain(client: &tokio_postgres::Client, table: &str, rows: &str) -> String {
    let sql = format!("SET enable_seqscan = off; EXPLAIN SELECT FROM {table} t WHERE {rows}");
    let messages = client.simple_query(&sql).await.unwrap();
    let lines = messages.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}
