//! The table of figures, and what they are held against.

use comfy_table::{CellAlignment, Table, presets};

use crate::contender::Contender;
use crate::measure::{Figures, median};

/// What one contender reached, round by round.
pub(crate) struct Series {
    pub(crate) contender: Contender,
    pub(crate) rounds: Vec<Figures>,
}

impl Series {
    fn of(&self, figure: impl Fn(&Figures) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.of(|figures| figures.seconds)
    }

    fn worst_transaction(&self) -> f64 {
        self.rounds.iter().map(|figures| figures.longest_transaction).fold(0.0, f64::max)
    }

    fn first_batch(&self) -> Option<f64> {
        self.rounds.first()?.first_batch?;
        Some(self.of(|figures| figures.first_batch.unwrap_or(f64::NAN)))
    }
}

/// Prints the figures of a scenario; ratios are the time of `series[0]` over the time of each.
pub(crate) fn print(title: &str, rows: u32, series: &[Series]) {
    println!("\n{title}");
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header([
        "contender",
        "seconds (median)",
        "min-max",
        "rows/s",
        "ratio",
        "longest transaction",
        "WAL",
        "growth",
        "first batch",
    ]);
    for column in 1..9 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let base = series.first();
    for one in series {
        let seconds = one.seconds();
        let all = || one.rounds.iter().map(|figures| figures.seconds);
        table.add_row([
            one.contender.label(),
            format!("{seconds:.2}"),
            format!("{:.2}-{:.2}", all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max)),
            format!("{:.0}", f64::from(rows) / seconds),
            base.map_or_else(String::new, |base| format!("{:.2}", base.seconds() / seconds)),
            format!("{:.2} s", one.worst_transaction()),
            share(one.of(|figures| figures.wal_mib), base.map(|base| base.of(|figures| figures.wal_mib))),
            share(one.of(|figures| figures.growth_mib), base.map(|base| base.of(|figures| figures.growth_mib))),
            one.first_batch().map_or_else(String::new, |seconds| format!("{:.0} ms", seconds * 1000.0)),
        ]);
    }
    println!("{table}");
}

/// Prints one line for each figure that Dunlin aims at, and whether it was reached.
pub(crate) fn print_aims(series: &[Series]) {
    let Some(statement) = series.iter().find(|one| one.contender == Contender::Statement) else {
        return;
    };
    for one in series {
        let Contender::Dunlin { agents, slots } = one.contender else {
            continue;
        };
        let aim = if agents * slots == 1 { 1.4 } else { 2.5 };
        if let Some(hand) = series.iter().find(|one| one.contender == Contender::ByHand(agents * slots)) {
            let share = hand.seconds() / one.seconds() * 100.0;
            println!("{}: {share:.0} % of the speed of the {}", one.contender.label(), hand.contender.label());
        }
        let growth = one.of(|figures| figures.growth_mib) / statement.of(|figures| figures.growth_mib);
        line(&one.contender, "ratio to the statement", statement.seconds() / one.seconds(), aim, true);
        line(&one.contender, "share of the statement's growth", growth, 0.4, false);
        line(&one.contender, "longest transaction, s", one.worst_transaction(), 0.5, false);
        line(&one.contender, "first batch, s", one.first_batch().unwrap_or(f64::NAN), 0.1, false);
    }
}

fn line(contender: &Contender, what: &str, figure: f64, aim: f64, at_least: bool) {
    let reached = if at_least { figure >= aim } else { figure <= aim };
    let sign = if at_least { ">=" } else { "<=" };
    let verdict = if reached { "reached" } else { "MISSED" };
    println!("{}: {what} {figure:.3} (aim {sign} {aim}): {verdict}", contender.label());
}

fn share(figure: f64, base: Option<f64>) -> String {
    match base {
        Some(base) if base > 0.0 => format!("{figure:.0} MiB ({:.0} %)", figure / base * 100.0),
        _ => format!("{figure:.0} MiB"),
    }
}
