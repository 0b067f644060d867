//! What sets a run back: errors that pass, leases given back, stale leases, and the errors that end it.
//!
//! Errors that pass are judged by time and not by their number: a lock may be held for a minute or for a quarter of an hour, and
//! the task is tried again until it has met nothing else for as long as the agent's operator allows. Progress starts the time anew.
//!
//! What must stay true: a task that is put off without a fault of its own costs none of that time; whatever is repeated or ended
//! has an event with its reason.

use std::time::Duration;

use dunlin_shared::ids::{AgentId, Epoch};

use super::advance::{Changes, Error, Passing, Run, Task, about, about_task, describe, step_mut};
use super::backoff::{backoff, rest};
use super::event::{Severity, Type};
use super::messages;
use super::plan::{self, WHOLE};
use super::report::{ReleaseReason, Retry};
use super::run::{self, Failure};
use super::step;
use super::task::{self, Lease};

/// The highest epoch that leases can lead to: a million of them each second for centuries. What is above it in a target was not
/// written by a lease, and there might be none above it to grant.
pub(super) const HIGHEST: Epoch = Epoch(1 << 53);

/// Since when a task has met nothing but errors that can pass. Where it has made progress, since now.
pub(super) fn passing(task: &mut Task) -> Passing {
    let rows_walked = task.counted.rows_walked;
    match task.passing {
        Some(passing) if passing.rows_walked >= rows_walked => passing,
        Some(_) | None => {
            task.attempts = 0;
            Passing { ago: Duration::ZERO, rows_walked }
        }
    }
}

/// The words for an error that can pass and did not.
pub(super) fn given_up(message: &str, attempts: i32, ago: Duration) -> String {
    let tries = attempts.saturating_add(1);
    let times = if tries == 1 { "once".to_owned() } else { format!("{tries} times") };
    format!("{message} (tried {times} in {}, without progress)", in_words(ago))
}

/// A time as an operator says it.
fn in_words(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{} s", time.as_secs()),
        seconds => format!("{} min", seconds / 60),
    }
}

pub(super) fn retry(
    run: &Run,
    task: &mut Task,
    lease: Lease,
    failure: &Failure,
    (how, passing): (Retry, Passing),
    jitter: f64,
    changes: &mut Changes,
) -> Result<(), Error> {
    task.standing = task.standing.clone().next(task::Event::GivenBack(lease.epoch))?;
    let left = how.deadline.saturating_sub(passing.ago);
    // The last try is at the deadline, but never sooner than the shortest rest.
    let rest = rest(how, u32::try_from(task.attempts).unwrap_or(0), jitter).min(left.max(how.pause));
    task.attempts = task.attempts.saturating_add(1);
    task.passing = Some(passing);
    task.rest = Some(rest);
    // Who was in the way.
    let why = match failure.sqlstate.as_str() {
        "55P03" if !failure.detail.is_empty() => format!("{}. {}", failure.message, failure.detail),
        _ => failure.message.clone(),
    };
    task.rests = format!("waits {} before it is tried again: {why}", in_words(rest));
    let message = format!(
        "{} of {} met an error that can pass and is tried again in {} (try {}; given up after {} more without progress): {}",
        describe(run, task),
        run.migration,
        in_words(rest),
        task.attempts.saturating_add(1),
        in_words(left),
        why
    );
    let mut event = about_task(run, task, Type::TaskRetried, Severity::Warning, message).with("tries", task.attempts);
    for (name, value) in [("sqlstate", &failure.sqlstate), ("detail", &failure.detail), ("rows", &failure.rows)] {
        if !value.is_empty() {
            event = event.with(name, value.as_str());
        }
    }
    changes.events.push(event);
    Ok(())
}

pub(super) fn fail(
    run: &mut Run,
    task: &Task,
    mut failure: Failure,
    agent: &AgentId,
    changes: &mut Changes,
) -> Result<(), Error> {
    run.state = run.state.next(run::Event::Fail)?;
    messages::tell_all(run, changes);
    failure.migration_id = run.migration.as_str().to_owned();
    if failure.agent_id.is_empty() {
        failure.agent_id = agent.as_str().to_owned();
    }
    if failure.step.is_empty() && failure.check.is_empty() && task.step != WHOLE {
        failure.step = step_mut(run, task.step)?.name.as_str().to_owned();
    }
    if failure.next.is_empty() {
        failure.next = format!(
            "Mend the data or the definition; after a change of the definition `dunlin register DIR`; then `dunlin run {}{}`.",
            run.migration,
            run.target.option()
        );
    }
    if task.step == WHOLE {
        roll_back(run, &failure)?;
    } else {
        let step = run.steps.iter_mut().find(|step| step.ordinal == task.step && step.state == step::State::Running);
        if let Some(step) = step {
            step.state = step.state.next(step::Event::Fail)?;
        }
    }
    let mut event = about(
        run,
        Type::RunFailed,
        Severity::Error,
        format!("run {} of {} failed: {}", run.id, run.migration, failure.message),
    )
    .of_step(failure.step.as_str())
    .with("next", failure.next.as_str());
    let named = [
        ("check", &failure.check),
        ("sqlstate", &failure.sqlstate),
        ("detail", &failure.detail),
        ("hint", &failure.hint),
        ("rows", &failure.rows),
    ];
    for (name, value) in named {
        if !value.is_empty() {
            event = event.with(name, value.as_str());
        }
    }
    changes.events.push(event);
    changes.stopped.push(run.id);
    run.failure = Some(failure);
    Ok(())
}

