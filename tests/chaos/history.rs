//! Which histories are legal: pure functions from what was recorded to what is wrong with it.
//!
//! Each is a promise seen from outside, told without a look at how it is kept.

use std::collections::{BTreeMap, HashMap};

/// An event, as far as it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its number in the whole history.
    pub(crate) id: i64,
    /// Its number in the history of its target.
    pub(crate) sequence: i64,
    /// What happened, as the word that is stored.
    pub(crate) word: String,
    /// The run, or 0.
    pub(crate) run: i64,
    /// The step, or empty.
    pub(crate) step: String,
    /// The task that it is about.
    pub(crate) task: Option<i64>,
    /// The epoch of the lease that ended.
    pub(crate) epoch: Option<i64>,
}

/// An event, as a watcher is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) sequence: i64,
    pub(crate) id: i64,
    pub(crate) run: i64,
    pub(crate) message: String,
}

/// What is known of a run besides its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: i64,
    /// Its state, as the word that is stored.
    pub(crate) state: String,
    /// The names of its steps in order; none for an atomic migration, whose steps are not told one by one.
    pub(crate) steps: Vec<String>,
}

/// The numbers of the history of a target are 1, 2, 3 and so on, and those of the whole history rise with them.
pub(crate) fn numbers(events: &[Event]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (event, expected) in events.iter().zip(1..) {
        if event.sequence != expected {
            wrong.push(format!(
                "event {} has number {} in the history of its target, not {expected}",
                event.id, event.sequence
            ));
            break;
        }
    }
    for pair in events.windows(2) {
        if pair[0].id >= pair[1].id {
            wrong.push(format!("event {} comes before event {}", pair[0].id, pair[1].id));
        }
    }
    wrong
}

/// The events of a run tell a life: queued, started, each step begun and ended in its turn, one end, nothing behind it.
pub(crate) fn life(run: &Run, events: &[Event]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut state = "";
    let mut open: Option<&str> = None;
    let mut steps = run.steps.iter();
    for event in events {
        let mut illegal = |why: &str| {
            wrong.push(format!(
                "run {}: event {} ({} {}) while it was {}: {why}",
                run.id,
                event.sequence,
                event.word,
                event.step,
                if state.is_empty() { "unknown" } else { state }
            ));
        };
        match (event.word.as_str(), state) {
            ("run_queued", "") => state = "queued",
            ("run_started", "queued") => state = "running",
            ("run_cancelled", "queued") => state = "cancelled",
            ("run_failed", "running") => state = "failed",
            ("run_succeeded", "running") => {
                if open.is_some() || steps.next().is_some() {
                    illegal("not all of its steps had ended");
                }
                state = "succeeded";
            }
            ("step_started", "running") => {
                if open.is_some() {
                    illegal("the step before had not ended");
                }
                if steps.next() != Some(&event.step) {
                    illegal("it was not the turn of this step");
                }
                open = Some(&event.step);
            }
            ("step_succeeded" | "step_skipped", "running") => {
                if open.take() != Some(&event.step) {
                    illegal("this step had not begun");
                }
            }
            ("task_retried" | "lease_expired" | "lease_released" | "lease_stale", "running")
            // An agent can tell of its work after the run has ended without it.
            | ("task_retried" | "step_repaired" | "agent_note" | "server_message", "running" | "failed" | "succeeded") => {}
            _ => illegal("that cannot happen then"),
        }
    }
    if state != run.state {
        wrong.push(format!("run {} is {}, and its events say {state:?}", run.id, run.state));
    }
    wrong
}

/// A lease ends once, and the leases of a task end in the order of their epochs.
pub(crate) fn leases(events: &[Event]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last: HashMap<i64, i64> = HashMap::new();
    for event in events {
        let (Some(task), Some(epoch)) = (event.task, event.epoch) else { continue };
        if let Some(before) = last.insert(task, epoch)
            && before >= epoch
        {
            wrong.push(format!(
                "event {}: epoch {epoch} of task {task} ended after epoch {before} had ({})",
                event.sequence, event.word
            ));
        }
    }
    wrong
}

