//! Which fault happens when: all of it is drawn from the seed before the first happens, so a seed can be run again.
//!
//! What a fault meets depends on the machine. A seed repeats the faults, not what becomes of them.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// How many controllers there are.
pub(crate) const CONTROLLERS: usize = 3;
/// How many agents there are.
pub(crate) const AGENTS: usize = 4;
/// The targets.
pub(crate) const TARGETS: [&str; 2] = ["north", "south"];

/// Something that stands at an end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    /// An agent.
    Agent(usize),
    /// A controller.
    Controller(usize),
    /// The server of a target.
    Target(usize),
    /// The server of the controllers' database.
    Control,
    /// Operators and watchers.
    Client,
}

impl Node {
    /// What it is called in reports and logs.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Agent(index) => format!("agent-{index}"),
            Self::Controller(index) => format!("controller-{index}"),
            Self::Target(index) => format!("target-{}", TARGETS[index]),
            Self::Control => "control".to_owned(),
            Self::Client => "client".to_owned(),
        }
    }

    /// All that run as a process of Dunlin.
    pub(crate) fn processes() -> impl Iterator<Item = Self> {
        (0..CONTROLLERS).map(Self::Controller).chain((0..AGENTS).map(Self::Agent))
    }

    /// All that are a PostgreSQL server.
    pub(crate) fn servers() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Control).chain((0..TARGETS.len()).map(Self::Target))
    }
}

/// Who connects to whom, each way through a proxy of its own.
pub(crate) fn links() -> Vec<(Node, Node)> {
    let mut links = Vec::new();
    for controller in (0..CONTROLLERS).map(Node::Controller) {
        links.push((controller, Node::Control));
        links.push((Node::Client, controller));
        links.extend((0..AGENTS).map(|agent| (Node::Agent(agent), controller)));
    }
    for target in (0..TARGETS.len()).map(Node::Target) {
        links.extend((0..AGENTS).map(|agent| (Node::Agent(agent), target)));
    }
    links
}

/// What a network does to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Those that there are, are cut.
    Cut,
    /// Those that there are, are cut, and new ones are refused for a while.
    Refuse,
    /// What is sent arrives late, for a while.
    Delay(Duration),
    /// Those that there are, are dead from now on without either end being told; new ones are accepted and dead for a while.
    HalfOpen,
}

/// Which connections are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Those of one link.
    Link(Node, Node),
    /// All of a node.
    Node(Node),
}

impl Place {
    /// True when a link belongs to it.
    pub(crate) fn has(self, link: (Node, Node)) -> bool {
        match self {
            Self::Link(from, to) => link == (from, to),
            Self::Node(node) => link.0 == node || link.1 == node,
        }
    }
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL to a process, and a start some time later.
    Kill(Node, Duration),
    /// SIGTERM to a process, and a start once it has ended.
    Restart(Node),
    /// SIGSTOP to a process, and SIGCONT some time later.
    Pause(Node, Duration),
    /// SIGQUIT to a PostgreSQL, and a start some time later.
    Crash(Node, Duration),
    /// Trouble in the network, for some time.
    Network(Place, Trouble, Duration),
}

impl Fault {
    /// The kind, for the report.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Kill(Node::Agent(_), _) => "agent killed",
            Self::Kill(..) => "controller killed",
            Self::Restart(Node::Agent(_)) => "agent restarted",
            Self::Restart(_) => "controller restarted",
            Self::Pause(Node::Agent(_), _) => "agent paused",
            Self::Pause(..) => "controller paused",
            Self::Crash(Node::Control, _) => "controllers' PostgreSQL crashed",
            Self::Crash(..) => "target's PostgreSQL crashed",
            Self::Network(_, Trouble::Cut, _) => "connections cut",
            Self::Network(_, Trouble::Refuse, _) => "connections refused",
            Self::Network(_, Trouble::Delay(_), _) => "connections delayed",
            Self::Network(_, Trouble::HalfOpen, _) => "connections half-open",
        }
    }
}

/// Draws the faults of a run, each with its time from the beginning.
pub(crate) fn draw(seed: u64, length: Duration) -> Vec<(Duration, Fault)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let links = links();
    let mut faults = Vec::new();
    let mut at = Duration::from_secs(1);
    while at < length {
        faults.push((at, fault(&mut rng, &links)));
        at += millis(&mut rng, 200, 2000);
    }
    faults
}

fn fault(rng: &mut StdRng, links: &[(Node, Node)]) -> Fault {
    let process = if rng.random_bool(0.65) {
        Node::Agent(rng.random_range(0..AGENTS))
    } else {
        Node::Controller(rng.random_range(0..CONTROLLERS))
    };
    match rng.random_range(0..100) {
        0..20 => Fault::Kill(process, millis(rng, 0, 1500)),
        20..28 => Fault::Restart(process),
        28..46 => Fault::Pause(process, millis(rng, 300, 7000)),
        46..58 => {
            let servers: Vec<Node> = Node::servers().collect();
            Fault::Crash(*servers.choose(rng).unwrap_or(&Node::Control), millis(rng, 0, 1500))
        }
        chance => {
            let link = *links.choose(rng).unwrap_or(&(Node::Client, Node::Controller(0)));
            let place = match rng.random_range(0..3) {
                0 => Place::Node(link.0),
                1 => Place::Node(link.1),
                _ => Place::Link(link.0, link.1),
            };
            let trouble = match chance {
                58..72 => Trouble::Cut,
                72..80 => Trouble::Refuse,
                80..92 => Trouble::Delay(millis(rng, 20, 500)),
                _ => Trouble::HalfOpen,
            };
            Fault::Network(place, trouble, millis(rng, 300, 4000))
        }
    }
}

fn millis(rng: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.random_range(from..to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan_with_every_kind_of_fault() {
        let plan = draw(7, Duration::from_secs(600));
        assert_eq!(plan, draw(7, Duration::from_secs(600)));
        assert_ne!(plan, draw(8, Duration::from_secs(600)));
        let kinds: std::collections::BTreeSet<&str> = plan.iter().map(|(_, fault)| fault.kind()).collect();
        assert_eq!(kinds.len(), 12, "{kinds:?}");
    }

    #[test]
    fn every_agent_has_a_link_to_every_target_and_controller() {
        assert_eq!(links().len(), CONTROLLERS * 2 + AGENTS * (CONTROLLERS + TARGETS.len()));
    }
}
