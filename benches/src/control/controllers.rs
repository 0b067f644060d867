//! Controllers as processes, all on one database.

use std::net::TcpListener;
use std::process::Child;
use std::time::Duration;

use dunlin_proto::client;
use dunlin_proto::v1::registry_service_client::RegistryServiceClient;
use dunlin_proto::v1::run_service_client::RunServiceClient;
use dunlin_proto::v1::{
    DefinitionFile, GetRunRequest, ListAgentsRequest, MissingPolicy, RegisterMigrationsRequest, Run,
    RunMigrationRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::usage;
use crate::Error;
use crate::fleet::program;

const READY_WITHIN: Duration = Duration::from_secs(30);

/// Running controllers. Dropping them ends their processes.
pub(crate) struct Controllers {
    replicas: Vec<Replica>,
}

struct Replica {
    process: Child,
    url: String,
    channel: Channel,
}

impl Controllers {
    /// Starts so many controllers on the database at `database`.
    pub(crate) async fn start(database: &str, count: u32) -> Result<Self, Error> {
        let mut controllers = Self { replicas: Vec::new() };
        for _ in 0..count {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            let process = program("dunlin-controller")?
                .args(["--database-url", database])
                .args(["--listen", &format!("127.0.0.1:{port}")])
                .spawn()?;
            let url = format!("http://127.0.0.1:{port}");
            let channel =
                Channel::from_shared(url.clone()).map_err(|e| Error::Unexpected(e.to_string()))?.connect_lazy();
            controllers.replicas.push(Replica { process, url, channel });
        }
        for replica in &controllers.replicas {
            replica.ready().await?;
        }
        Ok(controllers)
    }

    /// The URL for the client with this number: clients are spread over the controllers.
    pub(crate) fn url(&self, client: usize) -> &str {
        &self.replicas[client % self.replicas.len()].url
    }

    /// The client for runs, at the first controller.
    pub(crate) fn runs(&self) -> RunServiceClient<Channel> {
        client::runs(self.replicas[0].channel.clone())
    }

    /// The client for the registry, at the first controller.
    pub(crate) fn registry(&self) -> RegistryServiceClient<Channel> {
        client::registry(self.replicas[0].channel.clone())
    }

    /// Registers definitions, each an id and its TOML.
    pub(crate) async fn register(&self, definitions: Vec<(String, String)>) -> Result<(), Error> {
        let files = definitions
            .into_iter()
            .map(|(id, content)| DefinitionFile { path: format!("{id}.toml"), content })
            .collect();
        self.registry()
            .register_migrations(RegisterMigrationsRequest {
                files,
                missing: MissingPolicy::Add.into(),
                ..Default::default()
            })
            .await?;
        Ok(())
    }

    /// Queues a run of a migration on a target.
    pub(crate) async fn run(&self, migration: &str, target: &str, rerun: bool) -> Result<i64, Error> {
        let request = RunMigrationRequest {
            migration_id: migration.to_owned(),
            target: target.to_owned(),
            rerun,
            wait_for_agent: true,
            ..Default::default()
        };
        let run = self.runs().run_migration(request).await?.into_inner().run;
        Ok(run.ok_or_else(|| Error::Unexpected(format!("migration {migration} was skipped")))?.id)
    }

    /// A run as it is now.
    pub(crate) async fn get_run(&self, id: i64) -> Result<Run, Error> {
        let run = self.runs().get_run(GetRunRequest { id }).await?.into_inner().run;
        run.ok_or_else(|| Error::Unexpected(format!("run {id} has no answer")))
    }

    /// The processor time that all controllers have used, in seconds.
    pub(crate) fn processor(&self) -> Result<f64, Error> {
        self.replicas.iter().map(|replica| usage::processor(replica.process.id())).sum()
    }

    /// The memory of all controllers, in MiB.
    pub(crate) fn memory(&self) -> Result<f64, Error> {
        self.replicas.iter().map(|replica| usage::memory(replica.process.id())).sum()
    }

    /// Stops the controllers in order.
    pub(crate) fn stop(mut self) -> Result<(), Error> {
        for replica in &self.replicas {
            if let Ok(id) = i32::try_from(replica.process.id()) {
                kill(Pid::from_raw(id), Signal::SIGTERM).map_err(std::io::Error::from)?;
            }
        }
        for replica in &mut self.replicas {
            replica.process.wait()?;
        }
        Ok(())
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        for replica in &mut self.replicas {
            let _gone = replica.process.kill();
            let _reaped = replica.process.wait();
        }
    }
}

impl Replica {
    async fn ready(&self) -> Result<(), Error> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let answer = client::fleet(self.channel.clone()).list_agents(ListAgentsRequest::default()).await;
            if answer.is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::Unexpected(format!("the controller at {} is not ready: {answer:?}", self.url)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
