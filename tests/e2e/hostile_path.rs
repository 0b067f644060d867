//! A target whose role finds other things first under the names of PostgreSQL's own: functions, operators, aggregates, types and relations.
//! Whatever Dunlin asks for itself goes past them.

use dunlin_tests::fleet::Fleet;
use dunlin_tests::programs::Program;

/// Shadows of everything that can be shadowed, in a schema in front of PostgreSQL's own. Each counts that it was used, which no rollback takes
/// back, and fails. What a language other than C cannot declare is left out.
const SHADOWS: &str = r#"
SET search_path = pg_catalog;
SET check_function_bodies = off;
CREATE SCHEMA evil;
CREATE SEQUENCE evil.uses;
CREATE FUNCTION evil.used(what text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog AS $f$
    BEGIN PERFORM nextval('evil.uses'); RAISE EXCEPTION 'the shadow of % was used', what; END $f$;
DO $do$
DECLARE p record; said text;
BEGIN
    FOR p IN SELECT o.oid, o.proname, pg_get_function_arguments(o.oid) AS takes, pg_get_function_result(o.oid) AS gives
             FROM pg_proc o WHERE o.pronamespace = 'pg_catalog'::regnamespace AND o.prokind = 'f' LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS %L', p.proname, p.takes, p.gives,
                           format('BEGIN PERFORM evil.used(%L); END', p.proname));
        EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    FOR p IN SELECT o.oid, o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS gives
             FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace LOOP
        BEGIN
            said := CASE WHEN p.l = 0 THEN '' ELSE p.l || ', ' END || p.r;
            EXECUTE format('CREATE FUNCTION evil.operator_%s(%s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS %L', p.oid, said, p.gives,
                           format('BEGIN PERFORM evil.used(%L); END', p.oprname));
            EXECUTE format('CREATE OPERATOR evil.%s (%s RIGHTARG = %s, FUNCTION = evil.operator_%s)', p.oprname,
                           CASE WHEN p.l = 0 THEN '' ELSE 'LEFTARG = ' || p.l || ',' END, p.r, p.oid);
        EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    FOR p IN SELECT o.oid, o.proname, nullif(pg_get_function_arguments(o.oid), '') AS takes
             FROM pg_proc o WHERE o.pronamespace = 'pg_catalog'::regnamespace AND o.prokind = 'a' LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION evil.aggregate_%s(%s) RETURNS int8 LANGUAGE plpgsql SET search_path = pg_catalog AS %L', p.oid,
                           concat_ws(', ', 'int8', p.takes), format('BEGIN PERFORM evil.used(%L); END', p.proname));
            EXECUTE format('CREATE AGGREGATE evil.%I(%s) (SFUNC = evil.aggregate_%s, STYPE = int8)', p.proname, coalesce(p.takes, '*'), p.oid);
        EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    FOR p IN SELECT c.oid, c.relname FROM pg_class c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v') LOOP
        BEGIN
            EXECUTE format('CREATE VIEW evil.%I AS SELECT * FROM pg_catalog.%I WHERE evil.used(%L)', p.relname, p.relname, p.relname);
        EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    FOR p IN SELECT t.typname FROM pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typelem = 0 LOOP
        BEGIN
            EXECUTE format('CREATE DOMAIN evil.%I AS pg_catalog.%I CHECK (evil.used(%L))', p.typname, p.typname, p.typname);
        EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
END $do$;
"#;

const TABLES: &str = "
CREATE TABLE t (id bigint PRIMARY KEY, n bigint);
INSERT INTO t SELECT i, 1 FROM generate_series(1, 300) i;
CREATE TABLE u (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n int);
INSERT INTO u (n) SELECT 1 FROM generate_series(1, 300) i;
CREATE TABLE two (a text, b int, at timestamptz DEFAULT now(), n int, PRIMARY KEY (a, b));
INSERT INTO two SELECT 'x' || i % 7, i, now(), 1 FROM generate_series(1, 300) i;
CREATE TABLE guarded (id bigint PRIMARY KEY, n bigint);
INSERT INTO guarded SELECT i, 1 FROM generate_series(1, 300) i;
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER before BEFORE UPDATE ON guarded FOR EACH ROW EXECUTE FUNCTION keep();
CREATE TRIGGER after AFTER UPDATE ON guarded FOR EACH ROW EXECUTE FUNCTION keep();
CREATE UNLOGGED TABLE fast (id bigint PRIMARY KEY, n bigint);
INSERT INTO fast VALUES (1, 1);
CREATE TABLE whole (id bigint PRIMARY KEY, n bigint) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF whole FOR VALUES FROM (0) TO (10);
ANALYZE";

