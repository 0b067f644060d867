//! What in the schema `dunlin` of a target is somebody else's: such a target is refused.
//!
//! Whoever owns the schema or one of its tables can change what is recorded there, and has triggers, rules and policies run as the agent's
//! role. So they belong to that role, to a superuser, or to the one that the operator names. Others can have been given the right to add a
//! trigger or a foreign key. Dunlin has none of all that; so whatever there is, is not its own. One thing may be there: an AFTER trigger
//! whose function belongs to one of those roles, as an audit that is put on every table. It can only look on.

use serde_json::Value;

/// The end of the list of a SELECT: what is somebody else's, of the tables named in `$1`; `$2` is the role that the operator names.
pub(super) const FOREIGN: &str = "
(WITH trusted AS (SELECT oid FROM pg_roles WHERE rolsuper OR rolname = current_user OR rolname = $2),
 ours AS (SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'dunlin' AND c.relname = ANY ($1))
 SELECT coalesce(jsonb_agg(jsonb_build_array(f.kind, f.place, f.name, f.owner) ORDER BY f.kind, f.place, f.name), '[]')
 FROM (
    SELECT 'schema', '', '', pg_get_userbyid(nspowner) FROM pg_namespace
    WHERE nspname = 'dunlin' AND nspowner NOT IN (SELECT oid FROM trusted)
    UNION ALL
    SELECT 'table', o.relname, '', pg_get_userbyid(o.relowner) FROM ours o WHERE o.relowner NOT IN (SELECT oid FROM trusted)
    UNION ALL
    SELECT 'kind', o.relname, o.relkind::text, '' FROM ours o WHERE o.relkind <> 'r'
    UNION ALL
    SELECT CASE WHEN p.proowner IN (SELECT oid FROM trusted) THEN 'before trigger' ELSE 'trigger' END, o.relname, t.tgname,
           pg_get_userbyid(p.proowner)
    FROM ours o JOIN pg_trigger t ON t.tgrelid = o.oid JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE NOT t.tgisinternal AND (p.proowner NOT IN (SELECT oid FROM trusted) OR t.tgtype & 2 <> 0)
    UNION ALL
    SELECT 'rule', o.relname, r.rulename, '' FROM ours o JOIN pg_rewrite r ON r.ev_class = o.oid WHERE o.relkind = 'r'
    UNION ALL
    SELECT 'policy', o.relname, p.polname, '' FROM ours o JOIN pg_policy p ON p.polrelid = o.oid
    UNION ALL
    SELECT 'row security', o.relname, '', '' FROM ours o WHERE o.relrowsecurity
    UNION ALL
    SELECT 'child', o.relname, i.inhrelid::regclass::text, pg_get_userbyid(c.relowner)
    FROM ours o JOIN pg_inherits i ON i.inhparent = o.oid JOIN pg_class c ON c.oid = i.inhrelid
    UNION ALL
    SELECT 'parent', o.relname, i.inhparent::regclass::text, pg_get_userbyid(c.relowner)
    FROM ours o JOIN pg_inherits i ON i.inhrelid = o.oid JOIN pg_class c ON c.oid = i.inhparent
    UNION ALL
    SELECT 'reference', o.relname || ' ' || c.conrelid::regclass, c.conname, pg_get_userbyid(r.relowner)
    FROM ours o JOIN pg_constraint c ON c.confrelid = o.oid AND c.contype = 'f' JOIN pg_class r ON r.oid = c.conrelid
 ) AS f(kind, place, name, owner))";

/// One thing that is somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// What it is, and whose.
    what: String,
    /// The SQL that mends it.
    mend: String,
    /// The role that owns what Dunlin needs.
    owner: Option<String>,
}

impl Foreign {
    /// Reads what [`FOREIGN`] found; `role` is the agent's.
    pub(super) fn read(found: &Value, role: &str) -> Vec<Self> {
        let rows = found.as_array().map_or(&[][..], Vec::as_slice);
        rows.iter().map(|row| Self::of(row, role)).collect()
    }

