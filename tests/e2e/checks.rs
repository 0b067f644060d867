//! What `check` and `register` say of definitions, and what becomes of those that say unusual things.

use std::fmt::Write;

use dunlin_tests::fleet::Fleet;

use crate::definitions::{head, trivial};

/// What `pg_dump --inserts --no-owner` of PostgreSQL 15.18 writes, as it is.
const DUMP: &str = include_str!("dump.sql");

#[tokio::test]
async fn a_dump_with_inserts_is_a_step_as_it_is() {
    let fleet = Fleet::start().await;
    assert!(
        DUMP.contains("\n\\restrict ") && DUMP.contains("\nSELECT pg_catalog.set_config('search_path', '', false)")
    );
    fleet.write("load.toml", &format!("{}[[step]]\nname = \"load\"\nfile = \"dump.sql\"\n", head("load", 1)));
    fleet.write("dump.sql", DUMP);
    fleet.write("after.toml", &trivial("after", 2, "CREATE TABLE behind (n int)"));
    let _checked = fleet.dunlin(&["check", "migrations"]).await.ended(0);
    let _registered = fleet.dunlin(&["register", "migrations"]).await.ended(0);
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let text: String = fleet.main().value("SELECT x FROM shop.t WHERE id = 2").await;
    assert_eq!(text, "row 2\n\\. \\restrict {{x}}");
    let default: String = fleet
        .main()
        .value("SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'shop.t'::regclass AND adnum = 3")
        .await;
    assert_eq!(default, "'it''s \\ {{ ${x}'::text");
    let schema: String =
        fleet.main().value("SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'behind'").await;
    assert_eq!(schema, "public", "the search_path of the dump ended with its step");
}

#[tokio::test]
async fn a_migration_without_steps_is_run_for_its_checks_and_recorded() {
    let fleet = Fleet::start().await;
    let check =
        "[[after]]\nname = \"it is there\"\nsql = \"SELECT to_regclass('public.made_elsewhere') IS NOT NULL\"\n";
    fleet.write("elsewhere.toml", &format!("{}{check}", head("elsewhere", 1)));
    fleet.write("comments.toml", &trivial("comments", 2, "-- made by hand"));
    fleet.write("behind.toml", &format!("{}run_after = [\"elsewhere\"]\n", head("behind", 3)));
    let checked = fleet.dunlin(&["check", "migrations"]).await.ended(0);
    let _checked =
        checked.says(&["warning: this migration does nothing but check", "3 migrations, no problems, 3 warnings"]);
    let json = fleet.dunlin(&["check", "migrations", "--output", "json"]).await.ended(0).json();
    assert_eq!((json["warnings"].as_array().unwrap().len(), json["migrations"].as_array().unwrap().len()), (3, 3));
    let registered = fleet.dunlin(&["register", "migrations"]).await.ended(0);
    let _registered = registered.says(&["warning: there is no statement in this SQL", "3 warnings"]);

    let _failed = fleet.dunlin(&["run", "elsewhere"]).await.ended(1).says(&["it is there"]);
    fleet.main().execute("CREATE TABLE made_elsewhere (n int)").await;
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    let applied: i64 = fleet.main().value("SELECT count(*) FROM dunlin.migrations_registry").await;
    assert_eq!(applied, 3);
    let _version = fleet.dunlin(&["version"]).await.ended(0).says(&["3"]);
}

#[tokio::test]
async fn of_a_hundred_migrations_the_one_that_failed_is_told_last_and_what_was_cancelled_in_one_line() {
    let fleet = Fleet::start().await;
    for number in 1..=100 {
        let sql = if number == 4 { "SELECT 1 / 0" } else { "SELECT 1" };
        fleet.write(&format!("m{number}.toml"), &trivial(&format!("m{number}"), number, sql));
    }
    let _registered = fleet.dunlin(&["register", "migrations"]).await.ended(0);
    let failed = fleet.dunlin(&["run", "--pending"]).await.ended(1);
    let lines: Vec<&str> = failed.stderr.lines().collect();
    let cancelled: Vec<&&str> = lines.iter().filter(|line| line.contains("cancelled")).collect();
    assert_eq!(cancelled.len(), 1, "{cancelled:#?}");
    assert!(cancelled[0].contains("96 runs were cancelled"), "{cancelled:#?}");
    let failure = lines.iter().position(|line| line.contains("migration m4 failed on main")).unwrap();
    assert!(lines.len() - failure < 12 && lines.last().unwrap().starts_with("  next:"), "{lines:#?}");
    assert!(lines.len() + failed.stdout.lines().count() < 60, "{failed:?}");
}

#[tokio::test]
async fn a_text_that_differs_in_its_line_ends_alone_changes_nothing() {
    let fleet = Fleet::start().await;
    let mut definition = head("texts", 1);
    write!(definition, "[[step]]\nname = \"keep\"\nfile = \"keep.sql\"\n").unwrap();
    fleet.write("texts.toml", &definition);
    let sql = "CREATE TABLE kept (a text);\nINSERT INTO kept VALUES ('a\nb');\n";
    fleet.write("keep.sql", &sql.replace('\n', "\r\n"));
    let first = fleet.dunlin(&["register", "migrations"]).await.ended(0);
    let _first = first.says(&["1 registered", "warning: this string has a carriage return", ".gitattributes"]);
    fleet.write("keep.sql", sql);
    let _again = fleet.dunlin(&["register", "migrations"]).await.ended(0).says(&["1 unchanged"]);
    let _run = fleet.dunlin(&["run", "texts"]).await.ended(0);
    let kept: String = fleet.main().value("SELECT a FROM kept").await;
    assert_eq!(kept, "a\r\nb", "as psql would have stored it");
    let _applied = fleet.dunlin(&["register", "migrations"]).await.ended(0).says(&["1 unchanged"]);
}
