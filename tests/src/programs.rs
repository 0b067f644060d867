//! Where the programs under test are: beside the test program, built by the same cargo profile.

use std::path::PathBuf;

/// A program of this workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The controller.
    Controller,
    /// The agent without transforms in code.
    Agent,
    /// The agent of `examples/agent`, with its transforms.
    ExampleAgent,
    /// The agent of `tests/agent`, with a transform in code that must not be done twice.
    TestAgent,
    /// The operator's command.
    Dunlin,
}

impl Program {
    /// The name of the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Controller => "dunlin-controller",
            Self::Agent => "dunlin-agent",
            Self::ExampleAgent => "dunlin-example-agent",
            Self::TestAgent => "dunlin-test-agent",
            Self::Dunlin => "dunlin",
        }
    }

    /// The path of the program.
    ///
    /// # Panics
    /// When it has not been built.
    #[must_use]
    pub fn path(self) -> PathBuf {
        let test = std::env::current_exe().expect("the path of the test program");
        let beside = test.parent().expect("a program lies in a directory");
        // A test lies in target/<profile>/deps, a program in target/<profile>.
        let profile = if beside.ends_with("deps") { beside.parent().unwrap_or(beside) } else { beside };
        let path = profile.join(self.name());
        assert!(
            path.is_file(),
            "{} is not built. Type `make test`, or `cargo build --workspace` before `cargo test`.",
            path.display()
        );
        path
    }
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// A tool that `make setup-test` installs below `target/tools`.
///
/// # Panics
/// When it is not there: these tests are not skipped silently.
#[must_use]
pub fn tool(path: &str) -> PathBuf {
    let found = repository().join("target/tools").join(path);
    assert!(found.exists(), "{} is missing. Type `make setup-test`.", found.display());
    found
}
