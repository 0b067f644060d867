//! `dunlin watch [RUN...]`: follows runs to their end, or everything on a target until Ctrl-C.

use dunlin_proto::v1::{GetRunResponse, ListEventsRequest, RunPendingMigrationsResponse, RunState};

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
    report(output, &followed)?;
    let mut runs = followed.runs();
    if args.runs.len() == 1 {
        output.answer(&GetRunResponse { run: runs.pop() }, |look| runs_text(look, &followed))?;
    } else {
        output.answer(&RunPendingMigrationsResponse { runs }, |look| runs_text(look, &followed))?;
    }
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

/// The table of how runs ended.
pub(super) fn runs_text(look: &Look, followed: &Followed) -> String {
    runs::outcome(look, &followed.runs())
}

/// Tells on standard error what failed, and what was cancelled for it.
pub(super) fn report(output: &Output, followed: &Followed) -> Result<(), Error> {
    let look = Look::of(&std::io::stderr());
    let runs = followed.runs();
    for run in runs.iter().filter(|run| run.state() == RunState::Failed) {
        tell(&format!("{}\n", failure::failure(&look, run)));
    }
    let cancelled = runs.iter().filter(|run| run.state() == RunState::Cancelled).map(|run| {
        let why = followed.reasons.get(&run.id).map_or("", String::as_str);
        (run, why)
    });
    if let Some(table) = failure::cancelled(&look, cancelled) {
        tell(&table);
    }
    let failed = runs.iter().filter(|run| run.state() != RunState::Succeeded).count();
    if failed > 0 && runs.len() > 1 {
        output.say(&format!("{} of {} did not succeed:\n", failed, words::plural(runs.len(), "run", "runs")))?;
    }
    Ok(())
}
