//! What each action does. `None`: it cannot happen now (it waits for a lock), or changes nothing.

use crate::action::{Action, Fault};
use crate::rules::Protocol;
use crate::state::{Lease, Phase, Position, RUN, Report, Said, State, TaskState, Transaction, Worker};

impl Protocol {
    pub(crate) fn step(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::BeginAgain => self.begin_again(&mut state)?,
            Action::Grant { range, agent } => {
                let task = &mut state.tasks[usize::from(range)];
                task.epoch += 1;
                task.state = TaskState::Leased { agent };
                let lease = Lease { run: RUN, range, epoch: task.epoch, agent };
                // An agent that has this lease already, from before its loss, goes on with it.
                if state.worker(lease).is_none() {
                    state.workers.push(Worker { lease, phase: Phase::Granted });
                }
            }
            Action::TakeBack { range } => state.tasks[usize::from(range)].state = TaskState::Ready,
            Action::Store(report) => store(&mut state, report),
            Action::Acknowledge => state.tasks_on_disk.clone_from(&state.tasks),
            Action::Receive(lease) => state.worker(lease)?.phase = Phase::Untaken { again: false },
            Action::Drop(lease) => state.workers.retain(|worker| worker.lease != lease),
            Action::Resend(lease) => {
                let Phase::Told(said) = state.worker(lease)?.phase else { return None };
                state.reports.push(Report { lease, said });
            }
            Action::Take(lease) => self.take(&mut state, lease)?,
            Action::Change(lease) => change(&mut state, lease)?,
            Action::Advance(lease) => self.advance(&mut state, lease)?,
            Action::Commit(lease) => {
                let Phase::Advanced(position) = state.worker(lease)?.phase else { return None };
                self.commit(&mut state, lease, position);
                let position = Position { cursor: position.cursor + 1, batches: position.batches + 1 };
                if position.cursor == self.batches {
                    tell(&mut state, lease, Said::Done)?;
                } else {
                    state.worker(lease)?.phase = Phase::Between(position);
                }
            }
            Action::CommitOrphan(orphan) => self.commit_orphan(&mut state, orphan)?,
            Action::EndOrphan(orphan) => remove(&mut state, orphan)?,
            Action::Fault(fault) => {
                state.faults_left -= 1;
                suffer(&mut state, fault)?;
            }
        }
        if !self.lazy {
            state.tasks_on_disk.clone_from(&state.tasks);
        }
        state.settle();
        (state != *before).then_some(state)
    }

    /// `DELETE FROM dunlin.checkpoints …` and `INSERT`: waits for the rows, and for the disk.
    fn begin_again(&self, state: &mut State) -> Option<()> {
        if state.transactions().any(|other| other.advanced) {
            return None;
        }
        let cut = state.again.take()?;
        let mut image = state.target.seen().clone();
        for range in &mut image {
            range.begin_again(self.rules.fence(range), cut);
        }
        state.target.commit(image, true);
        Some(())
    }

    /// `UPDATE dunlin.checkpoints SET epoch = …`: waits for the row, then looks at it as it is.
    fn take(&self, state: &mut State, lease: Lease) -> Option<()> {
        let Phase::Untaken { again } = state.worker(lease)?.phase else { return None };
        if locked(state, lease) {
            return None;
        }
        let mut image = state.target.seen().clone();
        let checkpoint = &mut image[usize::from(lease.range)];
        if !self.rules.take(checkpoint, lease, again) {
            let stored = checkpoint.epoch;
            return tell(state, lease, Said::Stale { stored });
        }
        if self.rules.take_writes_the_epoch {
            state.witness.epoch_fell |= checkpoint.epoch > lease.epoch;
            checkpoint.take(lease);
        } else {
            checkpoint.taken_by = Some(lease);
        }
        let (done, position) = (checkpoint.done, checkpoint.position());
        state.target.commit(image, false);
        if done {
            tell(state, lease, Said::Done)
        } else {
            state.worker(lease)?.phase = Phase::Between(position);
            Some(())
        }
    }

    /// `UPDATE dunlin.checkpoints SET … WHERE epoch = e AND batches = n AND state = 'open'`: waits for the row, then looks at it
    /// as it is. Nothing matches: the transaction is rolled back, and the worker takes the range again.
    fn advance(&self, state: &mut State, lease: Lease) -> Option<()> {
        let Phase::Changed(position) = state.worker(lease)?.phase else { return None };
        if locked(state, lease) {
            return None;
        }
        let checkpoint = &state.target.seen()[usize::from(lease.range)];
        let moved = self.rules.advance(checkpoint, lease, position);
        state.worker(lease)?.phase = if moved { Phase::Advanced(position) } else { Phase::Untaken { again: true } };
        Some(())
    }

    /// The rest of a transaction was sent before its connection was lost.
    fn commit_orphan(&self, state: &mut State, orphan: Transaction) -> Option<()> {
        remove(state, orphan)?;
        if !orphan.advanced {
            if state.transactions().any(|other| other.advanced && other.lease.range == orphan.lease.range) {
                return None;
            }
            let checkpoint = &state.target.seen()[usize::from(orphan.lease.range)];
            if !self.rules.advance(checkpoint, orphan.lease, orphan.position) {
                return Some(());
            }
        }
        self.commit(state, orphan.lease, orphan.position);
        Some(())
    }

    fn commit(&self, state: &mut State, lease: Lease, position: Position) {
        let mut image = state.target.seen().clone();
        let checkpoint = &mut image[usize::from(lease.range)];
        state.witness.old_commit |= lease.run < checkpoint.plan;
        state.witness.foreign_commit |= checkpoint.taken_by != Some(lease);
        if !self.rules.rows_and_checkpoint_commit_together {
            let mut rows = state.target.seen().clone();
            rows[usize::from(lease.range)].applied[usize::from(position.cursor)] += 1;
            state.target.commit(rows, false);
        }
        checkpoint.advance(position);
        let last = checkpoint.done;
        state.target.commit(image, last && self.rules.the_last_commit_is_synchronous);
    }
}

