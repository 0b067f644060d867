//! `dunlin targets`: the databases that agents can reach, and where each stands.

use comfy_table::Color;
use dunlin_proto::v1::{ListTargetsRequest, ListTargetsResponse, Target};

use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;
use crate::render::{Align, Cell, Columns, Look, count, time_or};

/// The options of `dunlin targets`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Asks and prints.
pub(crate) async fn execute(_args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let answer = ListTargetsResponse { targets: all(controllers).await?, next_page_token: String::new() };
    output.answer(&answer, |look| {
        if answer.targets.is_empty() {
            return "There are no targets. An agent brings them: dunlin-agent --controller URL --target NAME=URL"
                .to_owned();
        }
        table(look, &answer.targets)
    })
}

/// All targets.
pub(super) async fn all(controllers: &Controllers) -> Result<Vec<Target>, Error> {
    let mut client = controllers.fleet().await?;
    let mut targets = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client.list_targets(ListTargetsRequest { page_size: 1_000, page_token }).await?.into_inner();
        targets.extend(page.targets);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(targets);
        }
    }
}

fn table(look: &Look, targets: &[Target]) -> String {
    let mut table = Columns::new(
        look,
        &[
            ("TARGET", Align::Left),
            ("VERSION", Align::Right),
            ("APPLIED", Align::Right),
            ("PENDING", Align::Right),
            ("AGENTS", Align::Right),
            ("POSTGRESQL", Align::Left),
            ("REPORTED", Align::Left),
            ("STATE", Align::Left),
        ],
    );
    for target in targets {
        table.row([
            Cell::new(&target.name),
            Cell::new(target.version),
            Cell::new(count(target.applied)),
            Cell::new(count(target.pending)),
            Cell::new(target.agents),
            Cell::new(if target.server_version.is_empty() { "-" } else { &target.server_version }),
            Cell::new(time_or(look, target.report_time.as_ref(), "-")),
            state(target),
        ]);
    }
    table.render()
}

fn state(target: &Target) -> Cell {
    if target.agents == 0 {
        Cell::new("no agent").fg(Color::Yellow)
    } else if !target.refusal.is_empty() {
        Cell::new(format!("refused: {}", target.refusal)).fg(Color::Red)
    } else if target.reachable {
        Cell::new("reachable").fg(Color::Green)
    } else if target.error.is_empty() {
        Cell::new("not seen yet").fg(Color::Yellow)
    } else {
        Cell::new(format!("unreachable: {}", target.error)).fg(Color::Red)
    }
}
