//! `dunlin version`: the schema version of a target, and from when that is known.

use dunlin_proto::v1::{GetSchemaVersionRequest, GetSchemaVersionResponse};

use crate::args::Target;
use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;
use crate::render::{Look, time_or};

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
    // The document of a target that is reached is its version and nothing else: it is that of this moment.
    let known = GetSchemaVersionResponse { report_time: None, ..answer.clone() };
    output.answer(if answer.unreached.is_none() { &known } else { &answer }, |look| text(look, &answer))?;
    unreached(answer.unreached.as_deref())
}

/// That no agent reaches the target is an error of whoever asks how it is now, whatever the last report says.
pub(super) fn unreached(why: Option<&str>) -> Result<(), Error> {
    let Some(why) = why else { return Ok(()) };
    Err(Error::Unreachable(format!("{why}. What the target has now cannot be known.")))
}

fn text(look: &Look, answer: &GetSchemaVersionResponse) -> String {
    let target = &answer.target;
    if answer.report_time.is_none() {
        return format!("The schema version of {target} is not known: no agent has ever reached it");
    }
    let when = time_or(look, answer.report_time.as_ref(), "-");
    let verb = if answer.unreached.is_none() { ("is", "has") } else { ("was", "had") };
    match answer.version {
        0 => format!("{target} {} no migrations applied (version 0; reported {when})", verb.1),
        version => format!("{target} {} at schema version {version} (reported {when})", verb.0),
    }
}

#[cfg(test)]
mod tests {
    use pbjson_types::Timestamp;

    use super::*;

    #[test]
    fn a_version_says_from_when_it_is() {
        let mut answer = GetSchemaVersionResponse {
            target: "main".to_owned(),
            version: 5,
            report_time: Some(Timestamp { seconds: 1_795_439_563, nanos: 0 }),
            unreached: None,
        };
        let look = Look::plain(None);
        assert_eq!(text(&look, &answer), "main is at schema version 5 (reported 2026-11-23 13:12:43+00)");
        answer.unreached = Some("no connected agent serves target main".to_owned());
        assert_eq!(text(&look, &answer), "main was at schema version 5 (reported 2026-11-23 13:12:43+00)");
        answer.report_time = None;
        assert_eq!(text(&look, &answer), "The schema version of main is not known: no agent has ever reached it");
    }
}
