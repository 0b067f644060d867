//! Runs moved by whatever agents may report, in any order.

use std::collections::HashMap;
use std::sync::Arc;

use dunlin_shared::ids::{AgentId, Epoch, RunId, TargetName, TaskId};
use dunlin_shared::migration::set::{Set, SourceFile};
use proptest::prelude::*;

use super::ending::Endings;
use super::report::{Counted, Range, ReleaseReason, Report, Retry};
use super::run::{Failure, State};
use super::step::Step;
use super::task::{self, Kind, Lease, Standing};
use super::{Changes, EventType, NewTask, Run, Task, Verdict, advance, begin};

const MIGRATION: &str = r#"
id = "m"
name = "M"
description = "d"
version = 1
[[step]]
name = "one"
batch = { table = "t" }
sql = "UPDATE t SET a = 1 WHERE :batch"
[[step]]
name = "two"
sql = "CREATE INDEX CONCURRENTLY i ON t (a)"
transaction = false
"#;

/// What an agent may do with a task.
#[derive(Clone, Debug)]
enum Deed {
    Done,
    Plan(u8),
    Retry,
    Release(bool),
    Stale,
    Expire,
    Late,
}

fn deeds() -> impl Strategy<Value = Vec<(prop::sample::Index, Deed)>> {
    let deed = prop_oneof![
        4 => Just(Deed::Done),
        2 => (1..4_u8).prop_map(Deed::Plan),
        1 => Just(Deed::Retry),
        1 => any::<bool>().prop_map(Deed::Release),
        1 => Just(Deed::Stale),
        1 => Just(Deed::Expire),
        1 => Just(Deed::Late),
    ];
    proptest::collection::vec((any::<prop::sample::Index>(), deed), 1..120)
}

fn run() -> Run {
    let files = [SourceFile { path: "m.toml".to_owned(), content: MIGRATION.to_owned() }];
    let definition = Set::parse(&files, &[]).unwrap().entries.remove(0).definition;
    let steps = (1..).zip(&definition.steps).map(|(ordinal, step)| Step::pending(ordinal, step.name.clone()));
    Run {
        id: RunId(1),
        target: TargetName::default(),
        migration: definition.id.clone(),
        state: State::Queued,
        rerun: false,
        applications: 0,
        steps: steps.collect(),
        definition: Arc::new(definition),
        failure: None,
        result: None,
    }
}

fn task(id: i64, new: &NewTask) -> Task {
    Task {
        id: TaskId(id),
        kind: new.kind,
        step: new.step,
        standing: Standing { state: task::State::Ready, epoch: Epoch::ZERO },
        attempts: 0,
        passing: None,
        endings: Endings::default(),
        postponed: 0,
        priority: 0,
        counted: Counted::default(),
        rest: None,
        rests: String::new(),
        passed_over: false,
        rows_total: new.range.as_ref().map_or(0, |range| range.rows_total),
    }
}

fn range(ordinal: i32) -> Range {
    Range { ordinal, low: None, high: vec![ordinal.to_string()], rows_total: 10, done: false, rows: 0, rows_walked: 0 }
}

fn done(kind: Kind) -> Report {
    let rows = if kind == Kind::Range { 10 } else { 0 };
    Report::Done {
        counted: Counted { rows, rows_walked: rows, ..Counted::default() },
        already_done: false,
        applied: None,
    }
}

/// A run with its tasks, granted and reported as it comes.
struct World {
    run: Run,
    tasks: Vec<Task>,
    changes: Changes,
}

impl World {
    fn new() -> Self {
        let mut world = Self { run: run(), tasks: Vec::new(), changes: Changes::default() };
        begin(&mut world.run, &mut world.changes).unwrap();
        world.take_added();
        world
    }

    fn take_added(&mut self) {
        for (_, new) in std::mem::take(&mut self.changes.added) {
            let id = i64::try_from(self.tasks.len()).unwrap() + 1;
            self.tasks.push(task(id, &new));
        }
    }

