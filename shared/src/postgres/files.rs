//! Files that stand for a part of a database URL, or for all of it: passwords, keys and certificates, which others replace while Dunlin
//! runs.
//!
//! Links are followed, as a Secret that Kubernetes mounts needs them; what they lead to must be a regular file, and small. An error names
//! the file, never what is in it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::migration::contained::{self, Found};

/// The most bytes of a file. The bundle of all authorities that a system trusts has 250,000.
const MOST: usize = 1 << 20;

/// What of a file changes when it is written or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The stamp of a file; `None` where there is none.
fn stamp(path: &Path) -> Option<Stamp> {
    let about = fs::metadata(path).ok()?;
    Some(Stamp {
        device: about.dev(),
        inode: about.ino(),
        size: about.size(),
        modified: (about.mtime(), about.mtime_nsec()),
        changed: (about.ctime(), about.ctime_nsec()),
    })
}

/// Who else may be allowed to read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// Everybody.
    All,
    /// Nobody: libpq's rule for a passfile.
    Owner,
    /// Nobody, or the group where the file belongs to root: libpq's rule for a key.
    OwnerOrGroupOfRoot,
}

/// The files that were read, as they were before.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<(PathBuf, Option<Stamp>)>);

impl Files {
    /// Reads a file that `parameter` names.
    pub(super) fn read(&mut self, parameter: &'static str, path: &Path, readers: Readers) -> Result<Vec<u8>, Error> {
        // Before it is read: what is written meanwhile is read again.
        self.0.push((path.to_owned(), stamp(path)));
        let wrong = |reason: &str| wrong(parameter, path, reason);
        let of_system = |error: io::Error| wrong(&error.to_string());
        let real = fs::canonicalize(path).map_err(of_system)?;
        allowed(&real, readers).map_err(of_system)?.map_err(|reason| wrong(&reason))?;
        match contained::regular(&real, MOST).map_err(of_system)? {
            Found::Bytes(bytes) => Ok(bytes),
            Found::Large(_) => Err(wrong("it has more than 1 MiB")),
            Found::Other(what) => Err(wrong(&format!("it is {what}, not a regular file"))),
            Found::Nothing | Found::Dangling | Found::Outside(_) => Err(wrong("there is no such file")),
        }
    }

    /// True when one of them is not what it was.
    pub(super) fn changed(&self) -> bool {
        self.0.iter().any(|(path, before)| stamp(path) != *before)
    }
}

/// Says that a file cannot be used.
pub(super) fn wrong(parameter: &'static str, path: &Path, reason: &str) -> Error {
    Error::File { parameter, path: path.to_owned(), reason: reason.to_owned() }
}

fn allowed(real: &Path, readers: Readers) -> io::Result<Result<(), String>> {
    let about = fs::metadata(real)?;
    let mode = about.mode() & 0o777;
    let (refused, most) = match readers {
        Readers::All => return Ok(Ok(())),
        Readers::OwnerOrGroupOfRoot if about.uid() == 0 => (0o037, "0640"),
        Readers::Owner | Readers::OwnerOrGroupOfRoot => (0o077, "0600"),
    };
    Ok(match mode & refused {
        0 => Ok(()),
        _ => Err(format!("others may read it (its permissions are {mode:04o}): chmod {most}")),
    })
}
