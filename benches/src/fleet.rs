//! Controllers and agents as processes, for the time of one measurement.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dunlin_proto::client;
use dunlin_proto::v1::fleet_service_client::FleetServiceClient;
use dunlin_proto::v1::registry_service_client::RegistryServiceClient;
use dunlin_proto::v1::run_service_client::RunServiceClient;
use dunlin_proto::v1::{
    DefinitionFile, ListAgentsRequest, ListTargetsRequest, MissingPolicy, RegisterMigrationsRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::Error;

const READY_DEADLINE: Duration = Duration::from_secs(30);

/// Running controllers with their agents, all connected.
pub(crate) struct Fleet {
    controllers: Vec<Child>,
    agents: Vec<Child>,
    database: String,
    ports: Vec<u16>,
    channel: Channel,
}

impl Fleet {
    /// Starts a controller on the database at `controller_url`, and agents that serve `target_url` as `main`.
    pub(crate) async fn start(controller_url: &str, target_url: &str, agents: u32, slots: u32) -> Result<Self, Error> {
        Self::start_replicas(1, controller_url, target_url, agents, slots).await
    }

    /// The same with several controllers.
    pub(crate) async fn start_replicas(
        controllers: usize,
        controller_url: &str,
        target_url: &str,
        agents: u32,
        slots: u32,
    ) -> Result<Self, Error> {
        // All at once, so that none is handed out twice.
        let listeners = (0..controllers).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<Vec<_>, _>>()?;
        let ports =
            listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<Result<Vec<_>, Error>>();
        let ports = ports?;
        drop(listeners);
        let urls: Vec<String> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let channel = match urls.first() {
            Some(url) => {
                Channel::from_shared(url.clone()).map_err(|e| Error::Unexpected(e.to_string()))?.connect_lazy()
            }
            None => return Err(Error::Unexpected("a fleet has a controller".to_owned())),
        };
        let mut fleet =
            Self { controllers: Vec::new(), agents: Vec::new(), database: controller_url.to_owned(), ports, channel };
        for index in 0..controllers {
            let child = fleet.controller(index)?;
            fleet.controllers.push(child);
        }
        for agent in 1..=agents {
            let child = program("dunlin-agent")?
                .args(["--controller", &urls.join(",")])
                .args(["--target", &format!("main={target_url}")])
                .args(["--slots", &slots.to_string()])
                .args(["--id", &format!("bench-{agent}")])
                .spawn()?;
            fleet.agents.push(child);
        }
        fleet.ready(agents).await?;
        Ok(fleet)
    }

    fn controller(&self, index: usize) -> Result<Child, Error> {
        let child = program("dunlin-controller")?
            .args(["--database-url", &self.database])
            .args(["--listen", &format!("127.0.0.1:{}", self.ports[index])])
            .spawn()?;
        Ok(child)
    }

    /// Kills a controller, with no chance to say a word.
    pub(crate) fn kill_controller(&mut self, index: usize) -> Result<(), Error> {
        self.controllers[index].kill()?;
        self.controllers[index].wait()?;
        Ok(())
    }

    /// Starts a controller again, and waits until it serves.
    pub(crate) async fn restart_controller(&mut self, index: usize) -> Result<(), Error> {
        self.controllers[index] = self.controller(index)?;
        let url = format!("http://127.0.0.1:{}", self.ports[index]);
        let deadline = Instant::now() + READY_DEADLINE;
        while !client::choose(&url, &client::Options::default()).await.is_ok_and(|choice| choice.serves) {
            if Instant::now() > deadline {
                return Err(Error::Unexpected("a controller that was started again does not serve".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn ready(&self, agents: u32) -> Result<(), Error> {
        let deadline = Instant::now() + READY_DEADLINE;
        let wanted = usize::try_from(agents).unwrap_or(usize::MAX);
        loop {
            let request = ListAgentsRequest { target: "main".to_owned(), ..Default::default() };
            let mut fleet = FleetServiceClient::new(self.channel.clone());
            let answer = fleet.list_agents(request).await;
            let targets = fleet.list_targets(ListTargetsRequest::default()).await;
            if let (Ok(answer), Ok(targets)) = (&answer, &targets)
                && answer.get_ref().agents.iter().filter(|agent| agent.connected).count() >= wanted
                && targets.get_ref().targets.iter().all(|target| target.reachable)
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
        let request = RegisterMigrationsRequest { files, missing: MissingPolicy::Add.into(), ..Default::default() };
        RegistryServiceClient::new(self.channel.clone()).register_migrations(request).await?;
        Ok(())
    }

    /// Stops all processes, the agents first.
    pub(crate) fn stop(mut self) -> Result<(), Error> {
        let agents = std::mem::take(&mut self.agents);
        for mut process in agents.into_iter().chain(std::mem::take(&mut self.controllers)) {
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
        for process in self.agents.iter_mut().chain(&mut self.controllers) {
            let _gone = process.kill();
            let _reaped = process.wait();
        }
    }
}

/// A program that was built together with this one.
pub(crate) fn program(name: &str) -> Result<Command, Error> {
    let here = std::env::current_exe()?;
    let path: PathBuf = here.with_file_name(name);
    if !path.is_file() {
        return Err(Error::Unexpected(format!(
            "{} is not built; build everything first: cargo build --release --workspace",
            path.display()
        )));
    }
    let mut command = Command::new(path);
    if std::env::var_os("DUNLIN_LOG").is_none() {
        command.env("DUNLIN_LOG", "error");
    }
    command.stdin(Stdio::null());
    Ok(command)
}
