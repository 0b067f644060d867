//! One process under test: started, watched, signalled, and in any case gone at the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::until::until;

/// How much of a log is shown when a test fails.
const LOG_LINES: usize = 40;

/// A running process. Dropping it kills it, and shows the end of its log when the test has failed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with its output in a log named after it. A log of the same name is continued.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command, name: &str, logs: &Path) -> Self {
        let log = logs.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log).expect("a log file");
        let errors = output.try_clone().expect("a second handle on the log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// What it has written so far, and what processes of the same name wrote before it.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGTERM: please end.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGSTOP: stand still.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT: go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Panics
    /// When the process has ended by itself already: then the test is not about what it says.
    pub fn kill(&mut self) {
        let ended = self.child.try_wait().expect("the state of a child process");
        assert_eq!(ended, None, "{} ended before it was killed", self.name);
        self.child.kill().expect("a child process can be killed");
        let _status = self.child.wait().expect("a killed process ends");
    }

    /// How it ended, once it has ended by itself.
    ///
    /// # Panics
    /// When its state is not known.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child process")
    }

    /// SIGKILL where it has not ended yet, and waits until it is gone.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn end(&mut self) {
        if self.status().is_none() {
            self.kill();
        }
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        until(&what, async || self.child.try_wait().expect("the state of a child process")).await
    }

    /// The number of the process.
    ///
    /// # Panics
    /// Never on Linux or macOS, where numbers of processes are small.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a number of a process"))
    }

    fn signal(&self, signal: Signal) {
        signal::kill(self.pid(), signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let status = self.child.try_wait();
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            eprintln!("--- {} ({status:?}), end of its log:\n{end}\n---", self.name);
        }
    }
}
