//! `dunlin status`: where a target stands, on one screen.
//!
//! No single call answers this; the JSON document puts the messages of several side by side.

use dunlin_proto::v1::{Agent, ListRunsRequest, PlannedMigration, Run, RunState, Target};
use serde::Serialize;

use crate::args;
use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;
use crate::render::{Look, count, failure, runs, time_or, waits, words};

/// How many failures are shown.
const FAILURES: usize = 3;

/// The options of `dunlin status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: args::Target,
}

/// Where a target stands.
#[derive(Debug, Serialize)]
struct Status {
    target: Target,
    pending: Vec<PlannedMigration>,
    /// Runs that have not ended.
    running: Vec<Run>,
    /// The last runs of pending migrations that failed.
    failed: Vec<Run>,
    agents: Vec<Agent>,
}

/// Asks and prints.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let name = &args.target.target;
    let pending = super::plan::ask(controllers, name).await?.pending;
    let targets = super::targets::all(controllers).await?;
    let target = targets
        .into_iter()
        .find(|target| target.name == *name)
        .ok_or_else(|| Error::Refused(format!("no agent has ever served a target {name}; start one")))?;
    let unfinished = [RunState::Queued, RunState::Running, RunState::Pausing, RunState::Paused];
    let mut running = list(controllers, name, &unfinished, 0).await?;
    running.reverse();
    let mut failed = list(controllers, name, &[RunState::Failed], 50).await?;
    failed.retain(|run| pending.iter().any(|migration| migration.failed_run_id == run.id));
    failed.truncate(FAILURES);
    let agents = super::agents::all(controllers, name).await?;
    let status = Status { target, pending, running, failed, agents };
    output.answer(&status, |look| text(look, &status))
}

async fn list(controllers: &Controllers, target: &str, states: &[RunState], limit: usize) -> Result<Vec<Run>, Error> {
    let request = ListRunsRequest {
        target: target.to_owned(),
        states: states.iter().map(|state| (*state).into()).collect(),
        ..ListRunsRequest::default()
    };
    Ok(super::runs::page(controllers, request, limit).await?.runs)
}

fn text(look: &Look, status: &Status) -> String {
    let target = &status.target;
    let reach = match (target.agents, target.reachable) {
        (0, _) => format!("no agent serves it: start one with --target {}=URL", target.name),
        (_, true) => format!("reachable, PostgreSQL {}", target.server_version),
        (_, false) => format!("unreachable: {}", target.error),
    };
    let mut text = format!(
        "{}  schema version {}, {} applied, {} pending\n      {reach}; registry {}\n",
        look.bold(&target.name),
        target.version,
        count(target.applied),
        count(target.pending),
        match &target.report_time {
            Some(time) => format!("reported {}", time_or(look, Some(time), "-")),
            None => "never reported".to_owned(),
        },
    );
    let mut section = |title: &str, body: String| {
        text.push_str(&format!("\n{}\n{}", look.bold(title), body));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    };
    if !status.running.is_empty() {
        section("Running and queued", running(&status.running));
    }
    for run in &status.failed {
        section("Failed", failure::failure(look, run));
    }
    if !status.pending.is_empty() {
        section("Pending", super::plan::table(look, &status.pending));
    }
    if status.agents.is_empty() {
        section("Agents", "none".to_owned());
    } else {
        section("Agents", super::agents::table(look, &status.agents));
    }
    text
}

/// Runs that have not ended, with their progress or what they wait for.
fn running(unfinished: &[Run]) -> String {
    let mut text = String::new();
    for run in unfinished {
        let mut parts = vec![words::standing(run).to_owned()];
        if !run.current_step.is_empty() {
            parts.push(format!("step {}", run.current_step));
        }
        let progress = runs::progress(run);
        if !progress.is_empty() {
            parts.push(progress);
        }
        parts.extend(waits::short(&run.waits).map(|wait| format!("waits for {wait}")));
        parts.extend(waits::at_work(&run.waits).map(str::to_owned));
        text.push_str(&format!("run {}  {}: {}\n", run.id, run.migration_id, parts.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_shows_what_runs_and_what_failed() {
        let status = Status {
            target: Target {
                name: "main".to_owned(),
                version: 4,
                applied: 4,
                pending: 2,
                agents: 1,
                server_version: "15.18".to_owned(),
                reachable: true,
                ..Target::default()
            },
            pending: vec![PlannedMigration { id: "roles".to_owned(), version: 5, steps: 1, ..Default::default() }],
            running: vec![Run {
                id: 9,
                migration_id: "roles".to_owned(),
                state: RunState::Running.into(),
                current_step: "rename".to_owned(),
                rows_walked: 310_000,
                rows_total: 500_000,
                leases: 2,
                ..Run::default()
            }],
            failed: Vec::new(),
            agents: Vec::new(),
        };
        assert_eq!(
            text(&Look::plain(Some(80)), &status),
            "main  schema version 4, 4 applied, 2 pending\n      \
                   reachable, PostgreSQL 15.18; registry never reported\n\
             \n\
             Running and queued\n\
             run 9  roles: running, step rename, 62% of 500,000 rows\n\
             \n\
             Pending\n\
             ORDER  VERSION  MIGRATION  STEPS  WAITS FOR\n    \
                 1        5  roles      1      -\n\
             \n\
             Agents\n\
             none\n"
        );
    }
}
