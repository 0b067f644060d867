//! Faults between every two durable steps of agents and controller, one after the other: each point of the [matrix] with a process
//! that dies, one that stands still for longer than its lease, a worker that is slow, and an error.
//!
//! Plans and ranges are put through it once more where a step is carried out [again](again), over rows that an earlier text of it has changed.
//!
//! The programs must be built with the feature `failpoints`, as `make test` does. Each case runs a [set](set) of migrations with
//! every kind of task in it. Which agent gets a task is chance, so both are armed, and a fault can happen twice.
//!
//! A fleet takes one case after the other, since starting one costs more than a case does; several fleets work side by side. A
//! case that fails is named, and its fleet with it is gone. `FAULTS=range.taken` in the environment of the test takes only the
//! cases with that in their name.

mod again;
mod case;
mod matrix;
mod set;
mod stale;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;

use dunlin_tests::fleet::Fleet;
use dunlin_tests::programs::Program;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;

use self::again::Again;
use self::matrix::Case;
use self::set::Set;

/// Fleets that work side by side.
const FLEETS: usize = 6;

/// How long a lease lives.
const LEASE: &str = "1s";

#[tokio::test]
async fn a_fault_at_any_point_loses_nothing_and_repeats_nothing() {
    let mut cases = matrix::cases();
    if let Ok(only) = std::env::var("FAULTS") {
        cases.retain(|case| case.to_string().contains(&only));
    }
    let count = cases.len();
    let queue = Mutex::new(VecDeque::from(cases));
    let failures = join_all((0..FLEETS).map(|_| work(&queue))).await.concat();
    assert!(failures.is_empty(), "{} of {count} cases failed:\n{}", failures.len(), failures.join("\n"));
}

/// The migrations of a case.
#[derive(Debug)]
enum Work {
    /// Every kind of task once.
    Once(Set),
    /// A step that is carried out again.
    Again(Again),
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Once(set) => set.fmt(f),
            Self::Again(again) => again.fmt(f),
        }
    }
}

impl Work {
    async fn register(&self, fleet: &Fleet) {
        match self {
            Self::Once(set) => set.register(fleet).await,
            Self::Again(again) => again.register(fleet).await,
        }
    }

    fn queue(&self, fleet: &Fleet) -> BoxFuture<'static, ()> {
        match self {
            Self::Once(set) => set.queue(fleet).boxed(),
            Self::Again(again) => again.queue(fleet).boxed(),
        }
    }

    async fn has_ended(&self, fleet: &Fleet) -> bool {
        match self {
            Self::Once(set) => set.has_ended(fleet).await,
            Self::Again(again) => again.has_ended(fleet).await,
        }
    }

    async fn assert_done_once(&self, fleet: &Fleet) {
        match self {
            Self::Once(set) => set.assert_done_once(fleet).await,
            Self::Again(again) => again.assert_done_once(fleet).await,
        }
    }
}

/// Takes cases for as long as there are some. Returns those that failed.
async fn work(queue: &Mutex<VecDeque<Case>>) -> Vec<String> {
    let next = || queue.lock().unwrap().pop_front();
    let mut failures = Vec::new();
    let mut current: Option<(Fleet, Vec<Work>)> = None;
    while let Some(case) = next() {
        let (mut fleet, mut sets) = match current.take() {
            Some(current) => current,
            None => (fleet().await, Vec::new()),
        };
        let set = if case.again { Work::Again(Again::number(sets.len())) } else { Work::Once(Set::number(sets.len())) };
        let began = Instant::now();
        let survived = AssertUnwindSafe(case::survive(&mut fleet, &case, &set)).catch_unwind().await;
        if survived.is_ok() {
            println!("{case}: survived within {} ms", began.elapsed().as_millis());
            sets.push(set);
            current = Some((fleet, sets));
        } else {
            eprintln!("--- {case}, in {set}:\n{}", case::logs(&mut fleet));
            failures.push(case.to_string());
        }
    }
    // What was late in one case can have done its harm during another.
    if let Some((mut fleet, sets)) = current {
        let checked = async {
            for set in &sets {
                set.assert_done_once(&fleet).await;
            }
        };
        if AssertUnwindSafe(checked).catch_unwind().await.is_err() {
            eprintln!("{}", case::logs(&mut fleet));
            failures.push("what was right at the end of a case was wrong later".to_owned());
        }
    }
    failures
}

async fn fleet() -> Fleet {
    let builder = Fleet::builder().agents(0).lease_ttl(LEASE).environment("FAILPOINTS", "nowhere=off");
    let mut fleet = builder.start().await;
    for _agent in 0..2 {
        fleet.start_agent_of(Program::TestAgent);
    }
    fleet.agents_connected(2).await;
    for process in [fleet.agent(0).log(), fleet.controller(0).log()] {
        assert!(
            process.contains("a failpoint is armed"),
            "the programs are built without failpoints. Type `make test`, or `cargo build --workspace --features \
             dunlin-agent/failpoints,dunlin-controller/failpoints` before `cargo test`."
        );
    }
    fleet
}
