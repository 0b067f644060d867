//! Which statements `:batch` restricts: forms that are accepted, and forms that are refused, each with its reason.

use proptest::prelude::*;

use super::*;

fn of(sql: &str) -> Result<Placement, Misplaced> {
    Placement::of(sql, "t")
}

fn why(sql: &str) -> Why {
    match of(sql) {
        Ok(placement) => panic!("{sql}: {placement:?}"),
        Err(misplaced) => misplaced.why,
    }
}

fn key(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|column| (*column).to_owned()).collect()
}

/// Statements that `:batch` restricts, whatever they change.
const PLACED: [&str; 54] = [
    "UPDATE t SET a = 1 WHERE :batch",
    "UPDATE t SET a = 1 WHERE b = 2 AND :batch;",
    "UPDATE t SET a = 1 WHERE (b = 2 OR c) AND (d AND (:batch)) AND NOT e",
    "UPDATE t SET a = 1 WHERE b BETWEEN 1 AND 2 AND :batch AND c IS DISTINCT FROM d",
    "UPDATE t SET a = 1 WHERE b NOT BETWEEN 1 AND 2 AND c IS NOT NULL AND :batch AND d ISNULL",
    "UPDATE t SET a = 1 WHERE b LIKE 'x!%' ESCAPE '!' AND c ~ 'y' AND d -> 'e' ->> 'f' = 'g' AND :batch",
    "UPDATE t SET a = 1 WHERE b::date = DATE '2020-01-01' AND c AT TIME ZONE 'UTC' < now() AND :batch",
    "UPDATE t SET a = CASE WHEN b OR c THEN 1 ELSE 2 END WHERE CASE WHEN b OR c THEN d END AND :batch",
    "UPDATE ONLY one.\"T\" AS \"u\" SET a = 1 FROM x WHERE x.id = \"u\".x AND :batch(\"u\")",
    "UPDATE t SET (a, b) = (SELECT 1, 2) FROM x JOIN y USING (n) LEFT JOIN z ON z.n = y.n OR z.m WHERE t.id = x.id AND :batch",
    "UPDATE t SET a = s.a FROM (SELECT max(n) AS a FROM t) s WHERE :batch RETURNING t.id, s.a",
    "UPDATE t SET a = (SELECT count(*) FROM o WHERE o.t = t.id OR o.u) WHERE EXISTS (SELECT FROM p WHERE p.t = t.id) AND :batch",
    "UPDATE p SET a = 1 FROM t WHERE p.code = t.code AND :batch",
    "UPDATE p SET a = 1 FROM x JOIN t ON t.x = x.id AND :batch WHERE p.id = x.p",
    "UPDATE p SET a = 1 WHERE t_id IN (SELECT id FROM t WHERE :batch)",
    "UPDATE p SET a = 1 WHERE (b, c) IN (SELECT t.b, t.c FROM t WHERE :batch AND n) AND d IN (1, 2, 3)",
    "DELETE FROM t WHERE :batch",
    "DELETE FROM t USING x, LATERAL (SELECT x.n) y WHERE x.id = t.id AND :batch RETURNING *",
    "DELETE FROM p WHERE p.t IN (SELECT id FROM t WHERE :batch)",
    "SELECT f(id) FROM t WHERE :batch",
    "SELECT f(t.id) FROM t LEFT JOIN x ON x.id = t.x WHERE :batch ORDER BY t.id",
    "SELECT f(x.id) FROM x LEFT JOIN t ON x.id = t.x WHERE :batch",
    "SELECT f(x.id) FROM (x JOIN t ON x.id = t.x AND :batch) LEFT JOIN y ON y.id = t.x",
    "SELECT f(x.id) FROM x RIGHT JOIN (SELECT * FROM t WHERE :batch) u ON x.id = u.x",
    "SELECT f(x.id) FROM x CROSS JOIN t LEFT JOIN y ON y.x = t.y WHERE :batch",
    "INSERT INTO x SELECT id FROM t WHERE :batch",
    "INSERT INTO x AS y (a, b) OVERRIDING SYSTEM VALUE SELECT id, 2 FROM t u WHERE :batch(u) ON CONFLICT (a) WHERE b > 1 OR c DO UPDATE \
     SET b = y.b + excluded.b WHERE y.b > 0 OR y.c RETURNING y.a",
    "INSERT INTO x SELECT a.t, v FROM t, jsonb_array_elements(t.j) WITH ORDINALITY AS a(v, n), unnest(t.l) l WHERE :batch",
    "INSERT INTO x SELECT id, 'home', home FROM t WHERE :batch UNION ALL SELECT id, 'work', work FROM t WHERE work <> '' AND :batch",
    "INSERT INTO x (SELECT id FROM t WHERE :batch)",
    "INSERT INTO x WITH u AS (SELECT id FROM t WHERE :batch) SELECT id FROM u",
    "INSERT INTO x SELECT id FROM (SELECT id FROM (SELECT * FROM t WHERE :batch) AS u) AS v",
    "INSERT INTO x SELECT u.id FROM ((SELECT id FROM t WHERE :batch UNION ALL SELECT -id FROM t WHERE :batch)) AS u",
    "INSERT INTO x SELECT (SELECT max(m) FROM t), id FROM t WHERE :batch FOR UPDATE OF t SKIP LOCKED",
    "WITH u AS (SELECT id FROM t WHERE :batch FOR UPDATE) UPDATE t SET a = 1 FROM u WHERE t.id = u.id",
    "WITH u AS MATERIALIZED (SELECT id FROM t WHERE :batch) UPDATE t SET a = 1 WHERE id IN (SELECT id FROM u)",
    "WITH u (n, m) AS NOT MATERIALIZED (SELECT id, b FROM t WHERE :batch), v AS (SELECT * FROM u) DELETE FROM x USING v WHERE x.t = v.n",
    "WITH moved AS (DELETE FROM t WHERE old AND :batch RETURNING *) INSERT INTO x SELECT * FROM moved",
    "WITH moved AS (DELETE FROM t WHERE :batch RETURNING *), a AS (INSERT INTO x SELECT * FROM moved RETURNING 1) SELECT count(*) FROM a",
    "WITH a AS (INSERT INTO x SELECT id FROM t WHERE :batch), b AS (INSERT INTO y SELECT id FROM t WHERE :batch) SELECT 1",
    "WITH a AS (INSERT INTO x SELECT id FROM t WHERE :batch) DELETE FROM t WHERE :batch",
    "WITH a AS (SELECT 1), u AS (SELECT id FROM t WHERE :batch) SELECT f(id) FROM u UNION ALL SELECT g(id) FROM u",
    "WITH RECURSIVE d(id) AS (SELECT id FROM t WHERE :batch UNION ALL SELECT c.id FROM t c JOIN d ON c.parent = d.id) \
     DELETE FROM x USING d WHERE x.t = d.id",
    "MERGE INTO x USING (SELECT * FROM t WHERE :batch) s ON s.id = x.id WHEN MATCHED AND x.a OR s.b THEN UPDATE SET a = 1 \
     WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)",
    "WITH s AS (SELECT * FROM t WHERE :batch) MERGE INTO x AS y USING s ON s.id = y.id WHEN MATCHED THEN DELETE",
    "MERGE INTO x USING (SELECT * FROM t WHERE :batch) s ON s.id = x.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED BY SOURCE THEN DO NOTHING",
    "UPDATE t SET tags = array_append(tags, 'b'), a[1] = b[2:3], c = '{\"x\": 1}'::jsonb #- '{y}' WHERE tags @> ARRAY['a'] AND :batch",
    "UPDATE t SET a = b WHERE b = ANY (ARRAY[1, 2]) AND c = ANY ('{1}') AND d > ALL (SELECT 1) AND :batch",
    "UPDATE t SET a = substring(b FROM 2 FOR 3), c = extract(year FROM d), e = position('x' IN f), g = trim(both FROM h) WHERE :batch",
    "UPDATE t SET a = COALESCE(b, NULLIF(c, '')), d = interval '1 day' * 2, e = e + INTERVAL '1' DAY WHERE d >= $$x$$ AND :batch",
    "UPDATE t SET a = count(*) FILTER (WHERE x OR y) FROM x WHERE t.id = x.id AND :batch",
    "UPDATE t /* :batch OR */ SET a = ':batch' -- OR\n WHERE b <> E'\\'' AND :batch",
    "SELECT f(id) FROM ONLY t WHERE (a, b) = (1, 2) AND (a, b) > (3, 4) AND a OPERATOR(pg_catalog.=) b AND :batch",
    "UPDATE \"t\" SET a = 1 WHERE \"or\" AND NOT \"not\" AND t.\"end\" = 1 AND :batch",
];

