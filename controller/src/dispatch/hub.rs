//! The streams of this replica, and what their agents could take on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dunlin_shared::ids::{AgentId, RunId, TargetName, TransformName};
use tonic::Status;

use super::connection::Connection;
use crate::store::claims::{Assignment, Candidate, Demand};

/// How many agents are asked to look at a target: one of them may be the one that gave the reason.
const WITNESSES: usize = 2;

/// The streams of this replica.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    connections: Mutex<HashMap<AgentId, Arc<Connection>>>,
}

impl Hub {
    /// Adds a stream. An older one of the same agent ends.
    pub(crate) fn add(&self, connection: &Arc<Connection>) {
        let old = self.connections().insert(connection.agent().clone(), Arc::clone(connection));
        if let Some(old) = old {
            old.ending().ask(replaced(old.agent()));
        }
    }

    /// Removes a stream, if it is still the agent's.
    pub(crate) fn remove(&self, connection: &Arc<Connection>) {
        let mut connections = self.connections();
        if connections.get(connection.agent()).is_some_and(|current| Arc::ptr_eq(current, connection)) {
            connections.remove(connection.agent());
        }
    }

    /// All streams.
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        self.connections().values().cloned().collect()
    }

    /// The streams of agents that serve a target, whether they are let work on it or not.
    pub(crate) fn serving(&self, target: &TargetName) -> Vec<Arc<Connection>> {
        self.all().into_iter().filter(|connection| connection.serves(target)).collect()
    }

    /// The stream of an agent that works on a target, if there is one.
    pub(crate) fn working_on(&self, target: &TargetName) -> Vec<Arc<Connection>> {
        let mut all = self.all();
        // Another one each time: the agent that was asked for may be the one that gave the reason.
        all.retain(|connection| connection.reached().contains(target));
        let start = if all.is_empty() { 0 } else { rand::random_range(0..all.len()) };
        all.rotate_left(start);
        all.truncate(WITNESSES);
        all
    }

    /// Asks for the leases of an ended run back.
    pub(crate) fn revoke(&self, run: RunId) {
        for connection in self.all() {
            connection.revoke(run);
        }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<AgentId, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The status of a stream whose agent has another one.
pub(crate) fn replaced(agent: &AgentId) -> Status {
    Status::aborted(format!("agent {agent} has opened another stream"))
}

/// An agent with free slots.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) connection: Arc<Connection>,
    free: usize,
    /// How many leases it holds.
    held: usize,
    reached: Arc<BTreeSet<TargetName>>,
}

impl Offer {
    fn can_do(&self, target: &TargetName, transform: Option<&TransformName>) -> bool {
        self.reached.contains(target)
            && transform.is_none_or(|name| self.connection.transforms().iter().any(|has| has == name.as_str()))
    }
}

/// The agents with free slots, as they are now.
pub(crate) fn offers(connections: Vec<Arc<Connection>>) -> Vec<Offer> {
    connections
        .into_iter()
        .map(|connection| Offer {
            free: connection.free(),
            held: connection.leases().len(),
            reached: connection.reached(),
            connection,
        })
        .filter(|offer| offer.free > 0 && !offer.reached.is_empty())
        .collect()
}

/// What the agents could take on, by target.
pub(crate) fn demands(offers: &[Offer]) -> Vec<Demand> {
    let mut by_target: BTreeMap<&TargetName, (usize, BTreeSet<&String>, Vec<AgentId>)> = BTreeMap::new();
    for offer in offers {
        for target in offer.reached.iter() {
            let (free, transforms, agents) = by_target.entry(target).or_default();
            agents.push(offer.connection.agent().clone());
            *free += offer.free;
            transforms.extend(offer.connection.transforms());
        }
    }
    by_target
        .into_iter()
        .map(|(target, (free, transforms, agents))| Demand {
            target: target.clone(),
            transforms: transforms.into_iter().cloned().collect(),
            free: i32::try_from(free).unwrap_or(i32::MAX),
            agents,
        })
        .collect()
}

/// Gives each task to the agent that holds the fewest leases among those that can do it, so that work spreads, and an agent that says
/// that it has very many slots does not get it all. All agents are looked at once for each kind of task, not once for each task: there may be thousands of both.
pub(crate) fn assign(offers: &mut [Offer], candidates: &[Candidate]) -> Vec<Assignment> {
    type Able = BinaryHeap<Reverse<(usize, usize)>>;
    let mut kinds: HashMap<(&TargetName, Option<&TransformName>), Able> = HashMap::new();
    let mut assignments = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let kind = (&candidate.target, candidate.transform.as_ref());
        let able = kinds.entry(kind).or_insert_with(|| {
            let able = offers.iter().enumerate().filter(|(_, offer)| offer.can_do(kind.0, kind.1));
            able.map(|(place, offer)| Reverse((offer.held, place))).collect()
        });
        let mut aside = None;
        while let Some(Reverse((held, place))) = able.pop() {
            let offer = &mut offers[place];
            if candidate.passed_over.as_ref() == Some(offer.connection.agent()) {
                aside = Some(Reverse((held, place)));
                continue;
            }
            if offer.free == 0 {
                continue;
            }
            if offer.held > held {
                // This agent has been given a task of another kind.
                able.push(Reverse((offer.held, place)));
                continue;
            }
            offer.free -= 1;
            offer.held += 1;
            able.push(Reverse((offer.held, place)));
            assignments.push(Assignment {
                id: candidate.id,
                agent: offer.connection.agent().clone(),
                session: offer.connection.session(),
            });
            break;
        }
        able.extend(aside);
    }
    assignments
}

