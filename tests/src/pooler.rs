//! PgBouncer in transaction mode, in front of the throwaway server of the test program.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use dunlin_shared::postgres::throwaway;
use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::ports::free_port;
use crate::process::Process;
use crate::until::until;

/// A running PgBouncer. Dropping it ends it.
#[derive(Debug)]
pub struct Pooler {
    port: u16,
    // Ends before its directory goes.
    _process: Process,
    _directory: TempDir,
}

impl Pooler {
    /// Starts a pooler that has at most `size` connections to each database.
    ///
    /// # Panics
    /// When PgBouncer is not installed or does not start.
    pub async fn start(size: u32) -> Self {
        let server = throwaway::shared().await;
        let url: tokio_postgres::Config = server.url("postgres").parse().expect("the URL of the throwaway server");
        let password = String::from_utf8_lossy(url.get_password().expect("a password")).into_owned();
        let directory = tempfile::Builder::new().prefix("dunlin-pgbouncer-").tempdir().expect("a directory");
        let path = directory.path();
        let port = free_port();
        let users = path.join("users.txt");
        fs::write(&users, format!("\"postgres\" \"{password}\"\n")).expect("a file");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = {size}\nmax_client_conn = 200\n",
            server.port(),
            users.display()
        );
        let ini = path.join("pgbouncer.ini");
        fs::write(&ini, settings).expect("a file");

        let mut command = Command::new(program());
        command.arg(&ini).current_dir(path);
        // It refuses to run as root, as the server does: whoever runs the server can run it.
        let owner = fs::metadata(server.directory()).expect("the directory of the throwaway server");
        if nix::unistd::geteuid().is_root() {
            for file in [path, &users, &ini] {
                chown(file, Some(owner.uid()), Some(owner.gid())).expect("files can be given away by root");
            }
            command.uid(owner.uid()).gid(owner.gid());
        }
        let process = Process::start(command, "pgbouncer", path);
        let pooler = Self { port, _process: process, _directory: directory };
        let url = pooler.url(&server.url("postgres"));
        until("the pooler lets clients in", async || tokio_postgres::connect(&url, NoTls).await.ok().map(drop)).await;
        pooler
    }

    /// The URL of a database of the throwaway server through the pooler.
    ///
    /// # Panics
    /// When it is none of that server.
    #[must_use]
    pub fn url(&self, url: &str) -> String {
        let (before, rest) = url.split_once("@127.0.0.1:").expect("a URL of the throwaway server");
        let (_, database) = rest.split_once('/').expect("a URL of the throwaway server");
        format!("{before}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }
}

/// Debian keeps it where only root's PATH looks.
fn program() -> &'static str {
    ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
        .into_iter()
        .find(|path| std::path::Path::new(path).is_file())
        .unwrap_or("pgbouncer")
}
