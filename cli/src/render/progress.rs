//! Progress while runs are followed: bars on a terminal, plain lines elsewhere, always on standard error.
//!
//! Bars: one for each run that is worked on, a line for each that has ended, and a last line that counts those that
//! wait, so that two hundred queued runs do not fill the screen. Lines: one for each event, and the figures of a run every
//! few seconds.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::Color;
use dunlin_proto::v1::{Event, EventType, Run, RunState, Severity};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::{Look, count, duration, runs, time_or, words};

/// How often the figures of a run are printed as a line.
const INTERVAL: Duration = Duration::from_secs(5);

/// What shows the progress.
pub(crate) struct Progress {
    look: Look,
    kind: Kind,
}

enum Kind {
    Bars(Bars),
    Lines(Lines),
}

impl Progress {
    /// Bars where standard error is a terminal, lines elsewhere.
    pub(crate) fn new() -> Self {
        let stderr = std::io::stderr();
        let look = Look::of(&stderr);
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let kind = if stderr.is_terminal() && !dumb { Kind::Bars(Bars::new()) } else { Kind::Lines(Lines::default()) };
        Self { look, kind }
    }

    /// Takes the runs that will be told of, so that the bars have their final shape from the start.
    pub(crate) fn expect(&mut self, runs: &[Run]) {
        if let Kind::Bars(bars) = &mut self.kind {
            for run in runs {
                bars.widen(run);
                bars.states.insert(run.id, run.state());
            }
        }
    }

    /// Takes what a controller tells about a run.
    pub(crate) fn update(&mut self, run: &Run, event: Option<&Event>) {
        match &mut self.kind {
            Kind::Bars(bars) => bars.update(&self.look, run, event),
            Kind::Lines(lines) => {
                for line in lines.update(&self.look, run, event) {
                    eprintln!("{line}");
                }
            }
        }
    }

    /// Tells something about the connection.
    pub(crate) fn note(&self, text: &str) {
        let text = self.look.paint(text, Color::Yellow);
        match &self.kind {
            Kind::Bars(bars) => bars.print(&text),
            Kind::Lines(_) => eprintln!("{text}"),
        }
    }

    /// Takes the bars away: what comes next is printed below what has ended.
    pub(crate) fn finish(&self) {
        if let Kind::Bars(bars) = &self.kind {
            let _gone_with_the_terminal = bars.all.clear();
        }
    }
}

/// Bars on a terminal.
struct Bars {
    all: MultiProgress,
    running: BTreeMap<i64, ProgressBar>,
    states: BTreeMap<i64, RunState>,
    waiting: Option<ProgressBar>,
    width: usize,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { all, running: BTreeMap::new(), states: BTreeMap::new(), waiting: None, width: 0 }
    }

    fn print(&self, line: &str) {
        let _gone_with_the_terminal = self.all.println(line);
    }

    fn update(&mut self, look: &Look, run: &Run, event: Option<&Event>) {
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
            if before.is_none_or(|state| !words::ended(state)) {
                self.print(&ended(look, run, self.width));
            }
        } else if run.state() != RunState::Queued {
            self.show(run);
        }
        self.count_waiting(run);
    }

    fn widen(&mut self, run: &Run) {
        self.width = self.width.max(run.migration_id.chars().count().min(32));
    }

    /// The bar of a run that is worked on.
    fn show(&mut self, run: &Run) {
        let bar = self.running.entry(run.id).or_insert_with(|| {
            let bar = self.all.insert(0, ProgressBar::new_spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.set_style(style(run.rows_total > 0));
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
            bar.set_style(style(false));
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

fn style(bar: bool) -> ProgressStyle {
    let template =
        if bar { "{spinner} {prefix} [{bar:16}] {percent:>3}% {wide_msg}" } else { "{spinner} {prefix} {wide_msg}" };
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
        parts.push(format!("{} left", super::seconds(left)));
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

/// Plain lines.
#[derive(Default)]
struct Lines {
    told: BTreeMap<i64, (Instant, String)>,
}

impl Lines {
    /// The lines to print.
    fn update(&mut self, look: &Look, run: &Run, event: Option<&Event>) -> Vec<String> {
        if let Some(event) = event {
            let text = line(look, event);
            return vec![
                words::severity_colour(event.severity())
                    .map_or_else(|| text.clone(), |colour| look.paint(&text, colour)),
            ];
        }
        let text = runs::progress(run);
        if text.is_empty() || run.state() != RunState::Running {
            return Vec::new();
        }
        match self.told.get(&run.id) {
            Some((at, last)) if at.elapsed() < INTERVAL || *last == text => return Vec::new(),
            Some(_) => {}
            None => {
                // The first figures come only after a while: short runs are told by their events.
                self.told.insert(run.id, (Instant::now(), String::new()));
                return Vec::new();
            }
        }
        self.told.insert(run.id, (Instant::now(), text.clone()));
        let step = if run.current_step.is_empty() { String::new() } else { format!("/{}", run.current_step) };
        vec![format!("{}  {}{step}: {text}", now(look), run.migration_id)]
    }
}

/// An event as a line.
fn line(look: &Look, event: &Event) -> String {
    let severity = match event.severity() {
        Severity::Error => "error: ",
        Severity::Warning => "warning: ",
        Severity::Info | Severity::Unspecified => "",
    };
    format!("{}  {severity}{}", time_or(look, event.create_time.as_ref(), "-"), subject(event))
}

/// The message of an event, with the migration and step that it is about where the message does not name them.
pub(crate) fn subject(event: &Event) -> String {
    let step = if event.step.is_empty() { String::new() } else { format!("/{}", event.step) };
    if event.migration_id.is_empty() || event.message.contains(&event.migration_id) {
        event.message.clone()
    } else {
        format!("{}{step}: {}", event.migration_id, event.message)
    }
}

fn now(look: &Look) -> String {
    jiff::Timestamp::now().to_zoned_datetime(look.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(walked: i64) -> Run {
        Run {
            id: 1,
            migration_id: "roles".to_owned(),
            state: RunState::Running.into(),
            current_step: "rename".to_owned(),
            rows_walked: walked,
            rows_total: 1_000,
            ..Run::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn figures_come_every_few_seconds_and_only_when_they_change() {
        let (look, mut lines) = (Look::plain(None), Lines::default());
        assert!(lines.update(&look, &run(100), None).is_empty());
        tokio::time::advance(INTERVAL).await;
        let told = lines.update(&look, &run(200), None);
        assert!(told[0].ends_with("  roles/rename: 20% of 1,000 rows"), "{told:?}");
        assert!(lines.update(&look, &run(300), None).is_empty());
        tokio::time::advance(INTERVAL).await;
        assert!(lines.update(&look, &run(200), None).is_empty());
    }

    #[test]
    fn every_event_is_a_line() {
        let event = Event {
            migration_id: "roles".to_owned(),
            step: "rename".to_owned(),
            message: "the step started".to_owned(),
            severity: Severity::Warning.into(),
            ..Event::default()
        };
        let told = Lines::default().update(&Look::plain(None), &run(0), Some(&event));
        assert_eq!(told, ["-  warning: roles/rename: the step started"]);
    }
}
