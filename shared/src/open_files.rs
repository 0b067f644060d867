//! The number of files that a process may have open: each connection is one.
//!
//! Systems start programs with a soft limit that suits those of fifty years ago, often 1024, and let them raise it. A
//! controller with two thousand agents must.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of this process as far as the system lets it, and returns it.
///
/// # Errors
/// The system refuses.
pub fn raise_limit() -> io::Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}

/// The number of files that this process may have open now.
///
/// # Errors
/// The system does not say.
pub fn limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_what_the_system_allows() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most - 1, most).unwrap();
        assert_eq!(limit().unwrap(), most - 1);
        assert_eq!(raise_limit().unwrap(), most);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (most, most));
    }
}
