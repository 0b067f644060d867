//! The order of a run: which task is first, and which follows a finished step.
//!
//! An atomic migration is one task. Any other goes step by step and ends with a seal. A batched step begins with a plan,
//! whose ranges become tasks as they are reported.

use dunlin_shared::ids::TransformName;
use dunlin_shared::migration::{Definition, Step, StepBody};

use super::report::Range;
use super::task::Kind;

/// The ordinal that tasks have that belong to no single step: an atomic migration, and a seal.
pub(crate) const WHOLE: i32 = 0;

/// The priority of a plan that has yielded: the ranges that it has cut, as everything else, have 0 and go first.
pub(crate) const YIELDED: i16 = 1;

/// A task that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// What it is for.
    pub kind: Kind,
    /// The ordinal of its step from 1, or 0 when it belongs to no single step.
    pub step: i32,
    /// The code that it needs.
    pub transform: Option<TransformName>,
    /// The range, for range tasks.
    pub range: Option<Range>,
}

/// What follows a finished step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// The next step, with its first task.
    Step(NewTask),
    /// Nothing but the seal.
    Seal(NewTask),
}

/// The first task of a run.
#[must_use]
pub fn first(definition: &Definition) -> NewTask {
    if definition.is_atomic() {
        return NewTask { kind: Kind::Statement, step: WHOLE, transform: None, range: None };
    }
    match then(definition, 0) {
        Then::Step(task) | Then::Seal(task) => task,
    }
}

/// What follows the step with an ordinal, in a migration that is not atomic.
#[must_use]
pub fn then(definition: &Definition, ordinal: i32) -> Then {
    let next = usize::try_from(ordinal).ok().and_then(|index| definition.steps.get(index));
    match next {
        Some(step) => Then::Step(opening(step, ordinal + 1)),
        None => Then::Seal(NewTask { kind: Kind::Seal, step: WHOLE, transform: None, range: None }),
    }
}

/// The code that the tasks of a step need.
pub(crate) fn transform(step: &Step) -> Option<&TransformName> {
    match &step.body {
        StepBody::Sql { .. } | StepBody::Batch { .. } => None,
        StepBody::Transform { transform, .. } => Some(transform),
    }
}

fn opening(step: &Step, ordinal: i32) -> NewTask {
    let kind = match &step.body {
        StepBody::Sql { .. } => Kind::Statement,
        StepBody::Batch { .. } | StepBody::Transform { .. } => Kind::Plan,
    };
    NewTask { kind, step: ordinal, transform: transform(step).cloned(), range: None }
}
