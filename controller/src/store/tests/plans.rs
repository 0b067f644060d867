//! What the database makes of the statements that run most often, whatever it knows of the tables.

use super::super::claims::CANDIDATES;
use super::super::session::SETTINGS;
use super::lab::{Lab, batched};

/// The plan of a claim on a new connection, as lines.
async fn plan_of_a_claim(lab: &Lab) -> String {
    let (client, _connection) = dunlin_shared::postgres::connect(&lab.url, "test").await.unwrap();
    client.batch_execute(SETTINGS).await.unwrap();
    client.batch_execute(&format!("PREPARE claim (jsonb) AS {}", CANDIDATES.sql())).await.unwrap();
    let explain = r#"EXPLAIN EXECUTE claim ('[{"target": "main", "transforms": [], "free": 20}]')"#;
    let lines = client.query(explain, &[]).await.unwrap();
    lines.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_claim_reads_no_more_ready_tasks_than_it_takes() {
    let lab = Lab::new().await;
    lab.register(&[batched("b", 1)]).await;
    lab.agent("a").await;
    let run = lab.queue("b").await;
    let fill = format!(
        "INSERT INTO dunlin_controller.tasks (run_id, target, kind, step, range, range_high, state, epoch)
         SELECT {run}, 'main', 'range', 1, n, ARRAY[n::text], 'ready', 0 FROM generate_series(1, 20000) AS n"
    );
    let finish = "UPDATE dunlin_controller.tasks SET state = 'done', ended_at = now() WHERE state = 'ready'";
    let analyze = "ANALYZE dunlin_controller.tasks";
    for (known, sql) in [
        ("an empty table", ""),
        ("nothing", fill.as_str()),
        ("that all are ready", analyze),
        ("nothing newer than that all are ready", finish),
        ("that none is ready", analyze),
    ] {
        lab.client.batch_execute(sql).await.unwrap();
        let plan = plan_of_a_claim(&lab).await;
        assert!(plan.contains("Index Scan using tasks_ready"), "the database knows {known}:\n{plan}");
        assert!(!plan.contains("Sort"), "the database knows {known}:\n{plan}");
    }
}

#[tokio::test]
async fn no_index_has_what_heartbeats_change() {
    let lab = Lab::new().await;
    let sql = r"SELECT indexdef FROM pg_indexes WHERE schemaname = 'dunlin_controller'
                AND (tablename = 'tasks' AND indexdef ~ '\m(expires_at|rows|rows_walked)\M'
                     OR tablename = 'agents' AND indexdef ~ '\m(connected_until|last_seen_at)\M'
                     OR tablename = 'run_steps' AND indexdef ~ '\m(rows|rows_walked)\M')";
    let indexes: Vec<String> = lab.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(indexes, [""; 0]);
}
