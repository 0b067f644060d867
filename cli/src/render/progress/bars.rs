//! Bars on a terminal: one for each run that is worked on, and a last line for those that wait.

use std::collections::BTreeMap;
use std::time::Duration;

use dunlin_proto::v1::{Event, EventType, Run, RunState};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::lines::{is_behind, line};
use crate::render::{Look, count, duration, runs, seconds, words};

/// Bars on a terminal.
pub(super) struct Bars {
    all: MultiProgress,
    running: BTreeMap<i64, ProgressBar>,
    /// The states of all runs.
    pub(super) states: BTreeMap<i64, RunState>,
    waiting: Option<ProgressBar>,
    width: usize,
}

impl Bars {
    pub(super) fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { all, running: BTreeMap::new(), states: BTreeMap::new(), waiting: None, width: 0 }
    }

    pub(super) fn print(&self, line: &str) {
        let _gone_with_the_terminal = self.all.println(line);
    }

    /// Takes everything away, and draws nothing any more: the bars tick by themselves.
    pub(super) fn finish(&self) {
        for bar in self.running.values().chain(&self.waiting) {
            bar.finish_and_clear();
        }
        let _gone_with_the_terminal = self.all.clear();
        self.all.set_draw_target(ProgressDrawTarget::hidden());
    }

    pub(super) fn update(&mut self, look: &Look, run: &Run, event: Option<&Event>) {
        self.widen(run);
        if let Some(event) = event
            && let Some(colour) = words::severity_colour(event.severity())
            && !matches!(event.r#type(), EventType::RunFailed | EventType::RunCancelled)
        {
            self.print(&look.paint(&line(look, event), colour));
        }
        let before = self.states.insert(run.id, run.state());
        if words::ended(run.state()) {
            if let Some(bar) = self.running.remove(&run.id) {
                bar.finish_and_clear();
                self.all.remove(&bar);
            }
            if before.is_none_or(|state| !words::ended(state)) && !event.is_some_and(is_behind) {
                self.print(&ended(look, run, self.width));
            }
        } else if run.state() != RunState::Queued {
            self.show(run);
        }
        self.count_waiting(run);
    }

    pub(super) fn widen(&mut self, run: &Run) {
        self.width = self.width.max(run.migration_id.chars().count().min(32));
    }

    /// The bar of a run that is worked on.
    fn show(&mut self, run: &Run) {
        let bar = self.running.entry(run.id).or_insert_with(|| {
            let bar = self.all.insert(0, ProgressBar::new_spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.set_style(style(if run.rows_total > 0 { BAR } else { STEP }));
        bar.set_prefix(format!("{:<width$}", run.migration_id, width = self.width));
        if let Ok(total) = u64::try_from(run.rows_total) {
            bar.set_length(total);
        }
        bar.set_position(u64::try_from(run.rows_walked).unwrap_or(0).min(bar.length().unwrap_or(0)));
        bar.set_message(message(run));
    }

    /// The last line: how many runs wait.
    fn count_waiting(&mut self, run: &Run) {
        let queued = self.states.values().filter(|state| **state == RunState::Queued).count();
        if queued == 0 {
            if let Some(bar) = self.waiting.take() {
                bar.finish_and_clear();
                self.all.remove(&bar);
            }
            return;
        }
        let bar = self.waiting.get_or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new_spinner());
            bar.set_style(style(WAITING));
            bar
        });
        let mut text = format!("{} of {} waiting", queued, self.states.len());
        // Nothing is worked on: then the reason matters.
        if self.running.is_empty()
            && let Some(wait) = run.waits.first()
        {
            text = format!("{text}: {}", wait.message);
        }
        bar.set_message(text);
        bar.tick();
    }
}

/// With a bar: rows are counted.
const BAR: &str = "{spinner} {prefix} [{bar:16}] {percent:>3}% {wide_msg}";
/// Without: a step that is one statement.
const STEP: &str = "{spinner} {prefix} {wide_msg}";
/// The last line.
const WAITING: &str = "{spinner} {wide_msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
        .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
}

/// What stands behind the bar of a run, the most important first: a narrow terminal cuts the end off.
fn message(run: &Run) -> String {
    let mut parts = Vec::new();
    if run.state() != RunState::Running {
        parts.push(words::run_state(run.state()).to_owned());
    }
    let rate = runs::rate(run);
    if rate > 0 {
        parts.push(format!("{} rows/s", count(rate)));
    }
    if let Some(left) = runs::eta(run) {
        parts.push(format!("{} left", seconds(left)));
    }
    if !run.current_step.is_empty() {
        parts.push(run.current_step.clone());
    } else if run.rows_total > 0 {
        parts.push("checking and recording".to_owned());
    }
    if let Some(wait) = run.waits.first() {
        parts.push(wait.message.clone());
    }
    parts.join(", ")
}

/// The line of a run that has ended.
fn ended(look: &Look, run: &Run, width: usize) -> String {
    let mark = match run.state() {
        RunState::Succeeded => "✓",
        RunState::Failed => "✗",
        _ => "-",
    };
    let state = match run.state() {
        RunState::Succeeded => format!("version {}", run.version),
        state => words::run_state(state).to_owned(),
    };
    let mut text = format!("{} {:<width$} {state}", look.paint(mark, words::run_colour(run.state())), run.migration_id);
    if run.rows > 0 {
        text.push_str(&format!(", {} rows", count(run.rows)));
    }
    if let Some(time) = runs::elapsed(run) {
        text.push_str(&format!(", {}", duration(time)));
    }
    text
}
