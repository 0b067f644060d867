//! Where the server programs are: beside this program, as a build or an installation puts them, or on PATH.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// Finds a program.
pub(super) fn find(name: &str) -> Result<PathBuf, Error> {
    let own = std::env::current_exe().ok().and_then(|own| own.canonicalize().ok());
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(name, beside.iter().cloned().chain(std::env::split_paths(&path))).ok_or_else(|| {
        Error::Refused(format!(
            "the program {name} is neither beside this one ({}) nor on PATH: build it (cargo build --release --workspace) \
             or install it there",
            beside.unwrap_or_default().display()
        ))
    })
}

fn find_in(name: &str, places: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    places.into_iter().map(|place| place.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_that_has_the_program_counts() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(second.path().join("agent"), "").unwrap();
        let places = || [first.path().to_owned(), second.path().to_owned()];
        assert_eq!(find_in("agent", places()), Some(second.path().join("agent")));
        std::fs::write(first.path().join("agent"), "").unwrap();
        assert_eq!(find_in("agent", places()), Some(first.path().join("agent")));
        assert_eq!(find_in("controller", places()), None);
    }
}
