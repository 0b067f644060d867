//! The program `dunlin-agent`: the agent with what every definition needs, and no transforms in code.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dunlin_agent::{Agent, Error, Limits, shutdown_signal};

/// Works on the tasks that Dunlin's controllers lease, inside the target databases.
#[derive(Debug, Parser)]
#[command(name = "dunlin-agent", version)]
struct Options {
    /// The URLs of the controllers, separated by commas; whichever answers is used
    #[arg(long, env = "DUNLIN_CONTROLLER", value_name = "URL[,URL...]", default_value = "http://127.0.0.1:7440")]
    controller: String,

    /// A target: a name for a database and the URL under which this agent reaches it; can be given several times, in
    /// DUNLIN_TARGET separated by white space
    #[arg(long, env = "DUNLIN_TARGET", value_name = "NAME=URL", required = true, hide_env_values = true)]
    target: Vec<String>,

    /// How many tasks are worked on at one time
    #[arg(long, env = "DUNLIN_SLOTS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    slots: u16,

    /// The agent's id, unique among all agents [default: the host's name and a random suffix]
    #[arg(long, env = "DUNLIN_AGENT_ID")]
    id: Option<String>,

    /// How long a statement may wait for a lock; 0s: without end
    #[arg(long, env = "DUNLIN_LOCK_TIMEOUT", default_value = "5s", value_parser = humantime::parse_duration)]
    lock_timeout: Duration,

    /// How long a statement may run; 0s: without end
    #[arg(long, env = "DUNLIN_STATEMENT_TIMEOUT", default_value = "0s", value_parser = humantime::parse_duration)]
    statement_timeout: Duration,
}

/// What is wrong with the options.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("a target is written as NAME=URL, such as main=postgres://app@localhost/app")]
    Target,
    #[error(transparent)]
    Agent(#[from] Error),
}

fn build(options: Options) -> Result<Agent, Wrong> {
    let mut builder = Agent::builder()
        .controller(options.controller)
        .slots(options.slots)
        .limits(Limits { lock_timeout: options.lock_timeout, statement_timeout: options.statement_timeout });
    for target in options.target.iter().flat_map(|targets| targets.split_whitespace()) {
        let (name, url) = target.split_once('=').ok_or(Wrong::Target)?;
        builder = builder.target(name, url);
    }
    if let Some(id) = options.id {
        builder = builder.id(id);
    }
    Ok(builder.build()?)
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    dunlin_shared::telemetry::init("dunlin-agent");
    let agent = match build(options) {
        Ok(agent) => agent,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    tracing::info!(agent = %agent.id(), version = env!("CARGO_PKG_VERSION"), "agent started");
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let running = agent.run(async {
        shutdown_signal().await;
        let _gone = stop.send(());
    });
    let second = async {
        match stopped.await {
            Ok(()) => shutdown_signal().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = running => ExitCode::SUCCESS,
        () = second => {
            tracing::warn!("a second signal: stopping at once");
            ExitCode::from(130)
        }
    }
}
