//! `dunlin new ID`: writes the file of a new migration, with the next free version and a comment for each field.
//!
//! The file is valid as it stands, so that `dunlin check` speaks only of what was written into it. An existing file is
//! never touched.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use dunlin_shared::ids::MigrationId;
use dunlin_shared::migration::Version;

use crate::error::Error;
use crate::output::Output;

/// What stands in a new file; `{id}`, `{name}`, `{version}` and `{run_after}` are filled in.
const TEMPLATE: &str = include_str!("new.toml");

/// The options of `dunlin new`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The id of the migration: lower-case letters, digits and '-'
    #[arg(value_name = "ID")]
    id: String,
    /// The directory of the migrations; made where there is none
    #[arg(long, short, value_name = "DIR", default_value = "migrations")]
    dir: PathBuf,
}

/// Writes the file.
pub(crate) fn execute(args: &Args, output: &Output) -> Result<(), Error> {
    let id = MigrationId::parse(&args.id).map_err(|error| Error::Usage(format!("{}: {error}", args.id)))?;
    let others = existing(&args.dir)?;
    if let Some(other) = others.iter().find(|other| other.id.as_deref() == Some(args.id.as_str())) {
        return Err(Error::Usage(format!(
            "{} has the migration {id} already: choose another id, or edit that file",
            other.path.display()
        )));
    }
    let last = others.iter().max_by_key(|other| other.version);
    let version = Version::new(last.map_or(0, |last| last.version).saturating_add(1));
    let version = version.map_err(|_| Error::Usage("there is no version left above the highest".to_owned()))?.get();
    let path = args.dir.join(format!("{id}.toml"));
    write(&path, &text(&id, version, last.and_then(|last| last.id.as_deref())))?;
    let answer = serde_json::json!({"id": id.to_string(), "version": version, "file": path.display().to_string()});
    output.answer(&answer, |_| {
        format!("Wrote {} (version {version}). Edit it, then: dunlin check {}", path.display(), args.dir.display())
    })
}

/// A definition that is there already, as far as it can be read.
struct Existing {
    path: PathBuf,
    id: Option<String>,
    version: i64,
}

/// The definitions of a directory. Those that cannot be read count as nothing: `dunlin check` is there to complain.
fn existing(dir: &Path) -> Result<Vec<Existing>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::Usage(format!("cannot read {}: {error}", dir.display()))),
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let definitions = paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    Ok(definitions
        .filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            one(path, &text)
        })
        .collect())
}

fn one(path: PathBuf, text: &str) -> Option<Existing> {
    let value = toml_span::parse(text).ok()?;
    let table = value.as_table()?;
    let id = table.get("id").and_then(|id| id.as_str()).map(str::to_owned);
    let version = table.get("version").and_then(|version| version.as_integer()).unwrap_or(0);
    Some(Existing { path, id, version })
}

fn text(id: &MigrationId, version: i64, after: Option<&str>) -> String {
    let id = id.to_string();
    let mut name = id.replace('-', " ");
    if let Some(first) = name.get(..1) {
        name.replace_range(..1, &first.to_uppercase());
    }
    let run_after = after.map_or_else(|| "[]".to_owned(), |after| format!("[\"{after}\"]"));
    TEMPLATE
        .replace("{id}", &id)
        .replace("{name}", &name)
        .replace("{version}", &version.to_string())
        .replace("{run_after}", &run_after)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    let file = made.and_then(|()| OpenOptions::new().write(true).create_new(true).open(path));
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            Error::Usage(format!("{} exists already and is left as it is: choose another id", path.display()))
        }
        _ => Error::Usage(format!("cannot write {}: {error}", path.display())),
    })
}

#[cfg(test)]
mod tests {
    use dunlin_shared::migration::set::{Set, SourceFile};

    use super::*;

    #[test]
    fn a_new_file_is_valid_as_it_stands() {
        let first = text(&MigrationId::parse("create-users").unwrap(), 1, None);
        let second = text(&MigrationId::parse("add-role").unwrap(), 2, Some("create-users"));
        let file = |path: &str, content: &str| SourceFile { path: path.to_owned(), content: content.to_owned() };
        let set = Set::parse(&[file("a.toml", &first), file("b.toml", &second)], &[]).unwrap();
        assert_eq!(set.entries[1].definition.id.to_string(), "add-role");
        assert_eq!(set.entries[1].definition.name, "Add role");
        assert_eq!(set.entries[1].definition.run_after.len(), 1);
    }
}
