//! Tables of runs.

use std::time::Duration;

use comfy_table::Cell;
use dunlin_proto::v1::Run;
use pbjson_types::Timestamp;

use super::{Align, Columns, Look, count, duration, time_or, words};

/// Runs, one to a row.
pub(crate) fn table(look: &Look, runs: &[Run]) -> String {
    let mut table = Columns::new(
        look,
        &[
            ("RUN", Align::Right),
            ("TARGET", Align::Left),
            ("VERSION", Align::Right),
            ("MIGRATION", Align::Left),
            ("STATE", Align::Left),
            ("ROWS", Align::Right),
            ("TIME", Align::Right),
            ("STARTED", Align::Left),
        ],
    );
    for run in runs {
        table.row([
            Cell::new(run.id),
            Cell::new(&run.target),
            Cell::new(run.version),
            Cell::new(name(run)),
            words::run_cell(run.state()),
            Cell::new(count(run.rows)),
            Cell::new(elapsed(run).map_or_else(|| "-".to_owned(), duration)),
            Cell::new(time_or(look, run.start_time.as_ref(), "-")),
        ]);
    }
    table.render()
}

/// What became of runs that were followed: one target, so no column for it.
pub(crate) fn outcome(look: &Look, runs: &[Run]) -> String {
    let mut table = Columns::new(
        look,
        &[
            ("RUN", Align::Right),
            ("VERSION", Align::Right),
            ("MIGRATION", Align::Left),
            ("STATE", Align::Left),
            ("ROWS", Align::Right),
            ("TIME", Align::Right),
        ],
    );
    for run in runs {
        table.row([
            Cell::new(run.id),
            Cell::new(run.version),
            Cell::new(name(run)),
            words::run_cell(run.state()),
            Cell::new(count(run.rows)),
            Cell::new(elapsed(run).map_or_else(|| "-".to_owned(), duration)),
        ]);
    }
    table.render()
}

/// The migration of a run, marked where it is a repetition.
fn name(run: &Run) -> String {
    if run.rerun { format!("{} (rerun)", run.migration_id) } else { run.migration_id.clone() }
}

/// How long a run has taken: until its end, or until now.
pub(crate) fn elapsed(run: &Run) -> Option<Duration> {
    let start = instant(run.start_time.as_ref()?)?;
    let end = run.end_time.as_ref().and_then(instant).unwrap_or_else(jiff::Timestamp::now);
    Duration::try_from(end.duration_since(start)).ok()
}

fn instant(time: &Timestamp) -> Option<jiff::Timestamp> {
    jiff::Timestamp::new(time.seconds, time.nanos).ok()
}

/// How far a run is: `62% of 500,000 rows, 52,300 rows/s, 4s left`, as far as it is known.
pub(crate) fn progress(run: &Run) -> String {
    let mut parts = Vec::new();
    if run.rows_total > 0 {
        let percent = run.rows_walked.saturating_mul(100) / run.rows_total;
        parts.push(format!("{}% of {} rows", percent.clamp(0, 100), count(run.rows_total)));
        let rate = rate(run);
        if rate > 0 {
            parts.push(format!("{} rows/s", count(rate)));
        }
        if let Some(left) = eta(run) {
            parts.push(format!("{} left", super::seconds(left)));
        }
    }
    parts.join(", ")
}

/// Rows in a second, as a whole number.
pub(crate) fn rate(run: &Run) -> i64 {
    // Formatting rounds, and a figure that does not fit is none.
    format!("{:.0}", run.rows_per_second).parse().unwrap_or(0)
}

/// The time that is left, where it is known.
pub(crate) fn eta(run: &Run) -> Option<Duration> {
    let eta = run.eta.as_ref()?;
    Some(Duration::new(u64::try_from(eta.seconds).ok()?, u32::try_from(eta.nanos).ok()?))
}

#[cfg(test)]
mod tests {
    use dunlin_proto::v1::RunState;

    use super::*;

    fn run() -> Run {
        Run {
            id: 12,
            target: "main".to_owned(),
            migration_id: "update-user-roles".to_owned(),
            version: 5,
            state: RunState::Succeeded.into(),
            rows: 50_000,
            start_time: Some(Timestamp { seconds: 1_795_439_563, nanos: 0 }),
            end_time: Some(Timestamp { seconds: 1_795_439_567, nanos: 250_000_000 }),
            ..Run::default()
        }
    }

    #[test]
    fn a_run_fits_into_eighty_columns() {
        let text = table(&Look::plain(Some(80)), &[run()]);
        assert_eq!(
            text,
            "RUN  TARGET  VERSION  MIGRATION          STATE        ROWS  TIME  STARTED\n \
             12  main          5  update-user-roles  succeeded  50,000  4.2s  2026-11-23 13:12:43+00\n"
        );
    }

    #[test]
    fn the_outcome_is_one_line_for_each_run() {
        assert_eq!(
            outcome(&Look::plain(Some(80)), &[run()]),
            "RUN  VERSION  MIGRATION          STATE        ROWS  TIME\n \
             12        5  update-user-roles  succeeded  50,000  4.2s\n"
        );
    }

    #[test]
    fn progress_tells_only_what_is_known() {
        let mut run = run();
        assert_eq!(progress(&run), "");
        run.rows_total = 500_000;
        run.rows_walked = 310_000;
        assert_eq!(progress(&run), "62% of 500,000 rows");
        run.rows_per_second = 52_300.4;
        run.eta = Some(pbjson_types::Duration { seconds: 4, nanos: 0 });
        assert_eq!(progress(&run), "62% of 500,000 rows, 52,300 rows/s, 4s left");
    }
}
