//! How the cost of a run grows with its ranges: planning, looking, leasing one by one, working off, repeating, failing.

use dunlin_proto::v1::ListRunsRequest;
use dunlin_shared::postgres::throwaway::Server;
use tokio::time::Instant;

use super::crowd::Kind;
use super::cycles::WORKERS;
use super::planner::Planner;
use super::stage::{Stage, planner};
use super::suite::Options;
use super::table;
use crate::Error;
use crate::measure::median;

/// Leases that one agent takes one after the other.
const ALONE: u32 = 300;
/// How often a call is repeated.
const CALLS: u32 = 20;

/// Measures and prints.
pub(crate) async fn run(server: &Server, options: &Options) -> Result<(), Error> {
    let mut rows = Vec::new();
    for ranges in options.sizes.iter().copied() {
        let row = measure(server, ranges, options).await?;
        eprintln!("{}", row.join(" | "));
        rows.push(row);
    }
    table::print(
        "One run of many ranges, all ready; one controller",
        [
            "ranges",
            "1,000 ranges stored, p50",
            "last",
            "GetRun, p50",
            "ListRuns",
            "report to grant, alone, p50",
            "p99",
            "cycles/s of all agents",
            "first / last fifth",
            "RunMigration again to grant",
            "failure stored",
        ],
        rows,
    );
    Ok(())
}

async fn measure(server: &Server, ranges: u32, options: &Options) -> Result<[String; 11], Error> {
    // One agent alone takes some before the others come.
    let mut stage = Stage::set(server, 1, 1, ranges + ALONE).await?;
    let messages: Vec<f64> = stage.messages().collect();
    let run = stage.runs[0];
    let (mut get, mut list) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        let start = Instant::now();
        stage.controllers.get_run(run).await?;
        get.push(start.elapsed().as_secs_f64() * 1000.0);
        let start = Instant::now();
        stage.controllers.runs().list_runs(ListRunsRequest::default()).await?;
        list.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    let alone = stage.crowd(&Kind { name: "alone", slots: 1, leases: Some(ALONE) }, 1, true).await?;
    alone.start();
    alone.until(usize::try_from(ALONE).unwrap_or(usize::MAX)).await?;
    let (middle, worst) = (alone.tally.latency(50, 5, 95), alone.tally.latency(99, 0, 100));
    alone.left().await?;

    let crowd = stage.crowd(&WORKERS, options.agents, true).await?;
    stage.work_off(server, &crowd, ranges).await?;
    let (rate, first, last) = (crowd.tally.rate(10, 90), crowd.tally.rate(10, 30), crowd.tally.rate(70, 90));
    crowd.stop().await?;

    let target = stage.targets[0].clone();
    let agent = planner(&stage.controllers, 1, &target).await?;
    let start = Instant::now();
    stage.controllers.run("ranges", &target, true).await?;
    let planner = Planner::plan(agent, ranges).await?;
    let again = planner.granted.duration_since(start);
    let failed = planner.fail().await?;
    stage.controllers.stop()?;
    Ok([
        ranges.to_string(),
        format!("{:.1} ms", median(messages.iter().copied())),
        format!("{:.1} ms", messages.last().copied().unwrap_or(f64::NAN)),
        format!("{:.2} ms", median(get)),
        format!("{:.2} ms", median(list)),
        format!("{middle:.2} ms"),
        format!("{worst:.1} ms"),
        format!("{rate:.0}"),
        format!("{first:.0} / {last:.0}"),
        format!("{:.1} ms", again.as_secs_f64() * 1000.0),
        format!("{:.0} ms", failed.as_secs_f64() * 1000.0),
    ])
}
