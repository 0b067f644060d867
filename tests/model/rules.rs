//! The rules of the protocol, each of which can be left out, and the bounds of what is checked.

use crate::state::{Checkpoint, Lease, Phase, Position, State, Target, Worker};

/// What an agent and a target hold to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// A take writes the epoch of the lease into the checkpoint.
    pub(crate) take_writes_the_epoch: bool,
    /// A take is refused unless the epoch in the checkpoint is smaller, or is this lease's own and it takes again.
    pub(crate) take_compares_epochs: bool,
    /// A lease that takes again is recognised by its run, too: a controller whose database was put back counts again.
    pub(crate) take_again_compares_runs: bool,
    /// A take is refused where another plan has cut the range: its ends are compared, and its text.
    pub(crate) take_compares_plans: bool,
    /// Ranges of a step that is begun again have an epoch above all that their checkpoints had before: the fence.
    pub(crate) beginning_again_raises_epochs: bool,
    /// A batch commits only under the epoch in the checkpoint.
    pub(crate) advance_compares_epochs: bool,
    /// A batch commits only on top of the batches that its worker knows of.
    pub(crate) advance_compares_batches: bool,
    /// The rows of a batch and the checkpoint change in one transaction.
    pub(crate) rows_and_checkpoint_commit_together: bool,
    /// The last batch of a range waits for the disk.
    pub(crate) the_last_commit_is_synchronous: bool,
}

impl Rules {
    /// The rules as they are.
    pub(crate) const ALL: Self = Self {
        take_writes_the_epoch: true,
        take_compares_epochs: true,
        take_again_compares_runs: true,
        take_compares_plans: true,
        beginning_again_raises_epochs: true,
        advance_compares_epochs: true,
        advance_compares_batches: true,
        rows_and_checkpoint_commit_together: true,
        the_last_commit_is_synchronous: true,
    };

    /// May this lease take the checkpoint?
    pub(crate) fn take(self, stored: &Checkpoint, lease: Lease, again: bool) -> bool {
        if self.take_compares_plans && lease.run < stored.plan {
            return false;
        }
        if !self.take_compares_epochs || !self.take_writes_the_epoch {
            return true;
        }
        let own = stored.epoch == lease.epoch && (stored.run == lease.run || !self.take_again_compares_runs);
        stored.epoch < lease.epoch || again && own
    }

    /// The epoch that a range begins with when its step is begun again.
    pub(crate) fn fence(self, stored: &Checkpoint) -> u8 {
        if self.beginning_again_raises_epochs { stored.epoch + 1 } else { 0 }
    }

    /// May a transaction of this lease advance the checkpoint?
    pub(crate) fn advance(self, stored: &Checkpoint, lease: Lease, position: Position) -> bool {
        let epoch = stored.epoch == lease.epoch || !self.advance_compares_epochs || !self.take_writes_the_epoch;
        let batches = stored.batches == position.batches || !self.advance_compares_batches;
        !stored.done && epoch && batches
    }
}

/// The number of agents. Each may hold any number of leases.
pub(crate) const AGENTS: u8 = 2;

/// How a target is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The ranges have just been planned.
    Fresh,
    /// An earlier run has done the first batch of the first range under epoch 1, and failed. Its next holder, of epoch 2, has not
    /// heard of that and is about to take the range.
    AfterAnotherRun {
        /// Whether it does so again, since its first try was cut off.
        again: bool,
        /// Whether the controller's database still knows of that run: then epochs go on behind it. Otherwise it was put back.
        known: bool,
    },
    /// The step is about to be begun again, over all its rows. A holder of the first range from the run before has not heard of that.
    BegunAgain {
        /// Where it stands.
        late: Late,
        /// The lease that it has; the checkpoint knows of epoch 1 at most.
        epoch: u8,
        /// How the new plan cuts the range.
        cut: Cut,
        /// Whether the controller's database still knows of that run.
        known: bool,
    },
}

/// Where a late holder stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// It has not taken the range yet.
    Untaken,
    /// It has done the first batch, and works on the next.
    Working,
}

/// How the ranges of a step that is begun again are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Cut {
    /// With other ends, or for another text.
    Anew,
    /// As before, for the same text: a lease of the first plan is as good as one of the second.
    Same,
}

/// What is checked.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) rules: Rules,
    /// One or two.
    pub(crate) ranges: u8,
    /// The batches of each range; at most [`MOST_BATCHES`](crate::state::MOST_BATCHES).
    pub(crate) batches: u8,
    /// Whether the controllers' database commits without waiting for its disk. Then one epoch can be granted twice.
    pub(crate) lazy: bool,
    /// How many faults there are at most in one history, of any kinds, at any moments.
    pub(crate) faults: u8,
    /// The histories begin with any of these.
    pub(crate) starts: &'static [Start],
}

impl Protocol {
    pub(crate) fn initial(&self, start: Start) -> State {
        let mut ranges = vec![Checkpoint::fresh(self.batches); usize::from(self.ranges)];
        let mut workers = Vec::new();
        let mut epoch = 0;
        let mut again = None;
        if let Start::AfterAnotherRun { again, known } = start {
            let before = Lease { run: 1, range: 0, epoch: 1, agent: 0 };
            ranges[0].take(before);
            ranges[0].advance(Position::default());
            let late = Lease { epoch: 2, ..before };
            workers.push(Worker::late(late, again));
            epoch = if known { late.epoch } else { 0 };
        }
        if let Start::BegunAgain { late, epoch: held, cut, known } = start {
            ranges.iter_mut().for_each(|range| range.plan = 1);
            let lease = Lease { run: 1, range: 0, epoch: held, agent: 0 };
            workers.push(match late {
                Late::Untaken => Worker::late(lease, false),
                Late::Working => {
                    ranges[0].take(lease);
                    ranges[0].advance(Position::default());
                    Worker { lease, phase: Phase::Between(ranges[0].position()) }
                }
            });
            epoch = if known { held } else { 0 };
            again = Some(cut);
        }
        State { again, ..State::new(self.faults, epoch, workers, Target::new(ranges)) }
    }
}
