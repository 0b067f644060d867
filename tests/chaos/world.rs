//! All that runs: three servers, three controllers, four agents, and a proxy on every way between them.
//!
//! What must stay true: a fault that is over leaves nothing behind but its consequences. Each process and each server suffers
//! one fault at a time; the next waits. A process that ends without a fault is a violation, and is started again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dunlin_shared::postgres::throwaway::Server;
use dunlin_tests::ports::free_port;
use dunlin_tests::process::Process;
use dunlin_tests::programs::Program;
use nix::sys::signal::Signal;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::plan::{CONTROLLERS, Fault, Node, Place, TARGETS, links};
use crate::proxy::Link;
use crate::violations::Violations;

/// How long a lease lives.
const LEASE_TTL: &str = "2s";

/// How long a process may take to end after SIGTERM: an agent finishes its batch and says its last words.
const END_DEADLINE: Duration = Duration::from_secs(60);

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    servers: BTreeMap<Node, Mutex<Server>>,
    urls: BTreeMap<Node, String>,
    links: BTreeMap<(Node, Node), Link>,
    listen: Vec<SocketAddr>,
    processes: BTreeMap<Node, Mutex<Process>>,
    logs: std::path::PathBuf,
    violations: Violations,
}

impl World {
    /// Starts everything; the logs go into a directory.
    ///
    /// # Panics
    /// When something cannot be started.
    pub(crate) async fn start(logs: &Path, violations: Violations) -> Self {
        let mut servers = BTreeMap::new();
        let mut urls = BTreeMap::new();
        // What is committed without waiting for the disk stays away from it for long, so that crashes lose something.
        let settings = [
            ("fsync", "off"),
            ("max_connections", "400"),
            ("shared_buffers", "64MB"),
            ("max_wal_size", "512MB"),
            ("wal_writer_delay", "5s"),
        ];
        for node in Node::servers() {
            let server = Server::start_with(&settings).await.unwrap_or_else(|error| panic!("{error}"));
            let url = server.database("chaos").await.unwrap_or_else(|error| panic!("{error}"));
            urls.insert(node, format!("{url}?sslmode=disable"));
            servers.insert(node, server);
        }
        let listen: Vec<SocketAddr> =
            (0..CONTROLLERS).map(|_| SocketAddr::from(([127, 0, 0, 1], free_port()))).collect();
        let mut proxies = BTreeMap::new();
        for (from, to) in links() {
            let server = match to {
                Node::Controller(index) => listen[index],
                node => SocketAddr::from(([127, 0, 0, 1], servers[&node].port())),
            };
            proxies.insert((from, to), Link::start(server).await.expect("a proxy can listen"));
        }
        let mut world = Self {
            servers: servers.into_iter().map(|(node, server)| (node, Mutex::new(server))).collect(),
            urls,
            links: proxies,
            listen,
            processes: BTreeMap::new(),
            logs: logs.to_owned(),
            violations,
        };
        for node in Node::processes() {
            let process = world.process(node).await;
            world.processes.insert(node, Mutex::new(process));
        }
        world
    }

    /// The URL of a server's database, past all proxies.
    pub(crate) fn url(&self, server: Node) -> &str {
        &self.urls[&server]
    }

    /// The URLs of the controllers for operators and watchers, through their proxies.
    pub(crate) fn controllers(&self) -> String {
        self.controllers_for(Node::Client)
    }

    fn controllers_for(&self, from: Node) -> String {
        let urls: Vec<String> = (0..CONTROLLERS)
            .map(|index| format!("http://{}", self.links[&(from, Node::Controller(index))].address()))
            .collect();
        urls.join(",")
    }

    /// The URL of a server's database for a node, through its proxy.
    async fn url_for(&self, from: Node, server: Node) -> String {
        let port = self.servers[&server].lock().await.port();
        let address = self.links[&(from, server)].address();
        self.urls[&server].replace(&format!("127.0.0.1:{port}"), &address.to_string())
    }

    async fn process(&self, node: Node) -> Process {
        let mut command = match node {
            Node::Agent(_) => {
                let mut command = Command::new(Program::TestAgent.path());
                command.args(["--controller", &self.controllers_for(node), "--slots", "2", "--id", &node.name()]);
                for (index, name) in TARGETS.iter().enumerate() {
                    let url = self.url_for(node, Node::Target(index)).await;
                    command.args(["--target", &format!("{name}={url}")]);
                }
                command
            }
            Node::Controller(index) => {
                let mut command = Command::new(Program::Controller.path());
                command
                    .args(["--database-url", &self.url_for(node, Node::Control).await])
                    .args(["--listen", &self.listen[index].to_string()])
                    .args(["--lease-ttl", LEASE_TTL]);
                command
            }
            Node::Target(_) | Node::Control | Node::Client => unreachable!("no process of Dunlin"),
        };
        command.env("DUNLIN_LOG", "info,dunlin=debug");
        Process::start(command, &node.name(), &self.logs)
    }

