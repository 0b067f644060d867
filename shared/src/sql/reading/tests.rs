//! What is read of a statement, and what is refused for not being read.

use super::*;

fn assigned(sql: &str) -> Vec<String> {
    Reading::of(sql).unwrap_or_else(|error| panic!("{sql}: {error}")).assigned(&["users".to_owned()])
}

#[test]
fn the_columns_of_an_update_are_read() {
    for (sql, columns) in [
        ("UPDATE users SET role = 'x', \"Na\"\"me\" = 1 WHERE :batch", vec!["role", "Na\"me"]),
        ("UPDATE ONLY public.users AS u SET (ID, b) = (SELECT 1, 2) WHERE :batch(u)", vec!["id", "b"]),
        ("update only (users) u set a[1] = 2, a[2] = 3, c.d = 4", vec!["a", "c"]),
        ("UPDATE users SET (a, b[1], c.d) = ROW(1, ARRAY[1, 2], f(x, y)), e = DEFAULT", vec!["a", "b", "c", "e"]),
        ("UPDATE users * SET a = b IS DISTINCT FROM c, d = 1 FROM x WHERE e = 2", vec!["a", "d"]),
        (
            "UPDATE users SET a = CASE WHEN x THEN (SELECT 1, from_y) ELSE 2 END, b = t.from RETURNING c = 1",
            vec!["a", "b"],
        ),
        ("UPDATE other SET a = (SELECT max(b) FROM users)", vec![]),
        ("UPDATE elsewhere.users SET a = 1", vec!["a"]),
        ("WITH x AS (UPDATE users SET a = 1 RETURNING *) UPDATE other SET b = 2 FROM x", vec!["a"]),
        (
            "WITH RECURSIVE y(a, b) AS MATERIALIZED (SELECT 1) SEARCH DEPTH FIRST BY a, b SET c CYCLE a, b SET d USING e, \
             x AS NOT MATERIALIZED (TABLE y) UPDATE users u SET a = 1 FROM x",
            vec!["a"],
        ),
        ("INSERT INTO users (id, a) SELECT id, a FROM t WHERE :batch ON CONFLICT (id) DO UPDATE SET a = 1", vec!["a"]),
        ("INSERT INTO users AS u SELECT 1 ON CONFLICT ON CONSTRAINT x DO NOTHING RETURNING id", vec![]),
        (
            "MERGE INTO users u USING s ON s.id = u.id WHEN MATCHED AND CASE WHEN a THEN b END THEN UPDATE SET id = CASE WHEN x THEN y END \
             WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (a, b) VALUES (1, 2)",
            vec!["id"],
        ),
        ("DELETE FROM users WHERE :batch", vec![]),
        ("SELECT f(id) FROM users WHERE :batch", vec![]),
        ("(SELECT 1)", vec![]),
    ] {
        assert_eq!(assigned(sql), columns, "{sql}");
    }
}

#[test]
fn schemas_tell_tables_apart_where_both_are_given() {
    let reading = Reading::of("UPDATE a.users SET x = 1").unwrap();
    assert!(reading.assigned(&["b".to_owned(), "users".to_owned()]).is_empty());
    assert_eq!(reading.assigned(&["users".to_owned()]), ["x"]);
}

#[test]
fn what_is_not_understood_is_no_statement_that_changes_nothing() {
    for sql in [
        "this is no sql",
        "DO $$ BEGIN UPDATE users SET a = 1; END $$",
        "EXPLAIN ANALYZE UPDATE users SET a = 1",
        "UPDATE users FOR PORTION OF valid FROM 1 TO 2 SET a = 1",
        "UPDATE users SET U&\"x\" = 1",
        "WITH x (SELECT 1) UPDATE users SET a = 1",
        "UPDATE",
        "INSERT users VALUES (1)",
        "DELETE users",
        "MERGE INTO users u USING s ON true WHEN MATCHED THEN REPLACE",
    ] {
        let read = Reading::of(sql);
        assert!(read.is_err(), "{sql}: {read:?}");
    }
}

