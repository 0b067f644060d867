//! The rules of the protocol, each of which can be left out, and the bounds of what is checked.

use crate::state::{Checkpoint, Lease, Position, State, Target, Worker};

/// What an agent and a target hold to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// A take writes the epoch of the lease into the checkpoint.
    pub(crate) take_writes_the_epoch: bool,
    /// A take is refused unless the epoch in the checkpoint is smaller, or is this lease's own and it takes again.
    pub(crate) take_compares_epochs: bool,
    /// A lease that takes again is recognised by its run, too: a controller whose database was put back counts again.
    pub(crate) take_again_compares_runs: bool,
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
        advance_compares_epochs: true,
        advance_compares_batches: true,
        rows_and_checkpoint_commit_together: true,
        the_last_commit_is_synchronous: true,
    };

    /// May this lease take the checkpoint?
    pub(crate) fn take(self, stored: &Checkpoint, lease: Lease, again: bool) -> bool {
        if !self.take_compares_epochs || !self.take_writes_the_epoch {
            return true;
        }
        let own = stored.epoch == lease.epoch && (stored.run == lease.run || !self.take_again_compares_runs);
        stored.epoch < lease.epoch || again && own
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
        if let Start::AfterAnotherRun { again, known } = start {
            let before = Lease { run: 1, range: 0, epoch: 1, agent: 0 };
            ranges[0].take(before);
            ranges[0].advance(Position::default());
            let late = Lease { epoch: 2, ..before };
            workers.push(Worker::late(late, again));
            epoch = if known { late.epoch } else { 0 };
        }
        State::new(self.faults, epoch, workers, Target::new(ranges))
    }
}