#[test]
fn a_condition_of_its_own_is_accepted_wherever_its_level_leads_to_the_statement() {
    for sql in PLACED {
        if let Err(misplaced) = of(sql) {
            panic!("{sql}: {misplaced:?}");
        }
    }
}

#[test]
fn what_takes_its_force_away_is_named() {
    for (sql, expected) in [
        ("UPDATE t SET a = 1 WHERE b = 'x' OR b = 'y' AND :batch", Why::Or),
        ("UPDATE t SET a = 1 WHERE :batch OR b", Why::Or),
        ("UPDATE t SET a = 1 WHERE (b OR c AND :batch) AND d", Why::Or),
        ("UPDATE t SET a = 1 WHERE b BETWEEN 1 AND 2 OR c AND :batch", Why::Or),
        ("UPDATE t SET a = 1 WHERE b AND (c BETWEEN 1 AND 2 OR d AND (:batch))", Why::Or),
        ("UPDATE t SET a = 1 WHERE b BETWEEN 1 AND 2 OR c AND (d AND :batch)", Why::Or),
        ("UPDATE t SET a = 1 WHERE NOT :batch", Why::Not),
        ("UPDATE t SET a = 1 WHERE NOT (a AND :batch)", Why::Not),
        ("UPDATE t SET a = 1 WHERE (:batch) IS NOT NULL AND id = 5", Why::Expression),
        ("UPDATE t SET a = 1 WHERE :batch IS NULL", Why::Expression),
        ("UPDATE t SET a = 1 WHERE :batch = false", Why::Expression),
        ("UPDATE t SET a = 1 WHERE a AND :batch BETWEEN false AND false", Why::Expression),
        ("UPDATE t SET a = 1 WHERE a BETWEEN 1 AND :batch", Why::Expression),
        ("UPDATE t SET a = 1 WHERE coalesce(:batch, true)", Why::Expression),
        ("UPDATE t SET a = 1 WHERE :batch::text <> ''", Why::Expression),
        ("UPDATE t SET a = 1 WHERE (:batch, a) = (true, b)", Why::Expression),
        ("UPDATE t SET a = 1 WHERE CASE WHEN b THEN :batch ELSE true END", Why::Case),
        ("UPDATE t SET a = CASE WHEN :batch THEN 1 ELSE a END", Why::Case),
        ("UPDATE t SET a = :batch", Why::Clause),
        ("SELECT count(*) FILTER (WHERE :batch) FROM t", Why::Clause),
        ("SELECT a FROM t GROUP BY a HAVING bool_or(:batch)", Why::Expression),
        ("SELECT a FROM t GROUP BY a HAVING :batch", Why::Having),
        ("INSERT INTO x SELECT t.id FROM t LEFT JOIN l ON l.t = t.id AND :batch", Why::OuterOn),
        ("INSERT INTO x SELECT t.id FROM l RIGHT JOIN t ON l.t = t.id AND :batch", Why::OuterOn),
        ("INSERT INTO x SELECT t.id FROM l FULL JOIN t ON l.t = t.id AND :batch", Why::OuterOn),
        ("INSERT INTO x SELECT l.id FROM l LEFT JOIN (SELECT * FROM t WHERE :batch) u ON l.t = u.id", Why::OuterSide),
        ("INSERT INTO x SELECT l.id FROM (SELECT * FROM t WHERE :batch) u RIGHT JOIN l ON l.t = u.id", Why::OuterSide),
        (
            "INSERT INTO x SELECT l.id FROM (SELECT * FROM t WHERE :batch) u CROSS JOIN y RIGHT JOIN l ON true",
            Why::OuterSide,
        ),
        (
            "INSERT INTO x SELECT l.id FROM (SELECT * FROM t WHERE :batch) u NATURAL JOIN y FULL JOIN l ON true",
            Why::OuterSide,
        ),
        (
            "INSERT INTO x SELECT l.id FROM l LEFT JOIN (t JOIN y ON y.t = t.id AND :batch) ON l.t = t.id",
            Why::OuterSide,
        ),
        ("MERGE INTO t USING x ON x.id = t.id AND :batch WHEN MATCHED THEN DELETE", Why::MergeOn),
        ("MERGE INTO t USING x ON x.id = t.id WHEN MATCHED AND :batch THEN DELETE", Why::MergeWhen),
        (
            "MERGE INTO x USING (SELECT * FROM t WHERE :batch) s ON s.id = x.id WHEN NOT MATCHED BY SOURCE THEN DELETE",
            Why::NotInSource,
        ),
        ("UPDATE t SET a = 1 WHERE EXISTS (SELECT FROM t b WHERE :batch(b))", Why::Exists),
        ("UPDATE t SET a = 1 WHERE b NOT IN (SELECT id FROM t WHERE :batch)", Why::Scalar),
        ("UPDATE p SET a = 1 WHERE b = (SELECT id FROM t WHERE :batch)", Why::Scalar),
        ("UPDATE p SET a = (SELECT max(id) FROM t WHERE :batch)", Why::Scalar),
        ("INSERT INTO x SELECT id FROM t WHERE :batch UNION ALL SELECT id FROM t", Why::Branch),
        ("INSERT INTO x SELECT id FROM t UNION (SELECT id FROM t WHERE :batch)", Why::Branch),
        ("INSERT INTO x SELECT id FROM t EXCEPT SELECT id FROM t WHERE :batch", Why::Branch),
        ("INSERT INTO x SELECT a FROM y WHERE a IN (SELECT id FROM t WHERE :batch INTERSECT SELECT 1)", Why::Branch),
        ("INSERT INTO x SELECT id FROM t ON CONFLICT (id) DO UPDATE SET a = 1 WHERE :batch", Why::Conflict),
        ("WITH u AS (SELECT id FROM t WHERE :batch) UPDATE t SET a = 1", Why::NotJoined),
        ("WITH u AS (SELECT id FROM t WHERE :batch) UPDATE t SET a = 1 WHERE EXISTS (SELECT FROM u)", Why::NotJoined),
        ("WITH u AS (SELECT id FROM t WHERE :batch) SELECT f(x.id) FROM x LEFT JOIN u ON u.id = x.t", Why::NotJoined),
        ("WITH d AS (DELETE FROM t WHERE :batch) UPDATE x SET a = 1", Why::Unbound("what the UPDATE changes")),
        (
            "WITH d AS (DELETE FROM t WHERE :batch) INSERT INTO y SELECT id FROM x",
            Why::Unbound("what the INSERT inserts"),
        ),
        ("WITH d AS (UPDATE x SET a = 1) DELETE FROM t WHERE :batch", Why::Unbound("what the UPDATE changes")),
        ("UPDATE t SET a = 1 WHERE b IN (SELECT o.t FROM o WHERE :batch)", Why::NotHere),
        ("INSERT INTO x SELECT y.id FROM t, LATERAL (SELECT o.id FROM o WHERE o.t = t.id AND :batch) y", Why::NotHere),
        ("UPDATE x SET a = 1 WHERE b IN (SELECT id + 1 FROM t WHERE :batch)", Why::NoKey),
        // It is the column of the table outside.
        ("WITH u AS (SELECT b FROM t WHERE :batch) DELETE FROM t WHERE a IN (SELECT a FROM u)", Why::NoKey),
    ] {
        assert_eq!(why(sql), expected, "{sql}");
    }
}

