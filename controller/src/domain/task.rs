//! The states of a task, and its leases.
//!
//! `ready → leased → ready | done | failed | cancelled`. Each lease has an epoch, one more than the one before, and only
//! a report with the epoch of the lease that is held has an effect. What must stay true: the epoch of a task never
//! falls, so that a holder of an older lease can neither report nor, in the target, write.

use dunlin_shared::ids::{AgentId, Epoch, TaskId};

/// What a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One SQL step, or a whole atomic migration.
    Statement,
    /// Cut a table into ranges.
    Plan,
    /// Transform one range.
    Range,
    /// Checks after the last step, and the registry row.
    Seal,
}

impl Kind {
    /// The word that is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Statement => "statement",
            Self::Plan => "plan",
            Self::Range => "range",
            Self::Seal => "seal",
        }
    }

    /// The kind of a stored word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Statement, Self::Plan, Self::Range, Self::Seal].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Names a lease: a task and the epoch under which it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// The task.
    pub task: TaskId,
    /// The epoch.
    pub epoch: Epoch,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Can be leased once its time has come.
    Ready,
    /// An agent holds the lease of the task's epoch.
    Leased {
        /// The holder.
        agent: AgentId,
    },
    /// Finished and durable in the target.
    Done,
    /// Failed for good, and its run with it.
    Failed,
    /// Its run ended before it was finished. One that is held then stays so until its holder has said its last word.
    Cancelled,
}

impl State {
    /// The word that is stored.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Leased { .. } => "leased",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A state with the epoch of the last lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub state: State,
    /// The epoch of the last lease; that of the held lease where the state is leased.
    pub epoch: Epoch,
}

/// What happens to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An agent gets the next lease.
    Granted(AgentId),
    /// The holder finished.
    Done(Epoch),
    /// The holder met an error that passes, or gives the lease back.
    GivenBack(Epoch),
    /// The holder met an error for good.
    Failed(Epoch),
    /// The target knows this newer epoch.
    Stale {
        /// The epoch of the lease.
        epoch: Epoch,
        /// What the target has stored.
        stored: Epoch,
    },
    /// The lease was not renewed in time.
    Expired(Epoch),
    /// The run ended.
    Cancelled,
}

/// An event that a task in this state cannot meet: mostly the report of a holder that has lost its lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {} at epoch {} cannot meet {event:?}", standing.state.as_str(), standing.epoch)]
pub struct IllegalTransition {
    /// The state and epoch.
    pub standing: Standing,
    /// The event.
    pub event: Event,
}

impl Standing {
    /// The standing after an event.
    ///
    /// # Errors
    /// The event cannot happen in this state, or is of another lease than the one that is held.
    pub fn next(self, event: Event) -> Result<Self, IllegalTransition> {
        let Self { state, epoch } = self;
        let to = |state| Ok(Self { state, epoch });
        match (state, event) {
            (State::Ready, Event::Granted(agent)) => Ok(Self { state: State::Leased { agent }, epoch: epoch.next() }),
            (State::Leased { .. }, Event::Done(held)) if held == epoch => to(State::Done),
            (State::Leased { .. }, Event::Failed(held)) if held == epoch => to(State::Failed),
            (State::Leased { .. }, Event::GivenBack(held) | Event::Expired(held)) if held == epoch => to(State::Ready),
            (State::Leased { .. }, Event::Stale { epoch: held, stored }) if held == epoch => {
                Ok(Self { state: State::Ready, epoch: epoch.max(stored) })
            }
            (State::Ready | State::Leased { .. }, Event::Cancelled) => to(State::Cancelled),
            (state @ (State::Ready | State::Leased { .. } | State::Done | State::Failed | State::Cancelled), event) => {
                Err(IllegalTransition { standing: Self { state, epoch }, event })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agent() -> AgentId {
        AgentId::parse("a").unwrap()
    }

    fn event() -> impl Strategy<Value = Event> {
        let epoch = (0i64..6).prop_map(Epoch);
        prop_oneof![
            3 => Just(Event::Granted(agent())),
            1 => epoch.clone().prop_map(Event::Done),
            1 => epoch.clone().prop_map(Event::GivenBack),
            1 => epoch.clone().prop_map(Event::Failed),
            1 => (epoch.clone(), 0i64..12).prop_map(|(epoch, stored)| Event::Stale { epoch, stored: Epoch(stored) }),
            1 => epoch.prop_map(Event::Expired),
            1 => Just(Event::Cancelled),
        ]
    }

    fn epoch_of(event: &Event) -> Option<Epoch> {
        match event {
            Event::Granted(_) | Event::Cancelled => None,
            Event::Done(epoch)
            | Event::GivenBack(epoch)
            | Event::Failed(epoch)
            | Event::Expired(epoch)
            | Event::Stale { epoch, .. } => Some(*epoch),
        }
    }

    proptest! {
        #[test]
        fn epochs_never_fall_and_only_the_held_lease_has_an_effect(events in proptest::collection::vec(event(), 0..60)) {
            let mut standing = Standing { state: State::Ready, epoch: Epoch::ZERO };
            for event in events {
                let before = standing.clone();
                let Ok(after) = standing.clone().next(event.clone()) else { continue };
                prop_assert!(after.epoch >= before.epoch);
                if let Some(epoch) = epoch_of(&event) {
                    prop_assert_eq!(epoch, before.epoch);
                    prop_assert!(matches!(before.state, State::Leased { .. }), "only a lease that is held");
                }
                if matches!(after.state, State::Leased { .. }) {
                    prop_assert_eq!(after.epoch, before.epoch.next());
                }
                standing = after;
            }
        }
    }

    #[test]
    fn a_stale_lease_moves_the_epoch_to_what_the_target_has() {
        let held = Standing { state: State::Leased { agent: agent() }, epoch: Epoch(3) };
        let after = held.next(Event::Stale { epoch: Epoch(3), stored: Epoch(9) }).unwrap();
        assert_eq!(after, Standing { state: State::Ready, epoch: Epoch(9) });
    }
}
