//! The command line as a whole: what holds for every command, and which commands there are. The options of a command
//! stand in its own file below [`crate::commands`].

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands;

/// The end of `dunlin --help`.
const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    a migration failed or was cancelled; for `dev`: something it runs has died
  2    wrong usage, or a problem in a definition
  3    no controller can be reached, or it cannot answer now, or no agent reaches the target
  4    refused: something else has to be done first
  130  ended by Ctrl-C; a run that was watched goes on";

/// The heading of what holds for every command.
const GLOBAL: &str = "Options of every command";

/// Brings PostgreSQL databases to their next schema version.
#[derive(Debug, Parser)]
#[command(name = "dunlin", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What holds for every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the controllers are: one URL, or several with commas; the first that answers is used
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "DUNLIN_CONTROLLER",
        value_name = "URL[,URL...]",
        default_value = "http://127.0.0.1:7440"
    )]
    pub(crate) controller: String,
    /// How to print the answer: json is one compact document (protobuf JSON)
    #[arg(long, short, global = true, help_heading = GLOBAL, env = "DUNLIN_OUTPUT", value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// How to print the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// The target of commands that are about one.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The database, by the name that agents give it
    #[arg(long, short, value_name = "NAME", default_value = "main")]
    pub(crate) target: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything on this machine: PostgreSQL (a throwaway one unless given), controller and agents
    Dev(commands::dev::Args),
    /// Wait until a controller answers and an agent serves the target
    Wait(commands::wait::Args),
    /// Write the file of a new migration
    New(commands::new::Args),
    /// Validate a directory of migrations, offline
    Check(commands::check::Args),
    /// Put a directory of migrations into the registry, all or none (--amend accepts another text of an applied one,
    /// --withdraw takes back what is missing)
    Register(commands::register::Args),
    /// Show what would run, in which order, and what each migration waits for
    Plan(commands::plan::Args),
    /// Run what is pending, or one migration, and follow it to its end
    Run(commands::run::Args),
    /// Show where a target stands
    Status(commands::status::Args),
    /// Show the schema version of a target
    Version(commands::version::Args),
    /// Show the registered migrations
    List(commands::list::Args),
    /// Show one migration
    Show(commands::show::Args),
    /// Cancel a run that has not begun, and what waits for it
    Cancel(commands::cancel::Args),
    /// Show runs, newest first
    Runs(commands::runs::Args),
    /// Follow runs to their end
    Watch(commands::watch::Args),
    /// Show the history, oldest first
    Events(commands::events::Args),
    /// Show the agents
    Agents(commands::agents::Args),
    /// Let an agent be forgotten: dunlin agent forget ID
    Agent(commands::agent::Args),
    /// Say what a target is: dunlin target rebind TARGET, where its database is another than before; dunlin target forget TARGET, where
    /// it is gone
    Target(commands::target::Args),
    /// Show the databases that agents can reach
    Targets(commands::targets::Args),
    /// Print the completion script of a shell
    Completions(commands::completions::Args),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
