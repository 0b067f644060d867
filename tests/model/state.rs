//! Everything that there is at one moment: in the controller's database, in the agents, on the way between them, and in the
//! target.

use crate::rules::Cut;

/// Names a lease: who may do what under which epoch. An agent enters a lease with one range and epoch once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lease {
    pub(crate) run: u8,
    pub(crate) range: u8,
    pub(crate) epoch: u8,
    pub(crate) agent: u8,
}

/// The run that is modelled; run 1 is one that came before it.
pub(crate) const RUN: u8 = 2;

/// A task in the controllers' database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Task {
    pub(crate) epoch: u8,
    pub(crate) state: TaskState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TaskState {
    Ready,
    Leased { agent: u8 },
    Done,
}

/// What a worker knows about the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position {
    /// The batch that comes next.
    pub(crate) cursor: u8,
    /// How many have advanced it.
    pub(crate) batches: u8,
}

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// The grant is on its way to the agent.
    Granted,
    /// It has the lease, and has not taken the range over this connection.
    Untaken { again: bool },
    /// Between two batches.
    Between(Position),
    /// A transaction is open that has changed the rows of the batch.
    Changed(Position),
    /// And has advanced the checkpoint.
    Advanced(Position),
    /// It has reported, and keeps the report until that is acknowledged.
    Told(Said),
}

/// What ends a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Said {
    Done,
    Released,
    Stale { stored: u8 },
}

/// A worker: a slot of an agent, with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Worker {
    pub(crate) lease: Lease,
    pub(crate) phase: Phase,
}

impl Worker {
    /// The holder of another run's lease.
    pub(crate) fn late(lease: Lease, again: bool) -> Self {
        Self { lease, phase: Phase::Untaken { again } }
    }

    /// Its open transaction.
    pub(crate) fn transaction(&self) -> Option<Transaction> {
        match self.phase {
            Phase::Changed(position) => Some(Transaction { lease: self.lease, position, advanced: false }),
            Phase::Advanced(position) => Some(Transaction { lease: self.lease, position, advanced: true }),
            Phase::Granted | Phase::Untaken { .. } | Phase::Between(_) | Phase::Told(_) => None,
        }
    }
}

/// A transaction that is open in the target. It holds the rows of its batch, and the checkpoint once it has advanced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Transaction {
    pub(crate) lease: Lease,
    pub(crate) position: Position,
    pub(crate) advanced: bool,
}

/// A message to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Report {
    pub(crate) lease: Lease,
    pub(crate) said: Said,
}

/// The most batches of a range.
pub(crate) const MOST_BATCHES: usize = 3;

/// A checkpoint, with the rows of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Checkpoint {
    pub(crate) epoch: u8,
    pub(crate) run: u8,
    pub(crate) cursor: u8,
    pub(crate) batches: u8,
    pub(crate) done: bool,
    /// The first run whose leases know the range as it is cut.
    pub(crate) plan: u8,
    /// How many batches there are.
    pub(crate) of: u8,
    /// How often each of them was applied to the rows.
    pub(crate) applied: [u8; MOST_BATCHES],
    /// Who took it last. Of the model only: no rule looks at it.
    pub(crate) taken_by: Option<Lease>,
}

impl Checkpoint {
    pub(crate) fn fresh(of: u8) -> Self {
        let applied = [0; MOST_BATCHES];
        Self { epoch: 0, run: RUN, cursor: 0, batches: 0, done: false, plan: 0, of, applied, taken_by: None }
    }

    pub(crate) fn take(&mut self, lease: Lease) {
        self.epoch = lease.epoch;
        self.run = lease.run;
        self.taken_by = Some(lease);
    }

    /// Begins again: none of its rows has been changed for that.
    pub(crate) fn begin_again(&mut self, fence: u8, cut: Cut) {
        let plan = if cut == Cut::Anew { RUN } else { self.plan };
        *self = Self { epoch: fence, plan, ..Self::fresh(self.of) };
    }

    /// Applies the batch at a position to the rows and moves the checkpoint, in one transaction.
    pub(crate) fn advance(&mut self, position: Position) {
        self.applied[usize::from(position.cursor)] += 1;
        self.cursor = position.cursor + 1;
        self.batches += 1;
        self.done = self.cursor == self.of;
    }

    /// How often each batch was applied.
    pub(crate) fn applied(&self) -> &[u8] {
        &self.applied[..usize::from(self.of)]
    }

    pub(crate) fn position(&self) -> Position {
        Position { cursor: self.cursor, batches: self.batches }
    }
}

/// All ranges after a commit.
pub(crate) type Image = Vec<Checkpoint>;

/// The target: what is on disk, and what each commit since then has made of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    pub(crate) on_disk: Image,
    pub(crate) later: Vec<Image>,
}

impl Target {
    pub(crate) fn new(ranges: Image) -> Self {
        Self { on_disk: ranges, later: Vec::new() }
    }

    /// What a new snapshot sees.
    pub(crate) fn seen(&self) -> &Image {
        self.later.last().unwrap_or(&self.on_disk)
    }

    /// Commits. What waits for the disk takes everything before it along.
    pub(crate) fn commit(&mut self, image: Image, synchronous: bool) {
        if synchronous {
            *self = Self::new(image);
        } else {
            self.later.push(image);
        }
    }

