//! `dunlin`, the operator's command: reads the command line, does one thing, and ends with an exit code.
//!
//! What is asked for goes to standard output, everything else (progress, warnings, errors) to standard error, so that the
//! output can be piped and, with `--output json`, is one document and nothing else. Whatever goes wrong is an
//! [`error::Error`], and one match there gives the exit code.

mod args;
mod commands;
mod connection;
mod dev;
mod error;
mod follow;
mod operator;
mod output;
mod render;

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match commands::execute(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.to_string();
            if !text.is_empty() {
                output::tell(&render::error_line(&text));
            }
            ExitCode::from(error.exit_code())
        }
    }
}
