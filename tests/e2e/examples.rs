//! The examples do what they say, with fewer rows than in the demonstration.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dunlin_tests::database::Database;
use dunlin_tests::fleet::Fleet;
use dunlin_tests::programs::repository;

/// Signs users up, as an application does that knows nothing of the migrations, until it is told to stop. Returns how many.
async fn sign_up(application: Database, stop: Arc<AtomicBool>) -> i64 {
    let mut users = 0;
    while !stop.load(Ordering::SeqCst) {
        application
            .execute(
                "INSERT INTO users (first_name, last_name, email, role, about, created_at, last_seen_at)
                 SELECT 'New', 'User', 'new@example.org', (ARRAY['student', 'teacher'])[1 + n % 2], '', now(), now()
                 FROM generate_series(1, 3) n",
            )
            .await;
        users += 3;
    }
    users
}

#[tokio::test]
async fn the_learning_platform_comes_to_its_last_version_while_users_sign_up() {
    let fleet = Fleet::builder().agents(2).start().await;
    let example = repository().join("examples/learning-platform");
    let data = std::fs::read_to_string(example.join("sample-data.sql")).unwrap();
    let (data, _vacuum) = data.split_once("VACUUM").expect("the sample data ends with VACUUM");
    assert!(data.contains("generate_series(1, 500000)"), "the demonstration has 500,000 users");
    fleet.main().execute(&data.replace("500000", "5000")).await;

    let set = example.to_str().unwrap();
    let _checked = fleet.dunlin(&["check", set]).await.ended(0);
    let _registered = fleet.dunlin(&["register", set]).await.ended(0);
    let stop = Arc::new(AtomicBool::new(false));
    let application = tokio::spawn(sign_up(fleet.main().again().await, Arc::clone(&stop)));
    let _run = fleet.dunlin(&["run", "--pending"]).await.ended(0);
    stop.store(true, Ordering::SeqCst);
    let signed_up = application.await.unwrap();
    assert!(signed_up > 0, "nobody has signed up meanwhile");
    let version = fleet.dunlin(&["version", "--output", "json"]).await.ended(0);
    assert_eq!(version.stdout.trim_end(), r#"{"target":"main","version":7}"#);

    let roles: Vec<String> = fleet.main().values("SELECT DISTINCT role FROM users ORDER BY 1").await;
    assert_eq!(roles, ["admin", "instructor", "student"]);
    let unnamed: i64 = fleet.main().value("SELECT count(*) FROM users WHERE display_name IS NULL").await;
    assert_eq!(unnamed, 0);
    let named: i64 =
        fleet.main().value("SELECT count(*) FROM users WHERE display_name = 'New User' AND role <> 'teacher'").await;
    assert_eq!(named, signed_up);
    let invalid: i64 = fleet
        .main()
        .value(
            "SELECT (SELECT count(*) FROM pg_index WHERE NOT indisvalid)
                  + (SELECT count(*) FROM pg_constraint WHERE NOT convalidated)",
        )
        .await;
    assert_eq!(invalid, 0, "every index is valid and every constraint validated");
}
