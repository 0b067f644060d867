//! A controller and agents as processes, for the time of one measurement.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dunlin_proto::v1::fleet_service_client::FleetServiceClient;
use dunlin_proto::v1::registry_service_client::RegistryServiceClient;
use dunlin_proto::v1::run_service_client::RunServiceClient;
use dunlin_proto::v1::{DefinitionFile, ListAgentsRequest, RegisterMigrationsRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::Error;

const READY_DEADLINE: Duration = Duration::from_secs(30);

/// A running controller with its agents, all connected.
pub(crate) struct Fleet {
    processes: Vec<Child>,
    channel: Channel,
}

impl Fleet {
    /// Starts a controller on the database at `controller_url`, and agents that serve `target_url` as `main`.
    pub(crate) async fn start(controller_url: &str, target_url: &str, agents: u32, slots: u32) -> Result<Self, Error> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let url = format!("http://127.0.0.1:{port}");
        let mut processes = vec![
            program("dunlin-controller")?
                .args(["--database-url", controller_url])
                .args(["--listen", &format!("127.0.0.1:{port}")])
                .spawn()?,
        ];
        for agent in 1..=agents {
            let child = program("dunlin-agent")?
                .args(["--controller", &url])
                .args(["--target", &format!("main={target_url}")])
                .args(["--slots", &slots.to_string()])
                .args(["--id", &format!("bench-{agent}")])
                .spawn()?;
            processes.push(child);
        }
        let channel = Channel::from_shared(url).map_err(|e| Error::Unexpected(e.to_string()))?.connect_lazy();
        let fleet = Self { processes, channel };
        fleet.ready(agents).await?;
        Ok(fleet)
    }

    async fn ready(&self, agents: u32) -> Result<(), Error> {
        let deadline = Instant::now() + READY_DEADLINE;
        let wanted = usize::try_from(agents).unwrap_or(usize::MAX);
        loop {
            let request = ListAgentsRequest { target: "main".to_owned(), ..Default::default() };
            let answer = FleetServiceClient::new(self.channel.clone()).list_agents(request).await;
            if let Ok(answer) = &answer
                && answer.get_ref().agents.iter().filter(|agent| agent.connected).count() >= wanted
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::Unexpected(format!("the fleet is not ready: {answer:?}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The client of the service that runs migrations.
    pub(crate) fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel.clone())
    }

    /// Registers definitions, each an id and its TOML.
    pub(crate) async fn register(&self, definitions: Vec<(String, String)>) -> Result<(), Error> {
        let files = definitions
            .into_iter()
            .map(|(id, content)| DefinitionFile { path: format!("{id}.toml"), content })
            .collect();
        let request = RegisterMigrationsRequest { files, validate_only: false };
        RegistryServiceClient::new(self.channel.clone()).register_migrations(request).await?;
        Ok(())
    }

    /// Stops all processes, the agents first.
    pub(crate) fn stop(mut self) -> Result<(), Error> {
        for mut process in std::mem::take(&mut self.processes).into_iter().rev() {
            if let Ok(id) = i32::try_from(process.id()) {
                kill(Pid::from_raw(id), Signal::SIGTERM).map_err(std::io::Error::from)?;
            }
            process.wait()?;
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _gone = process.kill();
            let _reaped = process.wait();
        }
    }
}

/// A program that was built together with this one.
fn program(name: &str) -> Result<Command, Error> {
    let here = std::env::current_exe()?;
    let path: PathBuf = here.with_file_name(name);
    if !path.is_file() {
        return Err(Error::Unexpected(format!(
            "{} is not built; build everything first: cargo build --release --workspace",
            path.display()
        )));
    }
    let mut command = Command::new(path);
    command.env("DUNLIN_LOG", "error").stdin(Stdio::null());
    Ok(command)
}
