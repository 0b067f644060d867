//! Bars on a terminal: one for each run that is worked on, and a last line for those that wait.
//!
//! A line fits into the terminal, whatever its width is when the line is drawn: names and what is said behind them are cut, and
//! that they are is seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use console::{Alignment, pad_str, truncate_str};
use dunlin_proto::v1::{Event, EventType, Run, RunState};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike};

use super::lines::{is_behind, line};
use super::screen::Screen;
use super::{Scope, shown};
use crate::render::{self, Look, count, duration, runs, seconds, words};

/// How often is drawn at most in a second.
const DRAWN: u8 = 20;

/// How often what moves by itself is drawn.
const TICK: Duration = Duration::from_millis(120);

/// The longest name that is shown whole, however wide the terminal is.
const LONGEST_NAME: usize = 32;

/// Bars on a terminal.
pub(super) struct Bars {
    all: MultiProgress,
    screen: Screen,
    running: BTreeMap<i64, Bar>,
    /// The states of all runs.
    pub(super) states: BTreeMap<i64, RunState>,
    waiting: Option<Bar>,
    width: usize,
    scope: Scope,
}

/// One line, and what is written into it.
struct Bar {
    bar: ProgressBar,
    texts: Arc<Mutex<Texts>>,
}

/// The texts of a line, whole.
#[derive(Debug, Clone, Default)]
struct Texts {
    name: String,
    /// How much of the line the name has, as long as there is room.
    width: usize,
    /// How much of the line stands between the name and the message.
    between: usize,
    message: String,
}

