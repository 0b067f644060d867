//! A controller in this process, and an agent that is moved by hand.

use std::time::Duration;

use dunlin_controller::{Config, serve_on};
use dunlin_proto::client;
use dunlin_proto::v1::agent_service_client::AgentServiceClient;
use dunlin_proto::v1::fleet_service_client::FleetServiceClient;
use dunlin_proto::v1::registry_service_client::RegistryServiceClient;
use dunlin_proto::v1::run_service_client::RunServiceClient;
use dunlin_proto::v1::work_request::Message as Say;
use dunlin_proto::v1::work_response::Message as Hear;
use dunlin_proto::v1::{self, WorkRequest, grant};
use dunlin_shared::postgres::throwaway;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// How long anything may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A controller.
pub(crate) struct Controller {
    pub(crate) channel: Channel,
    pub(crate) stop: CancellationToken,
    pub(crate) ended: JoinHandle<Result<(), dunlin_controller::Error>>,
    _guard: DropGuard,
}

pub(crate) async fn database() -> String {
    throwaway::shared().await.database("service").await.unwrap()
}

impl Controller {
    pub(crate) async fn start(url: &str) -> Self {
        let controller = Self::start_with(url, Duration::from_secs(30)).await;
        controller.serving(true).await;
        controller
    }

    pub(crate) async fn start_with(url: &str, lease_ttl: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config {
            database_url: url.to_owned(),
            listen: address,
            lease_ttl,
            stuck_after: Duration::from_secs(2),
            database_connections: 8,
            keep: Duration::ZERO,
            max_connections_per_peer: None,
        };
        let stop = CancellationToken::new();
        let token = stop.clone();
        let ended = tokio::spawn(async move { serve_on(listener, &config, token).await });
        let channel = client::connect(&format!("http://{address}"), &client::Options::default()).await.unwrap();
        Self { channel, ended, _guard: stop.clone().drop_guard(), stop }
    }

