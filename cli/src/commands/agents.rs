//! `dunlin agents`: the agents, whether they are connected, and what they serve.

use comfy_table::Color;
use dunlin_proto::v1::{Agent, ListAgentsRequest, ListAgentsResponse};

use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;
use crate::render::{Align, Cell, Columns, Look, time_or};

/// The options of `dunlin agents`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only agents that serve this target
    #[arg(long, short, value_name = "NAME", default_value = "", hide_default_value = true)]
    target: String,
}

/// Asks and prints.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let agents = all(controllers, &args.target).await?;
    let answer = ListAgentsResponse { agents, next_page_token: String::new() };
    output.answer(&answer, |look| {
        if answer.agents.is_empty() {
            return "There are no agents. Start one: dunlin-agent --controller URL --target NAME=URL".to_owned();
        }
        table(look, &answer.agents)
    })
}

/// All agents of a target, or of all targets.
pub(super) async fn all(controllers: &Controllers, target: &str) -> Result<Vec<Agent>, Error> {
    let mut client = controllers.fleet().await?;
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAgentsRequest { target: target.to_owned(), page_size: 1_000, page_token };
        let page = client.list_agents(request).await?.into_inner();
        agents.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(agents);
        }
    }
}

/// Agents, one to a row.
pub(super) fn table(look: &Look, agents: &[Agent]) -> String {
    let mut table = Columns::new(
        look,
        &[
            ("AGENT", Align::Left),
            ("STATE", Align::Left),
            ("BUSY", Align::Right),
            ("SLOTS", Align::Right),
            ("TARGETS", Align::Left),
            ("LAST SEEN", Align::Left),
            ("TRANSFORMS", Align::Left),
        ],
    );
    for agent in agents {
        let state =
            if agent.connected { Cell::new("connected").fg(Color::Green) } else { Cell::new("away").fg(Color::Yellow) };
        let transforms = if agent.transforms.is_empty() { "-".to_owned() } else { agent.transforms.join(", ") };
        table.row([
            Cell::new(&agent.id),
            state,
            Cell::new(agent.leases),
            Cell::new(agent.slots),
            Cell::new(agent.targets.join(", ")),
            Cell::new(time_or(look, agent.last_seen_time.as_ref(), "-")),
            Cell::new(transforms),
        ]);
    }
    table.render()
}
