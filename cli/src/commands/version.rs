//! `dunlin version`: the schema version of a target.

use dunlin_proto::v1::GetSchemaVersionRequest;

use crate::args::Target;
use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;

/// The options of `dunlin version`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
}

/// Asks and prints.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let request = GetSchemaVersionRequest { target: args.target.target.clone() };
    let answer = controllers.registry().await?.get_schema_version(request).await?.into_inner();
    output.answer(&answer, |_| match answer.version {
        0 => format!("{} has no migrations applied (version 0)", answer.target),
        version => format!("{} is at schema version {version}", answer.target),
    })
}
