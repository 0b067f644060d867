//! `dunlin dev`: everything on this machine, until Ctrl-C.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::dev::{Settings, Stack};
use crate::error::Error;
use crate::output::{Output, tell};
use crate::render::Look;

/// The options of `dunlin dev`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Use this PostgreSQL database, as the target `main` and for the controller, or the one whose URL is in a file; else a throwaway
    /// server is started
    #[arg(long, value_name = "URL|@FILE")]
    postgres: Option<String>,
    /// How many agents
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    agents: u16,
    /// How many tasks each agent works on at one time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    slots: u16,
    /// Where the controller listens; port 0 means any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7440")]
    listen: SocketAddr,
    /// Write DUNLIN_CONTROLLER, DATABASE_URL and PSQL to this file once everything is ready, for scripts to source
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Show the whole logs of controller and agents, not only warnings
    #[arg(long, short)]
    verbose: bool,
}

/// What runs, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ready {
    controller: String,
    database_url: String,
    logs: String,
    processes: Vec<Process>,
}

#[derive(Debug, Serialize)]
struct Process {
    name: String,
    pid: i32,
    log: String,
}

/// Starts everything, tells how to use it, and stops it at the end.
pub(crate) async fn execute(args: &Args, output: &Output) -> Result<(), Error> {
    let settings = Settings {
        postgres: args.postgres.clone(),
        agents: args.agents.into(),
        slots: args.slots.into(),
        listen: args.listen,
        verbose: args.verbose,
    };
    let mut stop = Stop::new()?;
    // Dropping a half-started stack stops what runs already.
    let mut stack = tokio::select! {
        stack = Stack::start(&settings) => stack?,
        () = stop.asked() => return Err(Error::Interrupted),
    };
    let outcome = serve(args, &mut stack, &mut stop, output).await;
    if let Some(file) = &args.env_file {
        let _gone_already = fs::remove_file(file);
    }
    if outcome.is_ok() {
        tell("Stopping: agents, controller, then PostgreSQL.");
    }
    tokio::select! {
        stopped = stack.stop() => stopped?,
        () = stop.asked() => return Err(Error::Interrupted),
    }
    outcome
}

async fn serve(args: &Args, stack: &mut Stack, stop: &mut Stop, output: &Output) -> Result<(), Error> {
    if let Some(file) = &args.env_file {
        write_env(file, stack)?;
    }
    output.answer(&ready(stack), |look| text(look, args, stack))?;
    tokio::select! {
        () = stop.asked() => Ok(()),
        error = stack.death() => Err(error),
    }
}

/// The signals that end everything.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|error| Error::Dev(format!("cannot listen to signals: {error}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Writes the variables, and only then gives the file its name: whoever sees it can read it whole.
fn write_env(file: &Path, stack: &Stack) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::Usage(format!("cannot write {}: {error}", file.display()));
    let url = match stack.database_url().strip_prefix('@') {
        Some(path) => fs::read_to_string(path).map_err(failed)?,
        None => stack.database_url().to_owned(),
    };
    let mut text = format!("DUNLIN_CONTROLLER='{}'\nDATABASE_URL='{}'\n", stack.controller_url(), url.trim());
    if let Some(psql) = stack.psql() {
        let _infallible = writeln!(text, "PSQL='{psql}'");
    }
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(dir).and_then(|mut temporary| {
        std::io::Write::write_all(&mut temporary, text.as_bytes())?;
        temporary.persist(file).map_err(|error| error.error)
    });
    written.map(|_| ()).map_err(failed)
}

fn ready(stack: &Stack) -> Ready {
    let processes =
        stack.children().map(|(name, pid, log)| Process { name: name.to_owned(), pid, log: log.display().to_string() });
    Ready {
        controller: stack.controller_url(),
        database_url: stack.shown_url().to_owned(),
        processes: processes.collect(),
        logs: stack.logs().display().to_string(),
    }
}

fn text(look: &Look, args: &Args, stack: &Stack) -> String {
    let controller = stack.controller_url();
    let mut text = format!(
        "{}\n\n  controller  {controller}\n  PostgreSQL  {}\n  processes   {}\n  logs        {}\n\n",
        look.bold("Dunlin is ready."),
        stack.shown_url(),
        stack.children().map(|(name, pid, _)| format!("{name} ({pid})")).collect::<Vec<_>>().join(", "),
        stack.logs().display(),
    );
    text.push_str("In another terminal:\n\n");
    if controller != "http://127.0.0.1:7440" {
        let _infallible = writeln!(text, "  export DUNLIN_CONTROLLER={controller}");
    }
    text.push_str("  dunlin new my-first-migration   # writes migrations/my-first-migration.toml\n");
    text.push_str("  dunlin register migrations\n  dunlin run --pending\n");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let psql = match stack.psql() {
        Some(psql) if !std::env::split_paths(&path).any(|place| place.join("psql").is_file()) => psql,
        _ => "psql".to_owned(),
    };
    if stack.shown_url().starts_with('@') {
        text.push('\n');
    } else {
        let _infallible = writeln!(text, "  {psql} '{}'\n", stack.shown_url());
    }
    text.push_str(if args.postgres.is_some() {
        "Ctrl-C stops controller and agents; the database stays."
    } else {
        "Ctrl-C stops everything and removes the database."
    });
    text
}
