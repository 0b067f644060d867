//! `dunlin target`: what an operator says about one target.

use dunlin_proto::v1::{RebindKind, RebindTargetRequest};

use super::grants;
use crate::connection::Controllers;
use crate::error::Error;
use crate::operator;
use crate::output::Output;

use super::forget;

/// The options of `dunlin target`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to do
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say what the database is that agents see as a target, where it is not the one of before: nothing runs on it until then
    Rebind(Rebind),
    /// Forget targets that no connected agent serves: their runs and what is known of their registries. The databases are not touched
    Forget(Forget),
    /// Print the SQL that gives a role what an agent needs in a database; nothing is executed
    Grants(grants::Args),
}

/// The options of `dunlin target rebind`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("kind").required(true))]
struct Rebind {
    /// The target
    #[arg(value_name = "TARGET")]
    target: String,
    /// It is the target, at another place: moved by pg_upgrade, by dump and restore, or to another server
    #[arg(long, group = "kind")]
    moved: bool,
    /// It is the target, put back to an earlier state
    #[arg(long, group = "kind")]
    restored: bool,
    /// It is a copy of the target (a clone, a standby that was promoted), and is the target from now on, with an identity of its own
    #[arg(long, group = "kind")]
    copied: bool,
    /// It is another database, and is the target from now on
    #[arg(long, group = "kind")]
    replaced: bool,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// The options of `dunlin target forget`.
#[derive(Debug, clap::Args)]
struct Forget {
    /// The targets
    #[arg(value_name = "TARGET", required = true)]
    targets: Vec<String>,
    /// Why, for the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// Does what the subcommand says.
pub(crate) async fn execute(args: Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    match args.command {
        Command::Rebind(args) => rebind(args, controllers, output).await,
        Command::Forget(args) => forget::targets(&args.targets, &args.reason, controllers, output).await,
        Command::Grants(args) => grants::execute(&args, output),
    }
}

async fn rebind(args: Rebind, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let kind = match (args.moved, args.restored, args.copied) {
        (true, ..) => RebindKind::Moved,
        (_, true, _) => RebindKind::Restored,
        (.., true) => RebindKind::Copied,
        _ => RebindKind::Replaced,
    };
    let target = args.target.clone();
    let request = RebindTargetRequest {
        target: args.target,
        kind: kind.into(),
        reason: args.reason,
        requested_by: operator::stated(),
    };
    let answer = controllers.fleet().await?.rebind_target(request).await?.into_inner();
    output.answer(&answer, |_| format!("Target {target} is {} from now on.", answer.place))
}
