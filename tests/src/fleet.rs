//! A fleet: controllers, agents, targets and a directory of definitions, put together by a [`Builder`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dunlin_proto::v1::fleet_service_client::FleetServiceClient;
use dunlin_proto::v1::registry_service_client::RegistryServiceClient;
use dunlin_proto::v1::run_service_client::RunServiceClient;
use dunlin_proto::v1::{
    Agent, Event, GetRunRequest, ListAgentsRequest, ListEventsRequest, ListRunsRequest, ListTargetsRequest, Run,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::command::Outcome;
use crate::database::Database;
use crate::ports::free_port;
use crate::process::Process;
use crate::programs::Program;
use crate::until::{DEADLINE, until};

/// What a fleet is to be.
#[derive(Debug, Clone)]
pub struct Builder {
    controllers: usize,
    agents: usize,
    slots: u32,
    lease_ttl: String,
    targets: Vec<String>,
    reached: Vec<(String, Database, String)>,
    control: Option<(Database, String)>,
    agent_arguments: Vec<String>,
    agent_memory: Option<u32>,
    controller_files: Option<u32>,
    environment: Vec<(String, String)>,
}

impl Builder {
    /// How many controllers to start. One unless said otherwise.
    #[must_use]
    pub fn controllers(mut self, count: usize) -> Self {
        self.controllers = count;
        self
    }

    /// How many agents to start. One unless said otherwise.
    #[must_use]
    pub fn agents(mut self, count: usize) -> Self {
        self.agents = count;
        self
    }

    /// How many tasks an agent works on at one time. Two unless said otherwise.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// How long a lease lives without a heartbeat, such as "3s". 30 s unless said otherwise.
    #[must_use]
    pub fn lease_ttl(mut self, ttl: &str) -> Self {
        ttl.clone_into(&mut self.lease_ttl);
        self
    }

    /// One more target beside `main`.
    #[must_use]
    pub fn target(mut self, name: &str) -> Self {
        self.targets.push(name.to_owned());
        self
    }

    /// A target that is there already, and the URL under which agents reach it. As `main` it takes the place of the usual one.
    #[must_use]
    pub fn target_at(mut self, name: &str, database: &Database, url: &str) -> Self {
        self.targets.retain(|other| other != name);
        self.reached.push((name.to_owned(), database.clone(), url.to_owned()));
        self
    }

    /// The controllers' database, when it is there already, and the URL under which they reach it.
    #[must_use]
    pub fn control_at(mut self, database: &Database, url: &str) -> Self {
        self.control = Some((database.clone(), url.to_owned()));
        self
    }

    /// Further arguments of agents.
    #[must_use]
    pub fn agent_arguments(mut self, arguments: &[&str]) -> Self {
        self.agent_arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// The most address space that an agent may have, in MiB: one that asks for more dies. Not limited unless said.
    #[must_use]
    pub fn agent_memory(mut self, limit: u32) -> Self {
        self.agent_memory = Some(limit);
        self
    }

    /// The most files that a controller may have open; each connection is one. Not limited unless said.
    #[must_use]
    pub fn controller_files(mut self, limit: u32) -> Self {
        self.controller_files = Some(limit);
        self
    }

    /// A variable in the environment of controllers and agents.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts everything, and waits until every agent is connected and serves every target.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn start(self) -> Fleet {
        let directory = tempfile::Builder::new().prefix("dunlin-e2e-").tempdir().expect("a directory");
        fs::create_dir(directory.path().join("migrations")).expect("a directory for the definitions");
        let (control, control_url) = match self.control.clone() {
            Some(named) => named,
            None => {
                let control = Database::create("control").await;
                let url = control.url().to_owned();
                (control, url)
            }
        };
        let mut targets = self.reached.clone();
        for name in &self.targets {
            let database = Database::create(name).await;
            let url = database.url().to_owned();
            targets.push((name.clone(), database, url));
        }
        let (controllers, agents) = (self.controllers, self.agents);
        let listen = (0..controllers.max(1)).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let mut fleet = Fleet {
            plan: self,
            directory,
            control,
            control_url,
            targets,
            listen,
            controllers: Vec::new(),
            agents: Vec::new(),
        };
        for _ in 0..controllers {
            fleet.start_controller();
        }
        for _ in 0..agents {
            fleet.start_agent();
        }
        if controllers > 0 {
            fleet.agents_connected(agents).await;
        }
        fleet
    }
}

/// A running fleet. Dropping it ends its processes.
#[derive(Debug)]
pub struct Fleet {
    plan: Builder,
    control: Database,
    control_url: String,
    targets: Vec<(String, Database, String)>,
    listen: Vec<String>,
    controllers: Vec<Process>,
    agents: Vec<Process>,
    // The last: the logs are read while the processes are dropped.
    directory: TempDir,
}

impl Fleet {
    /// One controller, one agent of two slots, and the target `main`, unless the builder is told otherwise.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            controllers: 1,
            agents: 1,
            slots: 2,
            lease_ttl: "30s".to_owned(),
            targets: vec!["main".to_owned()],
            reached: Vec::new(),
            control: None,
            agent_arguments: Vec::new(),
            agent_memory: None,
            controller_files: None,
            environment: Vec::new(),
        }
    }

    /// The usual fleet.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    // --- Processes ---------------------------------------------------------------------------------------------------

    /// Starts the next controller. All of them share one database.
    ///
    /// # Panics
    /// When the builder planned no more, or it cannot be started.
    pub fn start_controller(&mut self) {
        let process = self.controller_process(self.controllers.len());
        self.controllers.push(process);
    }

    /// Starts a controller again, on its address of before.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn restart_controller(&mut self, index: usize) {
        self.controllers[index] = self.controller_process(index);
    }

    fn controller_process(&self, index: usize) -> Process {
        let command = self.controller_command(index);
        Process::start(command, &format!("controller-{index}"), self.directory.path())
    }

    fn controller_command(&self, index: usize) -> Command {
        let mut command =
            self.limited(Program::Controller, self.plan.controller_files.map(|limit| ("n", limit.into())));
        command
            .args(["--database-url", &self.control_url])
            .args(["--listen", &self.listen[index]])
            .args(["--lease-ttl", &self.plan.lease_ttl]);
        command
    }

    /// Starts one more agent, with the id `agent-N`, N from 0.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_agent(&mut self) {
        self.start_agent_of(Program::Agent);
    }

    /// Starts one more agent of a program.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_agent_of(&mut self, program: Program) {
        let process = self.agent_process(program, self.agents.len());
        self.agents.push(process);
    }

    /// Starts an agent again, as a plain one with its id of before.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn restart_agent(&mut self, index: usize) {
        self.agents[index] = self.agent_process(Program::Agent, index);
    }

    /// Puts a new process in the place of an agent: of a program, with its id of before, with variables of its own, and with a log
    /// of its own. What is left of the old process is killed.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn replace_agent(&mut self, index: usize, program: Program, log: &str, environment: &[(&str, &str)]) {
        self.agents[index].end();
        let mut command = self.agent_command(program, index);
        command.envs(environment.iter().copied());
        self.agents[index] = Process::start(command, log, self.directory.path());
    }

    /// Puts a new process in the place of a controller; see [`replace_agent`](Self::replace_agent).
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn replace_controller(&mut self, index: usize, log: &str, environment: &[(&str, &str)]) {
        self.controllers[index].end();
        let mut command = self.controller_command(index);
        command.envs(environment.iter().copied());
        self.controllers[index] = Process::start(command, log, self.directory.path());
    }

    /// Starts an agent beside those of the fleet: with an id, a log and targets, each a name and a URL, of its own.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn agent_beside(&self, id: &str, log: &str, targets: &[(&str, &str)]) -> Process {
        let mut command = self.command(Program::Agent);
        command.args(["--controller", &self.controller_urls()]).args(["--slots", &self.plan.slots.to_string()]);
        command.args(["--id", id]);
        for (name, url) in targets {
            command.args(["--target", &format!("{name}={url}")]);
        }
        Process::start(command, log, self.directory.path())
    }

    fn agent_process(&self, program: Program, index: usize) -> Process {
        let command = self.agent_command(program, index);
        Process::start(command, &format!("agent-{index}"), self.directory.path())
    }

    fn agent_command(&self, program: Program, index: usize) -> Command {
        let mut command = self.limited(program, self.plan.agent_memory.map(|limit| ("v", u64::from(limit) * 1024)));
        command
            .args(["--controller", &self.controller_urls()])
            .args(["--slots", &self.plan.slots.to_string()])
            .args(["--id", &format!("agent-{index}")]);
        for (name, _, url) in &self.targets {
            command.args(["--target", &format!("{name}={url}")]);
        }
        command.args(&self.plan.agent_arguments);
        command
    }

    /// A program with a limit of `ulimit`.
    fn limited(&self, program: Program, limit: Option<(&str, u64)>) -> Command {
        let Some((what, limit)) = limit else { return self.command(program) };
        let mut shell = self.prepared(Command::new("sh"));
        shell.arg("-c").arg(format!("ulimit -{what} {limit} && exec \"$0\" \"$@\"")).arg(program.path());
        shell
    }

    fn command(&self, program: Program) -> Command {
        self.prepared(Command::new(program.path()))
    }

    fn prepared(&self, mut command: Command) -> Command {
        command.current_dir(self.directory.path()).env("DUNLIN_LOG", "info,dunlin=debug");
        for (name, value) in &self.plan.environment {
            command.env(name, value);
        }
        command
    }

    /// A controller, from 0.
    pub fn controller(&mut self, index: usize) -> &mut Process {
        &mut self.controllers[index]
    }

    /// An agent, from 0.
    pub fn agent(&mut self, index: usize) -> &mut Process {
        &mut self.agents[index]
    }

    /// Waits until `count` agents are connected and serve every target.
    pub async fn agents_connected(&self, count: usize) {
        until(&format!("{count} agents are connected"), async || {
            let agents = self.list_agents().await?;
            let ready = |agent: &&Agent| agent.connected && agent.targets.len() == self.targets.len();
            if agents.iter().filter(ready).count() != count {
                return None;
            }
            // What an agent sees of its targets, and that it may work on them, is stored a moment after it has connected.
            let answer = FleetServiceClient::new(self.channel()).list_targets(ListTargetsRequest::default()).await;
            let targets = answer.ok()?.into_inner().targets;
            let seen = targets.iter().filter(|target| target.reachable || !target.error.is_empty()).count();
            (count == 0 || seen >= self.targets.len()).then_some(())
        })
        .await;
    }

    /// How many leases each connected agent holds, in the order of their ids.
    ///
    /// # Panics
    /// When the controller does not answer.
    pub async fn leases(&self) -> Vec<i32> {
        let agents = self.list_agents().await.expect("the list of agents");
        agents.iter().filter(|agent| agent.connected).map(|agent| agent.leases).collect()
    }

    async fn list_agents(&self) -> Option<Vec<Agent>> {
        let answer = FleetServiceClient::new(self.channel()).list_agents(ListAgentsRequest::default()).await;
        Some(answer.ok()?.into_inner().agents)
    }

    // --- Databases ---------------------------------------------------------------------------------------------------

    /// The target `main`.
    #[must_use]
    pub fn main(&self) -> &Database {
        self.database("main")
    }

    /// A target.
    ///
    /// # Panics
    /// When the fleet has none of this name.
    #[must_use]
    pub fn database(&self, target: &str) -> &Database {
        let found = self.targets.iter().find(|(name, ..)| name == target);
        &found.unwrap_or_else(|| panic!("no target {target}")).1
    }

    /// The controllers' database.
    #[must_use]
    pub fn control(&self) -> &Database {
        &self.control
    }

    // --- Definitions and the command ---------------------------------------------------------------------------------

    /// The directory of the definitions.
    #[must_use]
    pub fn migrations(&self) -> PathBuf {
        self.directory.path().join("migrations")
    }

    /// The directory that the command runs in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file into the directory of the definitions.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.migrations().join(path);
        fs::create_dir_all(path.parent().expect("a file lies in a directory")).expect("a directory");
        fs::write(path, content).expect("a definition can be written");
    }

    /// Writes definitions, each with the name of its file, and registers the whole directory.
    pub async fn register(&self, definitions: &[(&str, &str)]) -> Outcome {
        for (path, content) in definitions {
            self.write(path, content);
        }
        self.dunlin(&["register", "migrations"]).await.ended(0)
    }

    /// Runs `dunlin` with these arguments, against this fleet.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    pub async fn dunlin(&self, arguments: &[&str]) -> Outcome {
        let mut command = tokio::process::Command::from(self.dunlin_command(arguments));
        command.kill_on_drop(true);
        let output = tokio::time::timeout(DEADLINE, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("`dunlin {}` does not end", arguments.join(" ")));
        Outcome::new(arguments, &output.expect("`dunlin` can be started"))
    }

    /// The command `dunlin` with these arguments, against this fleet.
    #[must_use]
    pub fn dunlin_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Program::Dunlin.path());
        command
            .args(arguments)
            .env("DUNLIN_CONTROLLER", self.controller_urls())
            .current_dir(self.directory.path())
            .stdin(std::process::Stdio::null());
        command
    }

    // --- The API -----------------------------------------------------------------------------------------------------

    /// The URLs of all controllers, with commas.
    #[must_use]
    pub fn controller_urls(&self) -> String {
        let urls: Vec<String> = self.listen.iter().map(|address| format!("http://{address}")).collect();
        urls.join(",")
    }

    /// The address of a controller, such as `127.0.0.1:20000`.
    #[must_use]
    pub fn address(&self, index: usize) -> &str {
        &self.listen[index]
    }

    /// A connection to the first controller.
    ///
    /// # Panics
    /// Never: its address is a valid one.
    #[must_use]
    pub fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.listen[0])).expect("a valid address").connect_lazy()
    }

    /// The registry's client.
    #[must_use]
    pub fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.channel())
    }

    /// The client for runs.
    #[must_use]
    pub fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel())
    }

    /// The newest run of a migration on `main`, if there is one.
    ///
    /// # Panics
    /// When the controller does not answer.
    pub async fn last_run(&self, migration: &str) -> Option<Run> {
        let request = ListRunsRequest {
            target: "main".to_owned(),
            migration_id: migration.to_owned(),
            page_size: 1,
            ..Default::default()
        };
        let answer = self.runs().list_runs(request).await.expect("the list of runs");
        let id = answer.into_inner().runs.first()?.id;
        let answer = self.runs().get_run(GetRunRequest { id }).await.expect("a run that was listed");
        answer.into_inner().run
    }

    /// All events of the target `main`, oldest first. At most the first thousand.
    ///
    /// # Panics
    /// When the controller does not answer.
    pub async fn events(&self) -> Vec<Event> {
        let request = ListEventsRequest { target: "main".to_owned(), page_size: 1000, ..Default::default() };
        self.runs().list_events(request).await.expect("the list of events").into_inner().events
    }
}
