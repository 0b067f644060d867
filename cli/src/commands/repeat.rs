//! Before an applied migration is repeated: steps that do not say that they may be are asked about.
//!
//! `balance = balance * 100` twice is 10,000. A definition says `idempotent = true` where that cannot happen; where it does not, a
//! person says yes at a terminal, or a script says `--yes`.

use std::io::{self, BufRead, IsTerminal, Write};

use dunlin_proto::v1::GetMigrationRequest;

use crate::connection::Controllers;
use crate::error::Error;
use crate::output::tell;

/// Asks whether a migration may be repeated, where it is applied and has steps that do not say so.
///
/// # Errors
/// Nobody has said yes, or the controller does not answer.
pub(crate) async fn confirm(id: &str, target: &str, controllers: &Controllers) -> Result<(), Error> {
    let request = GetMigrationRequest { id: id.to_owned(), ..GetMigrationRequest::default() };
    let answer = controllers.registry().await?.get_migration(request).await?.into_inner();
    let steps: Vec<String> = answer
        .migration
        .iter()
        .flat_map(|migration| &migration.steps)
        .filter(|step| !step.idempotent)
        .map(|step| format!("{:?}", step.name))
        .collect();
    if steps.is_empty() || !answer.applied.iter().any(|applied| applied.target == target) {
        return Ok(());
    }
    let noun = if steps.len() == 1 { "This step does" } else { "These steps do" };
    let what = format!(
        "{id} is applied on {target} and would be carried out a second time. {noun} not say `idempotent = true`: {}",
        steps.join(", ")
    );
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Error::Refused(format!(
            "{what}.\nWhere they may be repeated, say `--yes`; where they always may, write `idempotent = true` into them."
        )));
    }
    tell(&format!("{what}."));
    if said_yes()? { Ok(()) } else { Err(Error::Refused("Nothing was started.".to_owned())) }
}

fn said_yes() -> Result<bool, Error> {
    let mut stderr = io::stderr().lock();
    let asked = write!(stderr, "Repeat them? [y/N] ").and_then(|()| stderr.flush());
    asked.map_err(Error::Output)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Error::Output)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
