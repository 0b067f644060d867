//! `dunlin run --pending` and `dunlin run ID`: starts runs and follows them to their end.

use dunlin_proto::v1::{
    GetSchemaVersionRequest, Run, RunMigrationRequest, RunMigrationResponse, RunPendingMigrationsRequest,
    RunPendingMigrationsResponse,
};

use super::repeat;
use super::watch::{Following, report, runs_text};
use crate::args::Target;
use crate::connection::Controllers;
use crate::error::Error;
use crate::follow::{Follow, Followed, follow};
use crate::operator;
use crate::output::{Output, tell};
use crate::render::{runs, words};

/// The options of `dunlin run`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["id", "pending"]))]
pub(crate) struct Args {
    /// The migration to run
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Run everything that is pending, in dependency order
    #[arg(long)]
    pending: bool,
    /// Repeat the migration although it is applied
    #[arg(long, requires = "id", conflicts_with = "pending")]
    rerun: bool,
    /// Queue also where no agent reaches the target now: what is queued waits for one
    #[arg(long)]
    wait_for_agent: bool,
    /// Carry out a step of a half-done migration again from its beginning, with the text that is registered now; can be repeated
    #[arg(long, value_name = "STEP", requires = "id", conflicts_with = "pending")]
    redo: Vec<String>,
    /// Let a half-done step with `batch` go on with another text for the rest of the rows; needs --reason; can be repeated
    #[arg(long = "continue", value_name = "STEP", requires_all = ["id", "reason"], conflicts_with = "pending")]
    go_on: Vec<String>,
    /// Why, for the history and the result
    #[arg(long, value_name = "TEXT", requires = "id", conflicts_with = "pending")]
    reason: Option<String>,
    /// Do not ask whether steps may be repeated
    #[arg(long, short)]
    yes: bool,
    /// Start and do not follow
    #[arg(long, short)]
    detach: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    following: Following,
}

/// Starts and follows.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    match &args.id {
        Some(id) => one(args, id, controllers, output).await,
        None => pending(args, controllers, output).await,
    }
}

async fn pending(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let target = &args.target.target;
    let request = RunPendingMigrationsRequest { target: target.clone(), wait_for_agent: args.wait_for_agent };
    let started = controllers.runs().await?.run_pending_migrations(request).await?.into_inner();
    if started.runs.is_empty() {
        let version = version(controllers, target).await;
        return output.answer(&started, |_| format!("Nothing is pending{version}."));
    }
    if args.detach {
        return output.answer(&started, |look| detached(look, &started.runs));
    }
    let count = words::plural(started.runs.len(), "migration", "migrations");
    tell(&format!("Running {count} on {target}: {}", numbers(&started.runs)));
    let followed = watch(args, &started.runs, controllers).await?;
    output.answer(&RunPendingMigrationsResponse { runs: followed.runs() }, |look| runs_text(look, &followed))?;
    report(&followed);
    finish(&followed, controllers, target, output).await
}

async fn one(args: &Args, id: &str, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let target = &args.target.target;
    if args.rerun && !args.yes {
        repeat::confirm(id, target, controllers).await?;
    }
    let request = RunMigrationRequest {
        migration_id: id.to_owned(),
        target: target.clone(),
        rerun: args.rerun,
        wait_for_agent: args.wait_for_agent,
        redo_steps: args.redo.clone(),
        continue_steps: args.go_on.clone(),
        reason: args.reason.clone().unwrap_or_default(),
        requested_by: operator::stated(),
    };
    let started = controllers.runs().await?.run_migration(request).await?.into_inner();
    let Some(run) = started.run.clone() else {
        return output.answer(&started, |_| format!("Nothing is run: {}.", started.message));
    };
    if started.attached {
        tell(&format!("No new run: {}.", started.message));
    }
    if args.detach {
        return output.answer(&started, |look| detached(look, std::slice::from_ref(&run)));
    }
    tell(&if started.attached {
        format!("Following run {} of {id} on {target}", run.id)
    } else {
        format!("Running {id} on {target}: run {}", run.id)
    });
    let followed = watch(args, &[run], controllers).await?;
    let answer = RunMigrationResponse { run: followed.runs().pop(), ..started };
    output.answer(&answer, |look| runs_text(look, &followed))?;
    report(&followed);
    finish(&followed, controllers, target, output).await
}

async fn watch(args: &Args, runs: &[Run], controllers: &Controllers) -> Result<Followed, Error> {
    let what = Follow {
        target: args.target.target.clone(),
        run_ids: runs.iter().map(|run| run.id).collect(),
        known: runs.to_vec(),
        after_sequence: 0,
        answered: true,
        patience: args.following.patience.into(),
        verbose: args.following.verbose,
    };
    follow(controllers, &what).await
}

/// Says where the target stands now, where everything went well.
async fn finish(followed: &Followed, controllers: &Controllers, target: &str, output: &Output) -> Result<(), Error> {
    Error::of_runs(&followed.runs())?;
    if !output.json() {
        output.say(&format!("\nDone{}.", version(controllers, target).await))?;
    }
    Ok(())
}

/// `: main is at schema version 5`, or nothing when it cannot be told now.
async fn version(controllers: &Controllers, target: &str) -> String {
    let request = GetSchemaVersionRequest { target: target.to_owned() };
    let Ok(mut client) = controllers.registry().await else { return String::new() };
    let answer = client.get_schema_version(request).await;
    answer.map_or_else(
        |_| String::new(),
        |answer| format!(": {target} is at schema version {}", answer.into_inner().version),
    )
}

/// `run 4`, `runs 4 to 9`.
fn numbers(runs: &[Run]) -> String {
    match (runs.first(), runs.last()) {
        (Some(first), Some(last)) if runs.len() > 1 => format!("runs {} to {}", first.id, last.id),
        (Some(only), _) => format!("run {}", only.id),
        _ => String::new(),
    }
}

fn detached(look: &crate::render::Look, started: &[Run]) -> String {
    let ids: Vec<String> = started.iter().map(|run| run.id.to_string()).collect();
    format!("{}\n`dunlin watch {}` follows.", runs::outcome(look, started), ids.join(" "))
}
