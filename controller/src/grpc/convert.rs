//! Between messages and what the domain and the store know.
//!
//! What comes in is made harmless here: texts are cut to a length and freed of what PostgreSQL cannot store, figures that
//! cannot be negative are not. So no message, however odd, is one that cannot be stored.

use dunlin_proto::convert::{self, duration, std_duration, struct_of, timestamp};
use dunlin_proto::v1;
use dunlin_shared::ids::{Epoch, TargetName, TaskId};
use dunlin_shared::key::KeyColumn;
use dunlin_shared::migration::mending::{Held, Standing};
use dunlin_shared::migration::{Definition, SqlPlace, Step as DefinedStep};
use serde_json::{Map, Value};
use std::time::{Duration, UNIX_EPOCH};

use crate::domain::ending::Ending;
use crate::domain::identity::Seen;
use crate::domain::report::{Activity, Applied, Counted, Progress, Range, ReleaseReason, Report, Retry};
use crate::domain::run::{self, Failure, Position};
use crate::domain::speed::to_f64;
use crate::domain::step;
use crate::domain::task::{Kind, Lease};
use crate::domain::waits::Wait;
use crate::domain::{EventType, Severity};
use crate::store::claims::Granted;
use crate::store::events::Written;
use crate::store::following::Sight;
use crate::store::half_done::HeldStep;
use crate::store::identity::Recognised;
use crate::store::runs::{StepView, View};

/// The longest text in bytes that is kept of a message.
const LONGEST: usize = 64 * 1024;

/// The longest id of a migration that a registry is believed to have, and the most applications.
const LONGEST_ID: usize = 1024;
const MOST_APPLICATIONS: i32 = 1 << 30;

/// The most steps of half-done migrations that are kept of a target.
const MOST_HELD: usize = 10_000;

/// The longest time that a task rests, and that it is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The end of the year 9999: behind it times have no common form.
const LAST_SECOND: u64 = 253_402_300_799;

/// A text without what PostgreSQL cannot store, and of bearable length.
pub(crate) fn clean(text: &str) -> String {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

fn clean_value(value: Value) -> Value {
    match value {
        Value::String(text) => clean(&text).into(),
        Value::Array(values) => values.into_iter().map(clean_value).collect(),
        Value::Object(fields) => Value::Object(clean_fields(fields)),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
    }
}

fn clean_fields(fields: Map<String, Value>) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (clean(&name), clean_value(value))).collect()
}

pub(crate) fn lease_in(lease: Option<&v1::Lease>) -> Option<Lease> {
    lease.map(|lease| Lease { task: TaskId(lease.task_id), epoch: Epoch(lease.epoch) })
}

pub(crate) fn lease_out(lease: Lease) -> v1::Lease {
    v1::Lease { task_id: lease.task.0, epoch: lease.epoch.0 }
}

/// Sums over many tasks must not overflow; no table has that many rows.
fn figure(figure: i64) -> i64 {
    figure.clamp(0, 1_i64 << 50)
}

fn counted(rows: i64, rows_walked: i64, before: i64) -> Counted {
    Counted { rows: figure(rows), rows_walked: figure(rows_walked), rows_walked_before: figure(before) }
}

pub(crate) fn progress_in(progress: &v1::LeaseProgress) -> Option<(Lease, Progress)> {
    let told = Progress {
        counted: counted(progress.rows, progress.rows_walked, progress.rows_walked_before),
        waits: clean(&progress.waits),
        activity: progress.activity.as_ref().map(activity_in),
        alive: progress.alive,
    };
    Some((lease_in(progress.lease.as_ref())?, told))
}

fn activity_in(activity: &v1::Activity) -> Activity {
    Activity {
        phase: clean(&activity.phase),
        done: activity.done.max(0),
        total: activity.total.max(0),
        unit: clean(&activity.unit),
    }
}

fn activity_out(activity: &Activity) -> v1::Activity {
    v1::Activity {
        phase: activity.phase.clone(),
        done: activity.done,
        total: activity.total,
        unit: activity.unit.clone(),
    }
}

