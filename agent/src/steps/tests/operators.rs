//! Keys whose types have operators outside of PostgreSQL's own schema, in sessions that find others of the same names first.

use crate::testing::{Lab, batch_step, plan_task, refusal};

/// A composite type whose operators are in a schema of their own and order it the other way round than those of any composite type do;
/// citext and an enum; and, found first, operators of all of them that only fail.
const TYPES: &str = r"
CREATE SCHEMA ext; CREATE SCHEMA shop; CREATE SCHEMA ops; CREATE SCHEMA trap;
CREATE EXTENSION citext SCHEMA ext;
CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'a b');
CREATE TYPE shop.pair AS (a int, b int);
CREATE FUNCTION ops.compare(x shop.pair, y shop.pair) RETURNS int LANGUAGE plpgsql IMMUTABLE STRICT
    AS 'BEGIN RETURN CASE WHEN x.b <> y.b THEN btint4cmp(y.b, x.b) ELSE btint4cmp(y.a, x.a) END; END';
DO $$
DECLARE name text; type text;
BEGIN
    FOREACH name IN ARRAY '{<,<=,=,>=,>}'::text[] LOOP
        EXECUTE format('CREATE FUNCTION ops.%I(shop.pair, shop.pair) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT
                        AS $f$ SELECT ops.compare($1, $2) %s 0 $f$', name, name);
        EXECUTE format('CREATE OPERATOR ops.%s (LEFTARG = shop.pair, RIGHTARG = shop.pair, FUNCTION = ops.%I)', name, name);
        FOREACH type IN ARRAY '{ext.citext,shop.mood,shop.pair}'::text[] LOOP
            EXECUTE format('CREATE FUNCTION trap.%I(%s, %s) RETURNS boolean LANGUAGE plpgsql
                            AS $f$ BEGIN RAISE EXCEPTION ''trapped''; END $f$', name, type, type);
            EXECUTE format('CREATE OPERATOR trap.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = trap.%I)', name, type, type, name);
        END LOOP;
    END LOOP;
END $$;
CREATE OPERATOR CLASS ops.pairs DEFAULT FOR TYPE shop.pair USING btree AS OPERATOR 1 ops.<, OPERATOR 2 ops.<=, OPERATOR 3 ops.=,
    OPERATOR 4 ops.>=, OPERATOR 5 ops.>, FUNCTION 1 ops.compare(shop.pair, shop.pair);
CREATE DOMAIN shop.word AS ext.citext CHECK (value IS NOT NULL);
";

async fn lab() -> Lab {
    let lab = Lab::new().await;
    lab.sql(TYPES).await;
    lab.again_with_setting("search_path", "trap,public").await
}

#[tokio::test]
async fn keys_are_compared_as_their_index_does_whatever_operators_the_session_finds() {
    let mut lab = lab().await;
    let words = "(ARRAY['a','c','D','b','E'])[1 + i % 5] || i";
    for (columns, key, values) in [
        ("k ext.citext".to_owned(), "k", words.to_owned()),
        ("k shop.word".to_owned(), "k", words.to_owned()),
        ("k shop.pair".to_owned(), "k", "ROW(i % 7, i)::shop.pair".to_owned()),
        ("g shop.mood, k int".to_owned(), "g, k", "(ARRAY['sad','ok','a b'])[1 + i % 3]::shop.mood, i".to_owned()),
        (
            "k shop.pair, l shop.pair".to_owned(),
            "k, l",
            "ROW(i % 2, i % 3)::shop.pair, ROW(i % 7, i)::shop.pair".to_owned(),
        ),
        ("a int, k shop.pair, l ext.citext".to_owned(), "a, k, l", format!("i % 2, ROW(1, i % 3)::shop.pair, {words}")),
        (
            "k ext.citext, m shop.mood".to_owned(),
            "k, m",
            format!("left({words}, 1), (ARRAY['sad','ok'])[1 + i % 2]::shop.mood"),
        ),
    ] {
        lab.sql(&format!(
            "DROP TABLE IF EXISTS t; CREATE TABLE t ({columns}, n bigint NOT NULL DEFAULT 5, PRIMARY KEY ({key}));
             INSERT INTO t SELECT {values} FROM generate_series(1, 300) i ON CONFLICT DO NOTHING; DELETE FROM dunlin.checkpoints"
        ))
        .await;
        let count = lab.number("SELECT count(*) FROM t").await;
        for (stripes, size, range) in [(1, 3, 7), (3, 2, 60)] {
            lab.sql("DELETE FROM dunlin.checkpoints; UPDATE t SET n = 5").await;
            let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", size, range, stripes);
            assert_eq!(lab.work_through(&step).await, count, "{columns}");
            assert_eq!(lab.number("SELECT count(*) FROM t WHERE n <> 16").await, 0, "{columns}");
        }
    }
}

#[tokio::test]
async fn keys_with_triggers_are_looked_up_with_the_operators_of_their_index() {
    let mut lab = lab().await;
    lab.sql(
        "CREATE TABLE t (k shop.pair, l ext.citext, n bigint NOT NULL DEFAULT 5, PRIMARY KEY (k, l));
         INSERT INTO t SELECT ROW(i % 7, i)::shop.pair, 'x' FROM generate_series(1, 300) i;
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE TRIGGER before BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION keep();
         CREATE TRIGGER after AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    .await;
    let step = batch_step("t", "UPDATE t SET n = n * 3 + 1 WHERE :batch", 10, 70, 2);
    assert_eq!(lab.work_through(&step).await, 300);
    assert_eq!(lab.number("SELECT count(*) FROM t WHERE n = 16").await, 300);
}

#[tokio::test]
async fn a_key_whose_order_somebody_else_can_change_is_refused() {
    let lab = lab().await;
    let role: String = lab.row("SELECT 'owner_' || current_database()").await.get(0);
    lab.sql(&format!("CREATE ROLE {role}; CREATE TABLE t (k shop.pair PRIMARY KEY, n int, u int NOT NULL UNIQUE)"))
        .await;
    let step = batch_step("t", "UPDATE t SET n = 1 WHERE :batch", 10, 10, 0);
    let named = |what: &str| format!("compared by the {what}, which belongs to the role {role}");
    for (mine, what) in [
        ("OPERATOR CLASS ops.pairs USING btree", "operator class pairs"),
        ("OPERATOR ops.<= (shop.pair, shop.pair)", "operator ops.<=(shop.pair,shop.pair)"),
        ("FUNCTION ops.compare(shop.pair, shop.pair)", "function ops.compare(shop.pair,shop.pair)"),
        ("FUNCTION ops.\">\"(shop.pair, shop.pair)", "function ops.\">\"(shop.pair,shop.pair)"),
    ] {
        lab.sql(&format!("GRANT CREATE ON SCHEMA ops TO {role}; ALTER {mine} OWNER TO {role}")).await;
        let error = refusal(lab.work(1, plan_task(&step, 0)).await);
        assert!(error.message.contains(&named(what)), "{what}: {}", error.message);
        assert!(error.message.contains("choose other columns with `key = [...]`"), "{}", error.message);
        lab.sql(&format!("ALTER {mine} OWNER TO CURRENT_USER")).await;
    }
    let mut by_another = step.clone();
    by_another.batch.as_mut().unwrap().key = vec!["u".to_owned()];
    lab.work(1, plan_task(&by_another, 0)).await.unwrap();
    lab.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_key_whose_operators_have_names_of_their_own_is_refused() {
    let lab = lab().await;
    lab.sql(
        "CREATE TYPE shop.odd AS (a int);
         CREATE FUNCTION ops.compare(x shop.odd, y shop.odd) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT btint4cmp(x.a, y.a)';
         CREATE FUNCTION ops.less(x shop.odd, y shop.odd) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT x.a < y.a';
         CREATE FUNCTION ops.up(x shop.odd, y shop.odd) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT x.a <= y.a';
         CREATE FUNCTION ops.same(x shop.odd, y shop.odd) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT x.a = y.a';
         CREATE FUNCTION ops.down(x shop.odd, y shop.odd) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT x.a >= y.a';
         CREATE FUNCTION ops.more(x shop.odd, y shop.odd) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT x.a > y.a';
         CREATE OPERATOR ops.<# (LEFTARG = shop.odd, RIGHTARG = shop.odd, FUNCTION = ops.less);
         CREATE OPERATOR ops.<= (LEFTARG = shop.odd, RIGHTARG = shop.odd, FUNCTION = ops.up);
         CREATE OPERATOR ops.= (LEFTARG = shop.odd, RIGHTARG = shop.odd, FUNCTION = ops.same);
         CREATE OPERATOR ops.>= (LEFTARG = shop.odd, RIGHTARG = shop.odd, FUNCTION = ops.down);
         CREATE OPERATOR ops.> (LEFTARG = shop.odd, RIGHTARG = shop.odd, FUNCTION = ops.more);
         CREATE OPERATOR CLASS ops.odd DEFAULT FOR TYPE shop.odd USING btree AS OPERATOR 1 ops.<#, OPERATOR 2 ops.<=, OPERATOR 3 ops.=,
             OPERATOR 4 ops.>=, OPERATOR 5 ops.>, FUNCTION 1 ops.compare(shop.odd, shop.odd);
         CREATE TABLE t (k shop.odd PRIMARY KEY, n int)",
    )
    .await;
    let step = batch_step("t", "UPDATE t SET n = 1 WHERE :batch", 10, 10, 0);
    let error = refusal(lab.work(1, plan_task(&step, 0)).await);
    assert!(error.message.contains("are not `<`, `<=`, `=`, `>=` and `>` of one schema"), "{}", error.message);
}
