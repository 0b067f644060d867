//! `dunlin register DIR`: puts a directory of migrations into the registry: all, or none when there is a problem.
//!
//! The controller validates; it knows what is registered already. What it finds is shown with the lines of the files here.
//! What others have registered is neither taken back nor left to run by accident: unless told what to do with it, the
//! controller refuses a set in which it is missing.

use std::path::PathBuf;

use comfy_table::Color;
use dunlin_proto::status::Details;
use dunlin_proto::v1::{
    DefinitionFile, HeldRevision, MissingPolicy, RegisterMigrationsRequest, RegisterMigrationsResponse,
    RegisterOutcome, RegisteredMigration,
};
use dunlin_shared::figures::length;
use dunlin_shared::migration::set::{Problem, Severity};
use tonic::{Code, Status};

use crate::connection::Controllers;
use crate::error::Error;
use crate::operator;
use crate::output::{Output, tell};
use crate::render::{Align, Cell, Columns, Look, count, words};

/// The options of `dunlin register`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the migrations
    #[arg(value_name = "DIR", default_value = "migrations")]
    dir: PathBuf,
    /// Let the controller validate, but register nothing
    #[arg(long)]
    dry_run: bool,
    /// Take back what is registered, applied nowhere, and not in DIR: the directory is all there is
    #[arg(long, conflicts_with = "add")]
    withdraw: bool,
    /// Leave alone what is registered, applied nowhere, and not in DIR: others register, too
    #[arg(long)]
    add: bool,
    /// Let the migration ID do something else on targets that do not have it; those that have it keep what they have
    #[arg(long, value_name = "ID", requires = "reason")]
    amend: Vec<String>,
    /// Why migrations are amended; kept in the history
    #[arg(long, value_name = "TEXT", requires = "amend")]
    reason: Option<String>,
}

/// Registers and tells what became of each.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let files = super::check::read(&args.dir)?;
    let request = RegisterMigrationsRequest {
        files: files
            .iter()
            .map(|file| DefinitionFile { path: file.path.clone(), content: file.content.clone() })
            .collect(),
        validate_only: args.dry_run,
        missing: match (args.withdraw, args.add) {
            (true, _) => MissingPolicy::Withdraw,
            (_, true) => MissingPolicy::Add,
            (false, false) => MissingPolicy::Unspecified,
        }
        .into(),
        amend: args.amend.clone(),
        reason: args.reason.clone().unwrap_or_default(),
        registered_by: operator::stated(),
    };
    match controllers.registry().await?.register_migrations(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            if !output.json() {
                super::check::show(&args.dir, &warnings(&answer), &files);
            }
            output.answer(&answer, |look| text(look, &answer, args.dry_run))
        }
        Err(status) => match problems(&status) {
            Some(problems) => {
                super::check::show(&args.dir, &problems, &files);
                tell("Nothing was registered.");
                Err(Error::Problems)
            }
            None => Err(status.into()),
        },
    }
}

/// The warnings of a controller.
fn warnings(answer: &RegisterMigrationsResponse) -> Vec<Problem> {
    let number = |number: i32| u32::try_from(number).unwrap_or_default();
    let warnings = answer.warnings.iter().map(|warning| Problem {
        file: warning.file.clone(),
        line: number(warning.line),
        column: number(warning.column),
        message: warning.message.clone(),
        help: (!warning.help.is_empty()).then(|| warning.help.clone()),
        severity: Severity::Warning,
    });
    warnings.collect()
}

/// The problems that a controller found in the files. None when it refused for another reason.
fn problems(status: &Status) -> Option<Vec<Problem>> {
    if status.code() != Code::InvalidArgument {
        return None;
    }
    let problems: Vec<Problem> = Details::of(status)
        .fields
        .into_iter()
        .map(|violation| {
            let mut parts = violation.field.rsplitn(3, ':');
            let column = parts.next().and_then(|column| column.parse().ok());
            let line = parts.next().and_then(|line| line.parse().ok());
            let file = parts.next().map(str::to_owned);
            // Without a line it is about the set as a whole.
            Problem {
                file: file.unwrap_or_default(),
                line: line.unwrap_or(0),
                column: column.unwrap_or(0),
                message: violation.description,
                help: None,
                severity: Severity::Error,
            }
        })
        .collect();
    (!problems.is_empty()).then_some(problems)
}

fn text(look: &Look, answer: &RegisterMigrationsResponse, dry_run: bool) -> String {
    let mut table =
        Columns::new(look, &[("VERSION", Align::Right), ("MIGRATION", Align::Left), ("OUTCOME", Align::Left)]);
    for migration in answer.migrations.iter().chain(&answer.withdrawn) {
        let outcome = Cell::new(words::outcome(migration.outcome()));
        let outcome = match migration.outcome() {
            RegisterOutcome::Registered => outcome.fg(Color::Green),
            RegisterOutcome::Changed
            | RegisterOutcome::Reworded
            | RegisterOutcome::Amended
            | RegisterOutcome::Withdrawn => outcome.fg(Color::Yellow),
            RegisterOutcome::Unchanged | RegisterOutcome::Unspecified => outcome,
        };
        table.row([Cell::new(migration.version), Cell::new(&migration.id), outcome]);
    }
    let all = || answer.migrations.iter().chain(&answer.withdrawn);
    let how_many = |outcome| all().map(RegisteredMigration::outcome).filter(|other| *other == outcome).count();
    let number = |outcome| count(length(how_many(outcome)));
    let mut summary = format!(
        "{} registered, {} changed, {} unchanged",
        number(RegisterOutcome::Registered),
        number(RegisterOutcome::Changed),
        number(RegisterOutcome::Unchanged)
    );
    for outcome in [RegisterOutcome::Reworded, RegisterOutcome::Amended, RegisterOutcome::Withdrawn] {
        if how_many(outcome) > 0 {
            summary.push_str(&format!(", {} {}", number(outcome), words::outcome(outcome)));
        }
    }
    let mut notes = String::new();
    for migration in all().filter(|one| one.outcome() == RegisterOutcome::Amended) {
        notes.push_str(&format!(
            "\n{} is revision {} now, for targets that do not have it. {}.",
            migration.id,
            migration.revision,
            kept(&migration.kept)
        ));
    }
    for run in &answer.cancelled_runs {
        notes.push_str(&format!("\nOn {}, {}.", run.target, run.message));
    }
    let summary =
        if dry_run { format!("Only a trial, nothing was registered; it would be: {summary}") } else { summary };
    format!("{}\n{summary}{notes}", table.render())
}

/// `staging keeps revision 1`, `staging and 3 others keep what they have`.
fn kept(kept: &[HeldRevision]) -> String {
    match kept {
        [] => "No target has it".to_owned(),
        [one] if one.revision > 0 => format!("{} keeps revision {}", one.target, one.revision),
        [one] => format!("{} keeps what it has", one.target),
        [first, rest @ ..] => {
            format!("{} and {} keep what they have", first.target, words::plural(rest.len(), "other", "others"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_problem_is_read_from_its_field() {
        let status = dunlin_proto::status::invalid("X", "1 problem", [("a/b.toml:3:14", "unknown field")]);
        let problems = problems(&status).unwrap();
        assert_eq!((problems[0].file.as_str(), problems[0].line, problems[0].column), ("a/b.toml", 3, 14));
    }
}