pub(crate) fn sight_in(report: &v1::TargetReport) -> Result<Sight, dunlin_shared::ids::Error> {
    let unnamed = "the agent gives no reason".to_owned();
    let error = (!report.reachable).then(|| Some(clean(&report.error)).filter(|e| !e.is_empty()).unwrap_or(unnamed));
    Ok(Sight {
        target: TargetName::parse(report.name.as_str())?,
        error,
        server_version: clean(&report.server_version),
        applied: if report.reachable { report.applied.iter().filter_map(applied_in).collect() } else { Vec::new() },
        held: report.held_time.as_ref().filter(|_| report.reachable).and_then(|time| {
            let held = report.held.iter().filter_map(held_in).take(MOST_HELD).collect();
            Some((
                convert::system_time(time).filter(|time| *time <= UNIX_EPOCH + Duration::from_secs(LAST_SECOND))?,
                held,
            ))
        }),
        asked: report.look_time.as_ref().and_then(convert::system_time),
        identity: report.identity.as_ref().filter(|_| report.reachable).map(identity_in),
        raised: report.raised,
    })
}

fn identity_in(seen: &v1::TargetIdentity) -> Seen {
    // As much as a UUID has, and a number; what is longer is no identity that an agent has read.
    let text = |text: &str| Some(clean(&text.chars().take(64).collect::<String>())).filter(|text| !text.is_empty());
    Seen {
        system: text(&seen.system),
        database: seen.database.into(),
        data: text(&seen.data),
        line: figure(seen.line),
        mark: text(&seen.mark),
    }
}

/// What an agent is told about the database that it sees; `None` where there is nothing to say.
pub(crate) fn recognition_out(sight: &Sight, recognised: Recognised) -> Option<v1::Recognition> {
    let (verdict, data, message) = match recognised {
        Recognised::Accepted | Recognised::Asked => return None,
        Recognised::Known => (v1::Verdict::Accepted, String::new(), String::new()),
        Recognised::Adopt(data) => (v1::Verdict::Adopt, data, String::new()),
        Recognised::Refused(message) => (v1::Verdict::Refused, String::new(), message),
    };
    let Seen { system, database, data: held, line, mark } = sight.identity.clone()?;
    let seen = v1::TargetIdentity {
        system: system.unwrap_or_default(),
        database: u32::try_from(database).ok()?,
        data: held.unwrap_or_default(),
        line,
        mark: mark.unwrap_or_default(),
    };
    Some(v1::Recognition { target: sight.target.to_string(), seen: Some(seen), verdict: verdict.into(), data, message })
}

/// `None` for a step that cannot be compared with anything.
fn held_in(step: &v1::HeldStep) -> Option<HeldStep> {
    let standing = match step.state() {
        v1::HeldState::Unspecified => return None,
        v1::HeldState::Prepared => Standing::Prepared,
        v1::HeldState::Begun => Standing::Begun,
        v1::HeldState::Done => Standing::Done,
    };
    Some(HeldStep {
        migration: clean(&step.migration_id),
        held: Held {
            name: clean(&step.name),
            was: clean(&step.was),
            ordinal: step.ordinal,
            checksum: clean(&step.checksum),
            walks: step.walks,
            standing,
            rows: figure(step.rows),
            rows_walked: figure(step.rows_walked),
            redo: clean(&step.redo),
        },
    })
}

/// `None` for rows that no registry can hold.
pub(crate) fn applied_in(row: &v1::AppliedMigration) -> Option<Applied> {
    if row.id.is_empty() || row.id.len() > LONGEST_ID || !(1..=MOST_APPLICATIONS).contains(&row.applications) {
        return None;
    }
    let last = UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
    let time = |time: &pbjson_types::Timestamp| convert::system_time(time).filter(|time| *time <= last);
    let result = match row.result.as_ref().map(convert::from_struct) {
        Some(Value::Object(fields)) => clean_fields(fields),
        _ => Map::new(),
    };
    Some(Applied {
        id: clean(&row.id),
        version: row.version,
        name: clean(&row.name),
        checksum: clean(&row.checksum),
        revision: row.revision.max(0),
        applications: row.applications,
        run_id: row.run_id,
        agent_id: clean(&row.agent_id),
        rows: figure(row.rows),
        result,
        applied_at: row.apply_time.as_ref().and_then(time),
        last_applied_at: row.last_apply_time.as_ref().and_then(time),
    })
}

