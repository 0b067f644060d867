//! The same claims in SQL alone, on a table of the same shape as the controller's tasks: the ceiling that PostgreSQL sets.
//!
//! A cycle is what a lease costs at least: one transaction claims, another says that it is done, both durable.

use dunlin_shared::postgres::throwaway::Server;
use futures::future::try_join_all;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::controllers::Controllers;
use super::usage;
use crate::Error;
use crate::measure::connect;

/// As the controller tells its own connections.
const SETTINGS: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
     SET enable_mergejoin = off; SET enable_bitmapscan = off; SET jit = off";

const CLAIM: &str = "
    UPDATE raw_tasks SET state = 'leased', epoch = epoch + 1, agent_id = 'raw',
        expires_at = now() + interval '30 seconds', granted_at = coalesce(granted_at, now())
    WHERE id = ANY (ARRAY (
        SELECT id FROM raw_tasks WHERE target = 'main' AND state = 'ready' AND run_at <= statement_timestamp()
        ORDER BY priority, run_at, id LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED))
    RETURNING id";

const DONE: &str = "
    UPDATE raw_tasks SET state = 'done', agent_id = NULL, expires_at = NULL, ended_at = now()
    WHERE id = ANY ($1) AND state = 'leased'";

/// Claims and cycles in a second, and the processor time of the database for a cycle, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) claims: f64,
    pub(crate) cycles: f64,
    pub(crate) processor: f64,
}

/// Measures so many clients that claim `batch` tasks at a time, on `tasks` tasks.
pub(crate) async fn measure(server: &Server, clients: u32, batch: i64, tasks: u32) -> Result<Rates, Error> {
    let database = server.database("raw").await?;
    Controllers::start(&database, 1).await?.stop()?;
    let (claims, _) = time(server, &database, clients, batch, tasks, false).await?;
    let (cycles, processor) = time(server, &database, clients, batch, tasks, true).await?;
    let tasks = f64::from(tasks);
    Ok(Rates { claims: tasks / claims, cycles: tasks / cycles, processor: processor / tasks })
}

/// The seconds that it takes until no task is ready, and the processor time of the database.
async fn time(
    server: &Server,
    database: &str,
    clients: u32,
    batch: i64,
    tasks: u32,
    report: bool,
) -> Result<(f64, f64), Error> {
    fill(&connect(database).await?, tasks).await?;
    let mut claimants = Vec::new();
    for _ in 0..clients {
        let client = connect(database).await?;
        client.batch_execute(SETTINGS).await?;
        claimants.push(client);
    }
    let postmaster = usage::postmaster(server.directory())?;
    let before = usage::processor_of_family(postmaster)?;
    let start = Instant::now();
    let claimed = try_join_all(claimants.iter().map(|client| claim(client, batch, report))).await?;
    let seconds = start.elapsed().as_secs_f64();
    let processor = usage::processor_of_family(postmaster)? - before;
    let claimed: usize = claimed.into_iter().sum();
    if u32::try_from(claimed) == Ok(tasks) {
        Ok((seconds, processor))
    } else {
        Err(Error::Unexpected(format!("{claimed} of {tasks} tasks were claimed")))
    }
}

/// Tasks of one run, as the controller would write them, and the storage settings of its table.
async fn fill(client: &Client, tasks: u32) -> Result<(), Error> {
    let options: Vec<String> = client
        .query("SELECT unnest(reloptions) FROM pg_class WHERE oid = 'dunlin_controller.tasks'::regclass", &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let with = if options.is_empty() { String::new() } else { format!("WITH ({})", options.join(", ")) };
    client
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS raw_tasks;
             CREATE TABLE raw_tasks (LIKE dunlin_controller.tasks INCLUDING ALL) {with};
             INSERT INTO raw_tasks (run_id, target, kind, step, range, range_low, range_high, rows_total, state, epoch)
             SELECT 1, 'main', 'range', 1, n, ARRAY[(n * 100 - 100)::text], ARRAY[(n * 100)::text], 100, 'ready', 0
             FROM generate_series(1, {tasks}) AS n"
        ))
        .await?;
    Ok(())
}

async fn claim(client: &Client, batch: i64, report: bool) -> Result<usize, Error> {
    let (claim, done) = (client.prepare(CLAIM).await?, client.prepare(DONE).await?);
    let mut count = 0;
    loop {
        let rows = client.query(&claim, &[&batch]).await?;
        if rows.is_empty() {
            return Ok(count);
        }
        count += rows.len();
        if report {
            let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
            client.execute(&done, &[&ids]).await?;
        }
    }
}
