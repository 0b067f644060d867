//! Tables with keys of all kinds, and steps of all kinds over them. Ranges and batches are small, so that there are many
//! seams where a row could be left out or done twice.

use dunlin_tests::fleet::Fleet;
use dunlin_tests::programs::{Program, repository};

use crate::definitions::{batched, head};

/// Runs `UPDATE ... SET n = n * 3 + 1` over a table `items (.., n, was)` and checks every row.
async fn transforms_once(table: &str, fill: &str, batch: &str) {
    let fleet = Fleet::builder().agents(2).start().await;
    fleet.main().execute(&format!("CREATE TABLE items ({table}, n bigint, was bigint); {fill}; ANALYZE items")).await;
    fleet.main().execute("UPDATE items SET n = 7, was = 7").await;
    let rows: i64 = fleet.main().value("SELECT count(*) FROM items").await;
    let batch = format!("table = \"items\", {batch}");
    let definition = batched("items", 1, &batch, "UPDATE items SET n = n * 3 + 1 WHERE :batch");
    fleet.register(&[("items.toml", &definition)]).await;
    let _run = fleet.dunlin(&["run", "items"]).await.ended(0);
    let once: i64 = fleet.main().value("SELECT count(*) FROM items WHERE n = was * 3 + 1").await;
    assert_eq!(once, rows, "rows transformed exactly once");
    assert_eq!(fleet.main().value::<i64>("SELECT rows FROM dunlin.migrations_registry").await, rows);
}

#[tokio::test]
async fn a_text_key_is_walked_in_the_order_of_its_collation() {
    // "C.UTF-8" as the database, and a column with an order of its own; letters of both cases, accents, quotes, emptiness.
    transforms_once(
        r#"name text COLLATE "und-x-icu" PRIMARY KEY"#,
        "INSERT INTO items SELECT w || CASE i WHEN 0 THEN '' ELSE i::text END
         FROM unnest(ARRAY['', 'a', 'A', 'ä', 'Z', 'z', 'o''clock', '\\', 'é', 'ß', '€', '%']) AS w, generate_series(0, 60) AS i",
        "size = 20, range = 100",
    )
    .await;
}

#[tokio::test]
async fn a_uuid_key_is_walked_to_its_last_row() {
    transforms_once(
        "id uuid PRIMARY KEY",
        "INSERT INTO items SELECT gen_random_uuid() FROM generate_series(1, 1500)",
        "size = 50, range = 300",
    )
    .await;
}

#[tokio::test]
async fn a_composite_key_is_walked_by_row_comparison() {
    transforms_once(
        "tenant int, at timestamptz, name text, PRIMARY KEY (tenant, at, name)",
        "INSERT INTO items SELECT t, '2020-01-01'::timestamptz + (i / 3) * interval '1.5 s', 'x' || i
         FROM generate_series(-2, 3) AS t, generate_series(1, 250) AS i",
        "size = 40, range = 200",
    )
    .await;
}

#[tokio::test]
async fn a_unique_key_that_is_not_the_primary_key_can_be_named() {
    transforms_once(
        "id int PRIMARY KEY, number numeric NOT NULL UNIQUE",
        "INSERT INTO items SELECT i, i / 7.0 - 50 FROM generate_series(1, 1000) AS i",
        "key = [\"number\"], size = 33, range = 100",
    )
    .await;
}

#[tokio::test]
async fn negative_and_sparse_integers_are_all_reached_whatever_the_stripes() {
    transforms_once(
        "id bigint PRIMARY KEY",
        "INSERT INTO items SELECT i * i * i FROM generate_series(-500, 500) AS i;
         INSERT INTO items VALUES (9223372036854775807), (-9223372036854775808)",
        "size = 10, range = 150, stripes = 4",
    )
    .await;
}

