//! Plain lines, for logs and pipes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use comfy_table::Color;
use dunlin_proto::v1::{Event, EventType, Run, RunState, Severity, Wait, WaitReason};
use tokio::time::Instant;

use super::{Scope, shown};
use crate::render::{Look, moment, runs, time_or, words};

/// How often the figures of a run are printed as a line.
const INTERVAL: Duration = Duration::from_secs(5);

/// Plain lines.
#[derive(Default)]
pub(super) struct Lines {
    scope: Scope,
    /// Runs that were told of as a whole when they were queued.
    expected: BTreeSet<i64>,
    /// The runs that are followed, and their migrations.
    followed: BTreeMap<i64, String>,
    told: BTreeMap<i64, (Instant, String)>,
    waits: BTreeMap<i64, String>,
}

impl Lines {
    pub(super) fn new(scope: Scope) -> Self {
        Self { scope, ..Self::default() }
    }

    /// Takes a run that was told of already.
    pub(super) fn expect(&mut self, run: &Run) {
        self.expected.insert(run.id);
        self.followed.insert(run.id, run.migration_id.clone());
    }

    /// The lines to print.
    pub(super) fn update(&mut self, look: &Look, run: &Run, event: Option<&Event>) -> Vec<String> {
        let mut lines = Vec::new();
        let new = self.followed.insert(run.id, run.migration_id.clone()).is_none();
        if new && event.is_none() && !words::ended(run.state()) {
            let state = words::run_state(run.state());
            lines.push(format!("{}  run {} of {} is {state}", now(look), run.id, run.migration_id));
        }
        let told = |event: &&Event| !is_behind(event) && !self.expects(event, run) && shown(event, self.scope);
        if let Some(event) = event.filter(told) {
            let text = self.line(look, event);
            let colour = words::severity_colour(event.severity());
            lines.push(colour.map_or_else(|| text.clone(), |colour| look.paint(&text, colour)));
        }
        if let Some(wait) = self.wait(run) {
            let text = format!("{}  {}: {wait}", now(look), run.migration_id);
            lines.push(look.paint(&text, Color::Yellow));
        }
        if words::ended(run.state()) {
            self.followed.remove(&run.id);
        }
        if event.is_none()
            && let Some(text) = self.figures(run)
        {
            let step = if run.current_step.is_empty() { String::new() } else { format!("/{}", run.current_step) };
            lines.push(format!("{}  {}{step}: {text}", now(look), run.migration_id));
        }
        lines
    }

    fn expects(&self, event: &Event, run: &Run) -> bool {
        event.r#type() == EventType::RunQueued && self.expected.contains(&run.id)
    }

    /// An event as a line. The reason of a failure comes last of all, where there is a last.
    fn line(&self, look: &Look, event: &Event) -> String {
        if event.r#type() != EventType::RunFailed || self.scope.endless {
            return line(look, event);
        }
        let message = format!("run {} of {} failed; the reason stands at the end", event.run_id, event.migration_id);
        line(look, &Event { message, ..event.clone() })
    }

    /// What a run waits for, once, unless that is another run that is followed, whose end will be told.
    fn wait(&mut self, run: &Run) -> Option<String> {
        let turn = |wait: &Wait| match wait.reason() {
            WaitReason::Order | WaitReason::Dependency => self.followed.values().any(|id| *id == wait.migration_id),
            WaitReason::Run => self.followed.contains_key(&wait.run_id),
            WaitReason::Unspecified
            | WaitReason::Agent
            | WaitReason::Transform
            | WaitReason::Retry
            | WaitReason::Slot
            | WaitReason::Lock
            | WaitReason::Identity => false,
        };
        // Why a task is tried again is told by its event.
        let told = |wait: &&Wait| wait.reason() == WaitReason::Retry;
        let wait = run.waits.first().filter(|wait| !told(wait) && !run.waits.iter().any(turn));
        let Some(wait) = wait else {
            self.waits.remove(&run.id);
            return None;
        };
        let before = self.waits.insert(run.id, wait.message.clone());
        (before.as_ref() != Some(&wait.message)).then(|| wait.message.clone())
    }

    /// How far a run is, every few seconds and where it has changed.
    fn figures(&mut self, run: &Run) -> Option<String> {
        let text = runs::progress(run);
        if text.is_empty() || run.state() != RunState::Running {
            return None;
        }
        // The first figures come only after a while: short runs are told by their events.
        let (at, last) = self.told.entry(run.id).or_insert_with(|| (Instant::now(), String::new()));
        if at.elapsed() < INTERVAL || *last == text {
            return None;
        }
        (*at, *last) = (Instant::now(), text.clone());
        Some(text)
    }
}

/// True for the end of a run that waited for one that has failed: these are told together, when all has ended.
pub(super) fn is_behind(event: &Event) -> bool {
    let details = event.details.as_ref();
    event.r#type() == EventType::RunCancelled
        && details.is_some_and(|details| details.fields.contains_key("waited_for_run"))
}

/// An event as a line.
pub(super) fn line(look: &Look, event: &Event) -> String {
    let severity = match event.severity() {
        Severity::Error => "error: ",
        Severity::Warning => "warning: ",
        Severity::Info | Severity::Debug | Severity::Unspecified => "",
    };
    format!("{}  {severity}{}", time_or(look, event.create_time.as_ref(), "-"), subject(event))
}

