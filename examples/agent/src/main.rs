//! An agent with a transform in code: it does all that `dunlin-agent` does, and `link-books-to-authors`.

mod link;
mod name;

use std::process::ExitCode;

use dunlin_agent::Options;

use crate::link::LinkBooks;

#[tokio::main]
async fn main() -> ExitCode {
    let builder = Options::read().builder();
    let agent = builder.and_then(|builder| builder.transform("link-books-to-authors", LinkBooks).build());
    dunlin_agent::serve(agent).await
}
