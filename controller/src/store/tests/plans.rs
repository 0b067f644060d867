//! What the database makes of the statements that run most often, whatever it knows of the tables.

use super::super::claims::{CANDIDATES, GRANT};
use super::super::runs::{HELD_OF, NEXT_TASK};
use super::super::session::{SETTINGS, Statement};
use super::lab::{Lab, batched};

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
