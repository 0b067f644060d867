//! The order of migrations: everything runs after what it names in `run_after`; where that leaves a choice, the lower
//! version goes first.
//!
//! The order depends on nothing but the migrations: not on the order in which they are given.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;

use petgraph::Direction;
use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use crate::ids::MigrationId;
use crate::migration::Version;

/// Migrations that wait for each other: each for the next, the last for the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Cycle {
    /// The migrations, each once, the least id first.
    pub path: Vec<MigrationId>,
}

impl fmt::Display for Cycle {
    /// `a -> b -> a`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for id in &self.path {
            write!(f, "{id} -> ")?;
        }
        self.path.first().map_or(Ok(()), |id| id.fmt(f))
    }
}

type Graph<'a> = DiGraph<(Version, &'a MigrationId), ()>;

/// The ids in the order in which the migrations run. What a migration names that is not among them does not hold it back.
///
/// # Errors
/// One of the cycles, where there are any.
pub fn order(migrations: &[(MigrationId, Version, Vec<MigrationId>)]) -> Result<Vec<MigrationId>, Cycle> {
    let graph = graph(migrations);
    let mut waits: Vec<usize> =
        graph.node_indices().map(|node| graph.edges_directed(node, Direction::Outgoing).count()).collect();
    let mut free: BinaryHeap<_> =
        graph.node_indices().filter(|node| waits[node.index()] == 0).map(|node| Reverse((graph[node], node))).collect();
    let mut ordered = Vec::with_capacity(migrations.len());
    while let Some(Reverse(((_, id), node))) = free.pop() {
        ordered.push(id.clone());
        for edge in graph.edges_directed(node, Direction::Incoming) {
            let waiting = edge.source();
            waits[waiting.index()] -= 1;
            if waits[waiting.index()] == 0 {
                free.push(Reverse((graph[waiting], waiting)));
            }
        }
    }
    if ordered.len() == graph.node_count() {
        return Ok(ordered);
    }
    match cycles_of(&graph).into_iter().next() {
        Some(cycle) => Err(cycle),
        None => unreachable!("what is left without a free migration holds a cycle"),
    }
}

/// One cycle for each knot of migrations that wait for each other, in the order of their least ids.
#[must_use]
pub fn cycles(migrations: &[(MigrationId, Version, Vec<MigrationId>)]) -> Vec<Cycle> {
    cycles_of(&graph(migrations))
}

/// The graph with an edge from each migration to what it runs after.
fn graph(migrations: &[(MigrationId, Version, Vec<MigrationId>)]) -> Graph<'_> {
    let mut graph = Graph::new();
    let mut nodes = HashMap::new();
    for (id, version, _) in migrations {
        nodes.entry(id).or_insert_with(|| graph.add_node((*version, id)));
    }
    for (id, _, run_after) in migrations {
        for before in run_after.iter().filter_map(|before| nodes.get(before)) {
            graph.update_edge(nodes[id], *before, ());
        }
    }
    graph
}

fn cycles_of(graph: &Graph<'_>) -> Vec<Cycle> {
    // Not Tarjan's algorithm, which recurses as deep as the longest chain of dependencies.
    let mut cycles: Vec<Cycle> = kosaraju_scc(graph)
        .into_iter()
        .filter(|knot| knot.len() > 1 || graph.contains_edge(knot[0], knot[0]))
        .map(|knot| shortest_cycle(graph, &knot))
        .collect();
    cycles.sort_by(|a, b| a.path.cmp(&b.path));
    cycles
}

