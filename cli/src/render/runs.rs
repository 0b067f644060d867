//! Tables of runs.

use std::time::Duration;

use dunlin_proto::v1::{Activity, Run, RunState, RunStep};
use pbjson_types::Timestamp;

use super::{Align, Cell, Columns, Look, count, duration, time_or, words};

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
            words::run_cell(run),
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
            words::run_cell(run),
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

/// The rows of the current step that are walked, and those that are known of it so far; `None` where it does not count rows.
fn walked(run: &Run) -> Option<(i64, i64)> {
    let (walked, total) =
        current(run).map_or((run.rows_walked, run.rows_total), |step| (step.rows_walked, step.rows_total));
    (total > 0).then_some((walked, total))
}

/// The step that is worked on.
fn current(run: &Run) -> Option<&RunStep> {
    run.steps.iter().find(|step| step.name == run.current_step && !run.current_step.is_empty())
}

/// How much of the current step is done, in whole percent: all of it only once the run has succeeded.
pub(crate) fn percent(run: &Run) -> Option<i64> {
    let (walked, total) = walked(run)?;
    let most = if run.state() == RunState::Succeeded { 100 } else { 99 };
    Some(part(walked, total).clamp(0, most))
}

/// How far a run is: `62% of 500,000 rows, 52,300 rows/s, 4s left`, as far as it is known, or what PostgreSQL says.
pub(crate) fn progress(run: &Run) -> String {
    let mut parts = Vec::new();
    if let (Some(percent), Some((walked, total))) = (percent(run), walked(run)) {
        // More than were counted: rows that came meanwhile.
        let more = if walked > total { format!(" ({} walked)", count(walked)) } else { String::new() };
        // The walk that counts them goes on beside the work.
        let so_far = if current(run).is_some_and(|step| !step.planned) { " counted so far" } else { "" };
        parts.push(format!("{percent}% of {} rows{so_far}{more}", count(total)));
        let rate = rate(run);
        if rate > 0 {
            parts.push(format!("{} rows/s", count(rate)));
        }
        if let Some(left) = eta(run) {
            parts.push(format!("{} left", super::seconds(left)));
        }
    }
    parts.extend(run.activity.as_ref().map(activity));
    parts.join(", ")
}

/// What PostgreSQL says of its progress: `building index: scanning table, 45% of 12,345 blocks`.
pub(crate) fn activity(activity: &Activity) -> String {
    let Activity { phase, done, total, unit } = activity;
    match (unit.as_str(), *total) {
        (_, ..=0) => phase.clone(),
        ("transactions", total) => format!("{phase} ({} of {total} transactions ended)", count(*done)),
        (unit, total) => format!("{phase}, {}% of {} {unit}", part(*done, total).clamp(0, 99), count(total)),
    }
}

fn part(done: i64, total: i64) -> i64 {
    done.saturating_mul(100) / total.max(1)
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
    fn nothing_is_all_done_before_it_is() {
        let mut run = Run { state: RunState::Running.into(), rows_total: 1000, ..run() };
        for (walked, expected) in [
            (0, "0% of 1,000 rows"),
            (999, "99% of 1,000 rows"),
            (1000, "99% of 1,000 rows"),
            (1500, "99% of 1,000 rows (1,500 walked)"),
        ] {
            run.rows_walked = walked;
            assert_eq!(progress(&run), expected);
        }
        run.state = RunState::Succeeded.into();
        assert_eq!(percent(&run), Some(100));
    }

    #[test]
    fn the_percent_is_that_of_the_step_that_is_named() {
        let step = |name: &str, walked, total| RunStep {
            name: name.to_owned(),
            rows_walked: walked,
            rows_total: total,
            planned: true,
            ..RunStep::default()
        };
        let mut run = Run { state: RunState::Running.into(), rows_total: 2000, rows_walked: 1100, ..run() };
        run.steps = vec![step("fill", 1000, 1000), step("check", 100, 1000), step("index", 0, 0)];
        run.current_step = "check".to_owned();
        assert_eq!(progress(&run), "10% of 1,000 rows");
        run.steps[1].planned = false;
        assert_eq!(progress(&run), "10% of 1,000 rows counted so far");
        run.current_step = "index".to_owned();
        let phase = "building index: scanning table".to_owned();
        run.activity = Some(Activity { phase, done: 450, total: 1000, unit: "blocks".to_owned() });
        assert_eq!(progress(&run), "building index: scanning table, 45% of 1,000 blocks");
        let phase = "waiting for old snapshots".to_owned();
        run.activity = Some(Activity { phase, done: 1, total: 2, unit: "transactions".to_owned() });
        assert_eq!(progress(&run), "waiting for old snapshots (1 of 2 transactions ended)");
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
