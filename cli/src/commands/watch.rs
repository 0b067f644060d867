//! `dunlin watch [RUN...]`: follows runs to their end, or everything on a target until Ctrl-C.

use dunlin_proto::v1::{
    GetRunResponse, ListEventsRequest, ListRunsRequest, Run, RunPendingMigrationsResponse, RunState,
};

use crate::args::Target;
use crate::connection::Controllers;
use crate::error::Error;
use crate::follow::{Follow, Followed, follow};
use crate::output::{Output, tell};
use crate::render::failure;
use crate::render::{Look, runs, words};

/// How runs are followed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Following {
    /// How long to go on trying to connect again, each time that the connection is lost
    #[arg(long, value_name = "TIME", default_value = "2m")]
    pub(crate) patience: humantime::Duration,
    /// Tell also how the work is done inside, such as the order of batches
    #[arg(long, short)]
    pub(crate) verbose: bool,
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
    following: Following,
}

/// Follows and prints how it ended.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    if args.runs.is_empty() && output.json() {
        return Err(Error::Usage(
            "name the runs to watch: without any the watch has no end, and so no JSON document".to_owned(),
        ));
    }
    let endless = args.runs.is_empty();
    let target = &args.target.target;
    let after_sequence = if endless { latest(controllers, target).await? } else { 0 };
    if endless {
        tell(&waiting(target, unfinished(controllers, target).await?));
    }
    let what = Follow {
        target: if endless { target.clone() } else { String::new() },
        run_ids: args.runs.clone(),
        known: Vec::new(),
        after_sequence,
        answered: endless,
        patience: args.following.patience.into(),
        verbose: args.following.verbose,
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

/// The runs of a target that have not ended.
async fn unfinished(controllers: &Controllers, target: &str) -> Result<usize, Error> {
    let states = [RunState::Queued, RunState::Running, RunState::Pausing, RunState::Paused];
    let request = ListRunsRequest {
        target: target.to_owned(),
        states: states.map(Into::into).to_vec(),
        ..ListRunsRequest::default()
    };
    Ok(super::runs::page(controllers, request, 0).await?.runs.len())
}

/// What a watch without an end waits for.
fn waiting(target: &str, unfinished: usize) -> String {
    match unfinished {
        0 => format!("Nothing runs on {target} now: waiting for the next run. Ctrl-C ends this."),
        some => format!(
            "Following {} on {target}, and those to come. Ctrl-C ends this.",
            words::plural(some, "run", "runs")
        ),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_without_an_end_says_what_it_waits_for() {
        assert_eq!(waiting("main", 0), "Nothing runs on main now: waiting for the next run. Ctrl-C ends this.");
        assert_eq!(waiting("main", 2), "Following 2 runs on main, and those to come. Ctrl-C ends this.");
    }
}