    fn of(row: &Value, role: &str) -> Self {
        let text = |place: usize| row.get(place).and_then(Value::as_str).unwrap_or_default();
        let (kind, table, name, owner) = (text(0), text(1), text(2), text(3));
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let (what, mend) = match kind {
            "schema" => (format!("it belongs to the role {owner}"), format!("ALTER SCHEMA dunlin OWNER TO {role}")),
            "table" => (
                format!("its {table} belongs to the role {owner}"),
                format!("ALTER TABLE dunlin.{table} OWNER TO {role}"),
            ),
            "kind" => (
                format!("its {table} is not a plain table"),
                format!("ALTER TABLE dunlin.{table} RENAME TO not_{table}, and restore the table from a backup"),
            ),
            "trigger" => (
                format!("its {table} has the trigger {name}, whose function belongs to the role {owner}"),
                format!("DROP TRIGGER {quoted} ON dunlin.{table}"),
            ),
            "before trigger" => (
                format!("its {table} has the BEFORE trigger {name}, which can change or leave out what is recorded"),
                format!("DROP TRIGGER {quoted} ON dunlin.{table}"),
            ),
            "rule" => (format!("its {table} has the rule {name}"), format!("DROP RULE {quoted} ON dunlin.{table}")),
            "policy" => {
                (format!("its {table} has the policy {name}"), format!("DROP POLICY {quoted} ON dunlin.{table}"))
            }
            "row security" => (
                format!("its {table} has row security"),
                format!("ALTER TABLE dunlin.{table} DISABLE ROW LEVEL SECURITY"),
            ),
            "child" => (
                format!("the table {name} of the role {owner} inherits from its {table}"),
                format!("ALTER TABLE {name} NO INHERIT dunlin.{table}"),
            ),
            "parent" => (
                format!("its {table} inherits from the table {name} of the role {owner}"),
                format!("ALTER TABLE dunlin.{table} NO INHERIT {name}"),
            ),
            _ => {
                let (table, from) = table.split_once(' ').unwrap_or((table, ""));
                (
                    format!(
                        "the foreign key {name} of {from}, which belongs to the role {owner}, refers to its {table}"
                    ),
                    format!("ALTER TABLE {from} DROP CONSTRAINT {quoted}"),
                )
            }
        };
        let owner = matches!(kind, "schema" | "table").then(|| owner.to_owned());
        Self { what, mend, owner }
    }

    /// All of them in a sentence, with the ways out.
    pub(super) fn told(all: &[Self], role: &str) -> String {
        let join = |part: fn(&Self) -> &str, between| all.iter().map(part).collect::<Vec<_>>().join(between);
        let owner = all.iter().find_map(|one| one.owner.as_ref());
        let named = owner.map_or_else(String::new, |owner| {
            format!("; or, where {owner} is the role of an administrator who made it, give the agents `--ledger-owner {owner}`")
        });
        format!(
            "the schema `dunlin` in this database is not Dunlin's alone, so that others could change what is recorded there, or have code \
             run as the role {role}: {}. Look at it, then: {}{named}",
            join(|one| &one.what, ", "),
            join(|one| &one.mend, "; ")
        )
    }
}

#[cfg(test)]
mod tests {
    use dunlin_shared::postgres::Session;
    use uuid::Uuid;

    use crate::ledger::prepare;
    use crate::testing::{Lab, connect};

    /// A database without a ledger, a role `migrator` that works in it, and a role `mallory` that was there before.
    struct Place {
        lab: Lab,
        client: Session,
        migrator: String,
        mallory: String,
    }