/// The message of an event, with the migration and step that it is about where the message does not name them.
pub(crate) fn subject(event: &Event) -> String {
    let step = if event.step.is_empty() { String::new() } else { format!("/{}", event.step) };
    let mut named = event.message.split(|letter: char| !(letter.is_alphanumeric() || letter == '-'));
    if event.migration_id.is_empty() || named.any(|word| word == event.migration_id) {
        event.message.clone()
    } else {
        format!("{}{step}: {}", event.migration_id, event.message)
    }
}

fn now(look: &Look) -> String {
    moment(look, jiff::Timestamp::now())
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

    /// Lines of a run that was told of already.
    fn lines(scope: Scope) -> Lines {
        let mut lines = Lines::new(scope);
        lines.expect(&run(0));
        lines
    }

    #[tokio::test(start_paused = true)]
    async fn figures_come_every_few_seconds_and_only_when_they_change() {
        let (look, mut lines) = (Look::plain(None), lines(Scope::default()));
        assert!(lines.update(&look, &run(100), None).is_empty());
        tokio::time::advance(INTERVAL).await;
        let told = lines.update(&look, &run(200), None);
        assert!(told[0].ends_with("  roles/rename: 20% of 1,000 rows"), "{told:?}");
        assert!(lines.update(&look, &run(300), None).is_empty());
        tokio::time::advance(INTERVAL).await;
        assert!(lines.update(&look, &run(200), None).is_empty());
    }

    #[test]
    fn a_wait_that_somebody_must_end_is_told_once() {
        let (look, mut lines) = (Look::plain(None), lines(Scope::default()));
        let wait = |reason: WaitReason| Run {
            waits: vec![Wait {
                reason: reason.into(),
                message: "waits for an agent".to_owned(),
                migration_id: "before".to_owned(),
                ..Wait::default()
            }],
            ..run(0)
        };
        lines.expect(&Run { id: 7, migration_id: "before".to_owned(), ..Run::default() });
        assert!(lines.update(&look, &wait(WaitReason::Order), None).is_empty());
        let told = lines.update(&look, &wait(WaitReason::Agent), None);
        assert!(told[0].ends_with("  roles: waits for an agent"), "{told:?}");
        assert!(lines.update(&look, &wait(WaitReason::Agent), None).is_empty());
        assert!(lines.update(&look, &run(0), None).is_empty());
        assert_eq!(lines.update(&look, &wait(WaitReason::Agent), None).len(), 1);
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
        let told = lines(Scope::default()).update(&Look::plain(None), &run(0), Some(&event));
        assert_eq!(told, ["-  warning: roles/rename: the step started"]);
    }

    #[test]
    fn a_migration_is_named_where_a_word_of_the_message_only_looks_like_it() {
        let event = |id: &str, message: &str| {
            subject(&Event { migration_id: id.to_owned(), message: message.to_owned(), ..Event::default() })
        };
        assert_eq!(event("add", "an address was added"), "add: an address was added");
        assert_eq!(event("add", "run 1 of add started"), "run 1 of add started");
        assert_eq!(event("add", "run 1 of add-column started"), "add: run 1 of add-column started");
    }

    #[test]
    fn who_watches_a_run_is_told_how_it_stands_and_what_it_waits_for() {
        let (look, mut lines) = (Look::plain(None), Lines::default());
        let wait = Wait {
            reason: WaitReason::Order.into(),
            migration_id: "before".to_owned(),
            message: "waits for its turn: before goes first".to_owned(),
            ..Wait::default()
        };
        let queued = Run { state: RunState::Queued.into(), waits: vec![wait], ..run(0) };
        let told = lines.update(&look, &queued, None);
        assert!(told[0].ends_with("  run 1 of roles is queued"), "{told:?}");
        assert!(told[1].ends_with("  roles: waits for its turn: before goes first"), "{told:?}");
        assert_eq!((told.len(), lines.update(&look, &queued, None)), (2, Vec::new()));
    }

    #[test]
    fn how_the_work_is_done_inside_is_told_only_when_asked() {
        let event = Event {
            message: "the next 8 windows go in plain key order".to_owned(),
            severity: Severity::Debug.into(),
            ..Event::default()
        };
        let told = |verbose| {
            let scope = Scope { verbose, ..Scope::default() };
            lines(scope).update(&Look::plain(None), &run(0), Some(&event)).len()
        };
        assert_eq!((told(false), told(true)), (0, 1));
    }

    #[test]
    fn the_reason_of_a_failure_is_left_to_the_end_where_there_is_one() {
        let event = Event {
            r#type: EventType::RunFailed.into(),
            run_id: 1,
            migration_id: "roles".to_owned(),
            message: "run 1 of roles failed: division by zero".to_owned(),
            severity: Severity::Error.into(),
            ..Event::default()
        };
        let told = |endless| {
            let scope = Scope { endless, ..Scope::default() };
            lines(scope).update(&Look::plain(None), &run(0), Some(&event))
        };
        assert_eq!(told(false), ["-  error: run 1 of roles failed; the reason stands at the end"]);
        assert_eq!(told(true), ["-  error: run 1 of roles failed: division by zero"]);
    }
}
