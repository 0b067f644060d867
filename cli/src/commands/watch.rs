//! `dunlin watch [RUN...]`: follows runs to their end, or everything on a target until Ctrl-C.

use dunlin_proto::v1::{GetRunResponse, ListEventsRequest, Run, RunPendingMigrationsResponse, RunState};

use crate::args::Target;
use crate::connection::Controllers;
use crate::error::Error;
use crate::follow::{Follow, Followed, follow};
use crate::output::{Output, tell};
use crate::render::failure;
use crate::render::{Look, runs, words};

/// How long to go on when the controllers do not answer.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Patience {
    /// How long to go on trying when the connection is lost and no controller answers
    #[arg(long, value_name = "TIME", default_value = "2m")]
    pub(crate) patience: humantime::Duration,
}

/// The options of `dunlin watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The runs, all on one target; without any: everything that runs on the target, until Ctrl-C
    #[arg(value_name = "RUN", value_parser = clap::value_parser!(i64).range(1..))]
    runs: Vec<i64>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    patience: Patience,
}

/// Follows and prints how it ended.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    if args.runs.is_empty() && output.json() {
        return Err(Error::Usage(
            "name the runs to watch: without any the watch has no end, and so no JSON document".to_owned(),
        ));
    }
    let what = Follow {
        target: if args.runs.is_empty() { args.target.target.clone() } else { String::new() },
        run_ids: args.runs.clone(),
        known: Vec::new(),
        after_sequence: if args.runs.is_empty() { latest(controllers, &args.target.target).await? } else { 0 },
        answered: false,
        patience: args.patience.patience.into(),
    };
    let followed = follow(controllers, &what).await?;
    let mut runs = followed.runs();
    if args.runs.len() == 1 {
        output.answer(&GetRunResponse { run: runs.pop() }, |look| runs_text(look, &followed))?;
    } else {
        output.answer(&RunPendingMigrationsResponse { runs }, |look| runs_text(look, &followed))?;
    }
    report(&followed);
    Error::of_runs(&followed.runs())
}

/// The number of the last event of a target: what has happened before is what `dunlin events` is for.
async fn latest(controllers: &Controllers, target: &str) -> Result<i64, Error> {
    let request = ListEventsRequest {
        target: target.to_owned(),
        page_size: 1,
        newest_first: true,
        ..ListEventsRequest::default()
    };
    let events = controllers.runs().await?.list_events(request).await?.into_inner().events;
    Ok(events.first().map_or(0, |event| event.sequence))
}

/// The table of how runs ended, without those that were cancelled.
pub(super) fn runs_text(look: &Look, followed: &Followed) -> String {
    let runs = followed.runs();
    let began: Vec<Run> = runs.iter().filter(|run| run.state() != RunState::Cancelled).cloned().collect();
    let failed = runs.iter().filter(|run| run.state() != RunState::Succeeded).count();
    let table = if began.is_empty() { String::new() } else { runs::outcome(look, &began) };
    if failed == 0 || runs.len() < 2 {
        return table;
    }
    format!("{table}\n{failed} of {} did not succeed", words::plural(runs.len(), "run", "runs"))
}

/// Tells on standard error what was cancelled and, last of all, what failed.
pub(super) fn report(followed: &Followed) {
    let look = Look::of(&std::io::stderr());
    let runs = followed.runs();
    let of = |state| runs.iter().filter(move |run| run.state() == state);
    let failed: Vec<&Run> = of(RunState::Failed).collect();
    let cancelled: Vec<_> = of(RunState::Cancelled).map(|run| (run, followed.reasons.get(&run.id))).collect();
    for line in failure::cancelled(&cancelled, &failed) {
        tell(&line);
    }
    for run in failed {
        tell(&format!("\n{}", failure::failure(&look, run)));
    }
}
