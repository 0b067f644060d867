//! Agents that have nothing to do: what their streams and heartbeats cost, and what they cost those that work.

use std::time::Duration;

use dunlin_shared::postgres::throwaway::Server;
use tokio::time::{Instant, sleep};

use super::crowd::{Crowd, Kind};
use super::cycles::WORKERS;
use super::migrations::atomic;
use super::stage::{Processor, Stage};
use super::suite::Options;
use super::table;
use crate::Error;
use crate::measure::{median, percentile};

/// How long is looked at agents that do nothing: two heartbeats of each.
const LOOK: Duration = Duration::from_secs(20);
/// Runs that are started one after the other.
const STARTS: u32 = 20;
const IDLE: Kind = Kind { name: "idle", slots: 4, leases: None };

/// Measures and prints.
pub(crate) async fn run(server: &Server, options: &Options) -> Result<(), Error> {
    let ranges = options.ranges / 2;
    let mut rows = Vec::new();
    for count in [0, options.idle] {
        let mut stage = Stage::set(server, 1, 1, ranges).await?;
        let controllers = &stage.controllers;
        controllers.register((1..=STARTS).map(|n| atomic(n, 100 + n, None)).collect()).await?;
        let memory = controllers.memory()?;
        let agents = (0..usize::try_from(count).unwrap_or(usize::MAX))
            .map(|number| (controllers.url(number).to_owned(), vec!["idle".to_owned()]));
        let connecting = Instant::now();
        let idle = Crowd::connect(&IDLE, agents.collect()).await?;
        let connected = connecting.elapsed();
        let refused = idle.refused;
        idle.start();
        let used = at_rest(server, &stage).await?;
        let grown = controllers.memory()? - memory;
        let starts = if count == 0 { Vec::new() } else { starts(&stage, &idle).await? };

        let crowd = stage.crowd(&WORKERS, options.agents, true).await?;
        stage.work_off(server, &crowd, ranges).await?;
        let of_each = if count == 0 { String::new() } else { format!("{:.1} KiB", grown * 1024.0 / f64::from(count)) };
        let started = if starts.is_empty() {
            String::new()
        } else {
            format!("{:.1} / {:.1} ms", median(starts.iter().copied()), percentile(starts, 99))
        };
        rows.push([
            count.to_string(),
            format!("{:.1} s", connected.as_secs_f64()),
            refused.to_string(),
            format!("{memory:.0} + {grown:.0} MiB"),
            of_each,
            format!("{:.1} %", used.controllers * 100.0),
            format!("{:.1} %", used.database * 100.0),
            started,
            format!("{:.0}", crowd.tally.rate(10, 90)),
        ]);
        crowd.stop().await?;
        idle.stop().await?;
        stage.controllers.stop()?;
    }
    table::print(
        &format!("Connected agents of 4 slots with nothing to do; one controller, a look of {} s", LOOK.as_secs()),
        [
            "idle agents",
            "all connected in",
            "refused before",
            "memory of the controller",
            "of it for each agent",
            "CPU of controller",
            "of database",
            "RunMigration to grant, p50 / p99",
            &format!("cycles/s of {} others", options.agents),
        ],
        rows,
    );
    Ok(())
}

/// Processor time in a second while nothing happens, once what came with the connections is over.
async fn at_rest(server: &Server, stage: &Stage) -> Result<Processor, Error> {
    let mut before = Processor::used(&stage.controllers, server)?;
    for _ in 0..30 {
        sleep(Duration::from_secs(1)).await;
        let now = Processor::used(&stage.controllers, server)?;
        let busy = now.since(before);
        before = now;
        if busy.controllers + busy.database < 0.3 {
            break;
        }
    }
    sleep(LOOK).await;
    let used = Processor::used(&stage.controllers, server)?.since(before);
    let seconds = LOOK.as_secs_f64();
    Ok(Processor { controllers: used.controllers / seconds, database: used.database / seconds })
}

/// Milliseconds from a call to the grant of the first task, for some runs one after the other.
async fn starts(stage: &Stage, idle: &Crowd) -> Result<Vec<f64>, Error> {
    let mut starts = Vec::new();
    for n in 1..=STARTS {
        let count = idle.tally.count();
        let (id, _) = atomic(n, 100 + n, None);
        let start = Instant::now();
        stage.controllers.run(&id, "idle", false).await?;
        idle.until(count + 1).await?;
        let granted = idle.tally.last().ok_or_else(|| Error::Unexpected("no lease was granted".to_owned()))?;
        starts.push(granted.duration_since(start).as_secs_f64() * 1000.0);
    }
    Ok(starts)
}
