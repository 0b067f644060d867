//! `dunlin plan`: what would run on a target, in which order, and what each migration waits for.

use comfy_table::{Cell, Color};
use dunlin_proto::v1::{PlanPendingRequest, PlanPendingResponse, PlannedMigration};

use crate::args::Target;
use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;
use crate::render::{Align, Columns, Look, words};

/// The options of `dunlin plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
}

/// Asks and prints.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let answer = ask(controllers, &args.target.target).await?;
    output.answer(&answer, |look| text(look, &answer))
}

/// The plan of a target.
pub(super) async fn ask(controllers: &Controllers, target: &str) -> Result<PlanPendingResponse, Error> {
    let request = PlanPendingRequest { target: target.to_owned() };
    Ok(controllers.registry().await?.plan_pending(request).await?.into_inner())
}

fn text(look: &Look, plan: &PlanPendingResponse) -> String {
    let Some(last) = plan.pending.iter().map(|migration| migration.version).max() else {
        return format!("Nothing is pending: {} is at schema version {}.", plan.target, plan.version);
    };
    format!(
        "{} is at schema version {}; {} would bring it to {}:\n\n{}",
        plan.target,
        plan.version,
        words::plural(plan.pending.len(), "pending migration", "pending migrations"),
        last.max(plan.version),
        table(look, &plan.pending)
    )
}

/// Pending migrations in the order in which they would run.
pub(super) fn table(look: &Look, pending: &[PlannedMigration]) -> String {
    let mut table = Columns::new(
        look,
        &[
            ("ORDER", Align::Right),
            ("VERSION", Align::Right),
            ("MIGRATION", Align::Left),
            ("STEPS", Align::Left),
            ("WAITS FOR", Align::Left),
        ],
    );
    for (index, migration) in pending.iter().enumerate() {
        let steps = if migration.atomic { format!("{}, atomic", migration.steps) } else { migration.steps.to_string() };
        table.row([
            Cell::new(index + 1),
            Cell::new(migration.version),
            Cell::new(&migration.id),
            Cell::new(steps),
            waits(migration),
        ]);
    }
    table.render()
}

fn waits(migration: &PlannedMigration) -> Cell {
    let mut parts: Vec<String> = migration.waits.iter().map(|wait| wait.message.clone()).collect();
    if migration.failed_run_id > 0 {
        parts.push(format!("run {} of it failed", migration.failed_run_id));
    }
    let text = if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") };
    if migration.failed_run_id > 0 { Cell::new(text).fg(Color::Red) } else { Cell::new(text) }
}
