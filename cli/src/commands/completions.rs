//! `dunlin completions SHELL`: the completion script of a shell, for example
//! `dunlin completions bash > /etc/bash_completion.d/dunlin`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::error::Error;
use crate::output::print;

/// The options of `dunlin completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub(crate) fn execute(args: &Args) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dunlin", &mut script);
    print(&String::from_utf8_lossy(&script))
}
