//! `dunlin runs`: what has been run and what is running, newest first.

use clap::ValueEnum;
use dunlin_proto::v1::{ListRunsRequest, ListRunsResponse, RunState};
use dunlin_shared::figures::length;

use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;
use crate::render::{self, count};

/// The options of `dunlin runs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only runs on this target
    #[arg(long, short, value_name = "NAME", default_value = "", hide_default_value = true)]
    target: String,
    /// Only runs of this migration
    #[arg(long, short, value_name = "ID", default_value = "", hide_default_value = true)]
    migration: String,
    /// Only runs in these states
    #[arg(long, short, value_enum, value_delimiter = ',')]
    state: Vec<State>,
    /// At most this many; 0 means all
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    limit: usize,
}

/// The states to ask for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl From<State> for RunState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

/// Asks and prints.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let request = ListRunsRequest {
        target: args.target.clone(),
        migration_id: args.migration.clone(),
        states: args.state.iter().map(|state| RunState::from(*state).into()).collect(),
        page_size: 0,
        page_token: String::new(),
    };
    let answer = page(controllers, request, args.limit).await?;
    output.answer(&answer, |look| {
        if answer.runs.is_empty() {
            return "There are no such runs.".to_owned();
        }
        let mut text = render::runs::table(look, &answer.runs);
        if !answer.next_page_token.is_empty() {
            text.push_str(&format!("(the newest {}; --limit 0 shows all)", count(length(answer.runs.len()))));
        }
        text
    })
}

/// At most `limit` runs, from as many pages as it takes.
pub(super) async fn page(
    controllers: &Controllers,
    mut request: ListRunsRequest,
    limit: usize,
) -> Result<ListRunsResponse, Error> {
    let mut client = controllers.runs().await?;
    let mut answer = ListRunsResponse::default();
    loop {
        let left = if limit == 0 { 500 } else { limit - answer.runs.len() };
        request.page_size = i32::try_from(left.min(500)).unwrap_or(500);
        let page = client.list_runs(request.clone()).await?.into_inner();
        answer.runs.extend(page.runs);
        request.page_token.clone_from(&page.next_page_token);
        answer.next_page_token = page.next_page_token;
        if answer.next_page_token.is_empty() || (limit > 0 && answer.runs.len() >= limit) {
            return Ok(answer);
        }
    }
}
