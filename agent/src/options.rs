//! The command line of an agent, also for programs that embed it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::builder::{Agent, Builder, Error};
use crate::failpoint::Scenario;
use crate::limits::Limits;
use crate::signals::shutdown_signal;

/// Works on the tasks that Dunlin's controllers lease, inside the target databases.
#[derive(Parser)]
#[command(version)]
pub struct Options {
    /// The URLs of the controllers, separated by commas; whichever answers is used
    #[arg(long, env = "DUNLIN_CONTROLLER", value_name = "URL[,URL...]", default_value = "http://127.0.0.1:7440")]
    controller: String,

    /// A target: a name for a database and the URL under which this agent reaches it, or @ and the path of a file with the URL, which is
    /// read again when it changes; can be given several times, in DUNLIN_TARGET separated by white space
    #[arg(
        long,
        env = "DUNLIN_TARGET",
        value_name = "NAME=URL|@FILE",
        required_unless_present = "targets",
        hide_env_values = true
    )]
    target: Vec<String>,

    /// A directory with a file for each target: its name is the target's, and the URL stands in it. Names that begin with a dot are left out
    #[arg(long, env = "DUNLIN_TARGETS", value_name = "DIR")]
    targets: Option<PathBuf>,

    /// The URL of a target past the pooler that stands between, for steps outside a transaction; can be given several times, in
    /// DUNLIN_DIRECT separated by white space
    #[arg(long, env = "DUNLIN_DIRECT", value_name = "NAME=URL|@FILE", hide_env_values = true)]
    direct: Vec<String>,

    /// The role to which the schema `dunlin` in targets may belong, beside the agent's own and superusers: that of an administrator who
    /// has made it and has granted its use
    #[arg(long, env = "DUNLIN_LEDGER_OWNER", value_name = "ROLE")]
    ledger_owner: Option<String>,

    /// The role that everything in targets is done under, in place of that of the URL, which must be a member of it: for roles that come
    /// and go, such as those of a vault, whose tables are to belong to one that stays
    #[arg(long, env = "DUNLIN_ROLE", value_name = "ROLE")]
    role: Option<String>,

    /// How many tasks are worked on at one time
    #[arg(long, env = "DUNLIN_SLOTS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    slots: u16,

    /// The agent's id, unique among all agents [default: the host's name and a random suffix]
    #[arg(long, env = "DUNLIN_AGENT_ID")]
    id: Option<String>,

    /// How long a statement of a batch may wait for a lock; 0s: without end [default: 5s, or the lock_timeout of the role on the target
    /// where that is shorter]
    #[arg(long, env = "DUNLIN_LOCK_TIMEOUT", value_parser = humantime::parse_duration)]
    lock_timeout: Option<Duration>,

    /// How long the SQL of a step that is no batch may wait for locks, all waits of an attempt together; 0s: without end [default:
    /// 500ms, or the lock_timeout of the role on the target where that is shorter]
    #[arg(long, env = "DUNLIN_SCHEMA_LOCK_TIMEOUT", value_parser = humantime::parse_duration)]
    schema_lock_timeout: Option<Duration>,

    /// How many times longer than the wait the pause is at least until such a step is tried again
    #[arg(long, env = "DUNLIN_LOCK_PAUSE_FACTOR", default_value_t = 10)]
    lock_pause_factor: u32,

    /// What the pauses grow to between attempts that met a lock, or another error that can pass
    #[arg(long, env = "DUNLIN_LONGEST_PAUSE", default_value = "60s", value_parser = humantime::parse_duration)]
    longest_pause: Duration,

    /// How long a task is tried again after locks, and other errors that can pass, without progress; then its run fails
    #[arg(long, env = "DUNLIN_RETRY_DEADLINE", default_value = "30min", value_parser = humantime::parse_duration)]
    retry_deadline: Duration,

    /// How long a statement may run; 0s: without end [default: the statement_timeout of the role on the target; without end for steps
    /// outside a transaction]
    #[arg(long, env = "DUNLIN_STATEMENT_TIMEOUT", value_parser = humantime::parse_duration)]
    statement_timeout: Option<Duration>,

    /// How long a step outside a transaction may wait for transactions that began before it, such as a concurrent build, counted from
    /// its beginning; it blocks nobody meanwhile; 0s: without end
    #[arg(long, env = "DUNLIN_BUILD_DEADLINE", default_value = "0s", value_parser = humantime::parse_duration)]
    build_deadline: Duration,

    /// Tell nothing that may hold values of rows: of an error what PostgreSQL calls its place (SQLSTATE, table, column, constraint), and not
    /// what it says; no text of a NOTICE or WARNING, no keys, nothing that transforms in code say
    #[arg(long, env = "DUNLIN_REDACT_ROWS")]
    redact_rows: bool,

    /// Where to tell the agent's health by gRPC's health protocol, such as 0.0.0.0:7441: SERVING while there is a controller and
    /// every target can be worked on [default: nowhere]
    #[arg(long, env = "DUNLIN_HEALTH_LISTEN", value_name = "ADDRESS:PORT")]
    health_listen: Option<SocketAddr>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the targets: their URLs hold passwords.
        f.debug_struct("Options").field("controller", &self.controller).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Options {
    /// Reads the command line and the environment. Prints what is wrong with them, or the help that was asked for, and ends
    /// the process.
    #[must_use]
    pub fn read() -> Self {
        Self::parse()
    }

    /// The beginning of an agent with these options.
    ///
    /// # Errors
    /// A target is not written as NAME=URL, or the directory of targets cannot be used.
    pub fn builder(self) -> Result<Builder, Error> {
        let limits = Limits {
            lock_timeout: self.lock_timeout,
            schema_lock_timeout: self.schema_lock_timeout,
            lock_pause_factor: self.lock_pause_factor,
            longest_pause: self.longest_pause,
            retry_deadline: self.retry_deadline,
            build_deadline: self.build_deadline,
            statement_timeout: self.statement_timeout,
            redact_rows: self.redact_rows,
        };
        let mut builder = Agent::builder().controller(self.controller).slots(self.slots).limits(limits);
        let named = |text: &[String]| -> Result<Vec<(String, String)>, Error> {
            let words = text.iter().flat_map(|words| words.split_whitespace());
            words
                .map(|word| {
                    let (name, url) = word.split_once('=').ok_or(Error::TargetSyntax)?;
                    Ok((name.to_owned(), url.to_owned()))
                })
                .collect()
        };
        for (name, url) in named(&self.target)? {
            builder = builder.target(name, url);
        }
        for (name, url) in self.targets.map_or_else(|| Ok(Vec::new()), |directory| listed(&directory))? {
            builder = builder.target(name, url);
        }
        for (name, url) in named(&self.direct)? {
            builder = builder.direct(name, url);
        }
        if let Some(role) = self.ledger_owner {
            builder = builder.ledger_owner(role);
        }
        if let Some(role) = self.role {
            builder = builder.role(role);
        }
        if let Some(address) = self.health_listen {
            builder = builder.health(address);
        }
        Ok(match self.id {
            Some(id) => builder.id(id),
            None => builder,
        })
    }
}

