//! The work of each kind of task: one file for each.
//!
//! A step runs from taking the task to its end, or to an error. It never decides what an error means for the lease and never
//! repeats itself: the worker does, by running the step once more, which looks at the checkpoint first. So every step must
//! be right when it is run again from any point at which it can have stopped.

mod advice;
mod answer;
mod check;
mod compare;
mod context;
mod earlier;
mod existing;
mod framed;
mod located;
mod locked;
mod no_transaction;
mod notices;
mod plan;
mod policies;
mod range;
mod repair;
mod rows;
mod seal;
mod statement;
mod subject;
#[cfg(test)]
mod tests;
mod watched;
mod written;

pub(crate) use context::{Context, Tuning, Witnesses};
pub(crate) use notices::Told;

use dunlin_proto::v1::{AppliedMigration, RunError, grant};

use crate::failpoint::{self, Points};
use crate::ledger::{self, Stale};

/// How a step ended without an error.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The task is finished and durable.
    Done {
        /// Rows changed over all leases.
        rows: i64,
        /// Rows walked over all leases.
        rows_walked: i64,
        /// True when the target had it finished before.
        already_done: bool,
        /// The row that was written to the registry.
        applied: Option<Box<AppliedMigration>>,
    },
    /// A plan lets its ranges go first.
    Yielded,
    /// The worker was told to stop.
    Told,
}

/// Why a step did not end.
#[derive(Debug)]
pub(crate) enum Error {
    /// The target does not answer; what became of the open transaction is not known.
    Unreachable(String),
    /// The connection was lost while the step had it; what became of the open transaction is not known. In the words of a failure, which it
    /// becomes where the step is what ends connections.
    Lost(Box<RunError>),
    /// Rolled back; the same can succeed a little later.
    Passing(Box<RunError>),
    /// Rolled back; the same can succeed once the target has what it lacks.
    Short(String),
    /// Rolled back; the same would fail again.
    Final(Box<RunError>),
    /// Rolled back, since row-level security would have hidden rows. Becomes final once it says by which policies.
    Hidden(Box<policies::Hidden>),
    /// The target knows a newer lease, or has the migration applied.
    Stale(Stale),
    /// The checkpoint has moved under a transaction, which was rolled back: take the task again and look.
    Moved,
    /// Another session still works on the same step outside a transaction.
    Busy(String),
}

/// Works on a task once.
///
/// # Errors
/// See [`Error`].
pub(crate) async fn run(context: &Context, task: &grant::Task, again: bool) -> Result<Ended, Error> {
    let ended = match task {
        grant::Task::Statement(task) => statement::run(context, task, again).await,
        grant::Task::Plan(task) => plan::run(context, task, again).await,
        grant::Task::Range(task) => range::run(context, task, again).await,
        grant::Task::Seal(task) => seal::run(context, task, again).await,
    };
    notices::finish(context);
    match ended {
        Err(Error::Hidden(hidden)) => Err(Error::Final(policies::explain(context, *hidden).await)),
        ended => ended,
    }
}

/// A number of a definition; 0 is left to the agent.
fn given(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}

/// The step that a task works on, for errors; empty for a seal and an atomic migration.
pub(crate) fn step_of(task: &grant::Task) -> &str {
    match task {
        grant::Task::Statement(task) if task.seal.is_none() => task.steps.first().map_or("", |step| &step.name),
        grant::Task::Plan(task) => task.step.as_ref().map_or("", |step| &step.name),
        grant::Task::Range(task) => task.step.as_ref().map_or("", |step| &step.name),
        grant::Task::Statement(_) | grant::Task::Seal(_) => "",
    }
}

/// Where work on a task can be made to fail on purpose.
pub(crate) fn points_of(task: &grant::Task) -> &'static Points {
    match task {
        grant::Task::Statement(task) => statement::points(task),
        grant::Task::Plan(_) => failpoint::PLAN,
        grant::Task::Range(task) => range::points(task),
        grant::Task::Seal(_) => failpoint::SEAL,
    }
}

impl Error {
    fn of_ledger(error: ledger::Error, place: &crate::failure::Place) -> Self {
        match error {
            ledger::Error::Postgres(error) => Self::of_postgres(&error, place),
            ledger::Error::Moved => Self::Moved,
            ledger::Error::Unreadable(_) => Self::Final(place.refuse(
                error.to_string(),
                format!(
                    "Use agents of that version until the migration is applied: run `dunlin run {}` again.",
                    place.migration
                ),
            )),
            ledger::Error::Damaged(_) => Self::Final(place.refuse(
                error.to_string(),
                "Compare the tables of the schema dunlin in the target with docs/architecture.md; restore what was changed by \
                 hand.",
            )),
        }
    }

    /// Says more about it, where it is told at all.
    fn add(&mut self, more: &str) {
        match self {
            Self::Final(error) | Self::Passing(error) | Self::Lost(error) => {
                error.message = format!("{}; {more}", error.message)
            }
            Self::Hidden(hidden) => hidden.add(more),
            Self::Short(message) | Self::Unreachable(message) | Self::Busy(message) => {
                *message = format!("{message}; {more}");
            }
            Self::Stale(_) | Self::Moved => {}
        }
    }

    fn of_postgres(error: &tokio_postgres::Error, place: &crate::failure::Place) -> Self {
        if let Some(hidden) = policies::Hidden::read(error, place) {
            return Self::Hidden(Box::new(hidden));
        }
        match crate::failure::classify(error) {
            crate::failure::Class::Lost => Self::Lost(place.refuse(place.lost(error), "")),
            crate::failure::Class::Passing => Self::Passing(place.blame(error)),
            crate::failure::Class::Short => Self::Short(place.short(error)),
            crate::failure::Class::Final => Self::Final(place.blame(error)),
        }
    }
}
