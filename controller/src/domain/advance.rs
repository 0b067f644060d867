//! How a run moves forward: what one report changes in its task, its step and the run, which tasks it adds, and which
//! events tell of it.
//!
//! What must stay true: a report has an effect only when the task is leased under the epoch of the report, and after the end of the
//! run on its figures alone ([`last_word`]); ranges are taken in once each, without a gap in their ordinals; a step is finished when
//! its plan is and all its ranges are; a run succeeds only by its seal, or by the one task of an atomic migration.

use std::sync::Arc;
use std::time::Duration;

use dunlin_shared::figures::rows;
use dunlin_shared::ids::{MigrationId, RunId, TargetName, TaskId};
use dunlin_shared::key::{KeyColumn, in_words};
use dunlin_shared::migration::Definition;
use serde_json::{Map, Value};

use super::ending::Endings;
use super::event::{Event, Severity, Type};
use super::last_word;
use super::messages;
use super::plan::{self, NewTask, Then, WHOLE};
use super::report::{Applied, Counted, Range, Report};
use super::run::{self, Failure};
use super::setback::{HIGHEST, contradicted, fail, given_up, passing, release, retry, stale, unbelievable};
use super::step::{self, Step};
use super::task::{self, Kind, Lease};

/// A run, as far as a report can change it.
#[derive(Clone, Debug)]
pub struct Run {
    /// The run.
    pub id: RunId,
    /// The target.
    pub target: TargetName,
    /// The migration.
    pub migration: MigrationId,
    /// Where it stands.
    pub state: run::State,
    /// True when the migration had been applied before.
    pub rerun: bool,
    /// How often the registry of the target must say that the migration was applied.
    pub applications: i32,
    /// What it executes.
    pub definition: Arc<Definition>,
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Its result.
    pub result: Option<Map<String, Value>>,
}

/// A task, as far as a report can change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The task.
    pub id: TaskId,
    /// What it is for.
    pub kind: Kind,
    /// The ordinal of its step, or 0.
    pub step: i32,
    /// Where it stands.
    pub standing: task::Standing,
    /// How often it met an error that passes, since it last made progress.
    pub attempts: i32,
    /// The first of these errors.
    pub passing: Option<Passing>,
    /// The connections that came to a bad end.
    pub endings: Endings,
    /// How often in a row it was put off without a fault of its own.
    pub postponed: i32,
    /// 0 goes before 1.
    pub priority: i16,
    /// What of it is counted in its step.
    pub counted: Counted,
    /// How long it rests before it can be leased again.
    pub rest: Option<Duration>,
    /// Why, in words; empty where nothing was said.
    pub rests: String,
    /// True when its holder gave it back, and others are to go first.
    pub passed_over: bool,
    /// The rows that a range holds.
    pub rows_total: i64,
}

/// The first error that can pass since which a task has made no progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing {
    /// How long ago it was met.
    pub ago: Duration,
    /// The rows that the task had walked by then.
    pub rows_walked: i64,
}

/// What a report did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It changed what its lease was about.
    Effective,
    /// Its lease is not held any more: no effect.
    Late,
}

/// What must be written besides runs, steps and tasks that were changed in place.
#[derive(Debug, Default)]
pub struct Changes {
    /// Tasks to be made.
    pub added: Vec<(RunId, NewTask)>,
    /// Entries of the history, in order.
    pub events: Vec<Event>,
    /// Rows of targets' registries.
    pub applied: Vec<(TargetName, Applied)>,
    /// Runs that have failed: what is ready of their tasks is cancelled, and agents give back what they hold.
    pub stopped: Vec<RunId>,
}