/// The epochs of the leases of each task rise: none is granted twice. Grants as (task, epoch), in the order in which they were
/// written.
pub(crate) fn grants(granted: &[(i64, i64)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last: HashMap<i64, i64> = HashMap::new();
    for (task, epoch) in granted {
        if let Some(before) = last.insert(*task, *epoch)
            && before >= *epoch
        {
            wrong.push(format!("epoch {epoch} of task {task} was granted after epoch {before}"));
        }
    }
    wrong
}

/// A watcher was told every event once and in order.
pub(crate) fn watched(told: &[Told], written: &[Told]) -> Vec<String> {
    let first = told.iter().zip(written).position(|(told, written)| told != written);
    match first {
        Some(index) => {
            vec![format!("the watcher was told {:?} where the history has {:?}", told[index], written[index])]
        }
        None if told.len() < written.len() => {
            vec![format!("the watcher was not told {:?} and what follows", written[told.len()])]
        }
        None if told.len() > written.len() => {
            vec![format!("the watcher was told {:?}, which the history does not have", told[written.len()])]
        }
        None => Vec::new(),
    }
}

/// A change of a checkpoint in a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: i64,
    /// The migration, the step and the range.
    pub(crate) place: (String, String, i32),
    pub(crate) change: Change,
}

/// What happened to a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was made, or became this.
    Now { made: bool, epoch: i64, batches: i64, done: bool },
    /// It was removed.
    Gone,
}

/// Checkpoints advance by one batch at a time and never fall back; epochs rise, and not in a batch; what is done stays so. What
/// is left at the end is told too.
pub(crate) fn checkpoints(entries: &[Entry]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut live: BTreeMap<&(String, String, i32), (i64, i64, bool)> = BTreeMap::new();
    for entry in entries {
        let mut illegal = |why: String| wrong.push(format!("checkpoint {:?}, entry {}: {why}", entry.place, entry.id));
        match (entry.change, live.get(&entry.place).copied()) {
            (Change::Now { made: true, epoch, batches, done }, None) => {
                if batches != 0 || done {
                    illegal(format!("it began with {batches} batches"));
                }
                live.insert(&entry.place, (epoch, batches, done));
            }
            (Change::Now { made: false, epoch, batches, done }, Some((old_epoch, old_batches, was_done))) => {
                if epoch < old_epoch {
                    illegal(format!("epoch {epoch} after epoch {old_epoch}"));
                }
                let advanced = batches - old_batches;
                if !(0..=1).contains(&advanced) {
                    illegal(format!("{batches} batches after {old_batches}"));
                }
                if advanced > 0 && epoch != old_epoch {
                    illegal(format!("a batch under epoch {epoch}, which had not taken it from {old_epoch}"));
                }
                if was_done && (advanced > 0 || !done) {
                    illegal("it was done already".to_owned());
                }
                live.insert(&entry.place, (epoch, batches, done));
            }
            (Change::Gone, Some(_)) => {
                live.remove(&entry.place);
            }
            (Change::Now { made: true, .. }, Some(_)) => illegal("it was made twice".to_owned()),
            (_, None) => illegal("it was not there".to_owned()),
        }
    }
    wrong.extend(live.keys().map(|place| format!("checkpoint {place:?} is left")));
    wrong
}

/// How far a range is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    /// The migration, the step and the range.
    pub(crate) place: (String, String, i32),
    pub(crate) run: i64,
    pub(crate) walked: i64,
    pub(crate) done: bool,
}

/// What was said of ranges is found in the target later, where it still has them for the same run.
pub(crate) fn ahead(claimed: &[Range], found: &[Range]) -> Vec<String> {
    let found: HashMap<_, &Range> = found.iter().map(|range| ((&range.place, range.run), range)).collect();
    let mut wrong = Vec::new();
    for claim in claimed {
        let Some(range) = found.get(&(&claim.place, claim.run)) else { continue };
        if range.walked < claim.walked || claim.done && !range.done {
            wrong.push(format!("the controllers said {claim:?}, and the target had {range:?} later"));
        }
    }
    wrong
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