pub(crate) fn applied_out(target: &str, row: &Applied) -> v1::AppliedMigration {
    v1::AppliedMigration {
        id: row.id.clone(),
        version: row.version,
        name: row.name.clone(),
        target: target.to_owned(),
        checksum: row.checksum.clone(),
        revision: row.revision,
        applications: row.applications,
        run_id: row.run_id,
        apply_time: row.applied_at.map(timestamp),
        last_apply_time: row.last_applied_at.map(timestamp),
        agent_id: row.agent_id.clone(),
        rows: row.rows,
        result: Some(struct_of(&row.result)),
    }
}

/// Other agents get the key of what one agent has planned: nothing but names of columns and types passes.
pub(crate) fn ranges_in(planned: &v1::RangesPlanned) -> Result<Report, dunlin_shared::ids::Error> {
    Ok(Report::Ranges {
        ranges: planned.ranges.iter().map(range_in).collect(),
        key: planned.key.iter().map(KeyColumn::try_from).collect::<Result<_, _>>()?,
    })
}

fn range_in(range: &v1::PlannedRange) -> Range {
    let key = |key: &v1::Key| key.values.iter().map(|value| value.replace('\0', "\u{fffd}")).collect();
    Range {
        ordinal: range.ordinal,
        low: range.low.as_ref().map(key),
        high: range.high.as_ref().map(key).unwrap_or_default(),
        rows_total: figure(range.rows_total),
        done: range.done,
        rows: figure(range.rows),
        rows_walked: figure(range.rows_walked),
    }
}

pub(crate) fn done_in(done: &v1::TaskDone) -> Report {
    Report::Done {
        counted: counted(done.rows, done.rows_walked, done.rows_walked_before),
        already_done: done.already_done,
        applied: done.applied.as_ref().and_then(applied_in).map(Box::new),
    }
}

pub(crate) fn failed_in(failed: &v1::TaskFailed) -> Report {
    let error = failed.error.clone().unwrap_or_default();
    let message = if error.message.is_empty() { "the agent gives no reason".to_owned() } else { clean(&error.message) };
    Report::Failed {
        failure: Box::new(Failure {
            migration_id: clean(&error.migration_id),
            step: clean(&error.step),
            check: clean(&error.check),
            message,
            sqlstate: clean(&error.sqlstate),
            detail: clean(&error.detail),
            hint: clean(&error.hint),
            rows: clean(&error.rows),
            next: clean(&error.next),
            agent_id: clean(&error.agent_id),
            context: clean(&error.context),
            table: clean(&error.table),
            column: clean(&error.column),
            constraint: clean(&error.constraint),
            position: error.position.as_ref().map(position_in),
        }),
        retry: failed.retryable.then(|| {
            let usual = Retry::default();
            // Nobody means more than a year, and the database can count it.
            let within = |time: Duration| time.min(LONGEST_RETRY);
            Retry {
                pause: within(failed.pause.as_ref().and_then(std_duration).unwrap_or(usual.pause)),
                longest_pause: within(
                    failed.longest_pause.as_ref().and_then(std_duration).unwrap_or(usual.longest_pause),
                ),
                deadline: within(failed.deadline.as_ref().and_then(std_duration).unwrap_or(usual.deadline)),
                ending: match failed.ending() {
                    v1::Ending::ServerCrashed => Some(Ending::ServerCrashed),
                    v1::Ending::StoodStill => Some(Ending::StoodStill),
                    v1::Ending::Unspecified => None,
                },
            }
        }),
        counted: counted(failed.rows, failed.rows_walked, failed.rows_walked_before),
    }
}

fn position_in(position: &v1::SqlPosition) -> Position {
    let number = |number: i32| u32::try_from(number).unwrap_or(0);
    Position {
        line: number(position.line),
        column: number(position.column),
        text: clean(&position.text),
        statement: number(position.statement),
    }
}

pub(crate) fn released_in(released: &v1::TaskReleased) -> Report {
    Report::Released {
        reason: match released.reason() {
            v1::ReleaseReason::Yielded => ReleaseReason::Yielded,
            v1::ReleaseReason::TargetUnreachable => ReleaseReason::TargetUnreachable,
            v1::ReleaseReason::Busy => ReleaseReason::Busy,
            v1::ReleaseReason::TargetShort => ReleaseReason::TargetShort,
            v1::ReleaseReason::Revoked => ReleaseReason::Revoked,
            v1::ReleaseReason::Stopping => ReleaseReason::Stopping,
            // A reason that this version does not know: with a rest, as it may come again at once.
            v1::ReleaseReason::Unspecified => ReleaseReason::Busy,
        },
        message: clean(&released.message),
        counted: counted(released.rows, released.rows_walked, released.rows_walked_before),
    }
}

