//! One slot, one lease: runs the step, decides what its errors mean, and ends the lease with one report.
//!
//! A lost connection costs no attempt: the worker connects again, looks at the checkpoint and goes on; unless it was the step that ended
//! it ([`ending`]). An error that passes by
//! itself is given back to the controller, with how long to pause and for how long to try ([`passing`]). Where the target lacks
//! something, such as room on its disk, the lease is given back at once. Anything else is final. Whoever gives a range back or fails
//! says how far the target has it, on disk ([`settled`]). Through all of that the worker
//! never concludes what happened to a transaction: running the step again looks.

mod ending;
mod passing;
mod settled;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use dunlin_proto::convert::duration;
use dunlin_proto::v1::work_request::Message;
use dunlin_proto::v1::{Ending, Grant, ReleaseReason, RunError, TaskDone, TaskFailed, TaskReleased, TaskStale, grant};
use futures::FutureExt;
use tokio::time::Instant;

use self::ending::Found;
use self::passing::{Next, Retry};

use crate::failpoint;
use crate::failure;
use crate::ledger::Stale;
use crate::session::{LeaseId, Signal};
use crate::steps::{self, Context, Ended, Error};
use crate::target;
use crate::waits::lookout;
use crate::watchdog;

/// How long a worker goes on trying to reach its target.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a step that cannot stop between batches may take once the worker was told to stop.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// What is said about a lease at its end.
#[derive(Debug)]
enum Verdict {
    Ended(Ended),
    Failed(Box<RunError>, Option<Retry>),
    Released(ReleaseReason, String),
    Stale(Stale),
    Lost,
}

/// Works on a lease to its end.
pub(crate) async fn work(context: Context, task: grant::Task) {
    let id = context.lease.id();
    let verdict = AssertUnwindSafe(decide(&context, &task)).catch_unwind().await.unwrap_or_else(|_| {
        let place = context.place(steps::step_of(&task));
        let error = place.refuse(
            "the agent met an error of its own and gave the task up",
            format!("Report it with the agent's log; then `dunlin run {}`.", context.migration),
        );
        Verdict::Failed(error, None)
    });
    let verdict = match verdict {
        Verdict::Failed(error, retry) => {
            let next = failure::on_target(&error.next, context.migration.as_str(), context.target.name());
            Verdict::Failed(Box::new(RunError { next, ..*error }), retry)
        }
        other => other,
    };
    log(&context, id, &verdict);
    match &verdict {
        Verdict::Released(ReleaseReason::TargetUnreachable, _)
        | Verdict::Ended(_)
        | Verdict::Stale(_)
        | Verdict::Lost => {}
        Verdict::Failed(..) | Verdict::Released(..) => settled::settle(&context, &task).await,
    }
    if matches!(verdict, Verdict::Failed(_, None)) {
        // What the target holds comes before the failure that ends the run: whoever asks for the next run is told by it.
        let report = context.target.report(target::PROBE_LIMIT).await;
        context.lease.report_target(report);
    }
    let report = report(&context, verdict);
    context.lease.end(report);
    failpoint::reported(steps::points_of(&task).reported).await;
}

async fn decide(context: &Context, task: &grant::Task) -> Verdict {
    let mut again = false;
    let mut pauses = target::pauses(target::LONGEST_PAUSE);
    let mut tries = 0;
    let mut unreachable_since: Option<Instant> = None;
    let mut progress = context.lease.durable();
    let mut suspect = false;
    loop {
        let turn = tokio::select! {
            biased;
            turn = context.target.turn(suspect) => turn,
            _told = context.lease.told() => return told(context),
        };
        // What ended in an attempt before says nothing of this one.
        drop(context.sessions.take());
        let mut away_since = None;
        let outcome = tokio::select! {
            outcome = steps::run(context, task, again) => outcome,
            () = out_of_time(context, task) => Ok(Ended::Told),
            silence = watchdog::silence(context) => {
                away_since = silence.away_since;
                Err(Error::Unreachable(silence.message))
            }
            never = lookout(context) => match never {},
        };
        again = true;
        context.lease.state(None, None);
        if context.lease.durable() != progress {
            // What went well in between starts the count anew.
            progress = context.lease.durable();
            (tries, unreachable_since, pauses) = (0, None, target::pauses(target::LONGEST_PAUSE));
            suspect = false;
        }
        unreachable_since = unreachable_since.or(away_since);
        match outcome {
            Ok(Ended::Told) => return told(context),
            Ok(ended) => return Verdict::Ended(ended),
            Err(Error::Final(error)) => return Verdict::Failed(error, None),
            Err(Error::Hidden(hidden)) => return Verdict::Failed((*hidden).into(), None),
            Err(Error::Short(message)) => return Verdict::Released(ReleaseReason::TargetShort, message),
            Err(Error::Busy(message)) => return Verdict::Released(ReleaseReason::Busy, message),
            Err(Error::Stale(stale)) => {
                if stale.applications != context.applications {
                    context.target.suspect();
                }
                return Verdict::Stale(stale);
            }
            Err(Error::Moved) => tracing::info!(?task, "the checkpoint has moved; looking at it again"),
            Err(Error::Passing(error)) => {
                tries += 1;
                match passing::next(context, task, error, tries) {
                    Next::Back(error, retry) => return Verdict::Failed(error, Some(retry)),
                    Next::Soon => {}
                    Next::After(pause) => {
                        if context.pause(pause).await {
                            continue;
                        }
                        return told(context);
                    }
                }
            }
            Err(Error::Lost(error)) => {
                context.target.suspect();
                let alone = turn.alone();
                // Others need not wait until it is found out.
                drop(turn);
                match ending::find(context, &error, alone).await {
                    Found::Counted(error, ending) => {
                        return Verdict::Failed(error, Some(Retry::after(ending, context.limits)));
                    }
                    Found::Final(error) => return Verdict::Failed(error, None),
                    Found::Suspect => suspect = true,
                    Found::Nothing => {}
                }
                if let Some(released) = unreached(context, error.message, &mut unreachable_since) {
                    return released;
                }
            }
            Err(Error::Unreachable(message)) => {
                context.target.suspect();
                if let Some(released) = unreached(context, message, &mut unreachable_since) {
                    return released;
                }
            }
        }
        if !context.pause(pauses.next().unwrap_or(PATIENCE)).await {
            return told(context);
        }
    }
}

