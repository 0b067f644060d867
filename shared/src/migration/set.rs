//! Sets of definitions: the files of a directory, read and checked together.
//!
//! A set is good as a whole or not at all, and whoever wrote it is told everything that is wrong in one go.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use super::definition::{Definition, Version};
use super::place::SqlPlace;
use super::position::Source;
use super::{document, limits, together};
use crate::ids::MigrationId;

/// A file of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The path relative to the directory of the set, with `/` between its parts.
    pub path: String,
    /// The text.
    pub content: String,
}

/// A migration that is registered already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub id: MigrationId,
    /// Its version.
    pub version: Version,
}

/// What a definition of a set is called, as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its id.
    pub id: Option<MigrationId>,
    /// Its version.
    pub version: Option<Version>,
}

/// What a problem means for the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It must be mended before the set can be registered.
    Error,
    /// It is allowed, but something else is probably better or was meant.
    Warning,
}

/// Something in a file that must be mended before the set can be registered, or a warning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The path of the file in the set.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// The way out, where there is one.
    pub help: Option<String>,
    /// What it means for the set.
    pub severity: Severity,
}

impl Problem {
    /// A problem of the set as a whole: it has no place.
    pub(super) fn of_the_set(message: impl Into<String>, help: &str) -> Self {
        let (file, message, help) = (String::new(), message.into(), Some(help.to_owned()));
        Self { file, line: 0, column: 0, message, help, severity: Severity::Error }
    }

    /// True when the set can be registered all the same.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.severity == Severity::Warning
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        }
        if self.is_warning() {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// A migration of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the definition says.
    pub definition: Definition,
    /// The text of the file.
    pub text: String,
    /// The path of the file in the set.
    pub path: String,
    /// Where its SQL stands.
    pub places: Vec<SqlPlace>,
}

/// Definitions that fit together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// The migrations in version order.
    pub entries: Vec<Entry>,
    /// What is allowed but better otherwise, of each file at most 100, in the order of files, lines and columns.
    pub warnings: Vec<Problem>,
}

impl Set {
    /// Reads the definitions among the files and checks them together with what is registered already.
    ///
    /// # Errors
    /// The problems of every file, of each at most 100, with the warnings among them, in the order of files, lines and columns.
    pub fn parse(files: &[SourceFile], known: &[Known]) -> Result<Self, Vec<Problem>> {
        Self::parse_beside(files, |_| known.to_vec())
    }

    /// Reads the definitions among the files and checks them together, where what is registered cannot be asked for.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse). A migration that only the registry may have is one of them.
    pub fn parse_offline(files: &[SourceFile]) -> Result<Self, Vec<Problem>> {
        Self::read(files, |_| None)
    }

    /// As [`parse`](Self::parse), where what the definitions have to fit together with depends on what they name.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse).
    pub fn parse_beside(
        files: &[SourceFile],
        known: impl FnOnce(&[Named]) -> Vec<Known>,
    ) -> Result<Self, Vec<Problem>> {
        Self::read(files, |named| Some(known(named)))
    }

    fn read(files: &[SourceFile], known: impl FnOnce(&[Named]) -> Option<Vec<Known>>) -> Result<Self, Vec<Problem>> {
        let unfit = limits::problems(files);
        if !unfit.is_empty() {
            return Err(unfit);
        }
        let texts: HashMap<&str, &str> = files.iter().map(|file| (file.path.as_str(), file.content.as_str())).collect();
        let mut problems = Vec::new();
        let mut drafts = Vec::new();
        let mut room = limits::SQL;
        for file in files.iter().filter(|file| file.path.ends_with(".toml")) {
            let (draft, found) = document::read(Source::new(&file.path, &file.content), &texts, &mut room);
            drafts.push((draft, &file.content));
            problems.extend(found);
        }
        let (drafts, contents): (Vec<_>, Vec<_>) = drafts.into_iter().unzip();
        let named: Vec<Named> = drafts
            .iter()
            .map(|draft| Named {
                id: draft.id.as_ref().map(|id| id.value.clone()),
                version: draft.version.as_ref().map(|version| version.value),
            })
            .collect();
        problems.extend(together::problems(&drafts, known(&named).as_deref()));
        problems.sort();
        problems.dedup();
        if !problems.iter().all(Problem::is_warning) {
            return Err(problems);
        }
        let mut entries: Vec<Entry> = drafts
            .into_iter()
            .zip(contents)
            .filter_map(|(draft, content)| {
                let path = draft.source.path.to_owned();
                Some(Entry { definition: draft.definition?, text: content.clone(), path, places: draft.places })
            })
            .collect();
        entries.sort_by_key(|entry| entry.definition.version);
        Ok(Self { entries, warnings: problems })
    }
}

/// Why the files of a directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file or directory could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file or directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Files are no text, or too large to be part of a set.
    #[error("{} files cannot be used", .0.len())]
    Problems(Vec<Problem>),
    /// There is no definition in the directory.
    #[error("there is no definition (*.toml) in {path}")]
    Empty {
        /// The directory.
        path: String,
    },
}

/// Reads the files of a set from a directory: its `*.toml` files, and the files in it and below it that their steps name
/// with `file`. A file that is named but not there is left out; [`Set::parse`] tells where it is named. Nothing outside of the directory is
/// read, whatever links there are, and only regular files.
///
/// # Errors
/// Something cannot be read, is no regular file of the directory or too large, or there is no definition.
pub fn read_dir(dir: &Path) -> Result<Vec<SourceFile>, ReadError> {
    super::files::read_dir(dir)
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod placed;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod tests;
