//! What a failure stops: the runs that come after it in the order of their request, and the runs of migrations that
//! depend on it, and what comes after or depends on these.

use std::collections::{HashMap, VecDeque};

use dunlin_shared::ids::{MigrationId, RunId};

/// A run that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The run.
    pub id: RunId,
    /// Its migration.
    pub migration: MigrationId,
    /// The run that must succeed first, while it has not.
    pub after: Option<RunId>,
    /// The migrations that must be applied first.
    pub run_after: Vec<MigrationId>,
}

/// A run that is cancelled, and for whom it waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancelled {
    /// The run.
    pub id: RunId,
    /// Its migration.
    pub migration: MigrationId,
    /// The run that it waited for.
    pub waited_for: RunId,
    /// The migration of that run.
    pub waited_for_migration: MigrationId,
}

/// The queued runs that cannot start any more because a run failed, in the order in which the failure reaches them.
///
/// `lacking` says whether the target lacks the failed migration: a rerun that fails leaves it applied, and what depends
/// on it may go on.
#[must_use]
pub fn cascade(failed: RunId, migration: &MigrationId, lacking: bool, queued: &[Queued]) -> Vec<Cancelled> {
    let mut after: HashMap<RunId, Vec<usize>> = HashMap::new();
    let mut dependents: HashMap<&MigrationId, Vec<usize>> = HashMap::new();
    for (index, run) in queued.iter().enumerate() {
        if let Some(before) = run.after {
            after.entry(before).or_default().push(index);
        }
        for dependency in &run.run_after {
            dependents.entry(dependency).or_default().push(index);
        }
    }
    let mut reached = vec![false; queued.len()];
    let mut cancelled = Vec::new();
    let mut stopped = VecDeque::from([(failed, migration, lacking)]);
    while let Some((id, migration, lacking)) = stopped.pop_front() {
        let behind = after.get(&id).into_iter().flatten();
        let depending = dependents.get(migration).filter(|_| lacking).into_iter().flatten();
        for &index in behind.chain(depending) {
            if std::mem::replace(&mut reached[index], true) {
                continue;
            }
            let run = &queued[index];
            cancelled.push(Cancelled {
                id: run.id,
                migration: run.migration.clone(),
                waited_for: id,
                waited_for_migration: migration.clone(),
            });
            stopped.push_back((run.id, &run.migration, true));
        }
    }
    cancelled
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: usize) -> MigrationId {
        MigrationId::parse(format!("m{number}")).unwrap()
    }

    fn number(index: usize) -> i64 {
        i64::try_from(index).unwrap()
    }

    fn queue() -> impl Strategy<Value = Vec<Queued>> {
        proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<prop::sample::Index>(), 0..3)), 1..25)
            .prop_map(|runs| {
                runs.into_iter()
                    .enumerate()
                    .map(|(index, (chained, dependencies))| Queued {
                        id: RunId(number(index + 1)),
                        migration: id(index + 1),
                        after: chained.then(|| RunId(number(index))),
                        run_after: dependencies.into_iter().map(|pick| id(pick.index(index + 1))).collect(),
                    })
                    .collect()
            })
    }

    proptest! {
        #[test]
        fn exactly_the_runs_that_wait_for_a_stopped_run_are_cancelled(queue in queue()) {
            let cancelled = cascade(RunId(0), &id(0), true, &queue);
            let gone: Vec<RunId> = cancelled.iter().map(|run| run.id).collect();
            for run in &queue {
                let waits = run.after.is_some_and(|after| after == RunId(0) || gone.contains(&after))
                    || run.run_after.contains(&id(0))
                    || queue.iter().any(|other| gone.contains(&other.id) && run.run_after.contains(&other.migration));
                prop_assert_eq!(waits, gone.contains(&run.id));
            }
            let mut once = gone.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), gone.len());
        }
    }

    #[test]
    fn a_failed_rerun_does_not_stop_what_depends_on_the_migration() {
        let queued = [
            Queued { id: RunId(2), migration: id(2), after: None, run_after: vec![id(1)] },
            Queued { id: RunId(3), migration: id(3), after: Some(RunId(1)), run_after: vec![] },
        ];
        let cancelled = cascade(RunId(1), &id(1), false, &queued);
        assert_eq!(cancelled.iter().map(|run| run.id).collect::<Vec<_>>(), [RunId(3)]);
    }
}
