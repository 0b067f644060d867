//! `make bench`: Dunlin next to what people do without it, on this machine, in one run.
//!
//! Every contender works on an identical fresh copy of the same database (`CREATE DATABASE … TEMPLATE`), round after
//! round, so that a slow minute of the machine hits all of them; the figures are medians. Dunlin is measured as it is
//! used: a controller and agents as processes, from the call of `RunMigration` to the run's success, with registry,
//! leases and checkpoints.

mod contender;
mod control;
mod failover;
mod fleet;
mod measure;
mod report;
mod scenario;
mod shapes;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Why a measurement was not made.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Server(#[from] dunlin_shared::postgres::throwaway::Error),
    #[error("PostgreSQL: {}", dunlin_shared::postgres::describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    #[error("controller: {0}")]
    Controller(#[from] tonic::Status),
    #[error("controller: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Unexpected(String),
}

/// Measures Dunlin next to a single UPDATE and to a plain batch loop.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// Rows of the table with a bigint key; the other tables have half of them.
    #[arg(long, default_value_t = 2_000_000)]
    rows: u32,
    /// Rounds; the figures are medians over them.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How often a controller is killed, in each of two kinds of work.
    #[arg(long, default_value_t = 12)]
    kills: usize,
    /// Only these scenarios.
    #[arg(long, value_enum)]
    only: Vec<scenario::Name>,
}

/// What else is measured.
#[derive(Debug, Subcommand)]
enum Command {
    /// Measures the control plane: leases, idle agents, and how both grow.
    Control(control::Options),
    /// Measures statements of many shapes, next to themselves as one statement.
    Shapes(shapes::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let measured = match &options.command {
        None => scenario::run(&options).await,
        Some(Command::Control(options)) => control::run(options).await,
        Some(Command::Shapes(options)) => shapes::run(options).await,
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
