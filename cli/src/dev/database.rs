//! The PostgreSQL of `dunlin dev`: a throwaway server with a database for the controller and one for the target, or one
//! database of a server that was named, which then is both.

use dunlin_shared::postgres::throwaway::{self, Server};

use crate::error::Error;

/// The databases of `dunlin dev`.
#[derive(Debug)]
pub(super) struct Database {
    server: Option<Server>,
    /// The URL of the controller's own database.
    pub(super) controller: String,
    /// The URL of the target `main`.
    pub(super) target: String,
}

impl Database {
    /// The database that was named, or a new server.
    pub(super) async fn open(named: Option<&str>) -> Result<Self, Error> {
        if let Some(url) = named {
            // Tried here first: the controller would go on trying, since a database may come up later.
            let reached = dunlin_shared::postgres::connect(url, "dunlin dev").await;
            reached.map_err(|error| Error::Refused(format!("the database of --postgres cannot be used: {error}")))?;
            return Ok(Self { server: None, controller: url.to_owned(), target: url.to_owned() });
        }
        let server = Server::start().await.map_err(failed)?;
        server.command("CREATE DATABASE dunlin").await.map_err(failed)?;
        server.command("CREATE DATABASE main").await.map_err(failed)?;
        let (controller, target) = (server.url("dunlin"), server.url("main"));
        Ok(Self { server: Some(server), controller, target })
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

fn failed(error: throwaway::Error) -> Error {
    match error {
        throwaway::Error::NotInstalled | throwaway::Error::NoUser => {
            Error::Refused(format!("{error}\nOr use a PostgreSQL that is running: dunlin dev --postgres URL"))
        }
        _ => Error::Dev(error.to_string()),
    }
}
