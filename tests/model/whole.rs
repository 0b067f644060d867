//! The protocol as it is, through every history within the bounds.
//!
//! A fault can be of any kind and come at any moment, so "two faults" is every pair of faults at every pair of moments. Beyond
//! these bounds nothing is proved; the tests with real processes go further at random.

use std::collections::{HashMap, VecDeque};

use stateright::{Checker, Model};
use tokio::time::Instant;

use crate::action::Action;
use crate::rules::{Cut, Late, Protocol, Rules, Start};
use crate::state::State;

const FRESH: &[Start] = &[Start::Fresh];
const AFTER_ANOTHER_RUN: &[Start] = &[
    Start::AfterAnotherRun { again: false, known: true },
    Start::AfterAnotherRun { again: true, known: true },
    Start::AfterAnotherRun { again: false, known: false },
    Start::AfterAnotherRun { again: true, known: false },
];

const BEGUN_AGAIN: &[Start] = &[
    Start::BegunAgain { late: Late::Working, epoch: 1, cut: Cut::Anew, known: true },
    Start::BegunAgain { late: Late::Working, epoch: 1, cut: Cut::Anew, known: false },
    Start::BegunAgain { late: Late::Working, epoch: 1, cut: Cut::Same, known: false },
    // Leases that nobody has taken are not in the target: the fence can be below them.
    Start::BegunAgain { late: Late::Untaken, epoch: 3, cut: Cut::Anew, known: true },
    Start::BegunAgain { late: Late::Untaken, epoch: 3, cut: Cut::Anew, known: false },
    Start::BegunAgain { late: Late::Untaken, epoch: 3, cut: Cut::Same, known: false },
];

fn protocol(ranges: u8, batches: u8, faults: u8, starts: &'static [Start]) -> Protocol {
    Protocol { rules: Rules::ALL, ranges, batches, lazy: false, faults, starts }
}

/// Checks every property in every state. States that differ only in which agent and which range is which count as one.
fn check(protocol: Protocol) {
    let bounds = format!(
        "{} range(s) of {} batches, {} fault(s), {:?}{}",
        protocol.ranges,
        protocol.batches,
        protocol.faults,
        protocol.starts,
        if protocol.lazy { ", lazy" } else { "" }
    );
    let start = Instant::now();
    let checker = protocol.checker().threads(2).symmetry_fn(State::representative).spawn_dfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.state_count());
    println!("{bounds}: {states} states, {steps} steps, {:.1} s", start.elapsed().as_secs_f32());
    checker.assert_properties();
}

#[test]
fn two_ranges_keep_every_promise_through_two_faults() {
    check(protocol(2, 2, 2, FRESH));
}

#[test]
fn a_range_of_three_batches_keeps_every_promise_through_three_faults() {
    check(protocol(1, 3, 3, FRESH));
}

#[test]
fn a_run_after_another_keeps_every_promise_though_a_late_holder_of_the_other_is_about() {
    check(protocol(1, 2, 2, AFTER_ANOTHER_RUN));
}

#[test]
fn a_step_that_is_begun_again_keeps_every_promise_though_a_late_holder_of_its_ranges_is_about() {
    check(protocol(1, 2, 2, BEGUN_AGAIN));
}

/// An epoch that was granted lazily can be granted again, to another agent, after a crash of the controllers' database. Then two
/// may write for a moment, but no batch is done twice, and nothing is left undone.
#[test]
fn leases_and_reports_that_the_controllers_lose_cost_no_promise() {
    check(Protocol { lazy: true, ..protocol(1, 2, 2, FRESH) });
    check(Protocol { lazy: true, ..protocol(2, 2, 1, FRESH) });
}

/// `eventually` is judged where a history ends, so there must be no history that does not end: while nothing goes wrong, no state
/// comes back. Then every history has an end, and [`check`] has found all ranges done there.
#[test]
fn nothing_goes_in_circles_while_nothing_goes_wrong() {
    let lazy = Protocol { lazy: true, ..protocol(1, 2, 2, FRESH) };
    for protocol in
        [protocol(2, 2, 1, FRESH), lazy, protocol(1, 2, 2, AFTER_ANOTHER_RUN), protocol(1, 2, 2, BEGUN_AGAIN)]
    {
        let Graph { mut into, from } = graph(&protocol);
        let mut ready: VecDeque<usize> = (0..into.len()).filter(|state| into[*state] == 0).collect();
        let mut ordered = 0;
        while let Some(state) = ready.pop_front() {
            ordered += 1;
            for next in &from[state] {
                into[*next] -= 1;
                if into[*next] == 0 {
                    ready.push_back(*next);
                }
            }
        }
        assert_eq!(ordered, from.len(), "the states that are not in order lie on or behind a circle: {protocol:?}");
    }
}

/// All states, with the steps between them that are no faults.
struct Graph {
    /// How many steps lead into a state.
    into: Vec<usize>,
    /// Where the steps from a state lead.
    from: Vec<Vec<usize>>,
}

fn graph(protocol: &Protocol) -> Graph {
    let mut graph = Graph { into: Vec::new(), from: Vec::new() };
    let mut known: HashMap<State, usize> = HashMap::new();
    let mut waiting = VecDeque::new();
    let mut index = |state: State, graph: &mut Graph, waiting: &mut VecDeque<(usize, State)>| {
        *known.entry(state.clone()).or_insert_with(|| {
            graph.into.push(0);
            graph.from.push(Vec::new());
            waiting.push_back((graph.into.len() - 1, state));
            graph.into.len() - 1
        })
    };
    for state in protocol.init_states() {
        index(state, &mut graph, &mut waiting);
    }
    while let Some((state, is)) = waiting.pop_front() {
        for (action, next) in protocol.next_steps(&is) {
            let next = index(next, &mut graph, &mut waiting);
            if !matches!(action, Action::Fault(_)) {
                graph.into[next] += 1;
                graph.from[state].push(next);
            }
        }
    }
    graph
}
