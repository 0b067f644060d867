//! The words for the values of enums, and the colours of states.

use comfy_table::Color;
use dunlin_proto::v1::{EventType, RegisterOutcome, Run, RunState, Severity, StepKind};
use dunlin_shared::figures::{counted, length};

use super::Cell;

/// The word for the state of a run.
pub(crate) fn run_state(state: RunState) -> &'static str {
    match state {
        RunState::Unspecified => "unknown",
        RunState::Queued => "queued",
        RunState::Running => "running",
        RunState::Pausing => "pausing",
        RunState::Paused => "paused",
        RunState::Succeeded => "succeeded",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
    }
}

/// The colour of the state of a run.
pub(crate) fn run_colour(state: RunState) -> Color {
    match state {
        RunState::Succeeded => Color::Green,
        RunState::Failed => Color::Red,
        RunState::Cancelled | RunState::Pausing | RunState::Paused => Color::Yellow,
        RunState::Running => Color::Cyan,
        RunState::Queued | RunState::Unspecified => Color::DarkGrey,
    }
}

/// The word for how a run stands: it is running only while somebody works on it.
pub(crate) fn standing(run: &Run) -> &'static str {
    if waiting(run) { "waiting" } else { run_state(run.state()) }
}

/// A cell with how a run stands.
pub(crate) fn run_cell(run: &Run) -> Cell {
    let colour = if waiting(run) { Color::Yellow } else { run_colour(run.state()) };
    Cell::new(standing(run)).fg(colour)
}

fn waiting(run: &Run) -> bool {
    run.state() == RunState::Running && run.leases == 0
}

/// Whether a run is over.
pub(crate) fn ended(state: RunState) -> bool {
    match state {
        RunState::Succeeded | RunState::Failed | RunState::Cancelled => true,
        RunState::Unspecified | RunState::Queued | RunState::Running | RunState::Pausing | RunState::Paused => false,
    }
}

/// The words for the kind of a step.
pub(crate) fn step_kind(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Unspecified => "unknown",
        StepKind::Sql => "sql",
        StepKind::SqlNoTransaction => "sql outside a transaction",
        StepKind::Batch => "batch",
        StepKind::Transform => "transform",
    }
}

/// The word for what became of a migration of a set.
pub(crate) fn outcome(outcome: RegisterOutcome) -> &'static str {
    match outcome {
        RegisterOutcome::Unspecified => "unknown",
        RegisterOutcome::Registered => "registered",
        RegisterOutcome::Changed => "changed",
        RegisterOutcome::Unchanged => "unchanged",
        RegisterOutcome::Reworded => "reworded",
        RegisterOutcome::Amended => "amended",
        RegisterOutcome::Withdrawn => "withdrawn",
    }
}

/// The word for the type of an event: `run started` for `EVENT_TYPE_RUN_STARTED`.
pub(crate) fn event_type(kind: EventType) -> String {
    kind.as_str_name().trim_start_matches("EVENT_TYPE_").replace('_', " ").to_lowercase()
}

/// The colour of an event, where it has one.
pub(crate) fn severity_colour(severity: Severity) -> Option<Color> {
    match severity {
        Severity::Unspecified | Severity::Info => None,
        Severity::Debug => Some(Color::DarkGrey),
        Severity::Warning => Some(Color::Yellow),
        Severity::Error => Some(Color::Red),
    }
}

/// `1 run`, `2 runs`.
pub(crate) fn plural(number: usize, one: &str, many: &str) -> String {
    counted(length(number), one, many)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_words_for_their_types() {
        assert_eq!(event_type(EventType::RunStarted), "run started");
        assert_eq!(event_type(EventType::RegistryFollowed), "registry followed");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(plural(1, "run", "runs"), "1 run");
        assert_eq!(plural(1_200, "run", "runs"), "1,200 runs");
    }
}