    /// Waits until the health is this.
    pub(crate) async fn serving(&self, expected: bool) {
        use tonic_health::pb::health_check_response::ServingStatus;
        let mut health = tonic_health::pb::health_client::HealthClient::new(self.channel.clone());
        let reached = timeout(SOON, async {
            loop {
                let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
                let answer = health.check(request).await.unwrap().into_inner();
                if (answer.status() == ServingStatus::Serving) == expected {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
        });
        reached.await.expect("the health did not change");
    }

    pub(crate) fn runs(&self) -> RunServiceClient<Channel> {
        client::runs(self.channel.clone())
    }

    pub(crate) fn registry(&self) -> RegistryServiceClient<Channel> {
        client::registry(self.channel.clone())
    }

    pub(crate) fn fleet(&self) -> FleetServiceClient<Channel> {
        client::fleet(self.channel.clone())
    }

    pub(crate) fn agents(&self) -> AgentServiceClient<Channel> {
        client::agent(self.channel.clone())
    }

    pub(crate) async fn register(&self, files: &[v1::DefinitionFile]) -> Result<Vec<v1::RegisteredMigration>, Status> {
        let request = v1::RegisterMigrationsRequest {
            files: files.to_vec(),
            missing: v1::MissingPolicy::Add.into(),
            ..Default::default()
        };
        Ok(self.registry().register_migrations(request).await?.into_inner().migrations)
    }

    pub(crate) async fn run_pending(&self) -> Vec<v1::Run> {
        // That an agent reaches the target is stored a moment after it has connected.
        let request = v1::RunPendingMigrationsRequest { wait_for_agent: true, ..Default::default() };
        let answer = self.runs().run_pending_migrations(request).await;
        answer.unwrap().into_inner().runs
    }

    pub(crate) async fn run_one(&self, id: &str) -> Result<v1::RunMigrationResponse, Status> {
        let request =
            v1::RunMigrationRequest { migration_id: id.to_owned(), wait_for_agent: true, ..Default::default() };
        Ok(self.runs().run_migration(request).await?.into_inner())
    }

    pub(crate) async fn run(&self, id: i64) -> v1::Run {
        self.runs().get_run(v1::GetRunRequest { id }).await.unwrap().into_inner().run.unwrap()
    }

    /// Waits until a run is in a state.
    pub(crate) async fn reaches(&self, id: i64, state: v1::RunState) -> v1::Run {
        let reached = timeout(SOON, async {
            loop {
                let run = self.run(id).await;
                if run.state() == state {
                    return run;
                }
                sleep(Duration::from_millis(5)).await;
            }
        });
        reached.await.unwrap_or_else(|_| panic!("run {id} did not become {state:?}"))
    }
}

/// An atomic migration.
pub(crate) fn atomic(id: &str, version: i64, run_after: &[&str]) -> v1::DefinitionFile {
    definition(id, version, run_after, "[[step]]\nname = \"s\"\nsql = \"CREATE TABLE t (id bigint)\"")
}

/// A migration of one batched step.
pub(crate) fn batched(id: &str, version: i64, run_after: &[&str]) -> v1::DefinitionFile {
    let step = "[[step]]\nname = \"b\"\nbatch = { table = \"t\" }\nsql = \"UPDATE t SET a = 1 WHERE :batch\"";
    definition(id, version, run_after, step)
}

/// A migration of one step of code.
pub(crate) fn transform(id: &str, version: i64, name: &str) -> v1::DefinitionFile {
    let step = format!("[[step]]\nname = \"c\"\nbatch = {{ table = \"t\" }}\ntransform = \"{name}\"");
    definition(id, version, &[], &step)
}

fn definition(id: &str, version: i64, run_after: &[&str], steps: &str) -> v1::DefinitionFile {
    let content = format!(
        "id = \"{id}\"\nname = \"{id}\"\ndescription = \"d\"\nversion = {version}\nrun_after = {run_after:?}\n{steps}\n"
    );
    v1::DefinitionFile { path: format!("{id}.toml"), content }
}

/// An agent that is moved by hand.
pub(crate) struct Agent {
    sender: mpsc::Sender<WorkRequest>,
    stream: Streaming<v1::WorkResponse>,
    waiting: Vec<Hear>,
}

pub(crate) fn hello(id: &str, slots: i32) -> v1::Hello {
    v1::Hello {
        agent_id: id.to_owned(),
        version: "1".to_owned(),
        slots,
        targets: vec![target("main", Vec::new())],
        transforms: Vec::new(),
        ..v1::Hello::default()
    }
}

pub(crate) fn target(name: &str, applied: Vec<v1::AppliedMigration>) -> v1::TargetReport {
    v1::TargetReport {
        name: name.to_owned(),
        reachable: true,
        error: String::new(),
        server_version: "15.1".to_owned(),
        applied,
        ..v1::TargetReport::default()
    }
}

impl Agent {
    pub(crate) async fn connect(controller: &Controller, id: &str, slots: i32) -> Self {
        let mut agent = Self::open(controller, hello(id, slots)).await;
        agent.welcome().await;
        agent
    }

    pub(crate) async fn open(controller: &Controller, hello: v1::Hello) -> Self {
        let agent = Self::silent(controller).await;
        agent.say(Say::Hello(hello)).await;
        agent
    }

    /// A stream that has not said hello.
    pub(crate) async fn silent(controller: &Controller) -> Self {
        let (sender, receiver) = mpsc::channel(64);
        let stream = controller.agents().work(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { sender, stream, waiting: Vec::new() }
    }

    pub(crate) async fn say(&self, message: Say) {
        self.send(WorkRequest { message: Some(message) }).await;
    }

    pub(crate) async fn send(&self, request: WorkRequest) {
        let _closed = self.sender.send(request).await;
    }

    /// What comes next, whatever it is.
    pub(crate) async fn hear(&mut self) -> Result<Hear, Status> {
        let message = timeout(SOON, self.stream.message()).await.expect("nothing came")?;
        Ok(message.and_then(|response| response.message).expect("the stream ended"))
    }

    /// The next message that is wanted; others are kept for later.
    async fn want<T>(&mut self, wanted: impl Fn(&Hear) -> Option<T>) -> T {
        if let Some(index) = self.waiting.iter().position(|message| wanted(message).is_some()) {
            return wanted(&self.waiting.remove(index)).unwrap();
        }
        loop {
            let message = self.hear().await.unwrap();
            match wanted(&message) {
                Some(found) => return found,
                None => self.waiting.push(message),
            }
        }
    }

    pub(crate) async fn welcome(&mut self) -> v1::Welcome {
        self.want(|message| if let Hear::Welcome(welcome) = message { Some(welcome.clone()) } else { None }).await
    }

    pub(crate) async fn grant(&mut self) -> v1::Grant {
        self.want(|message| if let Hear::Grant(grant) = message { Some(grant.clone()) } else { None }).await
    }

    pub(crate) async fn revoked(&mut self) -> v1::Revoke {
        self.want(|message| if let Hear::Revoke(revoke) = message { Some(revoke.clone()) } else { None }).await
    }

    pub(crate) async fn renewed(&mut self) -> v1::Renewed {
        self.want(|message| if let Hear::Renewed(renewed) = message { Some(renewed.clone()) } else { None }).await
    }

    pub(crate) async fn acknowledged(&mut self, lease: Option<v1::Lease>) {
        self.want(|message| if let Hear::Ack(ack) = message { (ack.lease == lease).then_some(()) } else { None }).await;
    }

    /// The status with which the stream ends.
    pub(crate) async fn ends(&mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }

    /// Reports a task done, with its registry row where it has one.
    pub(crate) async fn done(&mut self, grant: &v1::Grant, rows: i64) {
        let seal = match grant.task.as_ref().unwrap() {
            grant::Task::Statement(task) => task.seal.as_ref(),
            grant::Task::Seal(task) => Some(task),
            grant::Task::Plan(_) | grant::Task::Range(_) => None,
        };
        let applied = seal.map(|seal| row(grant, seal.migration.as_ref().unwrap(), rows));
        let done = v1::TaskDone { lease: grant.lease, rows, rows_walked: rows, applied, ..Default::default() };
        self.say(Say::Done(done)).await;
        self.acknowledged(grant.lease).await;
    }

    pub(crate) async fn failed(&mut self, grant: &v1::Grant) {
        let error = v1::RunError { message: "the column is missing".to_owned(), ..Default::default() };
        let failed = v1::TaskFailed { lease: grant.lease, error: Some(error), ..v1::TaskFailed::default() };
        self.say(Say::Failed(failed)).await;
        self.acknowledged(grant.lease).await;
    }

    /// Gives a lease back, as an agent does that was asked for it.
    pub(crate) async fn released(&mut self, grant: &v1::Grant, rows: i64) {
        let reason = v1::ReleaseReason::Revoked.into();
        let released =
            v1::TaskReleased { lease: grant.lease, reason, rows, rows_walked: rows, ..v1::TaskReleased::default() };
        self.say(Say::Released(released)).await;
        self.acknowledged(grant.lease).await;
    }

    pub(crate) async fn planned(&mut self, grant: &v1::Grant, ordinals: std::ops::RangeInclusive<i32>) {
        let planned = v1::RangesPlanned {
            lease: grant.lease,
            ranges: ordinals.map(range).collect(),
            key: vec![v1::KeyColumn { name: "id".to_owned(), r#type: "bigint".to_owned() }],
        };
        self.say(Say::RangesPlanned(planned)).await;
        self.acknowledged(grant.lease).await;
    }

    pub(crate) async fn beat(&mut self, grant: &v1::Grant, rows: i64) -> v1::Renewed {
        let leases = vec![v1::LeaseProgress { lease: grant.lease, rows, rows_walked: rows, ..Default::default() }];
        self.say(Say::Heartbeat(v1::Heartbeat { leases })).await;
        self.renewed().await
    }
}

fn range(ordinal: i32) -> v1::PlannedRange {
    let key = |ordinal: i32| v1::Key { values: vec![(ordinal * 100).to_string()] };
    v1::PlannedRange {
        ordinal,
        low: (ordinal > 1).then(|| key(ordinal - 1)),
        high: Some(key(ordinal)),
        rows_total: 100,
        ..Default::default()
    }
}

fn row(grant: &v1::Grant, migration: &v1::Migration, rows: i64) -> v1::AppliedMigration {
    let result = serde_json::json!({"success": true, "message": "done", "rows": rows});
    v1::AppliedMigration {
        id: migration.id.clone(),
        version: migration.version,
        name: migration.name.clone(),
        target: grant.target.clone(),
        checksum: migration.checksum.clone(),
        revision: migration.revision,
        applications: grant.applications + 1,
        run_id: grant.run_id,
        agent_id: "a".to_owned(),
        rows,
        result: Some(dunlin_proto::convert::to_struct(&result).unwrap()),
        ..Default::default()
    }
}