    impl Place {
        async fn new() -> Self {
            let lab = Lab::new().await;
            let number = lab.number("SELECT oid::bigint FROM pg_database WHERE datname = current_database()").await;
            let (migrator, mallory) = (format!("migrator_{number}"), format!("mallory_{number}"));
            let database = lab.url.rsplit('/').next().unwrap().to_owned();
            lab.sql(&format!(
                "DROP SCHEMA dunlin CASCADE; CREATE ROLE {migrator} LOGIN PASSWORD 'pw'; CREATE ROLE {mallory};
                 GRANT CREATE ON DATABASE \"{database}\" TO {migrator}, {mallory};
                 GRANT CREATE ON SCHEMA public TO {migrator}, {mallory}"
            ))
            .await;
            let (_, place) = lab.url.split_once('@').unwrap();
            let client = connect(&format!("postgres://{migrator}:pw@{place}")).await;
            Self { lab, client, migrator, mallory }
        }

        /// A statement of one of the two, or of a superuser.
        async fn sql(&self, role: Option<&str>, sql: &str) {
            let sql = sql.replace("MALLORY", &self.mallory).replace("MIGRATOR", &self.migrator);
            let set = role.map_or_else(|| "RESET ROLE".to_owned(), |role| format!("SET ROLE {role}"));
            self.lab.sql(&format!("{set}; {sql}; RESET ROLE")).await;
        }

        async fn refused(&self) -> String {
            prepare(&self.client, None, Uuid::new_v4()).await.unwrap_err().to_string()
        }

        async fn end(self) {
            let Self { lab, client, migrator, mallory } = self;
            drop(client);
            lab.sql(&format!("DROP OWNED BY {migrator}, {mallory} CASCADE; DROP ROLE {migrator}, {mallory}")).await;
        }
    }

    #[tokio::test]
    async fn a_schema_that_somebody_else_has_made_is_refused_and_none_of_it_used() {
        let place = Place::new().await;
        place.sql(Some(&place.mallory), "CREATE SCHEMA dunlin; GRANT ALL ON SCHEMA dunlin TO PUBLIC").await;
        let error = place.refused().await;
        for text in [
            format!("it belongs to the role {}", place.mallory),
            format!("ALTER SCHEMA dunlin OWNER TO {}", place.migrator),
            format!("--ledger-owner {}", place.mallory),
        ] {
            assert!(error.contains(&text), "{error}");
        }
        assert_eq!(
            place.lab.number("SELECT count(*) FROM pg_class WHERE relnamespace = 'dunlin'::regnamespace").await,
            0
        );
        // Where the operator says so, it is used.
        prepare(&place.client, Some(&place.mallory), Uuid::new_v4()).await.unwrap();
        assert!(place.refused().await.contains("it belongs to the role"));
        place.sql(None, "ALTER SCHEMA dunlin OWNER TO MIGRATOR").await;
        prepare(&place.client, None, Uuid::new_v4()).await.unwrap();
        place.end().await;
    }

    #[tokio::test]
    async fn the_schema_may_be_handed_over_to_a_role_that_may_not_make_one() {
        let place = Place::new().await;
        let database = place.lab.url.rsplit('/').next().unwrap().to_owned();
        place.sql(None, &format!("REVOKE CREATE ON DATABASE \"{database}\" FROM MIGRATOR")).await;
        assert!(place.refused().await.contains("CREATE SCHEMA dunlin AUTHORIZATION"));
        place.sql(None, "CREATE SCHEMA dunlin AUTHORIZATION MIGRATOR").await;
        prepare(&place.client, None, Uuid::new_v4()).await.unwrap();
        place.end().await;
    }

