//! Lease cycles in a second: a task is granted, reported done, and the next is granted. Next to the same claims in SQL alone.

use dunlin_shared::postgres::throwaway::Server;

use super::crowd::Kind;
use super::raw::{self, Rates};
use super::stage::Stage;
use super::suite::Options;
use super::table;
use crate::Error;
use crate::measure::median;

/// The agents.
pub(crate) const WORKERS: Kind = Kind { name: "worker", slots: 1, leases: None };

/// How the work lies.
#[derive(Clone, Copy, Debug)]
struct Layout {
    controllers: u32,
    targets: u32,
    everywhere: bool,
}

const LAYOUTS: [Layout; 6] = [
    Layout { controllers: 1, targets: 1, everywhere: true },
    Layout { controllers: 3, targets: 1, everywhere: true },
    Layout { controllers: 1, targets: 10, everywhere: false },
    Layout { controllers: 3, targets: 10, everywhere: false },
    Layout { controllers: 1, targets: 10, everywhere: true },
    Layout { controllers: 3, targets: 10, everywhere: true },
];

impl Layout {
    fn label(self, agents: u32) -> String {
        let controllers = if self.controllers == 1 { "controller" } else { "controllers" };
        let targets = match (self.targets, self.everywhere) {
            (1, _) => "1 target".to_owned(),
            (targets, true) => format!("{targets} targets, agents serve all"),
            (targets, false) => format!("{targets} targets, agents serve one"),
        };
        format!("{} {controllers}, {agents} agents, {targets}", self.controllers)
    }
}

/// The figures of one round of one layout.
#[derive(Clone, Copy, Debug)]
struct Figures {
    rate: f64,
    first_fifth: f64,
    last_fifth: f64,
    middle: f64,
    worst: f64,
    controllers: f64,
    database: f64,
}

/// Measures and prints.
pub(crate) async fn run(server: &Server, options: &Options) -> Result<(), Error> {
    let mut singles: Vec<Rates> = Vec::new();
    let mut batches: Vec<Rates> = Vec::new();
    let mut rounds: Vec<Vec<Figures>> = LAYOUTS.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        singles.push(raw::measure(server, 8, 1, options.ranges).await?);
        batches.push(raw::measure(server, 4, 50, options.ranges * 2).await?);
        for (layout, rounds) in LAYOUTS.iter().zip(&mut rounds) {
            let figures = measure(server, *layout, options).await?;
            eprintln!("round {round}: {}: {:.0} cycles/s", layout.label(options.agents), figures.rate);
            rounds.push(figures);
        }
    }
    let single = median(singles.iter().map(|rates| rates.cycles));
    let mut rows = Vec::new();
    for (label, rates) in
        [("raw SQL, one at a time, 8 clients", &singles), ("raw SQL, 50 at a time, 4 clients", &batches)]
    {
        let cycles = median(rates.iter().map(|rates| rates.cycles));
        rows.push([
            label.to_owned(),
            format!("{cycles:.0}"),
            format!("{:.2}", cycles / single),
            format!("{:.0} claims/s", median(rates.iter().map(|rates| rates.claims))),
            String::new(),
            String::new(),
            String::new(),
            format!("{:.0} us", median(rates.iter().map(|rates| rates.processor)) * 1e6),
        ]);
    }
    for (layout, rounds) in LAYOUTS.iter().zip(&rounds) {
        let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
        rows.push([
            layout.label(options.agents),
            format!("{:.0}", of(|figures| figures.rate)),
            format!("{:.2}", of(|figures| figures.rate) / single),
            format!("{:.0} / {:.0}", of(|figures| figures.first_fifth), of(|figures| figures.last_fifth)),
            format!("{:.1} ms", of(|figures| figures.middle)),
            format!("{:.1} ms", of(|figures| figures.worst)),
            format!("{:.0} us", of(|figures| figures.controllers)),
            format!("{:.0} us", of(|figures| figures.database)),
        ]);
    }
    table::print(
        &format!(
            "Lease cycles of {} ranges: granted, reported done, the next granted ({} rounds, medians)",
            options.ranges, options.rounds
        ),
        [
            "who",
            "cycles/s",
            "to raw singles",
            "first / last fifth",
            "report to grant, p50",
            "p99",
            "CPU of controllers / cycle",
            "of database",
        ],
        rows,
    );
    Ok(())
}

async fn measure(server: &Server, layout: Layout, options: &Options) -> Result<Figures, Error> {
    let ranges = options.ranges / layout.targets;
    let mut stage = Stage::set(server, layout.controllers, layout.targets, ranges).await?;
    let crowd = stage.crowd(&WORKERS, options.agents, layout.everywhere).await?;
    let used = stage.work_off(server, &crowd, ranges * layout.targets).await?;
    let tally = &crowd.tally;
    let cycles = f64::from(ranges * layout.targets);
    let figures = Figures {
        rate: tally.rate(10, 90),
        first_fifth: tally.rate(10, 30),
        last_fifth: tally.rate(70, 90),
        middle: tally.latency(50, 10, 90),
        worst: tally.latency(99, 10, 90),
        controllers: used.controllers / cycles * 1e6,
        database: used.database / cycles * 1e6,
    };
    crowd.stop().await?;
    stage.controllers.stop()?;
    Ok(figures)
}
