//! The PostgreSQL of `dunlin dev`: a throwaway server with a database for the controller and one for the target, or one
//! database of a server that was named, which then is both.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use dunlin_shared::postgres::throwaway::{self, Server};

use crate::error::Error;

/// The role that owns the databases of a throwaway server: no superuser, as elsewhere.
const ROLE: &str = "dunlin";

/// The databases of `dunlin dev`.
pub(super) struct Database {
    server: Option<Server>,
    /// The URL of the controller's own database.
    pub(super) controller: String,
    /// The URL of the target `main`.
    pub(super) target: String,
    /// The same, fit to be shown.
    pub(super) shown: String,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl Database {
    /// The database that was named, or a new server. Its password goes into a file of the directory.
    pub(super) async fn open(named: Option<&str>, directory: &Path) -> Result<Self, Error> {
        if let Some(url) = named {
            // Tried here first: the controller would go on trying, since a database may come up later.
            let reached = dunlin_shared::postgres::connect(url, "dunlin dev").await;
            reached.map_err(|error| Error::Refused(format!("the database of --postgres cannot be used: {error}")))?;
            let (controller, target) = (url.to_owned(), url.to_owned());
            return Ok(Self { server: None, controller, target, shown: without_password(url) });
        }
        let server = Server::start().await.map_err(failed)?;
        let password = format!("{:032x}", rand::random::<u128>());
        let role = format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'");
        server.command(&role).await.map_err(failed)?;
        for database in ["dunlin", "main"] {
            server.command(&format!("CREATE DATABASE {database} OWNER {ROLE}")).await.map_err(failed)?;
        }
        let place = format!("127.0.0.1:{}", server.port());
        let url = |database: &str| format!("postgres://{ROLE}:{password}@{place}/{database}?sslmode=disable");
        let passfile = directory.join("passfile");
        keep(&passfile, &format!("{place}:*:{ROLE}:{password}\n"))
            .map_err(|error| Error::Dev(format!("cannot write {}: {error}", passfile.display())))?;
        let shown = format!("postgres://{ROLE}@{place}/main?sslmode=disable&passfile={}", passfile.display());
        Ok(Self { controller: url("dunlin"), target: url("main"), shown, server: Some(server) })
    }

    /// `psql` of the server that was started, where it has one.
    pub(super) fn psql(&self) -> Option<String> {
        let psql = self.server.as_ref()?.binaries().join("psql");
        psql.is_file().then(|| psql.display().to_string())
    }

    /// Stops and removes a server that was started here.
    pub(super) async fn close(self) -> Result<(), Error> {
        match self.server {
            Some(server) => server.stop().await.map_err(failed),
            None => Ok(()),
        }
    }
}

/// Writes a file that nobody else can read.
fn keep(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// A URL without the password that may stand in it. The name of a file stays what it is.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let place = match place.rsplit_once('@') {
        Some((credentials, host)) => format!("{}@{host}", credentials.split(':').next().unwrap_or_default()),
        None => place.to_owned(),
    };
    let kept: Vec<&str> = query.split('&').filter(|parameter| !parameter.starts_with("password=")).collect();
    let query = kept.join("&");
    if query.is_empty() { format!("{scheme}://{place}") } else { format!("{scheme}://{place}?{query}") }
}

fn failed(error: throwaway::Error) -> Error {
    match error {
        throwaway::Error::NotInstalled | throwaway::Error::NoUser => {
            Error::Refused(format!("{error}\nOr use a PostgreSQL that is running: dunlin dev --postgres URL"))
        }
        _ => Error::Dev(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_of_a_url_is_shown() {
        for (url, shown) in [
            ("postgres://u:p@h:1/d?sslmode=disable", "postgres://u@h:1/d?sslmode=disable"),
            ("postgres://u:p@p@h/d", "postgres://u@h/d"),
            ("postgres://h/d?user=u&password=p&sslmode=disable", "postgres://h/d?user=u&sslmode=disable"),
            ("postgres://h/d?password=p", "postgres://h/d"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("@/run/secrets/main", "@/run/secrets/main"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