    #[tokio::test]
    async fn whatever_is_not_of_the_ledger_is_named_and_mended_as_it_says() {
        let place = Place::new().await;
        prepare(&place.client, None, Uuid::new_v4()).await.unwrap();
        let function = "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";
        place.sql(Some(&place.mallory), function).await;
        place.sql(None, "GRANT TRIGGER, REFERENCES ON ALL TABLES IN SCHEMA dunlin TO MALLORY; GRANT USAGE ON SCHEMA dunlin TO MALLORY").await;
        let (mallory, migrator) = (place.mallory.as_str(), place.migrator.as_str());
        for (role, sql, what, mend) in [
            (
                None,
                "ALTER TABLE dunlin.meta OWNER TO MALLORY",
                "its meta belongs to the role MALLORY",
                "ALTER TABLE dunlin.meta OWNER TO MIGRATOR",
            ),
            (
                Some(mallory),
                "CREATE TRIGGER \"a b\" BEFORE INSERT ON dunlin.checkpoints FOR EACH ROW EXECUTE FUNCTION public.f()",
                "its checkpoints has the trigger a b, whose function belongs to the role MALLORY",
                "DROP TRIGGER \"a b\" ON dunlin.checkpoints",
            ),
            (
                None,
                "CREATE FUNCTION public.own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                 CREATE TRIGGER audit AFTER INSERT ON dunlin.checkpoints FOR EACH ROW EXECUTE FUNCTION public.own();
                 CREATE TRIGGER early BEFORE INSERT ON dunlin.checkpoints FOR EACH ROW EXECUTE FUNCTION public.own()",
                "its checkpoints has the BEFORE trigger early, which can change or leave out what is recorded",
                "DROP TRIGGER \"early\" ON dunlin.checkpoints",
            ),
            (
                Some(migrator),
                "CREATE RULE r AS ON UPDATE TO dunlin.checkpoints DO ALSO NOTHING",
                "its checkpoints has the rule r",
                "DROP RULE \"r\" ON dunlin.checkpoints",
            ),
            (
                Some(migrator),
                "CREATE POLICY p ON dunlin.migrations_registry",
                "its migrations_registry has the policy p",
                "DROP POLICY \"p\" ON dunlin.migrations_registry",
            ),
            (
                Some(migrator),
                "ALTER TABLE dunlin.checkpoints ENABLE ROW LEVEL SECURITY",
                "its checkpoints has row security",
                "ALTER TABLE dunlin.checkpoints DISABLE ROW LEVEL SECURITY",
            ),
            (
                Some(migrator),
                "CREATE TABLE public.\"Child\" () INHERITS (dunlin.checkpoints)",
                "the table public.\"Child\" of the role MIGRATOR inherits from its checkpoints",
                "ALTER TABLE public.\"Child\" NO INHERIT dunlin.checkpoints",
            ),
            (
                Some(migrator),
                "CREATE TABLE public.parent (); ALTER TABLE dunlin.meta INHERIT public.parent",
                "its meta inherits from the table public.parent of the role MIGRATOR",
                "ALTER TABLE dunlin.meta NO INHERIT public.parent",
            ),
            (
                Some(mallory),
                "CREATE TABLE public.refers (id text REFERENCES dunlin.migrations_registry)",
                "the foreign key refers_id_fkey of public.refers, which belongs to the role MALLORY, refers to its migrations_registry",
                "ALTER TABLE public.refers DROP CONSTRAINT \"refers_id_fkey\"",
            ),
        ] {
            prepare(&place.client, None, Uuid::new_v4()).await.unwrap();
            place.sql(role, sql).await;
            let error = place.refused().await;
            let named = |text: &str| text.replace("MALLORY", mallory).replace("MIGRATOR", migrator);
            assert!(error.contains(&named(what)), "{sql}\n{error}");
            assert!(error.contains(&format!("Look at it, then: {}", named(mend))), "{sql}\n{error}");
            place.sql(None, mend).await;
        }
        prepare(&place.client, None, Uuid::new_v4()).await.unwrap();
        place
            .sql(
                Some(migrator),
                "ALTER TABLE dunlin.meta RENAME TO m; CREATE VIEW dunlin.meta AS SELECT * FROM dunlin.m",
            )
            .await;
        assert!(place.refused().await.contains("its meta is not a plain table"));
        place.end().await;
    }
}