impl Bars {
    pub(super) fn new(scope: Scope) -> Self {
        let screen = Screen::stderr();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), DRAWN);
        let all = MultiProgress::with_draw_target(target);
        Self { all, screen, running: BTreeMap::new(), states: BTreeMap::new(), waiting: None, width: 0, scope }
    }

    pub(super) fn print(&self, line: &str) {
        let _gone_with_the_terminal = self.all.println(render::shown(line));
    }

    /// Takes everything away, and draws nothing any more: the bars tick by themselves.
    pub(super) fn finish(&self) {
        for bar in self.running.values().chain(&self.waiting) {
            bar.bar.finish_and_clear();
        }
        let _gone_with_the_terminal = self.all.clear();
        self.screen.leave();
        self.all.set_draw_target(ProgressDrawTarget::hidden());
    }

    pub(super) fn update(&mut self, look: &Look, run: &Run, event: Option<&Event>) {
        self.widen(run);
        if let Some(event) = event.filter(|event| shown(event, self.scope))
            && let Some(colour) = words::severity_colour(event.severity())
            // What ends is told below; the reason comes last of all, where there is a last.
            && (self.scope.endless || !matches!(event.r#type(), EventType::RunFailed | EventType::RunCancelled))
        {
            self.print(&look.paint(&line(look, event), colour));
        }
        let before = self.states.insert(run.id, run.state());
        if words::ended(run.state()) {
            if let Some(bar) = self.running.remove(&run.id) {
                self.take_away(&bar);
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
        self.width = self.width.max(run.migration_id.chars().count().min(LONGEST_NAME));
    }

    /// The bar of a run that is worked on.
    fn show(&mut self, run: &Run) {
        let Bar { bar, texts } =
            self.running.entry(run.id).or_insert_with(|| Bar::new(self.all.insert(0, ProgressBar::new_spinner())));
        let percent = runs::percent(run);
        let counted = percent.is_some() && self.screen.width() >= WIDE_ENOUGH;
        let (template, between) = if counted { BAR } else { STEP };
        let (name, message) = (render::shown(&run.migration_id), render::shown(&message(run)));
        *texts.lock().unwrap_or_else(PoisonError::into_inner) = Texts { name, width: self.width, between, message };
        bar.set_style(style(template, texts, &self.screen));
        bar.set_length(100);
        bar.set_position(percent.and_then(|percent| u64::try_from(percent).ok()).unwrap_or(0));
    }

    fn take_away(&self, bar: &Bar) {
        bar.bar.finish_and_clear();
        self.all.remove(&bar.bar);
    }

    /// The last line: how many runs wait.
    fn count_waiting(&mut self, run: &Run) {
        let queued = self.states.values().filter(|state| **state == RunState::Queued).count();
        if queued == 0 {
            if let Some(bar) = self.waiting.take() {
                self.take_away(&bar);
            }
            return;
        }
        let mut text = format!("{} of {} waiting", queued, words::plural(self.states.len(), "run", "runs"));
        // Nothing is worked on: then the reason matters.
        if self.running.is_empty()
            && let Some(wait) = run.waits.first()
        {
            text = format!("{text}: {}", wait.message);
        }
        let bar = self.waiting.get_or_insert_with(|| {
            let bar = Bar::new(self.all.add(ProgressBar::new_spinner()));
            bar.bar.set_style(style(WAITING.0, &bar.texts, &self.screen));
            bar
        });
        let texts = Texts { message: render::shown(&text), ..Texts::default() };
        *bar.texts.lock().unwrap_or_else(PoisonError::into_inner) = texts;
        bar.bar.tick();
    }
}

impl Bar {
    fn new(bar: ProgressBar) -> Self {
        // A line that is drawn again by itself fits again once the terminal has become narrower.
        bar.enable_steady_tick(TICK);
        Self { bar, texts: Arc::default() }
    }
}

impl Texts {
    /// The name in a terminal of this width: padded, or cut.
    fn name(&self, terminal: usize) -> String {
        let width = self.width.min(terminal / 3);
        pad_str(&truncate_str(&self.name, width, "…"), width, Alignment::Left, None).into_owned()
    }

    /// As much of the message as there is room for.
    fn message(&self, terminal: usize) -> String {
        let used = SPINNER + self.width.min(terminal / 3) + self.between;
        match terminal.saturating_sub(used) {
            0 => String::new(),
            room => truncate_str(&self.message.replace('\n', " "), room, "…").into_owned(),
        }
    }
}

/// Where a bar has room beside a name and a word.
const WIDE_ENOUGH: u16 = 48;
/// How much of a line stands before the name.
const SPINNER: usize = 2;
/// With a bar: rows are counted. Each with how much of the line stands between the name and the message.
const BAR: (&str, usize) = ("{spinner} {name} [{bar:16}] {percent:>3}% {message}", 25);
/// Without: a step that is one statement.
const STEP: (&str, usize) = ("{spinner} {name} {message}", 1);
/// The last line.
const WAITING: (&str, usize) = ("{spinner} {message}", 0);

fn style(template: &str, texts: &Arc<Mutex<Texts>>, screen: &Screen) -> ProgressStyle {
    let key = |text: fn(&Texts, usize) -> String| {
        let (texts, screen) = (Arc::clone(texts), screen.clone());
        move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            let texts = texts.lock().unwrap_or_else(PoisonError::into_inner);
            let _infallible = out.write_str(&text(&texts, usize::from(screen.width())));
        }
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("name", key(Texts::name))
        .with_key("message", key(Texts::message))
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
    parts.extend(run.activity.as_ref().map(runs::activity));
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
    // Of a failure they are final once all its agents have finished their batches.
    if run.rows > 0 && run.leases == 0 {
        text.push_str(&format!(", {} rows", count(run.rows)));
    }
    if let Some(time) = runs::elapsed(run) {
        text.push_str(&format!(", {}", duration(time)));
    }
    text
}

#[cfg(test)]
mod tests {
    use dunlin_proto::v1::{Activity, Wait};

    use super::*;

    #[test]
    fn a_line_fits_into_the_terminal_and_what_is_cut_is_seen_to_be() {
        let texts = Texts {
            name: "give-every-user-the-role-that-is-theirs".to_owned(),
            width: LONGEST_NAME,
            between: BAR.1,
            message: "52,300 rows/s, 4s left, rename, waits for a lock on users\nthat others hold".to_owned(),
        };
        assert_eq!(texts.name(120), "give-every-user-the-role-that-i…");
        assert_eq!(texts.name(60), "give-every-user-the…");
        assert_eq!(texts.message(60), "52,300 rows/…");
        assert_eq!(texts.message(140), "52,300 rows/s, 4s left, rename, waits for a lock on users that others hold");
        assert_eq!(texts.message(20), "");
        let short = Texts { name: "roles".to_owned(), width: 8, ..texts.clone() };
        assert_eq!(short.name(60), "roles   ");
        let wide = Texts { name: "名前を変える".to_owned(), width: 8, ..texts };
        assert_eq!(wide.name(60), "名前を… ", "by what it takes on the terminal, not by characters");
    }

    #[test]
    fn a_bar_is_full_only_at_the_end_and_says_what_is_waited_for_instead_of_a_speed() {
        let mut run = Run {
            state: RunState::Running.into(),
            current_step: "fill".to_owned(),
            rows_walked: 999_999,
            rows_total: 1_000_000,
            leases: 1,
            rows_per_second: 5000.0,
            ..Run::default()
        };
        assert_eq!((runs::percent(&run), message(&run).as_str()), (Some(99), "5,000 rows/s, fill"));
        run.rows_walked = 2_000_000;
        assert_eq!((runs::percent(&run), message(&run).as_str()), (Some(99), "5,000 rows/s, fill"));
        run.rows_per_second = 0.0;
        run.waits = vec![Wait { message: "waits for a row of public.t".to_owned(), ..Wait::default() }];
        assert_eq!(message(&run), "fill, waits for a row of public.t");
        let activity = Activity { phase: "scanning heap".to_owned(), done: 1, total: 2, unit: "blocks".to_owned() };
        run = Run { activity: Some(activity), rows_total: 0, waits: Vec::new(), ..run };
        assert_eq!(message(&run), "fill, scanning heap, 50% of 2 blocks");
    }
}
