//! The program `dunlin-agent`: the agent with what every definition needs, and no transforms in code.

use std::process::ExitCode;

use dunlin_agent::{Builder, Options};

#[tokio::main]
async fn main() -> ExitCode {
    dunlin_agent::serve(Options::read().builder().and_then(Builder::build)).await
}
