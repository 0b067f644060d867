//! From the command line to the command.

use crate::args::{Cli, Command};
use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;

/// Executes what the command line asks for.
pub(crate) async fn execute(cli: Cli) -> Result<(), Error> {
    let output = Output::new(cli.global.output);
    let controllers = Controllers::new(cli.global.controller);
    match cli.command {
        Command::Dev(args) => super::dev::execute(&args, &output).await,
        Command::Wait(args) => super::wait::execute(&args, &controllers, &output).await,
        Command::New(args) => super::new::execute(&args, &output),
        Command::Check(args) => super::check::execute(&args, &output),
        Command::Register(args) => super::register::execute(&args, &controllers, &output).await,
        Command::Plan(args) => super::plan::execute(&args, &controllers, &output).await,
        Command::Run(args) => super::run::execute(&args, &controllers, &output).await,
        Command::Status(args) => super::status::execute(&args, &controllers, &output).await,
        Command::Version(args) => super::version::execute(&args, &controllers, &output).await,
        Command::List(args) => super::list::execute(&args, &controllers, &output).await,
        Command::Show(args) => super::show::execute(&args, &controllers, &output).await,
        Command::Cancel(args) => super::cancel::execute(&args, &controllers, &output).await,
        Command::Runs(args) => super::runs::execute(&args, &controllers, &output).await,
        Command::Watch(args) => super::watch::execute(&args, &controllers, &output).await,
        Command::Events(args) => super::events::execute(&args, &controllers, &output).await,
        Command::Agent(args) => super::agent::execute(args, &controllers, &output).await,
        Command::Agents(args) => super::agents::execute(&args, &controllers, &output).await,
        Command::Target(args) => super::target::execute(args, &controllers, &output).await,
        Command::Targets(args) => super::targets::execute(&args, &controllers, &output).await,
        Command::Completions(args) => super::completions::execute(&args),
    }
}
