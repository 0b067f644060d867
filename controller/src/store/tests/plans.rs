//! What the database makes of the statements that run most often, whatever it knows of the tables.

use super::super::advancing::DEFINITIONS;
use super::super::applied::LIST_APPLIED;
use super::super::claims::{CANDIDATES, GRANT};
use super::super::queueing::PENDING;
use super::super::runs::{HELD_OF, LIST_RUNS_ON_TARGET, NEXT_TASK};
use super::super::session::{SETTINGS, Statement};
use super::lab::{Lab, atomic, batched, main};

/// The plan of a statement on a new connection.
async fn plan(lab: &Lab, statement: &Statement, types: &str, values: &str) -> String {
    let (client, _connection) = dunlin_shared::postgres::connect(&lab.url, "test").await.unwrap();
    client.batch_execute(SETTINGS).await.unwrap();
    client.batch_execute(&format!("PREPARE statement ({types}) AS {}", statement.sql())).await.unwrap();
    let lines = client.query(&format!("EXPLAIN EXECUTE statement ({values})"), &[]).await.unwrap();
    lines.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_claim_reads_no_more_tasks_than_it_takes() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    lab.agent("a").await;
    let run = lab.queue("b").await;
    let fill = format!(
        "INSERT INTO dunlin_controller.tasks (run_id, target, kind, step, range, range_high, state, epoch)
         SELECT {run}, 'main', 'range', 1, n, ARRAY[n::text], 'ready', 0 FROM generate_series(1, 20000) AS n"
    );
    let finish = "UPDATE dunlin_controller.tasks SET state = 'done', ended_at = now() WHERE state = 'ready'";
    let analyze = "ANALYZE dunlin_controller.tasks; ANALYZE dunlin_controller.runs";
    for (known, sql) in [
        ("an empty table", ""),
        ("nothing", fill.as_str()),
        ("that all are ready", analyze),
        ("nothing newer than that all are ready", finish),
        ("that none is ready", analyze),
    ] {
        lab.client.batch_execute(sql).await.unwrap();
        let demand = r#"'[{"target": "main", "transforms": [], "free": 20}]'"#;
        let claim = plan(&lab, &CANDIDATES, "jsonb", demand).await;
        assert!(claim.contains("Index Scan using tasks_ready"), "the database knows {known}:\n{claim}");
        assert!(!claim.contains("Sort"), "the database knows {known}:\n{claim}");
        let assignment = r#"'[{"id": 1, "agent": "a", "session": 1}]', 30"#;
        let grant = plan(&lab, &GRANT, "jsonb, float8", assignment).await;
        assert!(grant.contains("Index Scan using tasks_pkey on tasks t"), "the database knows {known}:\n{grant}");
        assert!(!grant.contains("tasks_natural"), "the database knows {known}:\n{grant}");
    }
}

#[tokio::test]
async fn who_works_on_a_run_and_what_comes_next_is_found_without_reading_what_has_ended() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    let agent = lab.agent("a").await;
    let run = lab.queue("b").await;
    lab.claim_one(&agent).await;
    let fill = format!(
        "INSERT INTO dunlin_controller.tasks (run_id, target, kind, step, range, range_high, state, epoch, ended_at)
         SELECT {run}, 'main', 'range', 1, n, ARRAY[n::text], 'done', 0, now() FROM generate_series(1, 20000) AS n"
    );
    for sql in ["", fill.as_str(), "ANALYZE dunlin_controller.tasks"] {
        lab.client.batch_execute(sql).await.unwrap();
        let held = plan(&lab, &HELD_OF, "bigint[]", &format!("ARRAY[{run}]::bigint[]")).await;
        assert!(held.contains("using tasks_held") && !held.contains("tasks_natural"), "{sql}:\n{held}");
        let next = plan(&lab, &NEXT_TASK, "text, bigint", &format!("'main', {run}")).await;
        assert!(next.contains("using tasks_ready") && !next.contains("Sort"), "{sql}:\n{next}");
    }
}