/// True while another transaction has advanced the checkpoint and is open. A worker that asks has none itself that has.
fn locked(state: &State, lease: Lease) -> bool {
    state.transactions().any(|other| other.advanced && other.lease.range == lease.range)
}

/// `UPDATE … WHERE :batch`: waits for whoever has changed the same rows.
fn change(state: &mut State, lease: Lease) -> Option<()> {
    let Phase::Between(position) = state.worker(lease)?.phase else { return None };
    let same = |other: Transaction| other.lease.range == lease.range && other.position.cursor == position.cursor;
    if state.transactions().any(same) {
        return None;
    }
    state.worker(lease)?.phase = Phase::Changed(position);
    Some(())
}

fn tell(state: &mut State, lease: Lease, said: Said) -> Option<()> {
    let done = state.target.on_disk[usize::from(lease.range)].done;
    state.witness.ahead_of_the_disk |= said == Said::Done && !done;
    state.worker(lease)?.phase = Phase::Told(said);
    state.reports.push(Report { lease, said });
    Some(())
}

/// A report has an effect when its lease is held. It is acknowledged in any case.
fn store(state: &mut State, report: Report) {
    if !state.held(report.lease) {
        return;
    }
    let task = &mut state.tasks[usize::from(report.lease.range)];
    match report.said {
        Said::Done => task.state = TaskState::Done,
        Said::Released => task.state = TaskState::Ready,
        Said::Stale { stored } => {
            task.state = TaskState::Ready;
            task.epoch = task.epoch.max(stored);
        }
    }
}

fn remove(state: &mut State, orphan: Transaction) -> Option<()> {
    let index = state.orphans.iter().position(|other| *other == orphan)?;
    state.orphans.remove(index);
    Some(())
}

/// The connection of a worker is lost; the server does not know yet.
fn cut(state: &mut State, lease: Lease) -> Option<()> {
    let worker = state.worker(lease)?;
    let open = worker.transaction();
    worker.phase = Phase::Untaken { again: true };
    state.orphans.extend(open);
    Some(())
}

fn suffer(state: &mut State, fault: Fault) -> Option<()> {
    match fault {
        Fault::Cut(lease) => cut(state, lease)?,
        Fault::Agent { agent } => {
            let open =
                state.workers.iter().filter(|worker| worker.lease.agent == agent).filter_map(Worker::transaction);
            let open: Vec<Transaction> = open.collect();
            state.orphans.extend(open);
            state.workers.retain(|worker| worker.lease.agent != agent);
        }
        Fault::Controller => {
            state.reports.clear();
            state.workers.retain(|worker| worker.phase != Phase::Granted);
        }
        Fault::Database => state.tasks.clone_from(&state.tasks_on_disk),
        Fault::Target { kept } => {
            state.target.crash(kept);
            for worker in &mut state.workers {
                if !matches!(worker.phase, Phase::Granted | Phase::Told(_)) {
                    worker.phase = Phase::Untaken { again: true };
                }
            }
            state.orphans.clear();
        }
        Fault::GiveBack(lease) => tell(state, lease, Said::Released)?,
        Fault::Expire { range } => state.tasks[usize::from(range)].state = TaskState::Ready,
        Fault::LoseGrant(lease) => state.workers.retain(|worker| worker.lease != lease),
        Fault::LoseReport(report) => state.reports.retain(|other| *other != report),
    }
    Some(())
}