#[cfg(test)]
mod tests {
    use dunlin_shared::ids::TaskId;
    use tokio::sync::mpsc;

    use super::super::connection::{Ending, Identity};
    use super::*;

    fn agent(id: &str, slots: usize, targets: &[&str], transforms: &[&str]) -> Arc<Connection> {
        let identity = Identity {
            agent: AgentId::parse(id).unwrap(),
            session: 1,
            slots,
            transforms: transforms.iter().map(ToString::to_string).collect(),
        };
        let (sender, _receiver) = mpsc::channel(1);
        let connection = Connection::new(identity, sender, Ending::default());
        for target in targets {
            connection.reach(&TargetName::parse(*target).unwrap(), true);
        }
        Arc::new(connection)
    }

    fn task(id: i64, target: &str, transform: Option<&str>) -> Candidate {
        Candidate {
            id: TaskId(id),
            target: TargetName::parse(target).unwrap(),
            transform: transform.map(|name| TransformName::parse(name).unwrap()),
            passed_over: None,
        }
    }

    #[test]
    fn work_spreads_and_no_agent_gets_more_than_its_slots() {
        let mut offers = offers(vec![agent("a", 2, &["main"], &[]), agent("b", 2, &["main"], &[])]);
        let tasks: Vec<_> = (1..=5).map(|id| task(id, "main", None)).collect();
        let given = assign(&mut offers, &tasks);
        for name in ["a", "b"] {
            assert_eq!(given.iter().filter(|one| one.agent.as_str() == name).count(), 2);
        }
        assert_ne!(given[0].agent, given[1].agent);
    }

    #[test]
    fn an_agent_that_says_that_it_has_very_many_slots_does_not_get_it_all() {
        let mut offers = offers(vec![agent("greedy", 1000, &["main"], &[]), agent("b", 2, &["main"], &[])]);
        let tasks: Vec<_> = (1..=4).map(|id| task(id, "main", None)).collect();
        let given = assign(&mut offers, &tasks);
        assert_eq!(given.iter().filter(|one| one.agent.as_str() == "b").count(), 2);
    }

    #[test]
    fn a_task_does_not_go_back_to_the_agent_that_let_it_go_and_others_do() {
        let mut offers = offers(vec![agent("a", 1, &["main"], &[]), agent("b", 2, &["main"], &[])]);
        let tasks: Vec<_> = (1..=4).map(|id| task(id, "main", None)).collect();
        let passed_over: Vec<_> =
            tasks.into_iter().map(|task| Candidate { passed_over: AgentId::parse("b").ok(), ..task }).collect();
        let given = assign(&mut offers, &passed_over[..2]);
        assert_eq!(given.iter().map(|one| (one.id.0, one.agent.as_str())).collect::<Vec<_>>(), [(1, "a")]);
        let given = assign(&mut offers, &[passed_over[2].clone(), task(5, "main", None)]);
        assert_eq!(given.iter().map(|one| (one.id.0, one.agent.as_str())).collect::<Vec<_>>(), [(5, "b")]);
    }

    #[test]
    fn a_task_goes_to_an_agent_that_reaches_its_target_and_has_its_code() {
        let mut offers = offers(vec![agent("a", 5, &["main"], &[]), agent("b", 1, &["main", "eu"], &["parents"])]);
        assert_eq!(demands(&offers).iter().map(|demand| demand.free).collect::<Vec<_>>(), [1, 6]);
        let given =
            assign(&mut offers, &[task(1, "main", Some("parents")), task(2, "eu", None), task(3, "main", None)]);
        let given: Vec<_> = given.iter().map(|one| (one.id.0, one.agent.as_str())).collect();
        assert_eq!(given, [(1, "b"), (3, "a")]);
    }

    #[test]
    fn a_slot_is_given_once_to_whatever_kind_of_task() {
        let mut offers = offers(vec![agent("a", 3, &["main", "eu"], &["parents"]), agent("b", 2, &["main"], &[])]);
        let tasks = [
            task(1, "main", None),
            task(2, "eu", None),
            task(3, "main", None),
            task(4, "main", Some("parents")),
            task(5, "eu", None),
            task(6, "main", None),
        ];
        let given: Vec<_> = assign(&mut offers, &tasks).iter().map(|one| (one.id.0, one.agent.to_string())).collect();
        let by = |name: &str| given.iter().filter(|(_, agent)| agent == name).map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(by("b"), [3, 6]);
        assert_eq!(by("a"), [1, 2, 4]);
    }

    #[test]
    fn a_newer_stream_of_an_agent_ends_the_older() {
        let hub = Hub::default();
        let (old, new) = (agent("a", 1, &[], &[]), agent("a", 1, &[], &[]));
        hub.add(&old);
        hub.add(&new);
        assert_eq!(old.ending().status().unwrap().code(), tonic::Code::Aborted);
        hub.remove(&old);
        assert_eq!(hub.all().len(), 1);
    }
}