/// The targets of a directory, as names and the files with their URLs.
fn listed(directory: &Path) -> Result<Vec<(String, String)>, Error> {
    let failed = |source| Error::Directory { path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let (Some(name), Some(text)) = (path.file_name().and_then(|name| name.to_str()), path.to_str()) else {
            let source = io::Error::new(io::ErrorKind::InvalidData, format!("the name of {path:?} is not UTF-8"));
            return Err(failed(source));
        };
        // Where Kubernetes mounts a Secret, what these names stand for is no target.
        if !name.starts_with('.') {
            found.push((name.to_owned(), format!("@{text}")));
        }
    }
    if found.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "it has no file that names a target")));
    }
    found.sort_unstable();
    Ok(found)
}

/// The rest of a program that is an agent: sets logging up, runs until the first signal, stops in order, and stops at once at
/// the second. Returns the program's exit code: 0 after stopping in order, 2 for wrong options.
pub async fn serve(agent: Result<Agent, Error>) -> ExitCode {
    dunlin_shared::telemetry::init("dunlin-agent");
    let _faults = Scenario::from_environment();
    let agent = match agent {
        Ok(agent) => agent,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    tracing::info!(agent = %agent.id(), version = env!("CARGO_PKG_VERSION"), "agent started");
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let running = agent.run(async {
        shutdown_signal().await;
        let _gone = stop.send(());
    });
    let second = async {
        match stopped.await {
            Ok(()) => shutdown_signal().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        ran = running => match ran {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        },
        () = second => {
            tracing::warn!("a second signal: stopping at once");
            ExitCode::from(130)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Agent, Error> {
        Options::try_parse_from([&["agent"], arguments].concat()).unwrap().builder().and_then(Builder::build)
    }

    #[tokio::test]
    async fn several_targets_stand_in_one_text_or_in_several() {
        let both = "a=postgres://localhost/a?sslmode=disable \n b=postgres://localhost/b";
        for arguments in [
            vec!["--target", both],
            vec!["--target", "a=postgres://localhost/a", "--target", "b=postgres://localhost/b"],
        ] {
            assert!(read(&arguments).is_ok());
        }
        assert!(matches!(read(&["--target", "postgres://localhost/a"]), Err(Error::TargetSyntax)));
        assert!(matches!(read(&["--target", "main"]), Err(Error::TargetSyntax)));
    }

    #[tokio::test]
    async fn the_direct_way_is_that_of_a_target_which_is_served() {
        let both = ["--target", "a=postgres://localhost:6432/a", "--direct", "a=postgres://localhost/a"];
        assert!(read(&both).is_ok());
        let unknown = ["--target", "a=postgres://localhost:6432/a", "--direct", "b=postgres://localhost/b"];
        assert!(matches!(read(&unknown), Err(Error::DirectAlone(name)) if name == "b"));
        let twice = [&both[..], &["--direct", "a=postgres://localhost/a"]].concat();
        assert!(matches!(read(&twice), Err(Error::TargetTwice(_))));
    }

    #[tokio::test]
    async fn each_file_of_a_directory_is_a_target_and_hidden_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let read = || read(&["--targets", dir.path().to_str().unwrap()]);
        assert!(matches!(read(), Err(Error::Directory { .. })));
        // As Kubernetes mounts a Secret.
        std::fs::create_dir(dir.path().join("..1")).unwrap();
        std::fs::write(dir.path().join("..1/main"), "postgres://u:hunter@localhost/a").unwrap();
        std::os::unix::fs::symlink("..1", dir.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/main", dir.path().join("main")).unwrap();
        assert!(read().is_ok());
        std::fs::write(dir.path().join("other"), "hunter@localhost").unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains("target other: in the file") && !error.contains("hunter"), "{error}");
        std::fs::write(dir.path().join("other"), "postgres://localhost/b").unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        assert!(read().unwrap_err().to_string().contains("a directory"));
    }

    #[test]
    fn the_help_does_not_show_the_targets_of_the_environment() {
        let help = <Options as clap::CommandFactory>::command().render_long_help().to_string();
        assert!(help.contains("[env: DUNLIN_TARGET]"), "{help}");
    }
}
