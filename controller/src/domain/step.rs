//! The steps of a run: `pending → running → succeeded | failed | rolled_back`, and how far each is.
//!
//! The figures are kept as they change, never counted over the ranges: a step of 100,000 ranges costs no more with each
//! report than one of ten. What must stay true: `ranges_done ≤ ranges_total`, and `rows_walked` and `rows` only grow.

use dunlin_shared::ids::StepName;
use dunlin_shared::key::KeyColumn;

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Its turn has not come.
    Pending,
    /// Its turn has come.
    Running,
    /// Done.
    Succeeded,
    /// Stopped by an error.
    Failed,
    /// Done in the transaction of an atomic migration, which something behind it has made fail.
    RolledBack,
}

/// What happens to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The step before is done.
    Start,
    /// Its last task is done.
    Succeed,
    /// A task of it failed for good.
    Fail,
    /// Something behind it in its transaction failed for good.
    RollBack,
    /// Something before it in its transaction failed for good: its turn has not come.
    NotReached,
}

/// An event that a step in this state cannot meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a step that is {} cannot meet {event:?}", state.as_str())]
pub struct IllegalTransition {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

impl State {
    /// The state after an event.
    ///
    /// # Errors
    /// The event cannot happen in this state.
    pub fn next(self, event: Event) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Pending, Event::Start) => Ok(Self::Running),
            (Self::Running, Event::Succeed) => Ok(Self::Succeeded),
            (Self::Running, Event::Fail) => Ok(Self::Failed),
            (Self::Running, Event::RollBack) => Ok(Self::RolledBack),
            (Self::Running, Event::NotReached) => Ok(Self::Pending),
            (Self::Pending | Self::Running | Self::Succeeded | Self::Failed | Self::RolledBack, _) => {
                Err(IllegalTransition { state: self, event })
            }
        }
    }

    /// The word that is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
        }
    }

    /// The state of a stored word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::RolledBack]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// A step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its place in the run, from 1.
    pub ordinal: i32,
    /// Its name.
    pub name: StepName,
    /// Where it stands.
    pub state: State,
    /// Rows changed.
    pub rows: i64,
    /// Rows walked.
    pub rows_walked: i64,
    /// Of these, rows that were walked before the lease that told of them: mostly by runs before this one.
    pub rows_walked_before: i64,
    /// Rows of the ranges known.
    pub rows_total: i64,
    /// Ranges finished.
    pub ranges_done: i32,
    /// Ranges known; their ordinals are 1 to this.
    pub ranges_total: i32,
    /// True once all ranges are known.
    pub planned: bool,
    /// The columns of the key; empty until the first ranges are known.
    pub key: Vec<KeyColumn>,
    /// What the server has said while it was executed, kept or not.
    pub messages: i64,
}

impl Step {
    /// A step whose turn has not come.
    #[must_use]
    pub fn pending(ordinal: i32, name: StepName) -> Self {
        Self {
            ordinal,
            name,
            state: State::Pending,
            rows: 0,
            rows_walked: 0,
            rows_walked_before: 0,
            rows_total: 0,
            ranges_done: 0,
            ranges_total: 0,
            planned: false,
            key: Vec::new(),
            messages: 0,
        }
    }

    /// True when all ranges are known and finished.
    #[must_use]
    pub fn walked(&self) -> bool {
        self.planned && self.ranges_done == self.ranges_total
    }
}