pub(crate) fn note_in(note: &v1::TaskNote) -> Report {
    let event_type = match note.r#type() {
        v1::EventType::StepSkipped => EventType::StepSkipped,
        v1::EventType::TaskRetried => EventType::TaskRetried,
        v1::EventType::StepRepaired => EventType::StepRepaired,
        v1::EventType::ServerMessage => EventType::ServerMessage,
        _ => EventType::AgentNote,
    };
    let severity = match note.severity() {
        v1::Severity::Warning => Severity::Warning,
        v1::Severity::Error => Severity::Error,
        v1::Severity::Debug => Severity::Debug,
        v1::Severity::Info | v1::Severity::Unspecified => Severity::Info,
    };
    let message = clean(&note.message);
    Report::Note { event_type, severity, step: clean(&note.step), message, left_out: note.left_out }
}

pub(crate) fn grant_out(granted: &Granted) -> v1::Grant {
    let definition = &granted.definition;
    let index = usize::try_from(granted.step).ok().and_then(|ordinal| ordinal.checked_sub(1));
    let step = index.and_then(|index| definition.steps.get(index));
    let (steps, mending) = match granted.kind {
        Kind::Statement | Kind::Plan | Kind::Seal => {
            (definition.steps.iter().map(Into::into).collect(), Some(mending_out(granted)))
        }
        Kind::Range => (Vec::new(), None),
    };
    let before = |first: bool| match first {
        true => definition.before.iter().map(Into::into).collect(),
        false => Vec::new(),
    };
    let task = match granted.kind {
        Kind::Statement if granted.step == 0 => v1::grant::Task::Statement(v1::StatementTask {
            before: before(true),
            steps: definition.steps.iter().map(Into::into).collect(),
            seal: Some(seal(granted)),
        }),
        Kind::Statement => v1::grant::Task::Statement(v1::StatementTask {
            before: before(granted.step == 1),
            steps: step.map(Into::into).into_iter().collect(),
            seal: None,
        }),
        Kind::Plan => v1::grant::Task::Plan(v1::PlanTask {
            before: before(granted.step == 1),
            step: step.map(Into::into),
            known_ranges: granted.known_ranges,
            slots: granted.slots,
            key: granted.key.iter().map(Into::into).collect(),
        }),
        Kind::Range => v1::grant::Task::Range(v1::RangeTask {
            step: step.map(|step: &DefinedStep| step.into()),
            range: granted.range.as_ref().map(range_out),
            key: granted.key.iter().map(Into::into).collect(),
        }),
        Kind::Seal => v1::grant::Task::Seal(seal(granted)),
    };
    v1::Grant {
        lease: Some(lease_out(granted.lease)),
        target: granted.target.to_string(),
        run_id: granted.run.0,
        migration_id: granted.migration.to_string(),
        applications: granted.applications,
        task: Some(task),
        steps,
        mending,
    }
}

fn mending_out(granted: &Granted) -> v1::Mending {
    let mending = granted.mending.clone();
    v1::Mending {
        request_id: granted.request.clone(),
        redo_steps: mending.redo_steps,
        continue_steps: mending.continue_steps,
        reason: mending.reason,
        requested_by: mending.requested_by,
    }
}

fn seal(granted: &Granted) -> v1::SealTask {
    let definition: &Definition = &granted.definition;
    v1::SealTask {
        after: definition.after.iter().map(Into::into).collect(),
        migration: Some(v1::Migration { revision: granted.revision, ..v1::Migration::from(definition) }),
    }
}

fn range_out(range: &Range) -> v1::PlannedRange {
    let key = |values: &Vec<String>| v1::Key { values: values.clone() };
    v1::PlannedRange {
        ordinal: range.ordinal,
        low: range.low.as_ref().map(key),
        high: Some(key(&range.high)),
        rows_total: range.rows_total,
        done: range.done,
        rows: range.rows,
        rows_walked: range.rows_walked,
    }
}

