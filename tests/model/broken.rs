//! Variants in which a rule is left out. Each breaks a promise within the bounds, and the shortest history that does is printed.
//!
//! That the checker finds them is what makes its silence about the whole protocol worth something. What they do not break says
//! what each rule is for: the epoch keeps it to one writer, the number of batches keeps each batch from being done twice.

use std::collections::BTreeSet;

use stateright::{Checker, Expectation, Model};

use crate::action::{Action, Fault};
use crate::properties::{
    EPOCHS_RISE, EXACTLY_ONCE, NEVER_AHEAD, NEVER_TWICE, NOTHING_OLD, ONE_WRITER, TELLS_THE_TRUTH,
};
use crate::rules::{Cut, Late, Protocol, Rules, Start};
use crate::state::State;

/// The history that breaks a promise.
struct Caught(Vec<Action>);

impl Caught {
    fn has(&self, action: impl Fn(&Action) -> bool) -> bool {
        self.0.iter().any(action)
    }
}

/// Explores a variant whole, and compares the promises that it breaks. Returns the shortest history that breaks the first.
fn breaks(variant: &str, rules: Rules, start: &'static [Start], broken: &[&'static str]) -> Caught {
    let protocol = Protocol { rules, ranges: 1, batches: 2, lazy: false, faults: 2, starts: start };
    let checker = protocol.clone().checker().spawn_bfs().join();
    let expectations = protocol.properties();
    let promise = |name: &&str| expectations.iter().any(|p| p.name == *name && p.expectation == Expectation::Always);
    let discoveries = checker.discoveries();
    let found: BTreeSet<&str> = discoveries.keys().copied().filter(promise).collect();
    println!("{variant}: {} states; breaks {found:?}", checker.unique_state_count());
    assert_eq!(found, broken.iter().copied().collect(), "{variant}");
    let actions = shortest(&protocol, broken[0]);
    println!("  \"{}\" is broken by:", broken[0]);
    for (number, action) in (1..).zip(&actions) {
        println!("  {number:>3}. {action:?}");
    }
    assert!(replay(&protocol, &actions, broken[0]), "{variant}: the history does not break the promise");
    let whole = Protocol { rules: Rules::ALL, ..protocol };
    assert!(!replay(&whole, &actions, broken[0]), "{variant}: the same history breaks the whole protocol");
    Caught(actions)
}

/// The checker keeps the history that it finds last; no deeper than the first one, that is a shortest.
fn shortest(protocol: &Protocol, promise: &'static str) -> Vec<Action> {
    let found = (2..).find_map(|depth| {
        let checker = protocol.clone().checker().target_max_depth(depth).spawn_bfs().join();
        checker.discovery(promise)
    });
    found.expect("the promise is broken at some depth").into_actions()
}

/// Takes the steps one by one, as far as they are possible. True when the promise is broken at the end.
fn replay(protocol: &Protocol, actions: &[Action], promise: &'static str) -> bool {
    let last = |mut state: State| {
        for action in actions {
            let mut possible = Vec::new();
            protocol.actions(&state, &mut possible);
            if !possible.contains(action) {
                return state;
            }
            let Some(next) = protocol.next_state(&state, *action) else { return state };
            state = next;
        }
        state
    };
    protocol.init_states().into_iter().map(last).any(|state| !(protocol.property(promise).condition)(protocol, &state))
}

const FRESH: &[Start] = &[Start::Fresh];

#[test]
fn without_an_epoch_check_a_stale_holder_writes() {
    let rules = Rules { advance_compares_epochs: false, ..Rules::ALL };
    breaks("no epoch check", rules, FRESH, &[ONE_WRITER]);
    let rules = Rules { advance_compares_batches: false, ..rules };
    breaks("no check at all", rules, FRESH, &[NEVER_TWICE, EXACTLY_ONCE, ONE_WRITER]);
}

#[test]
fn an_epoch_that_only_the_controller_knows_fences_nobody() {
    let rules = Rules { take_writes_the_epoch: false, ..Rules::ALL };
    breaks("epoch in the controller only", rules, FRESH, &[ONE_WRITER]);
    let rules = Rules { advance_compares_batches: false, ..rules };
    let broken = [NEVER_TWICE, EXACTLY_ONCE, ONE_WRITER];
    breaks("epoch in the controller only, batches not counted", rules, FRESH, &broken);
}

#[test]
fn a_checkpoint_that_follows_in_a_transaction_of_its_own_tells_lies_in_between() {
    let rules = Rules { rows_and_checkpoint_commit_together: false, ..Rules::ALL };
    breaks("two transactions", rules, FRESH, &[NEVER_TWICE, TELLS_THE_TRUTH, EXACTLY_ONCE]);
}

#[test]
fn a_report_before_the_disk_has_it_is_lost_with_the_server() {
    let rules = Rules { the_last_commit_is_synchronous: false, ..Rules::ALL };
    let caught = breaks("done before it is durable", rules, FRESH, &[EXACTLY_ONCE, NEVER_AHEAD]);
    assert!(caught.has(|action| matches!(action, Action::Fault(Fault::Target { .. }))), "the server has crashed");
}

#[test]
fn without_a_count_of_batches_the_ghost_of_an_own_transaction_counts_twice() {
    let rules = Rules { advance_compares_batches: false, ..Rules::ALL };
    let caught = breaks("batches not counted", rules, FRESH, &[NEVER_TWICE, EXACTLY_ONCE]);
    assert!(caught.has(|action| matches!(action, Action::CommitOrphan(_))), "a ghost has committed");
}

#[test]
fn a_take_that_compares_nothing_lowers_the_epoch() {
    let rules = Rules { take_compares_epochs: false, ..Rules::ALL };
    breaks("a take that compares nothing", rules, FRESH, &[EPOCHS_RISE]);
}

#[test]
fn without_the_run_a_late_holder_takes_again_what_a_controller_that_was_put_back_has_granted() {
    let rules = Rules { take_again_compares_runs: false, ..Rules::ALL };
    let start = &[Start::AfterAnotherRun { again: true, known: false }];
    breaks("a take again by the epoch alone", rules, start, &[ONE_WRITER]);
}

#[test]
fn without_a_fence_a_late_holder_writes_into_a_step_that_was_begun_again() {
    let rules = Rules { beginning_again_raises_epochs: false, ..Rules::ALL };
    let start = &[Start::BegunAgain { late: Late::Working, epoch: 1, cut: Cut::Anew, known: false }];
    breaks("no fence", rules, start, &[NOTHING_OLD, ONE_WRITER]);
}

#[test]
fn a_take_that_compares_no_plans_lets_a_late_lease_work_on_what_it_knows_otherwise() {
    let rules = Rules { take_compares_plans: false, ..Rules::ALL };
    let start = &[Start::BegunAgain { late: Late::Untaken, epoch: 3, cut: Cut::Anew, known: true }];
    breaks("plans not compared", rules, start, &[NOTHING_OLD]);
}