/// Plans are made once for each connection, at a moment when the tables may be empty. Whatever is known of them then, there is one index that
/// finds the runs of a migration on a target, and one that finds definitions by their checksums.
#[tokio::test]
async fn what_is_pending_is_found_migration_by_migration_whatever_the_database_knows() {
    let lab = Lab::new().await;
    lab.agent("a").await;
    let files: Vec<_> = (1..=500).map(|n| atomic(&format!("m{n}"), n, &[])).collect();
    for (known, fill) in [("empty tables", 0), ("nothing", 1), ("what there is", 2)] {
        match fill {
            1 => {
                lab.register(&files).await;
                assert_eq!(lab.queue_pending().await.len(), 500);
            }
            2 => lab.client.batch_execute("ANALYZE").await.unwrap(),
            _ => {}
        }
        let pending = plan(&lab, &PENDING, "text, text", "'main', NULL").await;
        let runs = "Index Scan using runs_by_migration on runs r";
        assert!(pending.contains(runs), "the database knows {known}:\n{pending}");
        let condition = "Index Cond: ((migration_id = m.id) AND (target = $1))";
        assert!(pending.contains(condition), "the database knows {known}:\n{pending}");
        let definitions = plan(&lab, &DEFINITIONS, "text[]", "'{x}'").await;
        assert!(
            definitions.contains("Index Cond: (checksum = ANY ($1))"),
            "the database knows {known}:\n{definitions}"
        );
        assert!(definitions.contains("using definitions_pkey"), "the database knows {known}:\n{definitions}");
        let values = "'main', NULL, '{}', 9, 9";
        let listed = plan(&lab, &LIST_RUNS_ON_TARGET, "text, text, text[], bigint, bigint", values).await;
        // All runs are those of one target here: where that is known, no index of targets is needed.
        let by_target = listed.contains("using runs_by_target") || fill == 2;
        assert!(by_target && !listed.contains("Sort"), "the database knows {known}:\n{listed}");
        let applied = plan(&lab, &LIST_APPLIED, "text, int, text, bigint", "'main', 0, '', 9").await;
        let index = "Index Scan using target_registry_by_version on target_registry g";
        assert!(applied.contains(index) && !applied.contains("Sort"), "the database knows {known}:\n{applied}");
    }
}

/// Counts what is read, with plans from the time when there was nothing.
#[tokio::test]
async fn what_is_pending_costs_the_same_for_each_migration_after_thousands_were_queued() {
    let lab = Lab::new().await;
    lab.agent("a").await;
    let (client, _connection) = dunlin_shared::postgres::connect(&lab.url, "test").await.unwrap();
    client.batch_execute(SETTINGS).await.unwrap();
    for (name, types, statement) in [("pending", "text, text", &PENDING), ("definitions", "text[]", &DEFINITIONS)] {
        client.batch_execute(&format!("PREPARE {name} ({types}) AS {}", statement.sql())).await.unwrap();
    }
    client.batch_execute("EXECUTE pending ('main', NULL); EXECUTE definitions ('{x}')").await.unwrap();
    let files: Vec<_> = (1..=2000).map(|n| atomic(&format!("m{n}"), n, &[])).collect();
    for part in files.chunks(500) {
        lab.register(part).await;
    }
    assert_eq!(lab.queue_pending().await.len(), 2000);
    let all = "SELECT array_agg(checksum)::text FROM dunlin_controller.migrations";
    let checksums: String = lab.client.query_one(all, &[]).await.unwrap().get(0);
    for sql in ["EXECUTE pending ('main', NULL)", &format!("EXECUTE definitions ('{checksums}')")] {
        let explain = format!("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, FORMAT JSON) {sql}");
        let answer = client.query_one(&explain, &[]).await.unwrap().get::<_, serde_json::Value>(0);
        // Since version 18 rows have a fraction.
        let number = |name: &str| answer[0]["Plan"][name].as_f64().unwrap();
        let read = number("Shared Hit Blocks") + number("Shared Read Blocks");
        assert!((number("Actual Rows") - 2000.0).abs() < 0.5, "{answer}");
        assert!(read < 2000.0 * 12.0, "{read} pages: {answer:#}");
    }
    assert_eq!(lab.store.outlook(&main()).await.unwrap().unwrap().pending.len(), 2000);
}

#[tokio::test]
async fn no_index_has_what_heartbeats_change() {
    let lab = Lab::new().await;
    let sql = r"SELECT indexdef FROM pg_indexes WHERE schemaname = 'dunlin_controller'
                AND (tablename = 'tasks' AND indexdef ~ '\m(expires_at|rows|rows_walked|waits|activity)\M'
                     OR tablename = 'agents' AND indexdef ~ '\m(connected_until|last_seen_at)\M'
                     OR tablename = 'run_steps' AND indexdef ~ '\m(rows|rows_walked|sampled_at)\M')";
    let indexes: Vec<String> = lab.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(indexes, [""; 0]);
}
