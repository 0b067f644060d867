//! A PostgreSQL server of one's own that is gone afterwards: for `dunlin dev`, the demo, the tests and the benchmarks.
//!
//! It is started from the server binaries of this machine, in a directory of its own, on a free loopback port, with a
//! random password. `initdb` and `postgres` refuse to run as root, so as root they run as the user `postgres` or
//! `nobody`.
//!
//! What must stay true: nothing is left behind, however this process ends. A small shell supervises the server and waits
//! for the end of its standard input, which the kernel closes with the process that holds the other end, killed or not;
//! then it stops the server and removes the directory. That holds for a server that was [crashed](Server::crash), too:
//! while it is down the supervisor waits for the one or the other.

use std::fs;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::{Pid, User, geteuid};
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

/// Starts the server in `$1` on the data in `$2` with the log in `$3`, and when standard input ends, stops it and
/// removes `$4`.
///
/// Its files in `$4`: `server` has the number of the process while there is one; `stopped` appears once nobody holds the
/// other end of standard input; while there is `down`, a server that ended is not started again, and without it an end is
/// the end; it is looked for before `server` is removed, since that is what whoever crashed the server waits for before it
/// removes `down`. Whoever writes one of the first two looks at the other afterwards, so a server that starts as its owner goes is
/// stopped by one of them.
const SUPERVISOR: &str = r#"
exec 3<&0
bin=$1 data=$2 log=$3 dir=$4
(read -r _ <&3; touch "$dir/stopped"; read -r server <"$dir/server" && kill -INT $server) 2>/dev/null &
waiter=$!
while :; do
    "$bin/postgres" -D "$data" </dev/null >>"$log" 2>&1 3<&- &
    server=$!
    echo $server >"$dir/server"
    [ -e "$dir/stopped" ] && kill -INT $server
    wait $server
    status=$?
    again=
    [ -e "$dir/down" ] && again=yes
    rm -f "$dir/server"
    [ "$again" ] || break
    while [ -e "$dir/down" ] && [ ! -e "$dir/stopped" ]; do sleep 0.02; done
    [ -e "$dir/stopped" ] && break
done
if [ -e "$dir/stopped" ]; then cd / && rm -rf "$dir"; else kill $waiter; fi
exit $status
"#;

/// How long a server may take to answer after it was started.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long a server may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server binaries were found.
    #[error(
        "no PostgreSQL server is installed here: no `initdb` on PATH, in DUNLIN_PG_BIN, or where the packages of Debian, \
         Red Hat or Homebrew put it; install PostgreSQL 14 or later (Debian: apt-get install postgresql; Fedora: dnf \
         install postgresql-server; macOS: brew install postgresql), or name a running server"
    )]
    NotInstalled,
    /// `initdb` refuses root, and there is no other user to run it as.
    #[error(
        "PostgreSQL refuses to run as root, and this machine has neither a user `postgres` nor `nobody` to run it as"
    )]
    NoUser,
    /// A file or a process could not be made.
    #[error("cannot start a throwaway PostgreSQL: {0}")]
    Io(#[from] io::Error),
    /// `initdb` failed.
    #[error("`initdb` failed: {0}")]
    Initdb(String),
    /// The server ended or did not answer in time.
    #[error("the throwaway PostgreSQL did not come up: {0}")]
    NotUp(String),
    /// The server refused a command.
    #[error("the throwaway PostgreSQL refused a command: {0}")]
    Refused(#[from] tokio_postgres::Error),
}

/// A running server. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub struct Server {
    supervisor: Child,
    dir: PathBuf,
    bin: PathBuf,
    port: u16,
    password: String,
    databases: AtomicU32,
}

impl Server {
    /// Starts a server whose data need not survive a crash of the machine.
    ///
    /// # Errors
    /// No binaries, no user to run them as, or the server does not come up.
    pub async fn start() -> Result<Self, Error> {
        Self::start_with(&[("fsync", "off")]).await
    }

    /// Starts a server with settings of `postgresql.conf`, such as `("shared_buffers", "1GB")`.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_with(settings: &[(&str, &str)]) -> Result<Self, Error> {
        let bin = find_binaries()?;
        let dir = tempfile::Builder::new().prefix("dunlin-postgres-").tempdir()?;
        let owner = owner()?;
        let password = format!("{:032x}", rand::random::<u128>());
        let data = dir.path().join("data");
        let secret = dir.path().join("password");
        fs::write(&secret, &password)?;
        if let Some((uid, gid)) = owner {
            chown(dir.path(), Some(uid), Some(gid))?;
            chown(&secret, Some(uid), Some(gid))?;
        }
        initdb(&bin, &data, &secret, owner).await?;
        fs::remove_file(&secret)?;

