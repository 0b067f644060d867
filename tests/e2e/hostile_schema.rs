//! A schema `dunlin` that somebody else has made, before the first agent came: nothing of it is used, and none of its code runs.

use dunlin_tests::database::Database;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::until::until;

use crate::definitions::trivial;

/// A database in which the role `migrator` is to work, and the role `mallory` has been before. Gives the URL of the first.
async fn place(name: &str) -> (Database, String, [String; 2]) {
    let database = Database::create(name).await;
    let number: i64 = database.value("SELECT oid::bigint FROM pg_database WHERE datname = current_database()").await;
    let [migrator, mallory] = ["migrator", "mallory"].map(|role| format!("{role}_{number}"));
    let (_, path) = database.url().rsplit_once('/').unwrap();
    database
        .execute(&format!(
            "CREATE ROLE {migrator} LOGIN PASSWORD 'secret'; CREATE ROLE {mallory};
             GRANT CREATE ON DATABASE \"{path}\" TO {migrator}, {mallory}; GRANT CREATE ON SCHEMA public TO {migrator}, {mallory}"
        ))
        .await;
    let (_, place) = database.url().split_once('@').unwrap();
    let url = format!("postgres://{migrator}:secret@{place}");
    (database, url, [migrator, mallory])
}

#[tokio::test]
async fn a_squatted_schema_is_refused_named_and_works_once_it_is_mended() {
    let (database, url, [migrator, mallory]) = place("squatted").await;
    // Whoever writes a checkpoint would give his rights away.
    database
        .execute(&format!(
            "SET ROLE {mallory}; CREATE SCHEMA dunlin;
             CREATE TABLE dunlin.meta (name text PRIMARY KEY, value text NOT NULL);
             CREATE TABLE dunlin.migrations_registry (id text PRIMARY KEY, version int);
             CREATE TABLE dunlin.unlogged_witness (migration text PRIMARY KEY);
             CREATE TABLE dunlin.checkpoints (migration text, step text, range int, epoch bigint, run_id bigint);
             CREATE FUNCTION public.steal() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN EXECUTE format('CREATE TABLE public.stolen_from_%s ()', current_user); RETURN NEW; END $$;
             CREATE TRIGGER steal BEFORE INSERT OR UPDATE ON dunlin.checkpoints FOR EACH ROW EXECUTE FUNCTION public.steal();
             GRANT ALL ON SCHEMA dunlin TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA dunlin TO PUBLIC; RESET ROLE"
        ))
        .await;
    let fleet = Fleet::builder().target_at("main", &database, &url).start().await;
    fleet.register(&[("one.toml", &trivial("one", 1, "SELECT 1"))]).await;
    let said = until("the target is refused", async || {
        let told = fleet.dunlin(&["targets"]).await.text();
        told.contains("is not Dunlin's alone").then_some(told)
    })
    .await;
    for text in [
        format!("it belongs to the role {mallory}"),
        "has the trigger steal".to_owned(),
        format!("ALTER SCHEMA dunlin OWNER TO {migrator}"),
    ] {
        assert!(said.contains(&text), "{said}");
    }
    let _refused = fleet.dunlin(&["run", "--pending"]).await.ended(3);
    let stolen: i64 = database.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'stolen%'").await;
    assert_eq!(stolen, 0);

    database.execute("DROP SCHEMA dunlin CASCADE").await;
    until("the target is reached", async || (fleet.dunlin(&["run", "--pending"]).await.code == 0).then_some(())).await;
    // One that comes later is seen, too.
    database
        .execute(&format!(
            "GRANT TRIGGER ON dunlin.checkpoints TO {mallory}; GRANT USAGE ON SCHEMA dunlin TO {mallory}"
        ))
        .await;
    database
        .execute(&format!(
            "SET ROLE {mallory}; CREATE TRIGGER steal BEFORE INSERT OR UPDATE ON dunlin.checkpoints
             FOR EACH ROW EXECUTE FUNCTION public.steal(); RESET ROLE"
        ))
        .await;
    until("the target is refused again", async || {
        fleet.dunlin(&["targets"]).await.text().contains("DROP TRIGGER \"steal\" ON dunlin.checkpoints").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_administrator_whom_the_operator_names_may_own_the_schema() {
    let (database, url, [migrator, admin]) = place("administered").await;
    database
        .execute(&format!(
            "CREATE SCHEMA dunlin AUTHORIZATION {admin}; GRANT USAGE, CREATE ON SCHEMA dunlin TO {migrator}"
        ))
        .await;
    let fleet = Fleet::builder().target_at("main", &database, &url);
    let fleet = fleet.agent_arguments(&["--ledger-owner", &admin]).start().await;
    fleet.register(&[("one.toml", &trivial("one", 1, "SELECT 1"))]).await;
    let _done = fleet.dunlin(&["run", "--pending"]).await.ended(0);
}