#[test]
fn a_refusal_points_at_its_placeholder() {
    let sql = "UPDATE t SET a = 1 WHERE :batch AND (b OR :batch)";
    assert_eq!(of(sql).unwrap_err().offset, sql.rfind(":batch").unwrap());
}

#[test]
fn what_is_not_understood_is_refused_where_the_parser_stops() {
    let sql = "UPDATE t SET a = 1 WHERE :batch AND b @@@ ) c";
    let misplaced = of(sql).unwrap_err();
    assert!(matches!(misplaced.why, Why::NotUnderstood(_)), "{misplaced:?}");
    assert!(misplaced.offset > sql.find("@@@").unwrap(), "{misplaced:?}");
    let cases = " WHEN 1 THEN 2".repeat(200);
    let sql = format!("UPDATE t SET a = CASE b{cases} END WHERE :batch AND ) c");
    let (offset, place) = (of(&sql).unwrap_err().offset, sql.find(')').unwrap());
    assert!((place - 1..=place).contains(&offset), "{offset}, and not {place}");
}

#[test]
fn statements_of_any_length_are_understood() {
    let cases = " WHEN 'a' THEN 'b'".repeat(50_000);
    let list = "1, ".repeat(50_000);
    let rows = "(1, 'a'), ".repeat(20_000);
    for sql in [
        format!("UPDATE t SET a = CASE b{cases} END WHERE :batch"),
        format!("UPDATE t SET a = 1 WHERE b IN ({list}2) AND :batch"),
        format!("UPDATE t SET a = v.b FROM (VALUES {rows}(2, 'b')) v(a, b) WHERE t.b = v.a AND :batch"),
        format!("UPDATE t SET a = {}1{} WHERE :batch", "(".repeat(50_000), ")".repeat(50_000)),
        format!("UPDATE t SET a = b[{list}2], c = ARRAY[{list}2] WHERE :batch"),
    ] {
        of(&sql).unwrap();
    }
}

