//! `dunlin cancel RUN`: cancels a run that has not begun, and what waits for it.

use dunlin_proto::v1::{CancelRunRequest, CancelRunResponse};

use crate::connection::Controllers;
use crate::error::Error;
use crate::operator;
use crate::output::Output;
use crate::render::{Look, runs};

/// The options of `dunlin cancel`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run
    #[arg(value_name = "RUN", value_parser = clap::value_parser!(i64).range(1..))]
    run: i64,
}

/// Cancels and tells what was cancelled with it.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let request = CancelRunRequest { id: args.run, cancelled_by: operator::stated() };
    let answer = controllers.runs().await?.cancel_run(request).await?.into_inner();
    output.answer(&answer, |look| text(look, &answer))
}

fn text(look: &Look, answer: &CancelRunResponse) -> String {
    let Some(run) = &answer.run else { return String::new() };
    let mut text = format!("Run {} of {} on {} is cancelled: it had not begun.", run.id, run.migration_id, run.target);
    if !answer.behind.is_empty() {
        text.push_str("\nWhat waited for it is cancelled, too:\n\n");
        text.push_str(&runs::outcome(look, &answer.behind));
    }
    text
}