pub(crate) fn run_out(view: &View) -> v1::Run {
    let steps = &view.steps;
    // What agents report adds up to anything.
    let sum = |figure: fn(&StepView) -> i64| steps.iter().map(figure).fold(0, i64::saturating_add);
    let rows_total = sum(|view| view.step.rows_total);
    let rows_walked = sum(|view| view.step.rows_walked);
    let current = steps.iter().find(|view| view.step.state == step::State::Running);
    let rate = current.map_or(0.0, |view| view.rows_per_second);
    v1::Run {
        id: view.id,
        target: view.target.to_string(),
        migration_id: view.migration.to_string(),
        version: view.version,
        kind: kind_out(&view.kind).into(),
        state: state_out(view.state).into(),
        rerun: view.rerun,
        checksum: view.checksum.clone(),
        revision: view.revision,
        request_id: view.request_id.clone(),
        steps: steps.iter().map(step_out).collect(),
        current_step: current.map(|view| view.step.name.to_string()).unwrap_or_default(),
        rows: sum(|view| view.step.rows),
        rows_total,
        rows_walked,
        rows_per_second: rate,
        eta: current.and_then(eta).map(duration),
        waits: view.waits.iter().map(|wait| wait_out(wait, &view.target)).collect(),
        leases: i32::try_from(view.leases).unwrap_or(i32::MAX),
        activity: view.activity.as_ref().map(activity_out),
        error: view.failure.as_ref().map(|failure| error_out(failure, &view.places)),
        result: view.result.as_ref().map(struct_of),
        create_time: Some(timestamp(view.created_at)),
        start_time: view.started_at.map(timestamp),
        end_time: view.ended_at.map(timestamp),
    }
}

/// The rest of the current step at its speed now, where it is known how much is left.
fn eta(view: &StepView) -> Option<Duration> {
    let left = view.step.rows_total - view.step.rows_walked;
    // What is slower than that stands still.
    if view.rows_per_second < 0.001 || left <= 0 || !view.step.planned {
        return None;
    }
    Duration::try_from_secs_f64(to_f64(left) / view.rows_per_second).ok()
}

fn step_out(view: &StepView) -> v1::RunStep {
    let step = &view.step;
    let state = match step.state {
        step::State::Pending => v1::RunStepState::Pending,
        step::State::Running if view.leases == 0 => v1::RunStepState::Waiting,
        step::State::Running => v1::RunStepState::Running,
        step::State::Succeeded => v1::RunStepState::Succeeded,
        step::State::Failed => v1::RunStepState::Failed,
        step::State::RolledBack => v1::RunStepState::RolledBack,
    };
    v1::RunStep {
        name: step.name.to_string(),
        state: state.into(),
        rows: step.rows,
        rows_walked: step.rows_walked,
        rows_total: step.rows_total,
        ranges_done: step.ranges_done,
        ranges_total: step.ranges_total,
        planned: step.planned,
        start_time: view.started_at.map(timestamp),
        end_time: view.ended_at.map(timestamp),
    }
}

fn kind_out(kind: &str) -> v1::RunKind {
    match kind {
        "apply" => v1::RunKind::Apply,
        "rollback" => v1::RunKind::Rollback,
        "rehearse" => v1::RunKind::Rehearse,
        _ => v1::RunKind::Unspecified,
    }
}

fn state_out(state: run::State) -> v1::RunState {
    match state {
        run::State::Queued => v1::RunState::Queued,
        run::State::Running => v1::RunState::Running,
        run::State::Pausing => v1::RunState::Pausing,
        run::State::Paused => v1::RunState::Paused,
        run::State::Succeeded => v1::RunState::Succeeded,
        run::State::Failed => v1::RunState::Failed,
        run::State::Cancelled => v1::RunState::Cancelled,
    }
}

/// The stored word of a state of the API; `None` for what is none.
pub(crate) fn state_word(state: v1::RunState) -> Option<&'static str> {
    run::State::ALL.into_iter().find(|stored| state_out(*stored) == state).map(run::State::as_str)
}