/// The shortest cycle through the least id of a knot; of several, the one with lesser ids earlier.
fn shortest_cycle(graph: &Graph<'_>, knot: &[NodeIndex]) -> Cycle {
    let id = |node: NodeIndex| graph[node].1;
    let start = knot.iter().copied().min_by_key(|node| id(*node)).unwrap_or_default();
    let knot: HashSet<NodeIndex> = knot.iter().copied().collect();
    let mut came_from: HashMap<NodeIndex, NodeIndex> = HashMap::new();
    let mut layer = vec![start];
    while !came_from.contains_key(&start) && !layer.is_empty() {
        let mut next = Vec::new();
        for node in layer {
            let mut targets: Vec<NodeIndex> = graph.neighbors(node).filter(|target| knot.contains(target)).collect();
            targets.sort_by_key(|target| id(*target));
            for target in targets {
                if let std::collections::hash_map::Entry::Vacant(entry) = came_from.entry(target) {
                    entry.insert(node);
                    next.push(target);
                }
            }
        }
        layer = next;
    }
    let mut path = Vec::new();
    let mut node = came_from.get(&start).copied().unwrap_or(start);
    while node != start {
        path.push(id(node).clone());
        node = came_from[&node];
    }
    path.push(id(start).clone());
    path.reverse();
    Cycle { path }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Migration = (MigrationId, Version, Vec<MigrationId>);

    fn id(text: &str) -> MigrationId {
        MigrationId::parse(text).unwrap()
    }

    fn migration(text: &str, version: i64, run_after: &[&str]) -> Migration {
        (id(text), Version::new(version).unwrap(), run_after.iter().map(|text| id(text)).collect())
    }

    #[test]
    fn dependencies_come_first_and_versions_break_ties() {
        let given = [migration("c", 1, &["b"]), migration("b", 9, &[]), migration("a", 2, &["elsewhere"])];
        assert_eq!(order(&given).unwrap(), [id("a"), id("b"), id("c")]);
    }

    #[test]
    fn a_cycle_is_shown_from_its_least_id_round_to_it() {
        let given = [
            migration("d", 1, &["c"]),
            migration("c", 2, &["b"]),
            migration("b", 3, &["a", "d"]),
            migration("a", 4, &["c"]),
            migration("z", 5, &["z"]),
        ];
        assert_eq!(order(&given).unwrap_err().to_string(), "a -> c -> b -> a");
        let all: Vec<String> = cycles(&given).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["a -> c -> b -> a", "z -> z"]);
    }

    /// Migrations with distinct versions whose dependencies lie anywhere in the set.
    fn any_migrations(acyclic: bool) -> impl Strategy<Value = Vec<Migration>> {
        prop::collection::vec((any::<u16>(), prop::collection::vec(any::<prop::sample::Index>(), 0..4)), 1..20)
            .prop_map(move |rows| {
                let name = |i: usize| format!("m{i}");
                let count = rows.len();
                rows.iter()
                    .enumerate()
                    .map(|(i, (version, picks))| {
                        let run_after: Vec<String> = picks
                            .iter()
                            .filter_map(|pick| match (acyclic, i) {
                                (true, 0) => None,
                                (true, _) => Some(name(pick.index(i))),
                                (false, _) => Some(name(pick.index(count))),
                            })
                            .collect();
                        let run_after: Vec<&str> = run_after.iter().map(String::as_str).collect();
                        migration(&name(i), i64::from(*version) + 1, &run_after)
                    })
                    .collect()
            })
    }

    proptest! {
        #[test]
        fn everything_comes_once_and_after_what_it_names(mut given in any_migrations(true), turn in any::<prop::sample::Index>()) {
            let ordered = order(&given).unwrap();
            prop_assert_eq!(ordered.len(), given.len());
            let place = |id: &MigrationId| ordered.iter().position(|other| other == id).unwrap();
            for (id, _, run_after) in &given {
                prop_assert!(run_after.iter().all(|before| place(before) < place(id)));
            }
            let turn = turn.index(given.len());
            given.rotate_left(turn);
            prop_assert_eq!(order(&given).unwrap(), ordered);
        }

        #[test]
        fn a_lower_version_goes_first_wherever_it_can(given in any_migrations(true)) {
            let ordered = order(&given).unwrap();
            let find = |id: &MigrationId| given.iter().find(|(other, _, _)| other == id).unwrap();
            for pair in ordered.windows(2) {
                let (first, second) = (find(&pair[0]), find(&pair[1]));
                prop_assert!(second.2.contains(&first.0) || (first.1, &first.0) < (second.1, &second.0));
            }
        }

        #[test]
        fn a_cycle_is_made_of_real_edges(given in any_migrations(false)) {
            if let Err(cycle) = order(&given) {
                let round: Vec<_> = cycle.path.iter().chain(cycle.path.first()).collect();
                for pair in round.windows(2) {
                    let (_, _, run_after) = given.iter().find(|(id, _, _)| id == pair[0]).unwrap();
                    prop_assert!(run_after.contains(pair[1]));
                }
            } else {
                prop_assert!(cycles(&given).is_empty());
            }
        }
    }
}
