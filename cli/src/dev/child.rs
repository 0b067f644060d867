//! A program that runs below this one: its log goes to a file, its warnings to standard error, and it never outlives
//! this process.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStderr, ChildStdin, Command};
use tokio::task::JoinHandle;

/// Starts the program in `$@`, tells its process id, and when standard input ends, terminates it.
const SUPERVISOR: &str = r#"
exec 3<&0
"$@" </dev/null >/dev/null 3<&- &
child=$!
echo $child
exec >/dev/null
(read -r _ <&3; kill -TERM $child) 2>/dev/null &
waiter=$!
wait $child
status=$?
kill $waiter 2>/dev/null
exit $status
"#;

/// How long a child may take to end after it was asked to.
const STOP: Duration = Duration::from_secs(15);

/// How many lines of the log are shown when a child dies.
const LAST_LINES: usize = 12;

/// A running program.
#[derive(Debug)]
pub(super) struct Child {
    /// What it is called in messages.
    pub(super) name: String,
    /// Its process id.
    pub(super) pid: i32,
    supervisor: tokio::process::Child,
    stdin: Option<ChildStdin>,
    log: JoinHandle<()>,
    last: Arc<Mutex<VecDeque<String>>>,
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
        let mut command = Command::new("sh");
        command
            .args(["-c", SUPERVISOR, "dunlin-dev"])
            .arg(self.program)
            .args(&self.arguments)
            .envs(self.environment)
            // Ctrl-C goes to the whole foreground group of the terminal; the order in which things stop is decided here.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut supervisor = command.spawn()?;
        let missing = || io::Error::other("a pipe to the program is missing");
        let stdin = supervisor.stdin.take().ok_or_else(missing)?;
        let stdout = supervisor.stdout.take().ok_or_else(missing)?;
        let stderr = supervisor.stderr.take().ok_or_else(missing)?;
        let first = BufReader::new(stdout).lines().next_line().await?;
        let pid = first.and_then(|line| line.trim().parse().ok()).ok_or_else(missing)?;
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let log = Log {
            file: File::create(self.logs.join(format!("{}.log", self.name))).await?,
            prefix: self.name.clone(),
            verbose: self.verbose,
            last: Arc::clone(&last),
        };
        let log = tokio::spawn(log.copy(BufReader::new(stderr).lines()));
        Ok(Child { name: self.name, pid, supervisor, stdin: Some(stdin), log, last })
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
        if tokio::time::timeout(STOP, self.supervisor.wait()).await.is_err() {
            eprintln!("{} does not end by itself: killing it", self.name);
            let _gone_already = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            let _ended = self.supervisor.wait().await;
        }
        let _written = self.log.await;
    }

    /// The last lines of its log.
    pub(super) fn last_lines(&self) -> String {
        let lines = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("  {line}\n")).collect()
    }
}

/// The file with the log of a program.
pub(super) fn log_file(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.log"))
}

/// What is done with the log of a program.
struct Log {
    file: File,
    prefix: String,
    verbose: bool,
    last: Arc<Mutex<VecDeque<String>>>,
}

impl Log {
    async fn copy(mut self, mut lines: Lines<BufReader<ChildStderr>>) {
        while let Ok(Some(line)) = lines.next_line().await {
            if self.verbose || matters(&line) {
                eprintln!("{} | {line}", self.prefix);
            }
            // A full disk must not stop the program: the line is shown at least.
            let _lost = self.file.write_all(format!("{line}\n").as_bytes()).await;
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.push_back(line);
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
        let _lost = self.file.flush().await;
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

    #[tokio::test]
    async fn a_child_that_dies_leaves_its_last_lines() {
        let logs = tempfile::tempdir().unwrap();
        let mut child = start(logs.path(), "echo 'x INFO one' >&2; exit 3").spawn().await.unwrap();
        assert_eq!(child.ended().await.unwrap().code(), Some(3));
        let (last, pid) = (Arc::clone(&child.last), child.pid);
        child.stop().await;
        assert_eq!(last.lock().unwrap().iter().collect::<Vec<_>>(), ["x INFO one"]);
        assert!(kill(Pid::from_raw(pid), None).is_err());
        assert_eq!(std::fs::read_to_string(log_file(logs.path(), "sample")).unwrap(), "x INFO one\n");
    }

    #[tokio::test]
    async fn a_child_ends_when_it_is_stopped() {
        let logs = tempfile::tempdir().unwrap();
        let child =
            start(logs.path(), "trap 'echo bye >&2; exit 0' TERM; echo ready >&2; while :; do sleep 0.02; done")
                .spawn()
                .await
                .unwrap();
        let (last, pid) = (Arc::clone(&child.last), child.pid);
        while last.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        child.stop().await;
        assert_eq!(last.lock().unwrap().back().map(String::as_str), Some("bye"));
        assert!(kill(Pid::from_raw(pid), None).is_err());
    }
}
