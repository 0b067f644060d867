//! The last words about leases that were held when their run failed.
//!
//! A failure does not stop the other tasks of its run in the middle of a batch: their holders are asked for their leases, finish the
//! batch that is open, and say how far they came. That is counted, so that the run's rows are those of the target's checkpoints, and it
//! changes nothing else: the run has ended, and a failure that comes second is not told.
//!
//! What must stay true: only the lease that is held says it, under its own epoch; a task that was held is never ready again. What a
//! holder that is never heard of again has done, the run does not have.

use super::advance::{Error, Run, Task, Verdict, count, step_mut};
use super::report::Report;
use super::task::{self, Kind, Lease};

/// Takes in a report about a lease that is held, of a run that has ended.
pub(super) fn take_in(run: &mut Run, task: &mut Task, lease: Lease, report: &Report) -> Result<Verdict, Error> {
    let (counted, event) = match report {
        Report::Note { .. } | Report::Ranges { .. } => return Ok(Verdict::Late),
        Report::Done { counted, .. } => (Some(*counted), task::Event::Done(lease.epoch)),
        Report::Failed { counted, .. } => (Some(*counted), task::Event::Failed(lease.epoch)),
        Report::Released { counted, .. } => (Some(*counted), task::Event::Cancelled),
        Report::Stale { .. } => (None, task::Event::Cancelled),
    };
    if let Some(counted) = counted {
        count(run, task, counted)?;
    }
    task.standing = task.standing.clone().next(event)?;
    if task.kind == Kind::Range && task.standing.state == task::State::Done {
        step_mut(run, task.step)?.ranges_done += 1;
    }
    Ok(Verdict::Effective)
}