pub(crate) fn wait_out(wait: &Wait, target: &TargetName) -> v1::Wait {
    let (reason, migration_id, run_id) = match wait {
        Wait::Dependency(id) => (v1::WaitReason::Dependency, id.to_string(), 0),
        Wait::Order(id) => (v1::WaitReason::Order, id.to_string(), 0),
        Wait::Run(run) => (v1::WaitReason::Run, String::new(), run.0),
        Wait::Agent { .. } => (v1::WaitReason::Agent, String::new(), 0),
        Wait::Transform(_) => (v1::WaitReason::Transform, String::new(), 0),
        Wait::Retry { .. } => (v1::WaitReason::Retry, String::new(), 0),
        Wait::Slot => (v1::WaitReason::Slot, String::new(), 0),
        Wait::Lock(_) => (v1::WaitReason::Lock, String::new(), 0),
        Wait::Identity(_) => (v1::WaitReason::Identity, String::new(), 0),
    };
    let until_time = match wait {
        Wait::Retry { until, .. } => Some(timestamp(*until)),
        _ => None,
    };
    v1::Wait { reason: reason.into(), migration_id, run_id, message: wait.describe(target), until_time }
}

fn error_out(failure: &Failure, places: &[SqlPlace]) -> v1::RunError {
    let place = SqlPlace::find(places, &failure.step, &failure.check);
    v1::RunError {
        migration_id: failure.migration_id.clone(),
        step: failure.step.clone(),
        check: failure.check.clone(),
        message: failure.message.clone(),
        sqlstate: failure.sqlstate.clone(),
        detail: failure.detail.clone(),
        hint: failure.hint.clone(),
        rows: failure.rows.clone(),
        next: failure.next.clone(),
        agent_id: failure.agent_id.clone(),
        context: failure.context.clone(),
        table: failure.table.clone(),
        column: failure.column.clone(),
        constraint: failure.constraint.clone(),
        position: failure.position.as_ref().map(|position| position_out(position, place)),
    }
}

fn position_out(position: &Position, place: Option<&SqlPlace>) -> v1::SqlPosition {
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let (file_line, file_column) = place.map_or((0, 0), |place| place.of(position.line, position.column));
    v1::SqlPosition {
        line: number(position.line),
        column: number(position.column),
        text: position.text.clone(),
        statement: number(position.statement),
        path: place.map(|place| place.path.clone()).unwrap_or_default(),
        file_line: number(file_line),
        file_column: number(file_column),
    }
}

pub(crate) fn event_out(event: &Written) -> v1::Event {
    let name = event.event_type.map(|kind| format!("EVENT_TYPE_{}", kind.as_str().to_ascii_uppercase()));
    let event_type = name.and_then(|name| v1::EventType::from_str_name(&name)).unwrap_or_default();
    let severity = match event.severity {
        Some(Severity::Debug) => v1::Severity::Debug,
        Some(Severity::Info) => v1::Severity::Info,
        Some(Severity::Warning) => v1::Severity::Warning,
        Some(Severity::Error) => v1::Severity::Error,
        None => v1::Severity::Unspecified,
    };
    v1::Event {
        id: event.id,
        sequence: event.sequence,
        create_time: Some(timestamp(event.created_at)),
        r#type: event_type.into(),
        severity: severity.into(),
        target: event.target.clone(),
        migration_id: event.migration_id.clone(),
        run_id: event.run_id,
        step: event.step.clone(),
        agent_id: event.agent_id.clone(),
        message: event.message.clone(),
        details: Some(struct_of(&event.details)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_event_is_one_of_the_protocol() {
        for proto in (1..100).filter_map(|number| v1::EventType::try_from(number).ok()) {
            let word = proto.as_str_name().trim_start_matches("EVENT_TYPE_").to_ascii_lowercase();
            assert_eq!(EventType::parse(&word).map(EventType::as_str), Some(word.as_str()));
        }
    }

    #[test]
    fn every_state_of_a_run_is_one_of_the_protocol() {
        for number in 1..=7 {
            assert!(state_word(v1::RunState::try_from(number).unwrap()).is_some());
        }
        assert_eq!(state_word(v1::RunState::Unspecified), None);
    }

    #[test]
    fn texts_are_made_fit_for_storing() {
        assert_eq!(clean("a\0b"), "a\u{fffd}b");
        let long = "ä".repeat(LONGEST);
        assert!(clean(&long).len() <= LONGEST);
    }
}