/// Says of each step of an atomic migration what became of it: all of them were one transaction.
fn roll_back(run: &mut Run, failure: &Failure) -> Result<(), Error> {
    let failed = run.steps.iter().position(|step| step.name.as_str() == failure.step);
    let before_all = run.definition.before.iter().any(|check| check.name == failure.check);
    for (index, step) in run.steps.iter_mut().enumerate().filter(|(_, step)| step.state == step::State::Running) {
        let event = match failed {
            Some(failed) if index == failed => step::Event::Fail,
            Some(failed) if index > failed => step::Event::NotReached,
            None if before_all => step::Event::NotReached,
            // A check behind all steps, or the commit.
            Some(_) | None => step::Event::RollBack,
        };
        step.state = step.state.next(event)?;
    }
    Ok(())
}

pub(super) fn release(
    run: &Run,
    task: &mut Task,
    lease: Lease,
    reason: ReleaseReason,
    message: &str,
    jitter: f64,
    changes: &mut Changes,
) -> Result<(), Error> {
    task.standing = task.standing.clone().next(task::Event::GivenBack(lease.epoch))?;
    let severity = match reason {
        ReleaseReason::Yielded => {
            task.priority = plan::YIELDED;
            task.postponed = 0;
            return Ok(());
        }
        ReleaseReason::Stopping | ReleaseReason::Revoked => {
            task.postponed = 0;
            Severity::Info
        }
        ReleaseReason::TargetUnreachable | ReleaseReason::Busy | ReleaseReason::TargetShort => {
            let rest = backoff(u32::try_from(task.postponed).unwrap_or(0), jitter);
            task.rest = Some(rest);
            task.rests = format!("waits {} before it is tried again: {message}", in_words(rest));
            task.postponed = task.postponed.saturating_add(1);
            Severity::Warning
        }
    };
    task.passed_over = true;
    let message = format!("{} of {} was given back: {message}", describe(run, task), run.migration);
    changes.events.push(about_task(run, task, Type::LeaseReleased, severity, message).with("epoch", lease.epoch.0));
    Ok(())
}

pub(super) fn stale(
    run: &Run,
    task: &mut Task,
    lease: Lease,
    stored: Epoch,
    jitter: f64,
    changes: &mut Changes,
) -> Result<(), Error> {
    task.standing = task.standing.clone().next(task::Event::Stale { epoch: lease.epoch, stored })?;
    if stored < lease.epoch {
        // The target refused for another reason than a newer epoch; not at full speed.
        task.rest = Some(backoff(u32::try_from(task.postponed).unwrap_or(0), jitter));
        task.postponed = task.postponed.saturating_add(1);
    }
    let message = format!(
        "{} of {} was not begun: the target has seen a newer holder of it than this agent. It is given out again",
        describe(run, task),
        run.migration,
    );
    let event = about_task(run, task, Type::LeaseStale, Severity::Warning, message);
    changes.events.push(event.with("epoch", lease.epoch.0).with("stored_epoch", stored.0));
    Ok(())
}

pub(super) fn unbelievable(run: &Run, stored: Epoch) -> Failure {
    Failure {
        message: format!(
            "a checkpoint of {} in target {} was changed by hand: its epoch is {stored}, which Dunlin never comes to",
            run.migration, run.target
        ),
        next: format!(
            "Look at dunlin.checkpoints in target {}, set the epoch there to a small number, then `dunlin run {}{}`.",
            run.target,
            run.migration,
            run.target.option()
        ),
        ..Failure::default()
    }
}

pub(super) fn contradicted(run: &Run, applications: i32) -> Failure {
    Failure {
        message: format!(
            "the registry of target {} says that {} was applied {applications} times, and this run supposes {}: \
             something else than this run has applied it, or the target was restored",
            run.target, run.migration, run.applications
        ),
        next: if applications > 0 && !run.rerun {
            format!(
                "Nothing, if {id} is meant to be applied there. `dunlin run {id}{on} --rerun` repeats it.",
                id = run.migration,
                on = run.target.option()
            )
        } else {
            format!(
                "Look at dunlin.migrations_registry in target {}, then `dunlin run {}{}`.",
                run.target,
                run.migration,
                run.target.option()
            )
        },
        ..Failure::default()
    }
}
