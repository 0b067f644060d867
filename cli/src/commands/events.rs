//! `dunlin events [RUN]`: the history. The newest events are asked for, and printed as one reads a log: the newest last.

use dunlin_proto::v1::{Event, ListEventsRequest, ListEventsResponse};
use dunlin_shared::figures::length;

use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;
use crate::render::progress::{self, Scope};
use crate::render::{Align, Cell, Columns, Look, count, time_or, words};

/// The options of `dunlin events`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only events of this run
    #[arg(value_name = "RUN", value_parser = clap::value_parser!(i64).range(1..))]
    run: Option<i64>,
    /// Only events of this target
    #[arg(long, short, value_name = "NAME", default_value = "", hide_default_value = true)]
    target: String,
    /// Only events of this migration
    #[arg(long, short, value_name = "ID", default_value = "", hide_default_value = true)]
    migration: String,
    /// At most this many, the newest; 0 means all
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Show also how the work is done inside, such as the order of batches
    #[arg(long, short)]
    verbose: bool,
}

/// Asks and prints.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let request = ListEventsRequest {
        run_id: args.run.unwrap_or(0),
        target: args.target.clone(),
        migration_id: args.migration.clone(),
        page_size: 0,
        page_token: String::new(),
        newest_first: true,
    };
    let scope = Scope { verbose: args.verbose, ..Scope::default() };
    let answer = page(controllers, request, args.limit, scope).await?;
    output.answer(&answer, |look| {
        if answer.events.is_empty() {
            return "There are no such events.".to_owned();
        }
        let mut text = String::new();
        if !answer.next_page_token.is_empty() {
            text = format!("(the newest {}; --limit 0 shows all)\n", count(length(answer.events.len())));
        }
        text + &table(look, &answer.events)
    })
}

async fn page(
    controllers: &Controllers,
    mut request: ListEventsRequest,
    limit: usize,
    scope: Scope,
) -> Result<ListEventsResponse, Error> {
    let mut client = controllers.runs().await?;
    let mut answer = ListEventsResponse::default();
    loop {
        let left = if limit == 0 { 1_000 } else { limit - answer.events.len() };
        request.page_size = i32::try_from(left.min(1_000)).unwrap_or(1_000);
        let page = client.list_events(request.clone()).await?.into_inner();
        answer.events.extend(page.events.into_iter().filter(|event| progress::shown(event, scope)));
        request.page_token.clone_from(&page.next_page_token);
        answer.next_page_token = page.next_page_token;
        if answer.next_page_token.is_empty() || (limit > 0 && answer.events.len() >= limit) {
            answer.events.reverse();
            return Ok(answer);
        }
    }
}

/// Events, one to a row.
fn table(look: &Look, events: &[Event]) -> String {
    let mut table = Columns::new(
        look,
        &[("TIME", Align::Left), ("RUN", Align::Right), ("EVENT", Align::Left), ("WHAT HAPPENED", Align::Left)],
    );
    for event in events {
        let run = if event.run_id == 0 { "-".to_owned() } else { event.run_id.to_string() };
        let kind = Cell::new(words::event_type(event.r#type()));
        let kind = match words::severity_colour(event.severity()) {
            Some(colour) => kind.fg(colour),
            None => kind,
        };
        table.row([
            Cell::new(time_or(look, event.create_time.as_ref(), "-")),
            Cell::new(run),
            kind,
            Cell::new(progress::subject(event)),
        ]);
    }
    table.render()
}
