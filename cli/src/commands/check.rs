//! `dunlin check DIR`: validates a directory of migrations without a controller, all problems in one go.
//!
//! The JSON document is `{"migrations":[{"id","version","atomic","steps","checksum"}],"problems":[{"file","line",
//! "column","message","help"}],"warnings":[…]}`, the warnings in the shape of problems. Where there are problems, `migrations` is
//! empty and the exit code is 2; warnings change nothing about either.

use std::path::{Path, PathBuf};

use dunlin_shared::migration::Definition;
use dunlin_shared::migration::set::{self, Problem, ReadError, Set, SourceFile};
use serde::Serialize;

use crate::error::Error;
use crate::output::{Output, tell};
use crate::render::{Align, Cell, Columns, Look, problem, words};

/// The options of `dunlin check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the migrations
    #[arg(value_name = "DIR", default_value = "migrations")]
    dir: PathBuf,
}

/// The answer as JSON.
#[derive(Debug, Default, Serialize)]
struct Document {
    migrations: Vec<Checked>,
    problems: Vec<Found>,
    warnings: Vec<Found>,
}

#[derive(Debug, Serialize)]
struct Checked {
    id: String,
    version: i64,
    atomic: bool,
    steps: usize,
    checksum: String,
}

#[derive(Debug, Serialize)]
struct Found {
    file: String,
    line: u32,
    column: u32,
    message: String,
    help: Option<String>,
}

/// Validates and prints the order, or the problems.
pub(crate) fn execute(args: &Args, output: &Output) -> Result<(), Error> {
    let files = match set::read_dir(&args.dir) {
        Ok(files) => files,
        Err(ReadError::Problems(problems)) => return Err(refused(args, output, problems, &[])?),
        Err(error) => return Err(unreadable(&error)),
    };
    let set = match Set::parse_offline(&files) {
        Ok(set) => set,
        Err(problems) => return Err(refused(args, output, problems, &files)?),
    };
    if !output.json() {
        show(&args.dir, &set.warnings, &files);
    }
    let definitions: Vec<&Definition> = set.entries.iter().map(|entry| &entry.definition).collect();
    let document = Document {
        migrations: definitions.iter().map(|definition| checked(definition)).collect(),
        problems: Vec::new(),
        warnings: set.warnings.iter().cloned().map(found).collect(),
    };
    output.answer(&document, |look| {
        let count = words::plural(definitions.len(), "migration", "migrations");
        let warnings = match set.warnings.len() {
            0 => String::new(),
            some => format!(", {}", words::plural(some, "warning", "warnings")),
        };
        format!("{}\n{count}, no problems{warnings}", table(look, &definitions))
    })
}

/// Tells the problems, and gives what ends the command.
fn refused(args: &Args, output: &Output, problems: Vec<Problem>, files: &[SourceFile]) -> Result<Error, Error> {
    if output.json() {
        let (warnings, problems) = problems.into_iter().partition::<Vec<_>, _>(Problem::is_warning);
        let [problems, warnings] = [problems, warnings].map(|list| list.into_iter().map(found).collect());
        output.answer(&Document { migrations: Vec::new(), problems, warnings }, |_| String::new())?;
    } else {
        show(&args.dir, &problems, files);
    }
    Ok(Error::Problems)
}

/// Reads the files of a set; what is wrong with them is printed.
pub(super) fn read(dir: &Path) -> Result<Vec<SourceFile>, Error> {
    set::read_dir(dir).map_err(|error| match error {
        ReadError::Problems(problems) => {
            show(dir, &problems, &[]);
            Error::Problems
        }
        error => unreadable(&error),
    })
}

fn unreadable(error: &ReadError) -> Error {
    Error::Usage(format!("{error}\nName the directory of the migrations; `dunlin new ID` writes the first of them."))
}

/// Prints problems and warnings to standard error, with paths as seen from here; nothing where there are none.
pub(super) fn show(dir: &Path, problems: &[Problem], files: &[SourceFile]) {
    if problems.is_empty() {
        return;
    }
    let here = |path: &str| if path.is_empty() { String::new() } else { dir.join(path).display().to_string() };
    let problems: Vec<Problem> =
        problems.iter().map(|problem| Problem { file: here(&problem.file), ..problem.clone() }).collect();
    let files: Vec<SourceFile> =
        files.iter().map(|file| SourceFile { path: here(&file.path), content: file.content.clone() }).collect();
    let look = Look::of(&std::io::stderr());
    let warnings = problems.iter().filter(|problem| problem.is_warning()).count();
    let counts = [(problems.len() - warnings, "problem", "problems"), (warnings, "warning", "warnings")];
    let counts =
        counts.iter().filter(|(count, ..)| *count > 0).map(|(count, one, many)| words::plural(*count, one, many));
    let counts = counts.collect::<Vec<_>>().join(" and ");
    tell(&format!("{}\n\n{counts} in {}", problem::problems(&look, &problems, &files), dir.display()));
}

fn checked(definition: &Definition) -> Checked {
    Checked {
        id: definition.id.to_string(),
        version: definition.version.get(),
        atomic: definition.is_atomic(),
        steps: definition.steps.len(),
        checksum: definition.checksum().to_string(),
    }
}

fn found(problem: Problem) -> Found {
    let Problem { file, line, column, message, help, severity: _ } = problem;
    Found { file, line, column, message, help }
}

/// Definitions in the order in which they would run.
fn table(look: &Look, definitions: &[&Definition]) -> String {
    let mut table = Columns::new(
        look,
        &[("VERSION", Align::Right), ("MIGRATION", Align::Left), ("STEPS", Align::Left), ("RUN AFTER", Align::Left)],
    );
    for definition in definitions {
        let steps = definition.steps.len();
        let steps = if definition.is_atomic() { format!("{steps}, atomic") } else { steps.to_string() };
        let after: Vec<String> = definition.run_after.iter().map(ToString::to_string).collect();
        let after = if after.is_empty() { "-".to_owned() } else { after.join(", ") };
        table.row([Cell::new(definition.version), Cell::new(&definition.id), Cell::new(steps), Cell::new(after)]);
    }
    table.render()
}
