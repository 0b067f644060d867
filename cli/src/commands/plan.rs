//! `dunlin plan`: what would run on a target, in which order, and what each migration waits for.

use comfy_table::Color;
use dunlin_proto::v1::{PlanPendingRequest, PlanPendingResponse, PlannedMigration};

use crate::args::Target;
use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;
use crate::render::{Align, Cell, Columns, Look, time_or, waits, words};

/// The options of `dunlin plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
}

/// Asks and prints.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let answer = ask(controllers, &args.target.target).await?;
    output.answer(&answer, |look| text(look, &answer))?;
    super::version::unreached(answer.unreached.as_deref())
}

/// The plan of a target.
pub(super) async fn ask(controllers: &Controllers, target: &str) -> Result<PlanPendingResponse, Error> {
    let request = PlanPendingRequest { target: target.to_owned() };
    Ok(controllers.registry().await?.plan_pending(request).await?.into_inner())
}

fn text(look: &Look, plan: &PlanPendingResponse) -> String {
    let Some(last) = plan.pending.iter().map(|migration| migration.version).max() else {
        if plan.unreached.is_none() {
            return format!("Nothing is pending: {} is at schema version {}.", plan.target, plan.version);
        }
        return match &plan.report_time {
            Some(time) => format!(
                "Nothing was pending when {} was reported last, at {}: it was at schema version {}.",
                plan.target,
                time_or(look, Some(time), "-"),
                plan.version
            ),
            None => format!("What is pending on {} is not known: no agent has ever reached it.", plan.target),
        };
    };
    let stands = match (&plan.unreached, &plan.report_time) {
        (None, _) => format!("{} is at schema version {}", plan.target, plan.version),
        (Some(_), None) => format!("No agent has ever reached {}", plan.target),
        (Some(_), Some(time)) => format!(
            "{} was at schema version {} when it was reported last, at {}",
            plan.target,
            plan.version,
            time_or(look, Some(time), "-")
        ),
    };
    format!(
        "{stands}; {} would bring it to {}:\n\n{}",
        words::plural(plan.pending.len(), "pending migration", "pending migrations"),
        last.max(plan.version),
        table(look, &plan.pending)
    )
}

/// Pending migrations in the order in which they would run.
pub(super) fn table(look: &Look, pending: &[PlannedMigration]) -> String {
    let failed = pending.iter().any(|migration| migration.failed_run_id != 0);
    let mut columns = vec![
        ("ORDER", Align::Right),
        ("VERSION", Align::Right),
        ("MIGRATION", Align::Left),
        ("STEPS", Align::Left),
        ("WAITS FOR", Align::Left),
    ];
    if failed {
        columns.insert(4, ("LAST RUN", Align::Left));
    }
    let mut table = Columns::new(look, &columns);
    for (index, migration) in pending.iter().enumerate() {
        let steps = if migration.atomic { format!("{}, atomic", migration.steps) } else { migration.steps.to_string() };
        let mut cells = vec![
            Cell::new(index + 1),
            Cell::new(migration.version),
            Cell::new(&migration.id),
            Cell::new(steps),
            Cell::new(waits::short(&migration.waits).unwrap_or_else(|| "-".to_owned())),
        ];
        if failed {
            cells.insert(4, last_run(migration));
        }
        table.row(cells);
    }
    table.render()
}

fn last_run(migration: &PlannedMigration) -> Cell {
    match migration.failed_run_id {
        0 => Cell::new("-"),
        run => Cell::new(format!("run {run} failed")).fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use dunlin_proto::v1::{Wait, WaitReason};

    use super::*;

    #[test]
    fn a_plan_tells_what_each_migration_waits_for() {
        let wait = |reason: WaitReason, id: &str| Wait {
            reason: reason.into(),
            migration_id: id.to_owned(),
            ..Wait::default()
        };
        let migration = |id: &str, version, waits| PlannedMigration {
            id: id.to_owned(),
            version,
            steps: 1,
            waits,
            ..PlannedMigration::default()
        };
        let plan = PlanPendingResponse {
            target: "main".to_owned(),
            version: 2,
            report_time: None,
            unreached: None,
            pending: vec![
                migration("a", 3, Vec::new()),
                migration("b", 4, vec![wait(WaitReason::Order, "a")]),
                migration("c", 5, vec![wait(WaitReason::Dependency, "a"), wait(WaitReason::Order, "b")]),
            ],
        };
        assert_eq!(
            text(&Look::plain(None), &plan),
            "main is at schema version 2; 3 pending migrations would bring it to 5:\n\n\
             ORDER  VERSION  MIGRATION  STEPS  WAITS FOR\n    \
                 1        3  a          1      -\n    \
                 2        4  b          1      its turn, behind a\n    \
                 3        5  c          1      a\n"
        );
    }

    #[test]
    fn a_failure_stands_beside_what_is_waited_for() {
        let failed = PlannedMigration { id: "a".to_owned(), version: 1, failed_run_id: 3, ..Default::default() };
        let next = PlannedMigration { id: "b".to_owned(), version: 2, ..Default::default() };
        assert_eq!(
            table(&Look::plain(None), &[failed, next]),
            "ORDER  VERSION  MIGRATION  STEPS  LAST RUN      WAITS FOR\n    \
                 1        1  a          0      run 3 failed  -\n    \
                 2        2  b          0      -             -\n"
        );
    }
}