#[test]
fn what_is_too_deep_or_too_long_ends_no_process() {
    for sql in [
        format!("UPDATE t SET a = 1 WHERE {}:batch{}", "(".repeat(50_000), ")".repeat(50_000)),
        format!("UPDATE t SET a = 1 WHERE {}:batch", "NOT ".repeat(50_000)),
        format!("UPDATE t SET a = 1 WHERE {}:batch", "- ".repeat(4_000)),
        format!("UPDATE t SET a = {}1 WHERE NOT :batch", "1 + ".repeat(2_000)),
        format!("UPDATE t SET a = {}1 WHERE NOT :batch", "- ".repeat(4_500)),
        format!("UPDATE t SET a = {}1 WHERE NOT :batch", "NOT ".repeat(4_500)),
        format!("{}UPDATE t SET a = 1 WHERE NOT :batch", "SELECT (".repeat(50_000)),
        format!("UPDATE t SET a = 1 WHERE a = {} AND NOT :batch", "CASE WHEN ".repeat(20_000)),
        format!("UPDATE t SET a = 1 WHERE NOT {}", ":batch AND ".repeat(40_000)),
    ] {
        of(&sql).unwrap_err();
    }
    of(&format!("UPDATE t SET a = {}1 WHERE {}:batch", "b || ".repeat(600), "c AND ".repeat(1_200))).unwrap();
}

