//! The most that a set and a definition can hold.
//!
//! One set of limits for everybody who reads definitions: what `dunlin check` passes is not too large for the controller. Each
//! number says what it protects. What must stay true: a migration with all of its SQL fits into one message to an agent.

use super::position::Source;
use super::set::{Problem, SourceFile};
use crate::figures::{count, length};

/// The most files of a set.
pub const FILES: usize = 10_000;

/// The most bytes of a set: the paths and texts of its files.
pub const BYTES: usize = 16 * 1024 * 1024;

/// The most bytes of SQL that the steps and checks of a set come to, each file as often as it is named.
pub const SQL: usize = 32 * 1024 * 1024;

/// The most tokens of a text of SQL (words, numbers, signs, and what stands between them), and of the statement of a batch. What is
/// read takes some dozens of bytes for each, a tree of the statement of a batch some hundreds.
pub(super) const TOKENS: usize = 4_000_000;
pub(super) const BATCH_TOKENS: usize = 500_000;

/// The most values of a definition: each field and each entry of a list is one.
pub(super) const VALUES: usize = 200_000;

/// The most that the numbers of a batch can be; the least is 1.
pub(super) const SIZE: u32 = 1_000_000;
pub(super) const RANGE: u32 = 1_000_000_000;
pub(super) const STRIPES: u32 = 64;

/// The most columns of a key: as many as an index can have.
pub(super) const KEY: usize = 32;

/// The most problems that are told of one file, and as many warnings. To find the line of each costs a look at the whole file.
pub(super) const PROBLEMS: usize = 100;

/// What is too large or cannot be stored, before anything is read: of the set as a whole, then of each file.
#[must_use]
pub fn problems(files: &[SourceFile]) -> Vec<Problem> {
    if files.len() > FILES {
        return vec![too_many_files(files.len())];
    }
    let bytes: usize = files.iter().map(|file| file.path.len() + file.content.len()).sum();
    if bytes > BYTES {
        let message = format!("a set has at most {} bytes, and this has {}", told(BYTES), told(bytes));
        return vec![Problem::of_the_set(message, &format!("split it; {IN_BULK}"))];
    }
    files.iter().filter_map(no_text).collect()
}

/// The way out of a set that is too large.
pub(super) const IN_BULK: &str =
    "data in bulk does not belong into a definition: load it from a file on the server (COPY)";

pub(super) fn too_many_files(count: usize) -> Problem {
    let message = format!("a set has at most {} files, and these are {}", told(FILES), told(count));
    Problem::of_the_set(message, "split it: each part is registered by itself, in the order of versions")
}

/// A size, for messages.
pub(super) fn told(size: usize) -> String {
    count(length(size))
}

fn no_text(file: &SourceFile) -> Option<Problem> {
    if file.path.contains('\0') {
        let path = file.path.replace('\0', "\u{fffd}");
        return Some(Source::new(&path, "").problem(0, "its path has the character U+0000", None));
    }
    let source = Source::new(&file.path, &file.content);
    let at = source.text.find('\0')?;
    Some(source.problem(at, "the character U+0000, which PostgreSQL cannot store", None))
}