/// The end of a lease whose target was not reached for too long.
fn unreached(context: &Context, message: String, since: &mut Option<Instant>) -> Option<Verdict> {
    if since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
        return Some(Verdict::Released(ReleaseReason::TargetUnreachable, message));
    }
    tracing::warn!(target = %context.target.name(), error = message, "the target does not answer");
    None
}

/// Tells the log what became of a lease, so that whoever looks at the agent alone reads why a run has failed.
fn log(context: &Context, id: LeaseId, verdict: &Verdict) {
    let (target, migration, run) = (context.target.name(), &context.migration, context.run.0);
    match verdict {
        Verdict::Failed(error, None) => tracing::error!(
            %target, %migration, run, step = error.step, check = error.check, sqlstate = error.sqlstate, rows = error.rows,
            detail = error.detail, hint = error.hint, next = error.next, retryable = false, "{}", error.message
        ),
        Verdict::Failed(error, Some(_)) => tracing::warn!(
            %target, %migration, run, step = error.step, check = error.check, sqlstate = error.sqlstate, rows = error.rows,
            detail = error.detail, retryable = true, "{}", error.message
        ),
        Verdict::Released(reason, message) if *reason != ReleaseReason::Yielded => {
            tracing::warn!(%target, %migration, run, reason = reason.as_str_name(), "lease given back: {message}");
        }
        Verdict::Stale(stale) => tracing::warn!(%target, %migration, run, ?stale, "the target knows a newer lease"),
        Verdict::Lost => tracing::warn!(%target, %migration, run, "lease lost"),
        Verdict::Ended(_) | Verdict::Released(..) => {}
    }
    tracing::debug!(task = id.task, epoch = id.epoch, ?verdict, "lease ended");
}

fn told(context: &Context) -> Verdict {
    match context.lease.signal() {
        Signal::Stop { reason, message } => Verdict::Released(reason, message),
        Signal::Work | Signal::Lost => Verdict::Lost,
    }
}

/// Ends when the step must be dropped where it stands: PostgreSQL then rolls its transaction back.
async fn out_of_time(context: &Context, task: &grant::Task) {
    match context.lease.told().await {
        // A batch is short, and its range stops behind it.
        Signal::Lost if matches!(task, grant::Task::Range(_)) => tokio::time::sleep(GRACE).await,
        Signal::Lost => {}
        Signal::Stop { .. } | Signal::Work => tokio::time::sleep(GRACE).await,
    }
}

fn report(context: &Context, verdict: Verdict) -> Option<Message> {
    let lease = Some(context.lease.id().into());
    let ((rows, rows_walked), rows_walked_before) = (context.lease.durable(), context.lease.before());
    let released = |reason: ReleaseReason, message: String| {
        Message::Released(TaskReleased { lease, reason: reason.into(), message, rows, rows_walked, rows_walked_before })
    };
    match verdict {
        Verdict::Ended(Ended::Done { rows, rows_walked, already_done, applied }) => Some(Message::Done(TaskDone {
            lease,
            rows,
            rows_walked,
            already_done,
            applied: applied.map(|row| *row),
            rows_walked_before,
        })),
        Verdict::Ended(Ended::Yielded) => {
            Some(released(ReleaseReason::Yielded, "the first ranges go first".to_owned()))
        }
        Verdict::Released(reason, message) => Some(released(reason, message)),
        Verdict::Failed(error, retry) => Some(Message::Failed(TaskFailed {
            lease,
            error: Some(*error),
            retryable: retry.is_some(),
            pause: retry.map(|retry| duration(retry.pause)),
            longest_pause: retry.map(|retry| duration(retry.longest_pause)),
            deadline: retry.map(|retry| duration(retry.deadline)),
            rows,
            rows_walked,
            rows_walked_before,
            ending: retry.map_or(Ending::Unspecified, |retry| retry.ending).into(),
        })),
        Verdict::Stale(stale) => Some(Message::Stale(TaskStale {
            lease,
            stored_epoch: stale.stored.unwrap_or(0),
            applications: stale.applications,
        })),
        Verdict::Ended(Ended::Told) | Verdict::Lost => None,
    }
}

/// Reads a grant.
pub(crate) fn readable(grant: &Grant) -> Result<(dunlin_shared::ids::MigrationId, &grant::Task), String> {
    let migration = dunlin_shared::ids::MigrationId::parse(grant.migration_id.as_str());
    let migration = migration.map_err(|error| error.to_string())?;
    let task = grant.task.as_ref().ok_or("a grant without a task")?;
    Ok((migration, task))
}

#[cfg(test)]
mod ending_tests;
#[cfg(test)]
mod tests;
