//! What must be true of every state, and what must come about in the end.

use stateright::{Model, Property};

use crate::action::{self, Action};
use crate::rules::{Protocol, Start};
use crate::state::{Checkpoint, Image, Lease, Phase, RUN, State, TaskState, Worker};

pub(crate) const NEVER_TWICE: &str = "no batch is applied twice";
pub(crate) const TELLS_THE_TRUTH: &str = "the checkpoint says which batches are applied";
pub(crate) const EXACTLY_ONCE: &str = "a range that counts as done has every batch once";
pub(crate) const NEVER_AHEAD: &str = "nothing is reported done before it is on disk";
pub(crate) const EPOCHS_RISE: &str = "no commit lowers an epoch";
pub(crate) const ONE_WRITER: &str = "only the lease that took a range last commits batches of it";
pub(crate) const NOTHING_OLD: &str = "no lease of an older plan commits once a step was begun again";
pub(crate) const COMPLETES: &str = "every range is done in the end";

/// What the target would be like after a crash at this moment, and what it is like.
fn images(state: &State) -> impl Iterator<Item = &Image> {
    std::iter::once(&state.target.on_disk).chain(&state.target.later)
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.starts.iter().map(|start| self.initial(*start)).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        action::possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.step(state, action)
    }

    /// Variants can take forever. The whole protocol never comes here: a history that ended here would not be complete.
    fn within_boundary(&self, state: &State) -> bool {
        state.target.later.len() <= usize::from(self.ranges * (self.batches + self.faults + 1))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NEVER_TWICE, |_, state: &State| {
                images(state).flatten().all(|range| range.applied().iter().all(|times| *times <= 1))
            }),
            Property::always(TELLS_THE_TRUTH, |_, state: &State| {
                let truthful = |(batch, times): (u8, &u8), cursor| (*times > 0) == (batch < cursor);
                images(state)
                    .flatten()
                    .all(|range| (0..).zip(range.applied()).all(|batch| truthful(batch, range.cursor)))
            }),
            Property::always(EXACTLY_ONCE, |_, state: &State| {
                let whole = |range: &Checkpoint| range.done && range.applied().iter().all(|times| *times == 1);
                let mut ranges = state.tasks.iter().zip(state.target.seen());
                ranges.all(|(task, range)| task.state != TaskState::Done || whole(range))
            }),
            Property::always(NEVER_AHEAD, |_, state: &State| !state.witness.ahead_of_the_disk),
            Property::always(EPOCHS_RISE, |_, state: &State| !state.witness.epoch_fell),
            Property::always(ONE_WRITER, |protocol: &Self, state: &State| {
                protocol.lazy || !state.witness.foreign_commit
            }),
            Property::always(NOTHING_OLD, |_, state: &State| !state.witness.old_commit),
            Property::eventually(COMPLETES, |_, state: &State| state.complete()),
        ];
        properties.extend(self.happens());
        properties
    }
}

impl Protocol {
    /// A model in which nothing goes wrong proves nothing: each of these is found.
    fn happens(&self) -> Vec<Property<Self>> {
        let mut happens = vec![
            Property::sometimes("a transaction without a client holds a checkpoint", |_, state: &State| {
                state.orphans.iter().any(|orphan| orphan.advanced)
            }),
            Property::sometimes("a range is granted that is done already", |_, state: &State| {
                let done = |lease: Lease| state.target.seen()[usize::from(lease.range)].done && state.held(lease);
                state.workers.iter().any(|worker| worker.phase == Phase::Granted && done(worker.lease))
            }),
            Property::sometimes("a crash takes back what was seen", |_, state: &State| {
                let known = |worker: &Worker| match worker.phase {
                    Phase::Untaken { again: true } => Some(worker.lease),
                    _ => None,
                };
                let taken = |lease: Lease| state.target.seen()[usize::from(lease.range)].epoch >= lease.epoch;
                state.orphans.is_empty() && state.workers.iter().filter_map(known).any(|lease| !taken(lease))
            }),
        ];
        let again = |start: &Start| matches!(start, Start::BegunAgain { .. });
        if self.starts.iter().any(again) {
            happens.push(Property::sometimes(
                "a lease of an older plan is about to commit when the step is begun again",
                |_, state: &State| state.again.is_none() && state.transactions().any(|open| open.lease.run < RUN),
            ));
            return happens;
        }
        happens.push(if self.starts == [Start::Fresh] {
            Property::sometimes("two leases have changed rows of one range at once", |_, state: &State| {
                let changed = |worker: &&Worker| matches!(worker.phase, Phase::Changed(_));
                let ranges: Vec<u8> = state.workers.iter().filter(changed).map(|worker| worker.lease.range).collect();
                ranges.windows(2).any(|two| two[0] == two[1])
            })
        } else {
            Property::sometimes("the target is ahead of the controller", |_, state: &State| {
                state.tasks.iter().zip(state.target.seen()).any(|(task, range)| range.epoch > task.epoch)
            })
        });
        happens
    }
}
