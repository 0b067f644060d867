//! Where the programs under test are: beside the test program, built by the same cargo profile.

use std::io::Write as _;
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

/// A tool that `make setup-test` installs into `tools`, where cargo builds.
///
/// # Panics
/// When it is not there: these tests are not skipped silently.
#[must_use]
pub fn tool(path: &str) -> PathBuf {
    found(path).unwrap_or_else(|| panic!("tools/{path} is missing where cargo builds. Type `make setup-test`."))
}

/// A tool that needs a language which a machine may lack: the test that asks for it is left out there, and says so. CI has all
/// languages, so there the tool must be found.
///
/// # Panics
/// When it is not there, in CI.
#[must_use]
pub fn tool_in(language: &str, path: &str) -> Option<PathBuf> {
    let tool = found(path);
    if tool.is_none() {
        let message =
            format!("tools/{path} is missing where cargo builds: `make setup-test` makes it where {language} is.");
        assert!(std::env::var_os("CI").is_none(), "{message}");
        // Not by a macro, whose output is kept back when a test passes.
        let _unseen = writeln!(std::io::stderr(), "NOT TESTED: {message}");
    }
    tool
}

fn found(path: &str) -> Option<PathBuf> {
    let test = std::env::current_exe().expect("the path of the test program");
    // A test lies in <where cargo builds>/<profile>/deps, or one level deeper where a target triple is given.
    test.ancestors().map(|place| place.join("tools").join(path)).find(|tool| tool.exists())
}
