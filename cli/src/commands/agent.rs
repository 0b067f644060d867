//! `dunlin agent`: what an operator says about agents.

use super::forget;
use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;

/// The options of `dunlin agent`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to do
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Forget agents that are not connected. Those that were gone for 7 days are forgotten without being named
    Forget(Forget),
}

/// The options of `dunlin agent forget`.
#[derive(Debug, clap::Args)]
struct Forget {
    /// The ids of the agents
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// Does what the subcommand says.
pub(crate) async fn execute(args: Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    match args.command {
        Command::Forget(args) => forget::agents(&args.ids, controllers, output).await,
    }
}
