//! A program that runs below this one: its log goes to a file, its warnings to standard error, and it never outlives
//! this process.
//!
//! It writes to the file itself, not to a pipe that would break with this process and take its last words with it; the
//! file is followed from here.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::task::JoinHandle;

use crate::output::tell;

/// Starts the program in `$@` with its log in `$0` and tells its process id; when standard input ends, terminates it, and
/// kills it when that does not help for 15 seconds.
const SUPERVISOR: &str = r#"
exec 3<&0
"$@" </dev/null >>"$0" 2>&1 3<&- &
child=$!
echo $child
exec >/dev/null 2>&1
(
    read -r _ <&3
    kill -TERM $child
    i=0
    while [ $i -lt 150 ] && kill -0 $child; do sleep 0.1; i=$((i + 1)); done
    kill -KILL $child
) &
waiter=$!
wait $child
status=$?
kill $waiter
exit $status
"#;

/// How long a child may take to end until it is told that it is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How many lines of the log are shown when a child dies.
const LAST_LINES: usize = 12;

/// A running program.
#[derive(Debug)]
pub(super) struct Child {
    /// What it is called in messages.
    pub(super) name: String,
    /// Its process id.
    pub(super) pid: i32,
    /// Its log file.
    pub(super) log: PathBuf,
    supervisor: tokio::process::Child,
    stdin: Option<ChildStdin>,
    ended: Arc<AtomicBool>,
    follower: JoinHandle<io::Result<()>>,
}

/// How a program is started.
#[derive(Debug)]
pub(super) struct Start<'a> {
    /// What it is called in messages, and how its log file is named.
    pub(super) name: String,
    /// The program.
    pub(super) program: &'a Path,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// What is added to its environment. URLs with passwords belong here: everybody can see arguments.
    pub(super) environment: Vec<(&'static str, String)>,
    /// The directory of the log files.
    pub(super) logs: &'a Path,
    /// Show the whole log, not only warnings.
    pub(super) verbose: bool,
}

impl Start<'_> {
    /// Starts the program.
    pub(super) async fn spawn(self) -> io::Result<Child> {
        let log = self.logs.join(format!("{}.log", self.name));
        File::create(&log).await?;
        let mut command = Command::new("sh");
        command
            .args(["-c", SUPERVISOR])
            .arg(&log)
            .arg(self.program)
            .args(&self.arguments)
            .envs(self.environment)
            // Ctrl-C goes to the whole foreground group of the terminal; the order in which things stop is decided here.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut supervisor = command.spawn()?;
        let missing = || io::Error::other("a pipe to the program is missing");
        let stdin = supervisor.stdin.take().ok_or_else(missing)?;
        let stdout = supervisor.stdout.take().ok_or_else(missing)?;
        let first = BufReader::new(stdout).lines().next_line().await?;
        let pid = first.and_then(|line| line.trim().parse().ok()).ok_or_else(missing)?;
        let ended = Arc::new(AtomicBool::new(false));
        let follower = follow(log.clone(), self.name.clone(), self.verbose, Arc::clone(&ended));
        let follower = tokio::spawn(follower);
        Ok(Child { name: self.name, pid, log, supervisor, stdin: Some(stdin), ended, follower })
    }
}

impl Child {
    /// Waits for the end of the program.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.supervisor.wait().await
    }

    /// Ends the program: asks first, and kills it when it takes too long.
    pub(super) async fn stop(mut self) {
        drop(self.stdin.take());
        if tokio::time::timeout(PATIENCE, self.supervisor.wait()).await.is_err() {
            tell(&format!("Waiting for {} to end.", self.name));
            let _ended = self.supervisor.wait().await;
        }
        self.ended.store(true, Ordering::Release);
        let _told = self.follower.await;
    }

    /// The last lines of its log.
    pub(super) fn last_lines(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|line| format!("  {line}\n")).collect()
    }
}

/// Shows what a program writes to its log, until it has ended.
async fn follow(log: PathBuf, name: String, verbose: bool, ended: Arc<AtomicBool>) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(log).await?);
    let mut line = Vec::new();
    loop {
        let last = ended.load(Ordering::Acquire);
        let read = reader.read_until(b'\n', &mut line).await?;
        if line.ends_with(b"\n") || (last && !line.is_empty()) {
            let text = String::from_utf8_lossy(&line);
            if verbose || matters(&text) {
                tell(&format!("{name} | {}", text.trim_end()));
            }
            line.clear();
        }
        if read == 0 {
            if last {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whether a line of a log is more than the normal course of things: its level is the second word. A line without a level
/// does not come from the log, but from a crash.
fn matters(line: &str) -> bool {
    !matches!(line.split_whitespace().nth(1), Some("INFO" | "DEBUG" | "TRACE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start<'a>(logs: &'a Path, script: &str) -> Start<'a> {
        Start {
            name: "sample".to_owned(),
            program: Path::new("/bin/sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: Vec::new(),
            logs,
            verbose: false,
        }
    }

    #[test]
    fn only_warnings_and_crashes_are_shown() {
        assert!(matters("2026-11-23T12:00:00Z  WARN dunlin: the target cannot be reached"));
        assert!(matters("thread 'main' panicked at src/main.rs:1:1:"));
        assert!(!matters("2026-11-23T12:00:00Z  INFO dunlin: listening"));
    }

    fn runs(pid: i32) -> bool {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok()
    }

    #[tokio::test]
    async fn a_child_that_dies_leaves_its_last_lines() {
        let logs = tempfile::tempdir().unwrap();
        let mut child = start(logs.path(), "echo 'x INFO one' >&2; echo 'x INFO two'; exit 3").spawn().await.unwrap();
        assert_eq!(child.ended().await.unwrap().code(), Some(3));
        assert_eq!(child.last_lines(), "  x INFO one\n  x INFO two\n");
        let pid = child.pid;
        child.stop().await;
        assert!(!runs(pid));
    }

    #[tokio::test]
    async fn a_child_is_asked_to_end_when_it_is_stopped() {
        let logs = tempfile::tempdir().unwrap();
        let script = "trap 'echo x INFO bye; exit 0' TERM; echo x INFO ready; while :; do sleep 0.02; done";
        let child = start(logs.path(), script).spawn().await.unwrap();
        let (log, pid) = (child.log.clone(), child.pid);
        while std::fs::read(&log).unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        child.stop().await;
        assert_eq!(std::fs::read_to_string(log).unwrap(), "x INFO ready\nx INFO bye\n");
        assert!(!runs(pid));
    }

    #[tokio::test]
    async fn a_child_ends_with_whoever_holds_it() {
        let logs = tempfile::tempdir().unwrap();
        let mut child = start(logs.path(), "echo x INFO ready; exec sleep 1000").spawn().await.unwrap();
        // What the kernel does when this process is killed.
        drop(child.stdin.take());
        child.ended().await.unwrap();
        assert!(!runs(child.pid));
    }
}
