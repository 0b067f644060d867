//! The whole: started in order, watched, and stopped in the opposite order.

use std::future::pending;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;

use super::child::{Child, Start};
use super::database::Database;
use super::programs;
use crate::commands::wait;
use crate::connection::Controllers;
use crate::error::Error;

/// How long everything may take until it is ready.
const READY: Duration = Duration::from_secs(60);

/// What is started.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The URL of a PostgreSQL database to use, or `@` and a file with it. None: a throwaway server.
    pub(crate) postgres: Option<String>,
    /// How many agents.
    pub(crate) agents: usize,
    /// How many slots each of them has.
    pub(crate) slots: usize,
    /// Where the controller listens; port 0 means a free one.
    pub(crate) listen: SocketAddr,
    /// Show the whole logs.
    pub(crate) verbose: bool,
}

/// Everything, running.
#[derive(Debug)]
pub(crate) struct Stack {
    database: Database,
    controller: Option<Child>,
    agents: Vec<Child>,
    logs: TempDir,
    address: SocketAddr,
}

impl Stack {
    /// Starts everything and waits until work can begin. What was started is stopped again when something fails.
    pub(crate) async fn start(settings: &Settings) -> Result<Self, Error> {
        let controller = programs::find("dunlin-controller")?;
        let agent = programs::find("dunlin-agent")?;
        let address = free(settings.listen).await?;
        let logs = tempfile::Builder::new().prefix("dunlin-dev-").tempdir();
        let logs = logs.map_err(|error| Error::Dev(format!("cannot make a directory for the logs: {error}")))?;
        let database = Database::open(settings.postgres.as_deref(), logs.path()).await?;
        let mut stack = Self { database, controller: None, agents: Vec::new(), logs, address };
        match stack.bring_up(settings, &controller, &agent).await {
            Ok(()) => Ok(stack),
            Err(error) => {
                stack.stop().await?;
                Err(error)
            }
        }
    }

    async fn bring_up(&mut self, settings: &Settings, controller: &Path, agent: &Path) -> Result<(), Error> {
        let start = Start {
            name: "controller".to_owned(),
            program: controller,
            arguments: vec!["--listen".to_owned(), self.address.to_string()],
            environment: vec![("DUNLIN_DATABASE_URL", self.database.controller.clone())],
            logs: self.logs.path(),
            verbose: settings.verbose,
        };
        self.controller = Some(spawned(start).await?);
        let controllers = Controllers::new(self.controller_url());
        self.wait(wait::serving(&controllers, READY)).await?;
        for number in 1..=settings.agents {
            let name = format!("agent-{number}");
            let start = Start {
                arguments: [
                    "--controller",
                    &self.controller_url(),
                    "--id",
                    &name,
                    "--slots",
                    &settings.slots.to_string(),
                ]
                .map(str::to_owned)
                .to_vec(),
                name,
                program: agent,
                environment: vec![("DUNLIN_TARGET", format!("main={}", self.database.target))],
                logs: self.logs.path(),
                verbose: settings.verbose,
            };
            self.agents.push(spawned(start).await?);
        }
        self.wait(wait::ready(&controllers, "main", settings.agents, READY, |_| {})).await
    }

    /// Waits until something is ready, or a child dies.
    async fn wait<T>(&mut self, ready: impl Future<Output = Result<T, String>>) -> Result<(), Error> {
        tokio::select! {
            ready = ready => {
                ready.map(|_| ()).map_err(|missing| Error::Dev(format!("not ready after {READY:?}: {missing}")))
            }
            error = self.death() => Err(error),
        }
    }

    /// Waits until a child dies, and tells which and how.
    pub(crate) async fn death(&mut self) -> Error {
        let children: Vec<&mut Child> = self.controller.iter_mut().chain(&mut self.agents).collect();
        if children.is_empty() {
            return pending().await;
        }
        let mut endings: Vec<_> = children
            .into_iter()
            .map(|child| {
                Box::pin(async move {
                    let ended = child.ended().await;
                    (child, ended)
                })
            })
            .collect();
        let (child, ended) = std::future::poll_fn(|context| {
            endings
                .iter_mut()
                .find_map(|ending| match Pin::as_mut(ending).poll(context) {
                    Poll::Ready(ended) => Some(Poll::Ready(ended)),
                    Poll::Pending => None,
                })
                .unwrap_or(Poll::Pending)
        })
        .await;
        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        Error::Dev(format!("{} has ended by itself ({how}); its last lines:\n{}", child.name, child.last_lines()))
    }

    /// Stops everything: the agents give their leases back to the controller, both write to the database to the end.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        let agents: Vec<_> = self.agents.into_iter().map(|agent| tokio::spawn(agent.stop())).collect();
        for agent in agents {
            let _stopped = agent.await;
        }
        if let Some(controller) = self.controller {
            controller.stop().await;
        }
        self.database.close().await
    }

    /// The URL of the controller.
    pub(crate) fn controller_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The URL of the target `main`, with its password.
    pub(crate) fn database_url(&self) -> &str {
        &self.database.target
    }

    /// The URL of the target `main`, fit to be shown.
    pub(crate) fn shown_url(&self) -> &str {
        &self.database.shown
    }

    /// `psql` of the server that was started, where it has one.
    pub(crate) fn psql(&self) -> Option<String> {
        self.database.psql()
    }

    /// The directory of the logs.
    pub(crate) fn logs(&self) -> &Path {
        self.logs.path()
    }

    /// Name, process id and log file of each child.
    pub(crate) fn children(&self) -> impl Iterator<Item = (&str, i32, &Path)> {
        let children = self.controller.iter().chain(&self.agents);
        children.map(|child| (child.name.as_str(), child.pid, child.log.as_path()))
    }
}

async fn spawned(start: Start<'_>) -> Result<Child, Error> {
    let program = start.program.display().to_string();
    start.spawn().await.map_err(|error| Error::Dev(format!("cannot start {program}: {error}")))
}

/// The address to listen on: tried here first, for the clearest error.
async fn free(listen: SocketAddr) -> Result<SocketAddr, Error> {
    let bound = match TcpListener::bind(listen).await {
        Ok(listener) => listener.local_addr(),
        Err(error) => Err(error),
    };
    bound.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => Error::Refused(format!(
            "port {} of {} is in use, perhaps by another `dunlin dev`: stop that, or choose another with --listen {}:PORT \
             (0 means any free one)",
            listen.port(),
            listen.ip(),
            listen.ip()
        )),
        _ => Error::Refused(format!("cannot listen on {listen}: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = free(address).await.unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains(&format!("port {}", address.port())), "{error}");
    }

    #[tokio::test]
    async fn port_zero_becomes_a_free_port() {
        assert_ne!(free("127.0.0.1:0".parse().unwrap()).await.unwrap().port(), 0);
    }
}
