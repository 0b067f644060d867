//! How calls grow with the number of registered migrations and of runs.

use std::time::Duration;

use dunlin_proto::v1::{
    ListMigrationsRequest, ListRunsRequest, PlanPendingRequest, RunPendingMigrationsRequest, WatchRunsRequest,
};
use dunlin_shared::postgres::throwaway::Server;
use tokio::time::{Instant, timeout};

use super::controllers::Controllers;
use super::crowd::{Crowd, Kind};
use super::suite::Options;
use super::table;
use crate::Error;
use crate::contender::wait_for;
use crate::measure::median;

const TARGET: &str = "main";
const AGENTS: u32 = 8;
/// How often a call is repeated.
const CALLS: u32 = 5;
/// How long all runs together may take.
const ALL_WITHIN: Duration = Duration::from_secs(300);
const WORKERS: Kind = Kind { name: "worker", slots: 1, leases: None };

/// A migration that is one transaction: its id and TOML. It runs after the one with the number `after`.
pub(crate) fn atomic(number: u32, version: u32, after: Option<u32>) -> (String, String) {
    let id = format!("table-{number}");
    let run_after = after.map_or_else(String::new, |after| format!("\"table-{after}\""));
    let text = format!(
        "id = \"{id}\"\nname = \"Table {number}\"\ndescription = \"One table.\"\nversion = {version}\n\
         run_after = [{run_after}]\n[[step]]\nname = \"create\"\nsql = \"CREATE TABLE small_{number} (id bigint PRIMARY KEY)\"\n"
    );
    (id, text)
}

/// Measures and prints.
pub(crate) async fn run(server: &Server, options: &Options) -> Result<(), Error> {
    let mut rows = Vec::new();
    for count in options.migrations.iter().copied() {
        let row = measure(server, count).await?;
        eprintln!("{}", row.join(" | "));
        rows.push(row);
    }
    table::print(
        &format!("Migrations in the registry, each after the one before; one controller, {AGENTS} agents"),
        [
            "migrations",
            "RegisterMigrations",
            "again",
            "PlanPending",
            "ListMigrations",
            "RunMigration to grant",
            "RunPending",
            "GetRun",
            "ListRuns",
            "WatchRuns, first answers",
            "runs/s",
        ],
        rows,
    );
    Ok(())
}

async fn measure(server: &Server, count: u32) -> Result<[String; 11], Error> {
    let controllers = Controllers::start(&server.database("control").await?, 1).await?;
    let set: Vec<_> =
        (1..=count).map(|number| atomic(number, number, number.checked_sub(1).filter(|before| *before > 0))).collect();
    let start = Instant::now();
    controllers.register(set.clone()).await?;
    let registered = start.elapsed();
    let start = Instant::now();
    controllers.register(set).await?;
    let again = start.elapsed();

    let starter = crowd(&controllers, &Kind { name: "starter", ..WORKERS }, 1).await?;
    let (mut plan, mut list) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        let start = Instant::now();
        let planned = controllers.registry().plan_pending(PlanPendingRequest::default()).await?.into_inner().pending;
        plan.push(millis(start.elapsed()));
        expect(planned.len(), count)?;
        let start = Instant::now();
        let request = ListMigrationsRequest { page_size: 1000, ..Default::default() };
        controllers.registry().list_migrations(request).await?;
        list.push(millis(start.elapsed()));
    }

    starter.start();
    let start = Instant::now();
    let first = controllers.run("table-1", TARGET, false).await?;
    starter.until(1).await?;
    let granted = starter.tally.last().ok_or_else(|| Error::Unexpected("no lease was granted".to_owned()))?;
    let single = millis(granted.duration_since(start));
    timeout(ALL_WITHIN, wait_for(controllers.runs(), vec![first])).await.map_err(|_| late())??;
    starter.stop().await?;

    let start = Instant::now();
    let pending = controllers
        .runs()
        .run_pending_migrations(RunPendingMigrationsRequest { wait_for_agent: true, ..Default::default() })
        .await?
        .into_inner();
    let queued = start.elapsed();
    let ids: Vec<i64> = pending.runs.iter().map(|run| run.id).collect();
    expect(ids.len(), count - 1)?;
    let (mut get, mut runs, mut watch) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CALLS {
        let start = Instant::now();
        controllers.get_run(ids[ids.len() - 1]).await?;
        get.push(millis(start.elapsed()));
        let start = Instant::now();
        controllers.runs().list_runs(ListRunsRequest { page_size: 500, ..Default::default() }).await?;
        runs.push(millis(start.elapsed()));
        let start = Instant::now();
        let request = WatchRunsRequest { run_ids: ids.clone(), ..Default::default() };
        let mut answers = controllers.runs().watch_runs(request).await?.into_inner();
        for _ in &ids {
            answers.message().await?;
        }
        watch.push(millis(start.elapsed()));
    }
    let workers = crowd(&controllers, &WORKERS, AGENTS).await?;
    workers.start();
    timeout(ALL_WITHIN, wait_for(controllers.runs(), ids)).await.map_err(|_| late())??;
    expect(workers.tally.count(), count - 1)?;
    let rate = workers.tally.rate(10, 100);
    workers.stop().await?;
    controllers.stop()?;
    Ok([
        count.to_string(),
        format!("{:.0} ms", millis(registered)),
        format!("{:.0} ms", millis(again)),
        format!("{:.1} ms", median(plan)),
        format!("{:.1} ms", median(list)),
        format!("{single:.1} ms"),
        format!("{:.0} ms", millis(queued)),
        format!("{:.2} ms", median(get)),
        format!("{:.1} ms", median(runs)),
        format!("{:.1} ms", median(watch)),
        format!("{rate:.0}"),
    ])
}

async fn crowd(controllers: &Controllers, kind: &Kind, agents: u32) -> Result<Crowd, Error> {
    let agents = (0..usize::try_from(agents).unwrap_or(usize::MAX))
        .map(|number| (controllers.url(number).to_owned(), vec![TARGET.to_owned()]));
    Crowd::connect(kind, agents.collect()).await
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn expect(found: usize, expected: u32) -> Result<(), Error> {
    if u32::try_from(found) == Ok(expected) {
        Ok(())
    } else {
        Err(Error::Unexpected(format!("{expected} were expected, and these are {found}")))
    }
}

fn late() -> Error {
    Error::Unexpected(format!("the runs did not end within {} s", ALL_WITHIN.as_secs()))
}