#[test]
fn no_length_and_no_depth_is_too_much() {
    for opens in ["CASE ", "NOT ", "- ", "(", "ARRAY[", "EXPLAIN ", "SELECT ", "x JOIN ", "CASE WHEN "] {
        for count in [50, 50_000] {
            let _read = Reading::of(&format!("UPDATE t SET a = {}", opens.repeat(count)));
        }
    }
    let cases: String = (0..5000).map(|number| format!(" WHEN {number} THEN {number} + 1")).collect();
    assert_eq!(assigned(&format!("UPDATE users SET a = CASE code{cases} END, b = 2 WHERE :batch")), ["a", "b"]);
}

#[test]
fn tables_are_found_where_they_are_named() {
    let named = |sql: &str| {
        let reading = Reading::of(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let words = reading.references.iter().map(|reference| {
            let only = if reference.only { "only " } else { "" };
            let alias = reference.alias.as_deref().map_or_else(String::new, |alias| format!(" as {alias}"));
            format!("{only}{}{alias}", reference.table.join("."))
        });
        words.collect::<Vec<_>>().join(", ")
    };
    for (sql, expected) in [
        ("UPDATE users SET a = 1 WHERE :batch", "users"),
        ("UPDATE ONLY users u SET a = 1 WHERE :batch(u)", "only users as u"),
        ("UPDATE ONLY (users) AS u SET a = 1, b = 2 FROM x, y z WHERE :batch(u)", "only users as u, x, y as z"),
        ("DELETE FROM s.\"T\" t USING a JOIN b USING (id, n), c AS d WHERE :batch(t)", "s.T as t, a, b, c as d"),
        ("INSERT INTO a (x, y) SELECT id, f FROM b, LATERAL f(b.x) g, ONLY c WHERE :batch(b)", "a, b, only c"),
        ("INSERT INTO a SELECT * FROM ((b LEFT JOIN c ON b.x = c.x) JOIN (SELECT 1 FROM d) e ON true)", "a, b, c, d"),
        (
            "MERGE INTO a t USING (SELECT * FROM b WHERE :batch(b)) s ON s.id = t.id WHEN MATCHED THEN UPDATE SET x = 1, y = 2 \
             WHEN NOT MATCHED THEN INSERT (p, q) VALUES (1, 2)",
            "a as t, b",
        ),
        (
            "WITH x AS (SELECT extract(year FROM d), substring(e FROM 1) FROM a FOR UPDATE) SELECT 1 FROM x, b ORDER BY c, d",
            "a, x, b",
        ),
        ("SELECT a IS DISTINCT FROM b, c FROM d UNION SELECT e, f FROM g", "d, g"),
        ("INSERT INTO a SELECT 1 FROM b ON CONFLICT (x) DO UPDATE SET y = 1, z = 2", "a, b"),
    ] {
        assert_eq!(named(sql), expected, "{sql}");
    }
}

#[test]
fn more_can_be_returned_and_what_matches_be_counted() {
    let reading = Reading::of("UPDATE t AS u SET a = 1 FROM x WHERE x.id = u.id AND :batch(u) -- so\n;").unwrap();
    assert_eq!(
        reading.returning("u.id"),
        "UPDATE t AS u SET a = 1 FROM x WHERE x.id = u.id AND :batch(u)\n\nRETURNING u.id"
    );
    assert_eq!(
        reading.matching("n").unwrap().split_whitespace().collect::<Vec<_>>().join(" "),
        "SELECT pg_catalog.count(*) AS n FROM (SELECT DISTINCT u.tableoid, u.ctid FROM t AS u , x WHERE x.id = u.id AND :batch(u) ) AS matching"
    );
    let reading = Reading::of("WITH x AS (SELECT 1) DELETE FROM t RETURNING a").unwrap();
    assert!(reading.returning("b").ends_with("RETURNING a\n, b"));
    assert!(reading.matching("n").unwrap().starts_with("WITH x AS (SELECT 1)\nSELECT pg_catalog.count(*) AS n"));
    assert_eq!(Reading::of("INSERT INTO t SELECT 1").unwrap().matching("n"), None);
    assert_eq!(Reading::of("WITH x AS (DELETE FROM u RETURNING *) DELETE FROM t").unwrap().matching("n"), None);
}