#[test]
fn a_change_is_within_the_batch_where_its_whole_key_is_joined() {
    let two = &["a", "b"][..];
    for (sql, columns, within, may_be) in [
        ("UPDATE t SET n = 1 WHERE :batch", two, true, true),
        ("UPDATE t u SET n = 1 FROM t WHERE u.x = t.y AND :batch(u)", two, true, true),
        ("UPDATE t SET n = 1 FROM t u WHERE t.a = u.a AND u.b = t.b AND :batch(u)", two, true, true),
        ("UPDATE t SET n = 1 FROM t u WHERE (t.a, t.b) = (u.a, u.b) AND :batch(u)", two, true, true),
        ("UPDATE t SET n = 1 FROM t u WHERE t.a = u.a AND :batch(u)", two, false, false),
        ("UPDATE t SET n = 1 FROM t u WHERE t.a = u.a AND (t.b = u.b OR u.c) AND :batch(u)", two, false, false),
        ("UPDATE t SET n = 1 FROM t u WHERE t.a = u.b AND t.b = u.a AND :batch(u)", two, false, true),
        (
            "UPDATE t SET n = 1 FROM t u, t v WHERE t.a = u.a AND t.b = v.b AND :batch(u) AND :batch(v)",
            two,
            false,
            true,
        ),
        ("UPDATE t SET n = 1 FROM t u WHERE t.parent = u.a AND :batch(u)", &["a"], false, false),
        ("UPDATE t SET n = 1 FROM t u WHERE t.a = u.parent AND :batch(u)", &["a"], false, true),
        ("UPDATE t SET n = 1 FROM o JOIN t u ON o.a = u.a WHERE t.a = o.a AND :batch(u)", &["a"], false, true),
        ("UPDATE t SET n = 1 FROM t u WHERE :batch(u)", &["a"], false, false),
        ("UPDATE t SET n = 1 WHERE a IN (SELECT a FROM t WHERE :batch)", &["a"], true, true),
        ("UPDATE t SET n = 1 WHERE (a, b) IN (SELECT a, b FROM t WHERE :batch)", two, true, true),
        ("UPDATE t SET n = 1 WHERE (a, b) IN (SELECT b, a FROM t WHERE :batch)", two, false, true),
        ("UPDATE t SET n = 1 WHERE parent IN (SELECT a FROM t WHERE :batch)", &["a"], false, false),
        ("WITH u AS (SELECT a FROM t WHERE :batch) UPDATE t SET n = 1 FROM u WHERE t.a = u.a", &["a"], true, true),
        ("WITH u AS (SELECT * FROM t WHERE :batch) UPDATE t SET n = 1 FROM u WHERE t.a = u.a", &["a"], true, true),
        (
            "WITH u AS (SELECT v.* FROM t v, x WHERE :batch(v)) DELETE FROM t USING u WHERE t.a = u.a",
            &["a"],
            true,
            true,
        ),
        (
            "WITH u AS (SELECT b AS a FROM t WHERE :batch) UPDATE t SET n = 1 FROM u WHERE t.a = u.a",
            &["a"],
            false,
            true,
        ),
        (
            "WITH u(x, y) AS (SELECT a, c FROM t WHERE :batch) UPDATE t SET n = 1 FROM u WHERE u.x = t.a",
            &["a"],
            true,
            true,
        ),
        (
            "WITH u(x, y) AS (SELECT c, a FROM t WHERE :batch) UPDATE t SET n = 1 FROM u WHERE u.x = t.a",
            &["a"],
            false,
            true,
        ),
        (
            "WITH u AS (SELECT a, count(*) FROM t JOIN o ON o.t = t.b WHERE :batch GROUP BY a) UPDATE t SET n = 1 FROM u v WHERE v.a = t.a",
            &["a"],
            true,
            true,
        ),
        (
            "WITH u AS (SELECT a FROM t WHERE :batch UNION ALL SELECT a FROM t WHERE :batch) DELETE FROM t USING u WHERE u.a = t.a",
            &["a"],
            true,
            true,
        ),
        (
            "WITH u AS (SELECT a FROM t WHERE :batch UNION ALL SELECT b FROM t WHERE :batch) DELETE FROM t USING u WHERE u.a = t.a",
            &["a"],
            false,
            true,
        ),
        (
            "WITH RECURSIVE d AS (SELECT a FROM t WHERE :batch UNION ALL SELECT c.a FROM t c JOIN d ON c.p = d.a) \
          DELETE FROM t USING d WHERE t.a = d.a",
            &["a"],
            false,
            true,
        ),
        (
            "MERGE INTO t USING (SELECT a FROM t WHERE :batch) s ON t.a = s.a WHEN MATCHED THEN DELETE",
            &["a"],
            true,
            true,
        ),
        (
            "MERGE INTO t USING (SELECT a, p FROM t WHERE :batch) s ON t.a = s.p WHEN MATCHED THEN DELETE",
            &["a"],
            false,
            true,
        ),
        (
            "MERGE INTO t USING (SELECT a, p FROM t WHERE :batch) s ON t.p = s.a WHEN MATCHED THEN DELETE",
            &["a"],
            false,
            false,
        ),
        ("DELETE FROM t USING t u WHERE t.email = u.email AND t.id > u.id AND :batch(u)", &["id"], false, false),
    ] {
        let placement = of(sql).unwrap_or_else(|misplaced| panic!("{sql}: {misplaced:?}"));
        let aim = placement.aims.last().unwrap();
        assert_eq!(
            (aim.is_within(&key(columns)), aim.may_be_within(&key(columns))),
            (within, may_be),
            "{sql}: {aim:?}"
        );
    }
}