    /// The server crashes and comes back with the first `kept` of the commits that were not known to be on disk.
    pub(crate) fn crash(&mut self, kept: usize) {
        self.later.truncate(kept);
        self.rest();
    }

    /// What was committed reaches the disk.
    pub(crate) fn rest(&mut self) {
        if let Some(last) = self.later.pop() {
            *self = Self::new(last);
        }
    }
}

/// What has happened once, and cannot be seen in the state of things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Witness {
    /// A batch was committed by another lease than the one that had taken the range last.
    pub(crate) foreign_commit: bool,
    /// A commit has lowered an epoch.
    pub(crate) epoch_fell: bool,
    /// A lease from before the step was begun again, of another plan, has committed a batch after that.
    pub(crate) old_commit: bool,
    /// A range was reported done before the disk had it.
    pub(crate) ahead_of_the_disk: bool,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct State {
    pub(crate) tasks: Vec<Task>,
    /// What the controllers' database has on disk of them. Reports are acknowledged once they are there.
    pub(crate) tasks_on_disk: Vec<Task>,
    /// In order.
    pub(crate) workers: Vec<Worker>,
    /// Transactions whose connection is lost, which the server has not noticed; in order.
    pub(crate) orphans: Vec<Transaction>,
    pub(crate) target: Target,
    /// On their way, in any order; each may arrive at any time, and more than once. In order of their leases.
    pub(crate) reports: Vec<Report>,
    /// How the step is about to be begun again; `None` where it is not, or was.
    pub(crate) again: Option<Cut>,
    pub(crate) faults_left: u8,
    pub(crate) witness: Witness,
}

impl State {
    pub(crate) fn new(faults: u8, epoch: u8, workers: Vec<Worker>, target: Target) -> Self {
        let tasks = vec![Task { epoch, state: TaskState::Ready }; target.seen().len()];
        let (orphans, reports, witness) = (Vec::new(), Vec::new(), Witness::default());
        let tasks_on_disk = tasks.clone();
        let again = None;
        Self { tasks, tasks_on_disk, workers, orphans, target, reports, again, faults_left: faults, witness }
    }

    /// True while the controller counts a lease as held.
    pub(crate) fn held(&self, lease: Lease) -> bool {
        held(&self.tasks, lease)
    }

    pub(crate) fn worker(&mut self, lease: Lease) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.lease == lease)
    }

    /// All open transactions.
    pub(crate) fn transactions(&self) -> impl Iterator<Item = Transaction> {
        self.workers.iter().filter_map(Worker::transaction).chain(self.orphans.iter().copied())
    }

    /// True when the controller counts everything as done.
    pub(crate) fn complete(&self) -> bool {
        self.tasks.iter().all(|task| task.state == TaskState::Done)
    }

    /// The least of the states that differ from this one only in which agent and which range is which.
    pub(crate) fn representative(&self) -> Self {
        let swaps: &[(bool, bool)] =
            if self.tasks.len() == 2 { &[(false, true), (true, false), (true, true)] } else { &[(true, false)] };
        let others = swaps.iter().map(|(agents, ranges)| self.swapped(*agents, *ranges));
        others.fold(self.clone(), Self::min)
    }

    /// Changes all names of leases.
    fn leases(&mut self, change: impl FnMut(&mut Lease)) {
        let leases = self.workers.iter_mut().map(|worker| &mut worker.lease);
        let leases = leases.chain(self.orphans.iter_mut().map(|orphan| &mut orphan.lease));
        let leases = leases.chain(self.reports.iter_mut().map(|report| &mut report.lease));
        let images = std::iter::once(&mut self.target.on_disk).chain(&mut self.target.later);
        leases.chain(images.flatten().filter_map(|range| range.taken_by.as_mut())).for_each(change);
    }

    fn swapped(&self, agents: bool, ranges: bool) -> Self {
        let mut state = self.clone();
        if agents {
            state.leases(|lease| lease.agent = 1 - lease.agent);
            for task in state.tasks.iter_mut().chain(&mut state.tasks_on_disk) {
                if let TaskState::Leased { agent } = &mut task.state {
                    *agent = 1 - *agent;
                }
            }
        }
        if ranges {
            state.leases(|lease| lease.range = 1 - lease.range);
            state.target.on_disk.reverse();
            state.target.later.iter_mut().for_each(|image| image.reverse());
            state.tasks.reverse();
            state.tasks_on_disk.reverse();
        }
        state.settle();
        state
    }

    /// Brings what means the same into one form: the order of sets, and messages that nobody can be moved by any more.
    pub(crate) fn settle(&mut self) {
        if self.faults_left == 0 {
            // No crash can take anything back.
            self.target.rest();
            self.tasks_on_disk.clone_from(&self.tasks);
        }
        let (now, on_disk) = (&self.tasks, &self.tasks_on_disk);
        let alive = |lease| held(now, lease) || held(on_disk, lease);
        self.reports.retain(|report| alive(report.lease));
        self.workers.retain(|worker| !matches!(worker.phase, Phase::Told(_)) || alive(worker.lease));
        self.reports.sort_unstable();
        self.reports.dedup();
        self.workers.sort_unstable();
        self.orphans.sort_unstable();
    }
}

fn held(tasks: &[Task], lease: Lease) -> bool {
    let task = &tasks[usize::from(lease.range)];
    lease.run == RUN && task.state == TaskState::Leased { agent: lease.agent } && task.epoch == lease.epoch
}