    fn open(&self) -> Vec<usize> {
        let open = |state: &task::State| matches!(state, task::State::Ready | task::State::Leased { .. });
        (0..self.tasks.len()).filter(|index| open(&self.tasks[*index].standing.state)).collect()
    }

    fn grant(&mut self, index: usize) -> Lease {
        let task = &mut self.tasks[index];
        if task.standing.state == task::State::Ready {
            let agent = AgentId::parse("a").unwrap();
            task.standing = task.standing.clone().next(task::Event::Granted(agent)).unwrap();
        }
        Lease { task: task.id, epoch: task.standing.epoch }
    }

    fn report(&mut self, index: usize, lease: Lease, report: Report) -> Verdict {
        let task = &mut self.tasks[index];
        let verdict = advance(&mut self.run, task, lease, report, 0.0, &mut self.changes).unwrap();
        self.take_added();
        verdict
    }

    fn act(&mut self, index: usize, deed: &Deed) {
        let lease = self.grant(index);
        let kind = self.tasks[index].kind;
        let report = match deed {
            Deed::Done => done(kind),
            Deed::Plan(count) if kind == Kind::Plan => {
                let known = self.run.steps[0].ranges_total;
                // One that is known already comes again, as after a lost acknowledgement.
                let ranges = (known.max(1)..=known + i32::from(*count)).map(range).collect();
                Report::Ranges { ranges, key: Vec::new() }
            }
            Deed::Plan(_) => return,
            Deed::Retry => Report::Failed {
                failure: Box::new(Failure::default()),
                retry: Some(Retry::default()),
                counted: Counted::default(),
            },
            Deed::Release(yielded) => Report::Released {
                reason: if *yielded { ReleaseReason::Yielded } else { ReleaseReason::Stopping },
                message: String::new(),
                counted: Counted { rows: 3, rows_walked: 3, ..Counted::default() },
            },
            Deed::Stale => Report::Stale { stored: Epoch(lease.epoch.0 + 5), applications: 0 },
            Deed::Expire => {
                let task = &mut self.tasks[index];
                task.standing = task.standing.clone().next(task::Event::Expired(lease.epoch)).unwrap();
                return;
            }
            Deed::Late => {
                let old = Lease { epoch: Epoch(lease.epoch.0 - 1), ..lease };
                assert_eq!(self.report(index, old, done(kind)), Verdict::Late);
                return;
            }
        };
        self.report(index, lease, report);
    }
}

proptest! {
    #[test]
    fn a_run_succeeds_once_all_that_was_planned_is_done_whatever_happens_between(deeds in deeds()) {
        let mut world = World::new();
        for (pick, deed) in &deeds {
            let open = world.open();
            if open.is_empty() {
                break;
            }
            world.act(open[pick.index(open.len())], deed);
            for step in &world.run.steps {
                prop_assert!(step.ranges_done <= step.ranges_total);
            }
            let sealed = world.tasks.iter().any(|task| task.kind == Kind::Seal);
            let steps_done = world.run.steps.iter().all(|step| step.state == super::step::State::Succeeded);
            prop_assert_eq!(sealed, steps_done, "the seal comes after the last step");
        }
        while let Some(index) = world.open().first().copied() {
            world.act(index, &Deed::Done);
        }
        prop_assert_eq!(world.run.state, State::Succeeded);
        let ranges = world.tasks.iter().filter(|task| task.kind == Kind::Range).count();
        let first = &world.run.steps[0];
        prop_assert_eq!(usize::try_from(first.ranges_total).unwrap(), ranges);
        prop_assert_eq!(first.rows_walked, i64::from(first.ranges_total) * 10, "each row is counted once");
        let mut ends: HashMap<&str, usize> = HashMap::new();
        for event in &world.changes.events {
            *ends.entry(event.event_type.as_str()).or_default() += 1;
        }
        prop_assert_eq!(ends[EventType::RunSucceeded.as_str()], 1);
        prop_assert_eq!(ends[EventType::StepStarted.as_str()], 2);
        prop_assert_eq!(ends[EventType::StepSucceeded.as_str()], 2);
    }
}