        // Another program can take the free port before the server does: then it ends at once, and the next port is tried.
        let mut tries = 3;
        loop {
            let port = free_port()?;
            configure(&data, dir.path(), port, settings)?;
            match Self::launch(&bin, dir.path(), port, &password, owner).await {
                Ok(server) => {
                    let _kept = dir.keep();
                    return Ok(server);
                }
                Err(Error::NotUp(_)) if tries > 1 => tries -= 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn launch(bin: &Path, dir: &Path, port: u16, password: &str, owner: Owner) -> Result<Self, Error> {
        let mut command = as_owner("sh", owner);
        command
            .args(["-c", SUPERVISOR, "dunlin-postgres"])
            .args([bin, &dir.join("data"), &dir.join("log"), dir])
            .current_dir(dir)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut supervisor = command.spawn()?;
        if let Err(error) = answers(&admin(port, password), dir, async || Ok(supervisor.try_wait()?.is_some())).await {
            drop(supervisor.stdin.take());
            return Err(error);
        }
        Ok(Self {
            supervisor,
            dir: dir.to_owned(),
            bin: bin.to_owned(),
            port,
            password: password.to_owned(),
            databases: AtomicU32::new(0),
        })
    }

    /// The connection URL of a database of this server, for its superuser `postgres`.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// The directory with the binaries that the server was started from, such as `psql`'s.
    #[must_use]
    pub fn binaries(&self) -> &Path {
        &self.bin
    }

    /// The directory of the server, with its data in `data` and its log in `log`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.dir
    }

    /// The loopback port on which the server listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes an empty database with a name of its own that begins with `prefix`, and returns its URL.
    ///
    /// # Errors
    /// The server does not answer or refuses.
    pub async fn database(&self, prefix: &str) -> Result<String, Error> {
        let name = format!("{prefix}_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        // Without the checkpoint that copying files takes. PostgreSQL 14 knows no other way.
        let wal_log = format!("CREATE DATABASE \"{name}\" STRATEGY wal_log");
        match self.command(&wal_log).await {
            Err(Error::Refused(error)) if error.code() == Some(&SqlState::SYNTAX_ERROR) => {
                self.command(&format!("CREATE DATABASE \"{name}\"")).await?;
            }
            made => made?,
        }
        Ok(self.url(&name))
    }

    /// Executes commands in the maintenance database `postgres`.
    ///
    /// # Errors
    /// The server does not answer or refuses.
    pub async fn command(&self, sql: &str) -> Result<(), Error> {
        let (client, connection) = admin(self.port, &self.password).connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        let done = client.batch_execute(sql).await;
        drop(client);
        let _ended = connection.await;
        Ok(done?)
    }

    /// Crashes the server, as `pg_ctl stop -m immediate` does, and waits until it is gone: what it had not written is lost.
    /// It stays down until it is [started again](Server::start_again).
    ///
    /// # Errors
    /// It runs no more, or cannot be signalled, or does not end in time.
    pub async fn crash(&self) -> Result<(), Error> {
        let number = self.dir.join("server");
        let pid = fs::read_to_string(&number)?.trim().parse().map_err(io::Error::other)?;
        fs::write(self.dir.join("down"), "")?;
        match signal::kill(Pid::from_raw(pid), Signal::SIGQUIT) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(Error::Io(error.into())),
        }
        let deadline = tokio::time::Instant::now() + STOP_DEADLINE;
        while number.exists() {
            if tokio::time::Instant::now() > deadline {
                return Err(Error::NotUp("it does not stop".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Starts the server again after a [crash](Server::crash), on the same port and data, and waits until it answers. A
    /// server that was not crashed goes on.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_again(&self) -> Result<(), Error> {
        match fs::remove_file(self.dir.join("down")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        answers(&admin(self.port, &self.password), &self.dir, async || Ok(false)).await
    }

    /// Stops the server and waits until its files are gone.
    ///
    /// # Errors
    /// The server does not stop in time.
    pub async fn stop(mut self) -> Result<(), Error> {
        drop(self.supervisor.stdin.take());
        let deadline = tokio::time::Instant::now() + STOP_DEADLINE;
        while self.supervisor.try_wait()?.is_none() {
            if tokio::time::Instant::now() > deadline {
                return Err(Error::NotUp("it does not stop".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
    }
}

/// The one server of this process, started when it is first asked for: unit tests share it and take a
/// [database](Server::database) each.
///
/// # Panics
/// When no server can be started: a test cannot go on without one.
pub async fn shared() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER
        .get_or_init(|| async {
            match Server::start_with(&[("fsync", "off"), ("max_connections", "300")]).await {
                Ok(server) => server,
                Err(error) => panic!("{error}"),
            }
        })
        .await
}

/// Waits until the server with its log in `dir` answers. `ended` says whether that will never be.
async fn answers(
    config: &tokio_postgres::Config,
    dir: &Path,
    mut ended: impl AsyncFnMut() -> io::Result<bool>,
) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + START_DEADLINE;
    loop {
        if let Ok((_client, connection)) = config.connect(NoTls).await {
            drop(connection);
            return Ok(());
        }
        if ended().await? || tokio::time::Instant::now() > deadline {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            return Err(Error::NotUp(last_lines(&log, 5)));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The user and group that the server runs as, where they are not one's own.
type Owner = Option<(u32, u32)>;

fn owner() -> Result<Owner, Error> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name).map_err(io::Error::from)? {
            return Ok(Some((user.uid.as_raw(), user.gid.as_raw())));
        }
    }
    Err(Error::NoUser)
}

fn as_owner(program: impl AsRef<std::ffi::OsStr>, owner: Owner) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command
}

async fn initdb(bin: &Path, data: &Path, secret: &Path, owner: Owner) -> Result<(), Error> {
    let mut command = as_owner(bin.join("initdb"), owner);
    command
        .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"])
        .args(["--no-sync", "--no-instructions"])
        .arg(format!("--pwfile={}", secret.display()))
        .arg(format!("--pgdata={}", data.display()))
        .current_dir(secret.parent().unwrap_or(Path::new("/")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let ended = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut text)?;
        }
        Ok::<_, io::Error>((child.wait()?, text))
    });
    let (status, text) = ended.await.map_err(io::Error::other)??;
    if status.success() { Ok(()) } else { Err(Error::Initdb(last_lines(&text, 5))) }
}

fn configure(data: &Path, dir: &Path, port: u16, settings: &[(&str, &str)]) -> io::Result<()> {
    let mut text = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nmax_connections = 200\n\
         log_min_messages = warning\nlog_checkpoints = off\n",
        dir.display()
    );
    for (name, value) in settings {
        text.push_str(&format!("{name} = '{value}'\n"));
    }
    // The file of ALTER SYSTEM: it exists, belongs to the server's user already, and is read after `postgresql.conf`.
    fs::write(data.join("postgresql.auto.conf"), text)
}

fn admin(port: u16, password: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(port)
        .user("postgres")
        .password(password)
        .dbname("postgres")
        .connect_timeout(Duration::from_secs(5));
    config
}

/// A port that nobody listens on, below those that Linux and macOS hand to outgoing connections: a server that is down for a
/// moment finds it free when it starts again.
fn free_port() -> io::Result<u16> {
    let free = (0..100)
        .map(|_| rand::random_range(10_000..18_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    match free {
        Some(port) => Ok(port),
        None => Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port()),
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("; ")
}

/// The directory of `initdb` and `postgres`: `DUNLIN_PG_BIN`, PATH, or where packages put them, the newest version first.
fn find_binaries() -> Result<PathBuf, Error> {
    let named = std::env::var_os("DUNLIN_PG_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = named.into_iter().chain(std::env::split_paths(&path)).collect();
    for (parent, below) in
        [("/usr/lib/postgresql", "bin"), ("/usr", "bin"), ("/opt/homebrew/opt", "bin"), ("/usr/local/opt", "bin")]
    {
        let mut found: Vec<(u32, PathBuf)> = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((version_in(&entry.file_name().into_string().ok()?)?, entry.path().join(below))))
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        places.extend(found.into_iter().map(|(_, place)| place));
    }
    places
        .into_iter()
        .filter_map(|place| place.join("initdb").canonicalize().ok()?.parent().map(Path::to_owned))
        .find(|place| place.join("postgres").is_file())
        .ok_or(Error::NotInstalled)
}

/// The version in the name of a directory: `15`, `pgsql-16` or `postgresql@17`.
fn version_in(name: &str) -> Option<u32> {
    name.trim_start_matches("postgresql@").trim_start_matches("pgsql-").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_starts_answers_and_leaves_nothing_behind() {
        let server = Server::start().await.unwrap();
        let dir = server.directory().to_owned();
        let url = server.database("sample").await.unwrap();
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let row = client.query_one("SELECT current_database()", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "sample_0");
        drop(client);
        connection.await.unwrap().unwrap();
        server.stop().await.unwrap();
        assert!(!dir.exists());
    }

    #[tokio::test]
    async fn a_server_that_crashed_starts_again_with_what_it_had_written() {
        let server = Server::start().await.unwrap();
        server.command("CREATE TABLE kept (id int)").await.unwrap();
        for _ in 0..2 {
            server.crash().await.unwrap();
            assert!(server.command("SELECT 1").await.is_err(), "it is down");
            server.start_again().await.unwrap();
            server.command("SELECT FROM kept").await.unwrap();
        }
        let dir = server.directory().to_owned();
        server.stop().await.unwrap();
        assert!(!dir.exists());
    }

    #[tokio::test]
    async fn a_server_that_is_down_leaves_nothing_behind_either() {
        let server = Server::start().await.unwrap();
        let dir = server.directory().to_owned();
        server.crash().await.unwrap();
        server.stop().await.unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn the_version_is_read_from_the_names_of_all_packagers() {
        assert_eq!(version_in("15"), Some(15));
        assert_eq!(version_in("pgsql-16"), Some(16));
        assert_eq!(version_in("postgresql@17"), Some(17));
        assert_eq!(version_in("postgis"), None);
    }
}
