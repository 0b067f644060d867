//! What can happen next. Each action is one step that the programs take without looking left or right: a transaction of the
//! controller, a message to the target with its answer, a message received.

use crate::rules::AGENTS;
use crate::state::{Lease, Phase, Report, State, TaskState, Transaction};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A plan begins the step again: it removes what checkpoints there are of its ranges, and cuts them.
    BeginAgain,
    /// A controller grants the next lease of a range.
    Grant { range: u8, agent: u8 },
    /// A controller finds that an agent does not have the lease: it does not announce it, or is gone and the lease expires.
    TakeBack { range: u8 },
    /// A controller stores a report.
    Store(Report),
    /// What the controllers' database has committed reaches its disk, and reports that were stored are acknowledged.
    Acknowledge,
    /// The grant arrives.
    Receive(Lease),
    /// The agent hears that it holds the lease no more.
    Drop(Lease),
    /// An agent sends a report that was not acknowledged again.
    Resend(Lease),
    /// The worker takes the range.
    Take(Lease),
    /// The worker begins a transaction and changes the rows of a batch.
    Change(Lease),
    /// The worker advances the checkpoint in it.
    Advance(Lease),
    /// The worker commits, and hears that it is committed.
    Commit(Lease),
    /// The server reads what was sent on a connection that is lost: the rest of the transaction, up to its commit.
    CommitOrphan(Transaction),
    /// The server notices that a connection is lost.
    EndOrphan(Transaction),
    /// Something goes wrong.
    Fault(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection between a worker and the target is lost, or the answer to a commit on it.
    Cut(Lease),
    /// An agent's process ends.
    Agent { agent: u8 },
    /// A controller's process ends, with everything that it has not stored or sent.
    Controller,
    /// The server of the controllers' database ends and comes back without what it had not on disk: leases and reports are lost.
    Database,
    /// The target's server ends and comes back with the first `kept` of the commits that did not wait for the disk.
    Target { kept: usize },
    /// An agent gives a lease back between two batches: it is told to, or stops, or does not reach the target.
    GiveBack(Lease),
    /// A lease expires while its holder works: the agent stands still, or cannot reach a controller.
    Expire { range: u8 },
    /// A grant is lost with its stream.
    LoseGrant(Lease),
    /// A report is lost with its stream.
    LoseReport(Report),
}

/// All that can happen in a state. What waits for a lock is among it, and does nothing yet.
pub(crate) fn possible(state: &State, actions: &mut Vec<Action>) {
    of_controllers(state, actions);
    for worker in &state.workers {
        let lease = worker.lease;
        match worker.phase {
            Phase::Granted => actions.push(Action::Receive(lease)),
            Phase::Untaken { .. } => actions.push(Action::Take(lease)),
            Phase::Between(_) => actions.push(Action::Change(lease)),
            Phase::Changed(_) => actions.push(Action::Advance(lease)),
            Phase::Advanced(_) => actions.push(Action::Commit(lease)),
            Phase::Told(_) => actions.push(Action::Resend(lease)),
        }
        // A range stops between two batches.
        if matches!(worker.phase, Phase::Untaken { .. } | Phase::Between(_)) && !state.held(lease) {
            actions.push(Action::Drop(lease));
        }
    }
    for orphan in &state.orphans {
        actions.extend([Action::CommitOrphan(*orphan), Action::EndOrphan(*orphan)]);
    }
    if state.faults_left > 0 {
        faults(state, |fault| actions.push(Action::Fault(fault)));
    }
}

fn of_controllers(state: &State, actions: &mut Vec<Action>) {
    if state.again.is_some() {
        // Of its ranges nobody knows before.
        actions.push(Action::BeginAgain);
        return;
    }
    for (range, task) in (0..).zip(&state.tasks) {
        match task.state {
            TaskState::Ready => actions.extend((0..AGENTS).map(|agent| Action::Grant { range, agent })),
            TaskState::Leased { .. }
                if !state.workers.iter().any(|worker| worker.lease.range == range && state.held(worker.lease)) =>
            {
                actions.push(Action::TakeBack { range });
            }
            TaskState::Leased { .. } | TaskState::Done => {}
        }
    }
    actions.extend(state.reports.iter().copied().map(Action::Store));
    if state.tasks != state.tasks_on_disk {
        actions.push(Action::Acknowledge);
    }
}

fn faults(state: &State, mut push: impl FnMut(Fault)) {
    let connected = |phase: Phase| match phase {
        Phase::Untaken { again } => !again,
        Phase::Between(_) | Phase::Changed(_) | Phase::Advanced(_) => true,
        Phase::Granted | Phase::Told(_) => false,
    };
    for worker in &state.workers {
        if worker.phase == Phase::Granted {
            push(Fault::LoseGrant(worker.lease));
        }
        if matches!(worker.phase, Phase::Untaken { .. } | Phase::Between(_)) && state.held(worker.lease) {
            push(Fault::GiveBack(worker.lease));
        }
        if connected(worker.phase) {
            push(Fault::Cut(worker.lease));
        }
        if state.held(worker.lease) {
            push(Fault::Expire { range: worker.lease.range });
        }
    }
    for agent in 0..AGENTS {
        if state.workers.iter().any(|worker| worker.lease.agent == agent) {
            push(Fault::Agent { agent });
        }
    }
    let unsent = state.workers.iter().any(|worker| worker.phase == Phase::Granted);
    if unsent || !state.reports.is_empty() {
        push(Fault::Controller);
    }
    if state.tasks != state.tasks_on_disk {
        push(Fault::Database);
    }
    let cut = !state.orphans.is_empty() || state.workers.iter().any(|worker| connected(worker.phase));
    let commits = state.target.later.len();
    for kept in (0..=commits).filter(|kept| cut || *kept < commits) {
        push(Fault::Target { kept });
    }
    for report in &state.reports {
        push(Fault::LoseReport(*report));
    }
}