#[test]
fn the_changes_are_those_of_the_reading_in_its_order() {
    for sql in PLACED {
        let reading = Reading::of(sql).unwrap();
        assert_eq!(of(sql).unwrap().aims.len(), reading.changes.len(), "{sql}");
    }
}

#[test]
fn lists_are_known_by_their_columns() {
    let list = |sql: &str, columns: &[&str]| of(sql).unwrap().lists_are(&key(columns));
    assert!(list("DELETE FROM x WHERE t IN (SELECT id FROM t WHERE :batch)", &["id"]));
    assert!(list("DELETE FROM x WHERE (a, b) IN (SELECT b, a FROM t WHERE :batch)", &["a", "b"]));
    assert!(list("WITH u AS (SELECT id FROM t WHERE :batch) DELETE FROM x WHERE t IN (SELECT id FROM u, o)", &["id"]));
    assert!(!list("DELETE FROM x WHERE t IN (SELECT country FROM t WHERE :batch)", &["id"]));
    assert!(!list("DELETE FROM x WHERE t IN (SELECT a FROM t WHERE :batch)", &["a", "b"]));
}

#[test]
fn what_is_for_each_batch_and_not_for_the_table_is_told() {
    let told = |sql: &str| of(sql).unwrap().diluted.into_iter().map(|diluted| diluted.by).collect::<Vec<_>>();
    assert_eq!(told("INSERT INTO x SELECT a, sum(n) FROM t WHERE :batch GROUP BY a"), ["An aggregate", "GROUP BY"]);
    assert_eq!(told("INSERT INTO x SELECT DISTINCT a FROM t WHERE :batch"), ["DISTINCT"]);
    assert_eq!(
        told("INSERT INTO x SELECT DISTINCT ON (a) b FROM t WHERE :batch LIMIT 5 OFFSET 1"),
        ["DISTINCT", "LIMIT", "OFFSET"]
    );
    assert_eq!(told("INSERT INTO x SELECT row_number() OVER (ORDER BY id) FROM t WHERE :batch"), ["A window function"]);
    assert_eq!(told("INSERT INTO x SELECT pg_catalog.count(*) FROM t WHERE :batch"), ["An aggregate"]);
    assert_eq!(told("INSERT INTO x SELECT a FROM t WHERE :batch UNION SELECT b FROM t WHERE :batch"), ["UNION"]);
    assert_eq!(told("INSERT INTO x SELECT a FROM t WHERE :batch EXCEPT ALL SELECT b FROM t WHERE :batch"), ["EXCEPT"]);
    assert_eq!(
        told("WITH d AS (DELETE FROM t WHERE :batch) INSERT INTO x VALUES (now())"),
        ["An INSERT that reads no table"]
    );
    for sql in [
        "INSERT INTO x SELECT id, (SELECT count(*) FROM o WHERE o.t = t.id) FROM t WHERE :batch",
        "UPDATE t SET n = s.n FROM (SELECT a, count(*) AS n FROM o GROUP BY a) s WHERE s.a = t.a AND :batch",
        "WITH d AS (DELETE FROM t WHERE :batch RETURNING id) SELECT count(*) FROM d",
        "INSERT INTO x SELECT a FROM t WHERE :batch UNION ALL SELECT b FROM t WHERE :batch",
    ] {
        assert_eq!(told(sql), [""; 0], "{sql}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(sql in "[a-z:batch()'\"\\[\\]/*, =.;-]{0,60}", words in prop::collection::vec(
        prop::sample::select(vec!["SELECT", "FROM", "t", "WHERE", ":batch", "AND", "OR", "(", ")", "UPDATE", "SET", "JOIN", "ON", "WITH",
            "AS", "IN", "UNION", "LEFT", ",", "=", "MERGE", "INTO", "USING", "CASE", "END", "BETWEEN", "NOT", "DELETE", "INSERT"]), 0..30)
    ) {
        let _placement = of(&sql);
        let _placement = of(&words.join(" "));
    }
}
