//! What the server says while a step is executed: the first messages go into the history, the others are counted.
//!
//! A function that says something about each of a million rows must not fill the history. The count is kept with the step, over all
//! its tasks and agents, and told once the step, or its run, ends. What must stay true: nothing is dropped without being counted.

use dunlin_shared::figures::counted;

use super::advance::{Changes, Run, Task, about, index_of};
use super::event::{Severity, Type};
use super::step::State;

/// How many messages of a step are kept.
pub(super) const MOST: i64 = 100;

/// Counts a message, and says whether it is one that is kept. One without a text only counts others.
pub(super) fn keep(run: &mut Run, task: &Task, name: &str, message: &str, left_out: i64) -> bool {
    let said = !message.is_empty();
    let named = run.steps.iter().position(|step| step.name.as_str() == name);
    // What a check has said counts with the step of its task, or with the first.
    let Some(index) = named.or_else(|| index_of(run, task.step).ok()).or((!run.steps.is_empty()).then_some(0)) else {
        return said;
    };
    let Some(step) = run.steps.get_mut(index) else { return said };
    let before = step.messages;
    step.messages = before.saturating_add(left_out.max(0)).saturating_add(i64::from(said));
    said && before < MOST
}

/// Tells how many messages of a step were counted only.
pub(super) fn tell(run: &Run, ordinal: i32, changes: &mut Changes) {
    let Some(step) = index_of(run, ordinal).ok().and_then(|index| run.steps.get(index)) else { return };
    if step.messages > MOST {
        let more = step.messages - MOST;
        let name = step.name.as_str();
        let message = format!(
            "step {name:?} of {}: PostgreSQL said {} more, which are not kept",
            run.migration,
            counted(more, "thing", "things")
        );
        changes
            .events
            .push(about(run, Type::ServerMessage, Severity::Warning, message).of_step(name).with("left_out", more));
    }
}

/// Tells it of all steps that have not ended yet.
pub(super) fn tell_all(run: &Run, changes: &mut Changes) {
    for step in run.steps.iter().filter(|step| matches!(step.state, State::Running)) {
        tell(run, step.ordinal, changes);
    }
}
