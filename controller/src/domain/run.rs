//! The states of a run: `queued → running → succeeded | failed | cancelled`, with `pausing → paused → running` between.

use serde::{Deserialize, Serialize};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for its turn.
    Queued,
    /// It has begun, and its tasks are worked on or wait to be.
    Running,
    /// Finishes the batches that are open.
    Pausing,
    /// Stands still until it is resumed.
    Paused,
    /// The migration is applied and recorded in the target.
    Succeeded,
    /// Stopped by an error.
    Failed,
    /// Ended before it began, or on demand.
    Cancelled,
}

/// What happens to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its turn has come and everything that it runs after is applied.
    Start,
    /// An operator asks it to stand still.
    Pause,
    /// The last open batch is finished while pausing.
    Quiesced,
    /// An operator lets it go on.
    Resume,
    /// The last task is done.
    Succeed,
    /// A task failed for good.
    Fail,
    /// What it waited for failed, or an operator ends it.
    Cancel,
}

/// An event that a run in this state cannot meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a run that is {} cannot meet {event:?}", state.as_str())]
pub struct IllegalTransition {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Pausing, Self::Paused, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The state after an event.
    ///
    /// # Errors
    /// The event cannot happen in this state; ended runs meet none.
    pub fn next(self, event: Event) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Queued, Event::Start) | (Self::Pausing | Self::Paused, Event::Resume) => Ok(Self::Running),
            (Self::Running, Event::Pause) => Ok(Self::Pausing),
            (Self::Pausing, Event::Quiesced) => Ok(Self::Paused),
            (Self::Running | Self::Pausing, Event::Succeed) => Ok(Self::Succeeded),
            (Self::Running | Self::Pausing, Event::Fail) => Ok(Self::Failed),
            (Self::Queued | Self::Running | Self::Pausing | Self::Paused, Event::Cancel) => Ok(Self::Cancelled),
            (
                Self::Queued
                | Self::Running
                | Self::Pausing
                | Self::Paused
                | Self::Succeeded
                | Self::Failed
                | Self::Cancelled,
                _,
            ) => Err(IllegalTransition { state: self, event }),
        }
    }

    /// True once nothing can happen any more.
    #[must_use]
    pub fn ended(self) -> bool {
        match self {
            Self::Queued | Self::Running | Self::Pausing | Self::Paused => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }

    /// The word that is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of a stored word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// Why a run failed, and what to do next. Stored as JSON: fields may be added with a default, never renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// The migration.
    pub migration_id: String,
    /// The step; empty when a check failed.
    pub step: String,
    /// The check; empty when a step failed.
    pub check: String,
    /// What went wrong, in one sentence.
    pub message: String,
    /// The SQLSTATE, or empty.
    pub sqlstate: String,
    /// PostgreSQL's detail.
    pub detail: String,
    /// PostgreSQL's hint.
    pub hint: String,
    /// The rows that were worked on, or empty.
    pub rows: String,
    /// What to do next, in one sentence.
    pub next: String,
    /// The agent that met the error.
    pub agent_id: String,
    /// PostgreSQL's context.
    pub context: String,
    /// The table that PostgreSQL names.
    pub table: String,
    /// The column that PostgreSQL names.
    pub column: String,
    /// The constraint that PostgreSQL names.
    pub constraint: String,
    /// Where in the SQL it is.
    pub position: Option<Position>,
}

/// A place in the SQL of a step or check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Position {
    /// The line in the SQL, from 1.
    pub line: u32,
    /// The column, in characters from 1.
    pub column: u32,
    /// The text of the line.
    pub text: String,
    /// The number of the statement, from 1; 0 where it is not known.
    pub statement: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events() -> impl Strategy<Value = Vec<Event>> {
        proptest::collection::vec(
            prop_oneof![
                Just(Event::Start),
                Just(Event::Pause),
                Just(Event::Quiesced),
                Just(Event::Resume),
                Just(Event::Succeed),
                Just(Event::Fail),
                Just(Event::Cancel),
            ],
            0..30,
        )
    }

    proptest! {
        #[test]
        fn an_ended_run_never_moves_and_success_needs_a_start(events in events()) {
            let mut state = State::Queued;
            let mut started = false;
            for event in events {
                let Ok(next) = state.next(event) else { continue };
                prop_assert!(!state.ended());
                started |= event == Event::Start;
                if matches!(next, State::Succeeded | State::Failed | State::Paused) {
                    prop_assert!(started);
                }
                state = next;
            }
        }
    }

    #[test]
    fn every_state_has_a_word_of_its_own() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        assert_eq!(State::parse("gone"), None);
    }
}
