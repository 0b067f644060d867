//! `dunlin check DIR`: validates a directory of migrations without a controller, all problems in one go.
//!
//! The JSON document is `{"migrations":[{"id","version","atomic","steps","checksum"}],"problems":[{"file","line",
//! "column","message","help"}]}`; where there are problems, `migrations` is empty and the exit code is 2.

use std::path::{Path, PathBuf};

use comfy_table::Cell;
use dunlin_shared::migration::Definition;
use dunlin_shared::migration::set::{self, Problem, Set, SourceFile};
use serde::Serialize;

use crate::error::Error;
use crate::output::{Output, tell};
use crate::render::{Align, Columns, Look, problem, words};

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
}

#[derive(Debug, Serialize)]
struct Checked {
    id: String,
    version: i32,
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
    let files = read(&args.dir)?;
    match Set::parse(&files, &[]) {
        Ok(set) => {
            let definitions: Vec<&Definition> = set.entries.iter().map(|entry| &entry.definition).collect();
            let document = Document {
                migrations: definitions.iter().map(|definition| checked(definition)).collect(),
                problems: Vec::new(),
            };
            output.answer(&document, |look| {
                let count = words::plural(definitions.len(), "migration", "migrations");
                format!("{}\n{count}, no problems", table(look, &definitions))
            })
        }
        Err(problems) => {
            if output.json() {
                let problems = problems.into_iter().map(found).collect();
                output.answer(&Document { migrations: Vec::new(), problems }, |_| String::new())?;
            } else {
                show(&args.dir, &problems, &files);
            }
            Err(Error::Problems)
        }
    }
}

/// Reads the files of a set.
pub(super) fn read(dir: &Path) -> Result<Vec<SourceFile>, Error> {
    set::read_dir(dir).map_err(|error| {
        Error::Usage(format!(
            "{error}\nName the directory of the migrations; `dunlin new ID` writes the first of them."
        ))
    })
}

/// Prints problems to standard error, with paths as seen from here.
pub(super) fn show(dir: &Path, problems: &[Problem], files: &[SourceFile]) {
    let here = |path: &str| if path.is_empty() { String::new() } else { dir.join(path).display().to_string() };
    let problems: Vec<Problem> =
        problems.iter().map(|problem| Problem { file: here(&problem.file), ..problem.clone() }).collect();
    let files: Vec<SourceFile> =
        files.iter().map(|file| SourceFile { path: here(&file.path), content: file.content.clone() }).collect();
    let look = Look::of(&std::io::stderr());
    let count = words::plural(problems.len(), "problem", "problems");
    tell(&format!("{}\n\n{count} in {}", problem::problems(&look, &problems, &files), dir.display()));
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
    let Problem { file, line, column, message, help } = problem;
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