#[tokio::test]
async fn names_that_need_quotes_are_quoted() {
    let fleet = Fleet::start().await;
    fleet
        .main()
        .execute(
            r#"CREATE SCHEMA "Old Shop";
               CREATE TABLE "Old Shop"."Order" ("Order Id" int PRIMARY KEY, "select" int);
               INSERT INTO "Old Shop"."Order" SELECT i, 0 FROM generate_series(1, 500) AS i"#,
        )
        .await;
    let definition = head("quoted", 1)
        + r#"
        [[step]]
        name = "it's \"quoted\""
        batch = { table = '"Old Shop"."Order"', size = 50, range = 100 }
        sql = '''UPDATE "Old Shop"."Order" AS "o" SET "select" = "select" + 1 WHERE :batch("o")'''
    "#;
    fleet.register(&[("quoted.toml", &definition)]).await;
    let _run = fleet.dunlin(&["run", "quoted"]).await.ended(0);
    let values: Vec<i32> = fleet.main().values(r#"SELECT DISTINCT "select" FROM "Old Shop"."Order""#).await;
    assert_eq!(values, [1]);
}

#[tokio::test]
async fn an_empty_table_is_done_at_once() {
    transforms_once("id int PRIMARY KEY", "SELECT 1", "size = 10").await;
}

#[tokio::test]
async fn a_table_without_a_usable_key_is_refused_with_a_reason() {
    let fleet = Fleet::start().await;
    fleet.main().execute("CREATE TABLE keyless (n int); INSERT INTO keyless VALUES (1)").await;
    let definition = batched("keyless", 1, "table = \"keyless\"", "UPDATE keyless SET n = 2 WHERE :batch");
    fleet.register(&[("keyless.toml", &definition)]).await;
    let _failed = fleet.dunlin(&["run", "keyless"]).await.ended(1).says(&["keyless", "key"]);
    assert_eq!(fleet.main().value::<i32>("SELECT n FROM keyless").await, 1);
}

#[tokio::test]
async fn an_update_that_assigns_the_key_is_refused() {
    let fleet = Fleet::start().await;
    fleet.main().execute("CREATE TABLE moving (id int PRIMARY KEY); INSERT INTO moving VALUES (1), (2)").await;
    let definition = batched("moving", 1, "table = \"moving\"", "UPDATE moving SET id = id + 10 WHERE :batch");
    fleet.write("moving.toml", &definition);
    // Where the key is named the registry can refuse it already; here only the target knows the key.
    let _registered = fleet.dunlin(&["register", "migrations"]).await.ended(0);
    let _failed = fleet.dunlin(&["run", "moving"]).await.ended(1).says(&["moving", "id"]);
    assert_eq!(fleet.main().value::<i32>("SELECT max(id) FROM moving").await, 2);
}

#[tokio::test]
async fn rows_are_deleted_and_copied_in_batches() {
    let fleet = Fleet::builder().agents(2).start().await;
    fleet
        .main()
        .execute(
            "CREATE TABLE letters (id int PRIMARY KEY, spam bool NOT NULL);
             INSERT INTO letters SELECT i, i % 4 = 0 FROM generate_series(1, 2000) AS i;
             CREATE TABLE archive (letter int NOT NULL, moved int NOT NULL)",
        )
        .await;
    let definition = r#"
        id = "archive"
        version = 1
        name = "A test"
        description = "For a test."
        [[step]]
        name = "copy"
        batch = { table = "public.letters", size = 50, range = 300 }
        sql = "INSERT INTO archive SELECT l.id, l.id % 7 FROM letters l WHERE l.spam AND :batch(l)"
        [[step]]
        name = "delete"
        batch = { table = "public.letters", size = 50, range = 300 }
        file = "sql/delete.sql"
        [[after]]
        name = "all spam is archived"
        sql = "SELECT count(*) = 500 AND NOT EXISTS (SELECT FROM letters WHERE spam) FROM archive"
    "#;
    fleet.write("sql/delete.sql", "DELETE FROM letters -- not here: :batch\nWHERE spam AND :batch");
    fleet.register(&[("archive.toml", definition)]).await;
    let _run = fleet.dunlin(&["run", "archive"]).await.ended(0);
    let distinct: i64 = fleet.main().value("SELECT count(DISTINCT letter) FROM archive").await;
    assert_eq!(distinct, 500, "no letter is archived twice");
    assert_eq!(fleet.main().value::<i64>("SELECT count(*) FROM letters").await, 1500);
    let run = fleet.last_run("archive").await.unwrap();
    assert_eq!(run.steps.iter().map(|step| step.rows).collect::<Vec<_>>(), [500, 500]);
}

#[tokio::test]
async fn a_transform_in_code_counts_what_it_did() {
    let mut fleet = Fleet::builder().agents(1).start().await;
    fleet.start_agent_of(Program::ExampleAgent);
    fleet.start_agent_of(Program::ExampleAgent);
    fleet.agents_connected(3).await;
    let example = repository().join("examples/agent");
    fleet.main().execute(&std::fs::read_to_string(example.join("sample-data.sql")).unwrap()).await;
    let migrations = example.join("migrations");
    let _registered = fleet.dunlin(&["register", migrations.to_str().unwrap()]).await.ended(0);
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);

    let result: serde_json::Value =
        fleet.main().value("SELECT result FROM dunlin.migrations_registry WHERE id = 'link-books-to-authors'").await;
    let books: i64 = fleet.main().value("SELECT count(*) FROM books WHERE author_id IS NOT NULL").await;
    let authors: i64 = fleet.main().value("SELECT count(*) FROM authors").await;
    assert_eq!((books, authors), (20_000, 1000));
    assert_eq!((&result["success"], &result["rows"]), (&true.into(), &books.into()), "{result}");
    assert_eq!(result["books_updated"], books, "{result}");
    assert_eq!(result["authors_created"], authors, "each author was created once, and counted once: {result}");
    // The API tells the same.
    let run = fleet.last_run("link-books-to-authors").await.unwrap();
    let told = run.result.unwrap().fields;
    assert!(["books_updated", "authors_created"].iter().all(|name| told.contains_key(*name)), "{told:?}");
}
