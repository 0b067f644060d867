//! One file of a directory, read so that nothing else is: what lies outside would be shown to whoever sees what `dunlin check` prints,
//! and be registered.
//!
//! Links are followed as long as they stay within the directory, as they do where Kubernetes mounts a ConfigMap. Only regular files are
//! opened: a named pipe would wait for a writer, and a device has no end. And no more is read than there is room for, whatever the size of
//! the file is said to be.

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};

/// What a path of a directory was found to be.
#[derive(Debug)]
pub(crate) enum Found {
    /// A regular file with these bytes.
    Bytes(Vec<u8>),
    /// A regular file that is larger than there is room: the bytes that it has, as far as that is known.
    Large(usize),
    /// A link that leads out of the directory, to here.
    Outside(PathBuf),
    /// Something else than a regular file, with its article.
    Other(&'static str),
    /// A link to what is not there.
    Dangling,
    /// Nothing.
    Nothing,
}

/// Reads a file of the directory `root`, whose path has no links, up to `most` bytes.
///
/// # Errors
/// Those of the system.
pub(super) fn read(root: &Path, path: &str, most: usize) -> io::Result<Found> {
    let named = root.join(path);
    let real = match fs::canonicalize(&named) {
        Ok(real) => real,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(if named.is_symlink() { Found::Dangling } else { Found::Nothing });
        }
        Err(error) => return Err(error),
    };
    if !real.starts_with(root) {
        return Ok(Found::Outside(real));
    }
    regular(&real, most)
}

/// Reads a file whose path has no links, up to `most` bytes.
///
/// # Errors
/// Those of the system.
pub(crate) fn regular(real: &Path, most: usize) -> io::Result<Found> {
    // To open some devices is to use them.
    let about = fs::metadata(real)?;
    if !about.is_file() {
        return Ok(Found::Other(kind(about.file_type())));
    }
    let file = File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC).open(real)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Ok(Found::Other(kind(about.file_type())));
    }
    let size = usize::try_from(about.len()).unwrap_or(usize::MAX);
    if size > most {
        return Ok(Found::Large(size));
    }
    let mut bytes = Vec::with_capacity(size);
    // It may have grown, and some files have more than their size says.
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(if bytes.len() > most { Found::Large(bytes.len()) } else { Found::Bytes(bytes) })
}

fn kind(of: FileType) -> &'static str {
    if of.is_dir() {
        "a directory"
    } else if of.is_fifo() {
        "a named pipe"
    } else if of.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}