const ATOMIC: &str = r#"
id = "atomic"
version = 1
name = "A test"
description = "Steps in one transaction."
[[before]]
name = "so"
sql = "SELECT true"
[[step]]
name = "change"
sql = "UPDATE public.t SET n = 2; WITH u AS (UPDATE public.t SET n = 3 RETURNING id) SELECT id FROM u"
[[step]]
name = "there already"
sql = '''
CREATE INDEX IF NOT EXISTS t_pkey_too ON public.t (n);
CREATE INDEX IF NOT EXISTS t_pkey_too ON public.t (n);
ALTER TABLE public.t ADD COLUMN IF NOT EXISTS n bigint;
CREATE TABLE IF NOT EXISTS public.t (id bigint PRIMARY KEY, n bigint);
'''
[[after]]
name = "so"
sql = "SELECT true"
"#;

const STEPS: &str = r#"
id = "steps"
version = 2
name = "A test"
description = "Steps of every other kind."
[[before]]
name = "so"
sql = "SELECT true"
[[step]]
name = "one"
sql = "UPDATE public.t SET n = 4"
[[step]]
name = "isolated"
isolation = "serializable"
sql = "UPDATE public.t SET n = 5"
[[step]]
name = "integers"
batch = { table = "public.t", size = 20, range = 100 }
sql = "UPDATE public.t SET n = 6 WHERE :batch"
[[step]]
name = "striped"
batch = { table = "public.u", size = 10, range = 150, stripes = 3 }
sql = "UPDATE public.u SET n = 7 WHERE :batch"
[[step]]
name = "two columns"
batch = { table = "public.two", size = 20, range = 100 }
sql = "WITH u AS (UPDATE public.two SET n = 8 WHERE :batch RETURNING a) SELECT a FROM u"
[[step]]
name = "guarded"
batch = { table = "public.guarded", size = 20, range = 100, plan = "strict" }
sql = "UPDATE public.guarded SET n = 9 WHERE :batch RETURNING id"
[[step]]
name = "unlogged"
unlogged = true
batch = { table = "public.fast" }
sql = "UPDATE public.fast SET n = 10 WHERE :batch"
[[step]]
name = "built"
transaction = false
sql = "CREATE INDEX CONCURRENTLY t_n ON public.t (n)"
[[step]]
name = "there already"
transaction = false
sql = "CREATE INDEX CONCURRENTLY IF NOT EXISTS t_n ON public.t (n)"
[[step]]
name = "built anew"
transaction = false
sql = "REINDEX TABLE CONCURRENTLY public.t"
[[step]]
name = "detached"
transaction = false
sql = "ALTER TABLE public.whole DETACH PARTITION public.part CONCURRENTLY"
[[after]]
name = "so"
sql = "SELECT true"
"#;

#[tokio::test]
async fn what_dunlin_asks_for_itself_is_postgresqls_own_whatever_the_role_finds_first() {
    let mut fleet = Fleet::builder().agents(0).start().await;
    fleet.main().execute(TABLES).await;
    let name: String = fleet.main().value("SELECT quote_ident(current_database())").await;
    let admin = fleet.main().again().await;
    admin.execute(SHADOWS).await;
    let shadows: i64 =
        fleet.main().value("SELECT count(*) FROM pg_proc WHERE pronamespace = 'evil'::regnamespace").await;
    assert!(shadows > 2500, "{shadows} functions are shadowed");
    fleet.main().execute(&format!("ALTER DATABASE {name} SET search_path = evil, pg_catalog, public")).await;
    // The connection is lost once behind a build, and once within a batch: what was begun is looked at.
    fleet.start_agent_of(Program::TestAgent);
    let faults = "outside.changed=1*return(error);range.advanced=3*off->1*return(error)";
    fleet.replace_agent(0, Program::TestAgent, "agent-0", &[("FAILPOINTS", faults)]);
    fleet.agents_connected(1).await;
    fleet.register(&[("a.toml", ATOMIC), ("b.toml", STEPS)]).await;
    let _done = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let log = fleet.agent(0).log();
    assert_eq!(log.matches("failpoint hit").count(), 2, "both faults were met");
    assert!(!log.contains("shadow of"), "{log}");
    let values = "SELECT concat_ws(' ', (SELECT min(n) FROM t), (SELECT min(n) FROM u), (SELECT min(n) FROM two), (SELECT min(n) FROM guarded),
                         (SELECT min(n) FROM fast))";
    assert_eq!(fleet.main().value::<String>(values).await, "6 7 8 9 10");
    let again = fleet.dunlin(&["run", "atomic", "--rerun", "--yes"]).await;
    let _again = again.ended(0);
    assert!(!fleet.main().value::<bool>("SELECT is_called FROM evil.uses").await, "no shadow was used");
}
