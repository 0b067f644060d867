//! Where `:batch` stands: what `check` refuses, what only the catalog of a target can tell, and what batches show.

use dunlin_tests::fleet::Fleet;

use crate::definitions::head;

const TABLES: &str = "
CREATE TABLE users (id bigint PRIMARY KEY, boss bigint, role text, n bigint DEFAULT 5);
INSERT INTO users SELECT i, i - 100, CASE WHEN i % 3 = 0 THEN 'x' ELSE 'y' END FROM generate_series(1, 400) i;
CREATE TABLE l (user_id bigint, v int); INSERT INTO l SELECT i, i FROM generate_series(1, 400, 2) i;
CREATE TABLE copies (user_id bigint, v int)";

fn walking(id: &str, version: i64, more: &str, sql: &str) -> String {
    let batch = "batch = { table = \"users\", size = 20, range = 100, stripes = 1 }";
    format!("{}[[step]]\nname = \"walk\"\n{batch}\n{more}\nsql = '''{sql}'''\n", head(id, version))
}

#[tokio::test]
async fn a_batch_that_restricts_nothing_is_refused_before_it_is_registered() {
    let fleet = Fleet::start().await;
    fleet.main().execute(TABLES).await;
    for (sql, why) in [
        ("UPDATE users SET n = n + 1 WHERE role = 'z' OR role = 'x' AND :batch", "under OR"),
        ("UPDATE users SET n = n + 1 WHERE (:batch) IS NOT NULL AND id = 5", "a part of another expression"),
        (
            "INSERT INTO copies SELECT u.id, l.v FROM users u LEFT JOIN l ON l.user_id = u.id AND :batch(u)",
            "ON of an outer join",
        ),
        ("UPDATE users SET n = n + 1 WHERE EXISTS (SELECT FROM users b WHERE :batch(b))", "in EXISTS"),
        ("UPDATE users SET n = n + 1 WHERE :batch AND role IS OF (", "not understood here"),
        ("DELETE FROM users USING users b WHERE :batch(b)", "rows of `users` that are not those of its batch"),
    ] {
        fleet.write("walk.toml", &walking("walk", 1, "", sql));
        let migrations = fleet.migrations();
        let directory = migrations.to_str().unwrap();
        let ways = if why.starts_with("rows of") { "changes = \"elsewhere\"" } else { "batch_is_mine = true" };
        let _refused = fleet.dunlin(&["check", directory]).await.ended(2).says(&["walk.toml:", why, ways]);
        let _refused = fleet.dunlin(&["register", directory]).await.ended(2).says(&["walk.toml:", why]);
    }
    assert_eq!(fleet.control().value::<i64>("SELECT count(*) FROM dunlin_controller.migrations").await, 0);
    assert_eq!(fleet.main().value::<i64>("SELECT count(*) FROM users WHERE n = 5").await, 400);
}

#[tokio::test]
async fn what_only_the_catalog_tells_is_refused_by_the_agent_and_nothing_is_changed() {
    let fleet = Fleet::builder().agents(2).start().await;
    fleet.main().execute(TABLES).await;
    let by_boss = "UPDATE users SET n = users.n + 1 FROM users b WHERE users.boss = b.id AND :batch(b)";
    let unseen = "UPDATE users SET n = users.n + 1 FROM users b WHERE users.id = b.boss AND :batch(b)";
    let of_role = "DELETE FROM l WHERE user_id IN (SELECT boss FROM users WHERE :batch)";
    let _registered = fleet
        .register(&[
            ("1.toml", &walking("by-boss", 1, "", by_boss)),
            ("2.toml", &walking("unseen", 2, "", unseen)),
            ("3.toml", &walking("of-role", 3, "", of_role)),
        ])
        .await;
    let _refused = fleet.dunlin(&["run", "by-boss"]).await.ended(1).says(&["not joined by its key", "elsewhere"]);
    let _refused = fleet.dunlin(&["run", "of-role"]).await.ended(1).says(&["does not select the key", "(id)"]);
    // Here the keys that a batch returns tell.
    let _rolled_back = fleet.dunlin(&["run", "unseen"]).await.ended(1).says(&["that are not its own", "elsewhere"]);
    assert_eq!(fleet.main().value::<i64>("SELECT count(*) FROM users WHERE n = 5").await, 400);
    assert_eq!(fleet.main().value::<i64>("SELECT count(*) FROM l").await, 200);

    // Meant so: it is said, and done.
    let meant = walking("by-boss", 1, "changes = \"elsewhere\"", by_boss);
    fleet.register(&[("1.toml", &meant)]).await;
    let _done = fleet.dunlin(&["run", "by-boss"]).await.ended(0);
    assert_eq!(fleet.main().value::<i64>("SELECT count(*) FROM users WHERE n = 6").await, 300);
}

#[tokio::test]
async fn who_vouches_for_the_place_of_the_batch_is_on_record() {
    let fleet = Fleet::start().await;
    fleet.main().execute(TABLES).await;
    let sql = "UPDATE users SET n = n * 3 + 1 WHERE (:batch) IS TRUE";
    let _registered = fleet.register(&[("walk.toml", &walking("walk", 1, "batch_is_mine = true", sql))]).await;
    let _done = fleet.dunlin(&["run", "walk"]).await.ended(0);
    assert_eq!(fleet.main().value::<i64>("SELECT count(*) FROM users WHERE n = 16").await, 400);
    let result: String = fleet.main().value("SELECT result->>'batch_is_mine' FROM dunlin.migrations_registry").await;
    assert_eq!(result, "[\"walk\"]");
    let said = fleet.events().await.into_iter().filter(|event| event.message.contains("batch_is_mine")).count();
    assert!(said > 0, "the history says so");
}