/// A report that no correct agent sends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ranges with a gap.
    #[error("ranges of step {step:?} of run {run} have a gap: range {expected} was expected, {found} was reported")]
    Gap {
        /// The run.
        run: RunId,
        /// The step.
        step: String,
        /// The next ordinal.
        expected: i32,
        /// The ordinal that came.
        found: i32,
    },
    /// Another key than that of the ranges before.
    #[error("step {step:?} of run {run} is walked along ({known}), and ranges were reported along ({told})")]
    OtherKey {
        /// The run.
        run: RunId,
        /// The step.
        step: String,
        /// The columns with their types.
        known: String,
        /// Those that came.
        told: String,
    },
    /// Ranges from a task that is no plan.
    #[error("task {0} is no plan and cannot report ranges")]
    NoPlan(TaskId),
    /// A task of a step that its run does not have.
    #[error("run {run} has no step {step}")]
    NoStep {
        /// The run.
        run: RunId,
        /// The ordinal.
        step: i32,
    },
    /// A state machine refused.
    #[error(transparent)]
    Run(#[from] run::IllegalTransition),
    /// A state machine refused.
    #[error(transparent)]
    Step(#[from] step::IllegalTransition),
    /// A state machine refused.
    #[error(transparent)]
    Task(#[from] task::IllegalTransition),
}

/// Starts a run whose turn has come.
///
/// # Errors
/// The run is not queued.
pub fn begin(run: &mut Run, changes: &mut Changes) -> Result<(), Error> {
    run.state = run.state.next(run::Event::Start)?;
    let message = if run.rerun {
        format!("run {} of {} started: it repeats an applied migration", run.id, run.migration)
    } else {
        format!("run {} of {} started", run.id, run.migration)
    };
    changes.events.push(about(run, Type::RunStarted, Severity::Info, message));
    let first = plan::first(&run.definition);
    if first.step == WHOLE {
        for step in &mut run.steps {
            step.state = step.state.next(step::Event::Start)?;
        }
        changes.added.push((run.id, first));
        Ok(())
    } else {
        open_step(run, first, changes)
    }
}

/// Takes in a report about a task of a run. `jitter` lies between 0 and 1 and spreads what is tried again.
///
/// # Errors
/// The report contradicts what is known; nothing must be written then.
pub fn advance(
    run: &mut Run,
    task: &mut Task,
    lease: Lease,
    report: Report,
    jitter: f64,
    changes: &mut Changes,
) -> Result<Verdict, Error> {
    if let Report::Note { event_type, severity, step, message, left_out } = report {
        // Whoever holds the lease no more, or never did, has nothing to tell about it.
        let task::State::Leased { agent } = &task.standing.state else { return Ok(Verdict::Late) };
        if task.standing.epoch != lease.epoch {
            return Ok(Verdict::Late);
        }
        let agent = agent.clone();
        if event_type == Type::ServerMessage && !messages::keep(run, task, &step, &message, left_out) {
            return Ok(Verdict::Effective);
        }
        let mut event = about_task(run, task, event_type, severity, message);
        if !step.is_empty() {
            event = event.of_step(step);
        }
        changes.events.push(event.of_agent(&agent));
        return Ok(Verdict::Effective);
    }
    let task::State::Leased { agent } = &task.standing.state else { return Ok(Verdict::Late) };
    if task.standing.epoch != lease.epoch {
        return Ok(Verdict::Late);
    }
    if run.state.ended() {
        return last_word::take_in(run, task, lease, &report);
    }
    let agent = agent.clone();
    let first_event = changes.events.len();
    match report {
        Report::Note { .. } => {}
        Report::Ranges { ranges, key } => take_ranges(run, task, ranges, key, changes)?,
        Report::Done { counted, already_done, applied } => {
            task.standing = task.standing.clone().next(task::Event::Done(lease.epoch))?;
            count(run, task, counted)?;
            done(run, task, already_done, applied, changes)?;
        }
        Report::Failed { mut failure, retry: how, counted } => {
            count(run, task, counted)?;
            let ending = how.and_then(|how| how.ending);
            let rows_walked = task.counted.rows_walked;
            let over = ending.is_some_and(|ending| task.endings.count(ending, rows_walked, &mut failure));
            match how.filter(|_| !over).map(|how| (how, passing(task))) {
                Some((how, passing)) if passing.ago < how.deadline => {
                    retry(run, task, lease, &failure, (how, passing), jitter, changes)?;
                }
                how => {
                    if let Some((_, passing)) = how {
                        failure.message = given_up(&failure.message, task.attempts, passing.ago);
                    }
                    task.standing = task.standing.clone().next(task::Event::Failed(lease.epoch))?;
                    fail(run, task, *failure, &agent, changes)?;
                }
            }
        }
        Report::Released { reason, message, counted } => {
            count(run, task, counted)?;
            release(run, task, lease, reason, &message, jitter, changes)?;
        }
        Report::Stale { stored, applications } => {
            if stored.0 == 0 && applications != run.applications {
                task.standing = task.standing.clone().next(task::Event::Failed(lease.epoch))?;
                let failure = contradicted(run, applications);
                fail(run, task, failure, &agent, changes)?;
            } else if stored > HIGHEST {
                task.standing = task.standing.clone().next(task::Event::Failed(lease.epoch))?;
                let failure = unbelievable(run, stored);
                fail(run, task, failure, &agent, changes)?;
            } else {
                stale(run, task, lease, stored, jitter, changes)?;
            }
        }
    }
    for event in &mut changes.events[first_event..] {
        event.agent.get_or_insert_with(|| agent.clone());
    }
    Ok(Verdict::Effective)
}

fn done(
    run: &mut Run,
    task: &Task,
    already_done: bool,
    applied: Option<Box<Applied>>,
    changes: &mut Changes,
) -> Result<(), Error> {
    match (task.kind, task.step) {
        (Kind::Statement, WHOLE) => {
            messages::tell_all(run, changes);
            for step in &mut run.steps {
                step.state = step.state.next(step::Event::Succeed)?;
            }
            succeed(run, applied, changes)
        }
        (Kind::Seal, _) => succeed(run, applied, changes),
        (Kind::Statement, ordinal) => close_step(run, ordinal, already_done, changes),
        (Kind::Plan, ordinal) => {
            let step = step_mut(run, ordinal)?;
            step.planned = true;
            if step.walked() { close_step(run, ordinal, already_done, changes) } else { Ok(()) }
        }
        (Kind::Range, ordinal) => {
            let step = step_mut(run, ordinal)?;
            step.ranges_done += 1;
            if step.walked() { close_step(run, ordinal, false, changes) } else { Ok(()) }
        }
    }
}

fn open_step(run: &mut Run, task: NewTask, changes: &mut Changes) -> Result<(), Error> {
    let step = step_mut(run, task.step)?;
    step.state = step.state.next(step::Event::Start)?;
    let name = step.name.clone();
    let message = format!("step {name:?} of {} started", run.migration, name = name.as_str());
    changes.events.push(about(run, Type::StepStarted, Severity::Info, message).of_step(name.as_str()));
    changes.added.push((run.id, task));
    Ok(())
}

fn close_step(run: &mut Run, ordinal: i32, already_done: bool, changes: &mut Changes) -> Result<(), Error> {
    messages::tell(run, ordinal, changes);
    let step = step_mut(run, ordinal)?;
    step.state = step.state.next(step::Event::Succeed)?;
    let step = step.clone();
    let name = step.name.as_str();
    let nothing_new = already_done && step.rows_walked == step.rows_walked_before;
    let event = if nothing_new {
        let message = format!("step {name:?} of {} was skipped: the target has it done already", run.migration);
        about(run, Type::StepSkipped, Severity::Warning, message)
    } else {
        // Most statements that change the schema do not count rows.
        let rows = match step.rows {
            0 if step.ranges_total == 0 => String::new(),
            changed => format!(": {} changed", rows(changed)),
        };
        let message = format!("step {name:?} of {} is done{rows}", run.migration);
        about(run, Type::StepSucceeded, Severity::Info, message)
    };
    let mut event = event.of_step(name).with("rows", step.rows);
    if step.ranges_total > 0 {
        event = event.with("ranges", step.ranges_total).with("rows_walked", step.rows_walked);
    }
    changes.events.push(event);
    match plan::then(&run.definition, ordinal) {
        Then::Step(task) => open_step(run, task, changes),
        Then::Seal(task) => {
            changes.added.push((run.id, task));
            Ok(())
        }
    }
}

fn succeed(run: &mut Run, applied: Option<Box<Applied>>, changes: &mut Changes) -> Result<(), Error> {
    run.state = run.state.next(run::Event::Succeed)?;
    let rows = run.steps.iter().map(|step| step.rows).fold(0, i64::saturating_add);
    // The agent that found the task done already may be unable to say more than that.
    let applied = applied.map_or_else(|| registry_row(run, rows), |row| *row);
    run.result = Some(applied.result.clone());
    let message = format!("run {} of {} succeeded: schema version {}", run.id, run.migration, run.definition.version);
    changes.events.push(about(run, Type::RunSucceeded, Severity::Info, message).with("rows", applied.rows));
    changes.applied.push((run.target.clone(), applied));
    Ok(())
}

fn registry_row(run: &Run, rows: i64) -> Applied {
    let result = [
        ("success".to_owned(), Value::Bool(true)),
        ("message".to_owned(), Value::from(format!("{} applied", run.migration))),
        ("rows".to_owned(), Value::from(rows)),
    ];
    Applied {
        id: run.migration.as_str().to_owned(),
        version: run.definition.version.get(),
        name: run.definition.name.clone(),
        checksum: run.definition.checksum().as_str().to_owned(),
        revision: 0,
        applications: run.applications + 1,
        run_id: run.id.0,
        agent_id: String::new(),
        rows,
        result: result.into_iter().collect(),
        applied_at: None,
        last_applied_at: None,
    }
}

fn take_ranges(
    run: &mut Run,
    task: &mut Task,
    ranges: Vec<Range>,
    key: Vec<KeyColumn>,
    changes: &mut Changes,
) -> Result<(), Error> {
    if task.kind != Kind::Plan {
        return Err(Error::NoPlan(task.id));
    }
    let id = run.id;
    let index = index_of(run, task.step)?;
    let transform = run.definition.steps.get(index).and_then(plan::transform).cloned();
    let step = step_mut(run, task.step)?;
    let known = step.ranges_total;
    if !key.is_empty() && !step.key.is_empty() && step.key != key {
        let (known, told) = (in_words(&step.key), in_words(&key));
        return Err(Error::OtherKey { run: id, step: step.name.as_str().to_owned(), known, told });
    }
    if !key.is_empty() {
        step.key = key;
    }
    for range in ranges {
        if range.ordinal <= step.ranges_total {
            continue;
        }
        if range.ordinal != step.ranges_total + 1 {
            return Err(Error::Gap {
                run: id,
                step: step.name.as_str().to_owned(),
                expected: step.ranges_total + 1,
                found: range.ordinal,
            });
        }
        step.ranges_total = range.ordinal;
        step.rows_total = step.rows_total.saturating_add(range.rows_total);
        if range.done {
            step.ranges_done += 1;
            step.rows = step.rows.saturating_add(range.rows);
            step.rows_walked = step.rows_walked.saturating_add(range.rows_total);
            step.rows_walked_before = step.rows_walked_before.saturating_add(range.rows_total);
        } else {
            // What earlier runs have left of it.
            step.rows = step.rows.saturating_add(range.rows);
            step.rows_walked = step.rows_walked.saturating_add(range.rows_walked);
            step.rows_walked_before = step.rows_walked_before.saturating_add(range.rows_walked);
            let new = NewTask { kind: Kind::Range, step: task.step, transform: transform.clone(), range: Some(range) };
            changes.added.push((id, new));
        }
    }
    if step.ranges_total > known {
        (task.passing, task.attempts, task.endings) = (None, 0, Endings::default());
    }
    Ok(())
}

/// Counts what a task has done in its step, once: figures of a task never fall. A plan walks rows without transforming
/// them, so it counts for nothing. What was walked before the lease and not told of is no part of the speed.
pub(super) fn count(run: &mut Run, task: &mut Task, counted: Counted) -> Result<(), Error> {
    let ordinal = match (task.kind, task.step) {
        (Kind::Plan | Kind::Seal, _) => return Ok(()),
        (_, WHOLE) if run.steps.is_empty() => return Ok(()),
        // The rows of an atomic migration stand with its last step: its steps are not counted one by one.
        (_, WHOLE) => i32::try_from(run.steps.len()).unwrap_or(i32::MAX),
        (_, ordinal) => ordinal,
    };
    let rows = counted.rows.max(task.counted.rows);
    let rows_walked = counted.rows_walked.max(task.counted.rows_walked);
    let step = step_mut(run, ordinal)?;
    step.rows = step.rows.saturating_add(rows - task.counted.rows);
    if task.kind == Kind::Range {
        let more = rows_walked - task.counted.rows_walked;
        let before = counted.rows_walked_before.saturating_sub(task.counted.rows_walked).clamp(0, more);
        step.rows_walked = step.rows_walked.saturating_add(more);
        step.rows_walked_before = step.rows_walked_before.saturating_add(before);
    }
    task.counted = Counted { rows, rows_walked, rows_walked_before: 0 };
    Ok(())
}

pub(super) fn index_of(run: &Run, ordinal: i32) -> Result<usize, Error> {
    let index = usize::try_from(ordinal).ok().and_then(|ordinal| ordinal.checked_sub(1));
    index.filter(|index| *index < run.steps.len()).ok_or(Error::NoStep { run: run.id, step: ordinal })
}

pub(super) fn step_mut(run: &mut Run, ordinal: i32) -> Result<&mut Step, Error> {
    let index = index_of(run, ordinal)?;
    Ok(&mut run.steps[index])
}

pub(super) fn describe(run: &Run, task: &Task) -> String {
    let name = index_of(run, task.step).map(|index| run.steps[index].name.as_str().to_owned());
    match (task.kind, name) {
        (Kind::Statement, Ok(step)) => format!("step {step:?}"),
        (Kind::Plan, Ok(step)) => format!("step {step:?} (cutting its table into ranges)"),
        (Kind::Range, Ok(step)) => format!("a range of step {step:?}"),
        (Kind::Seal, _) => "the last transaction (checks and registry)".to_owned(),
        (_, Err(_)) => "the one transaction".to_owned(),
    }
}

pub(super) fn about(run: &Run, event_type: Type, severity: Severity, message: String) -> Event {
    Event::new(event_type, severity, message).of_target(&run.target).of_migration(&run.migration).of_run(run.id)
}

pub(super) fn about_task(run: &Run, task: &Task, event_type: Type, severity: Severity, message: String) -> Event {
    let event = about(run, event_type, severity, message).with("task", task.id.0);
    match index_of(run, task.step) {
        Ok(index) => event.of_step(run.steps[index].name.as_str()),
        Err(_) => event,
    }
}