    /// Lets a fault happen, from its beginning to its end.
    pub(crate) async fn suffer(&self, fault: Fault) {
        match fault {
            Fault::Kill(node, down) => {
                let mut process = self.processes[&node].lock().await;
                self.alive(node, &mut process).await;
                process.kill();
                sleep(down).await;
                *process = self.process(node).await;
            }
            Fault::Restart(node) => {
                let mut process = self.processes[&node].lock().await;
                self.alive(node, &mut process).await;
                process.terminate();
                match end(&mut process).await {
                    // It had begun a moment ago, and did not listen to signals yet.
                    Some(status)
                        if status.signal().and_then(|number| Signal::try_from(number).ok())
                            == Some(Signal::SIGTERM) => {}
                    Some(status) if status.success() => {}
                    Some(status) => {
                        self.violations.add(format!("{} ended with {status} after SIGTERM", node.name()));
                    }
                    None => {
                        let limit = END_DEADLINE.as_secs();
                        self.violations.add(format!("{} did not end within {limit} s after SIGTERM", node.name()));
                    }
                }
                *process = self.process(node).await;
            }
            Fault::Pause(node, time) => {
                let mut process = self.processes[&node].lock().await;
                self.alive(node, &mut process).await;
                process.pause();
                sleep(time).await;
                process.resume();
            }
            Fault::Crash(node, down) => {
                let server = self.servers[&node].lock().await;
                server.crash().await.unwrap_or_else(|error| panic!("{} cannot be crashed: {error}", node.name()));
                sleep(down).await;
                server.start_again().await.unwrap_or_else(|error| panic!("{} does not start: {error}", node.name()));
            }
            Fault::Network(place, trouble, time) => {
                self.on(place, |link| link.trouble(trouble));
                sleep(time).await;
                self.on(place, Link::heal);
            }
        }
    }

    fn on(&self, place: Place, change: impl Fn(&Link)) {
        self.links.iter().filter(|(ends, _)| place.has(**ends)).for_each(|(_, link)| change(link));
    }

    /// Looks whether a process runs, and starts it where it does not.
    async fn alive(&self, node: Node, process: &mut Process) {
        if let Some(status) = process.status() {
            self.violations.add(format!("{} ended by itself with {status}: see its log", node.name()));
            *process = self.process(node).await;
        }
    }

    /// Looks for processes that ended by themselves, until it is dropped.
    pub(crate) async fn guard(&self) {
        loop {
            for (node, process) in &self.processes {
                if let Ok(mut process) = process.try_lock() {
                    self.alive(*node, &mut process).await;
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Copies the logs of the servers to those of the processes.
    pub(crate) async fn keep_logs(&self) {
        for (node, server) in &self.servers {
            let log = server.lock().await.directory().join("log");
            let _missing = std::fs::copy(log, self.logs.join(format!("{}-postgresql.log", node.name())));
        }
    }

    /// Stops everything.
    pub(crate) async fn stop(self) {
        drop(self.processes);
        for server in self.servers.into_values() {
            let _gone = server.into_inner().stop().await;
        }
    }
}

/// Waits until a process has ended.
async fn end(process: &mut Process) -> Option<std::process::ExitStatus> {
    let wait = async {
        loop {
            if let Some(status) = process.status() {
                return status;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(END_DEADLINE, wait).await.ok()
}

/// Lets the faults of a plan happen, each at its time, and waits until all are over.
pub(crate) async fn suffer_all(world: &std::sync::Arc<World>, plan: &[(Duration, Fault)], length: Duration) {
    let began = Instant::now();
    let mut open = tokio::task::JoinSet::new();
    for (at, fault) in plan {
        tokio::time::sleep_until(began + *at).await;
        while let Some(ended) = open.try_join_next() {
            ended.expect("a fault that can be injected");
        }
        eprintln!("{:>8.1}s  {fault:?}", began.elapsed().as_secs_f64());
        let (world, fault) = (std::sync::Arc::clone(world), *fault);
        open.spawn(async move { world.suffer(fault).await });
    }
    tokio::time::sleep_until(began + length).await;
    while let Some(ended) = open.join_next().await {
        ended.expect("a fault that can be injected");
    }
}
