//! Plain lines, for logs and pipes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use comfy_table::Color;
use dunlin_proto::v1::{Event, EventType, Run, RunState, Severity, Wait, WaitReason};
use tokio::time::Instant;

use crate::render::{Look, runs, time_or, words};

/// How often the figures of a run are printed as a line.
const INTERVAL: Duration = Duration::from_secs(5);

/// Plain lines.
#[derive(Default)]
pub(super) struct Lines {
    /// Runs that were told of as a whole when they were queued.
    pub(super) expected: BTreeSet<i64>,
    told: BTreeMap<i64, (Instant, String)>,
    waits: BTreeMap<i64, String>,
}

impl Lines {
    /// The lines to print.
    pub(super) fn update(&mut self, look: &Look, run: &Run, event: Option<&Event>) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(event) = event.filter(|event| !is_behind(event) && !self.expects(event, run)) {
            let text = line(look, event);
            let colour = words::severity_colour(event.severity());
            lines.push(colour.map_or_else(|| text.clone(), |colour| look.paint(&text, colour)));
        }
        if let Some(wait) = self.wait(run) {
            let text = format!("{}  {}: {wait}", now(look), run.migration_id);
            lines.push(look.paint(&text, Color::Yellow));
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

    /// What a run waits for, once, where its turn has come: somebody has to do something then.
    fn wait(&mut self, run: &Run) -> Option<String> {
        let turn = |wait: &Wait| matches!(wait.reason(), WaitReason::Order | WaitReason::Dependency | WaitReason::Run);
        let wait = run.waits.first().filter(|_| !run.waits.iter().any(turn));
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
    fn a_wait_that_somebody_must_end_is_told_once() {
        let (look, mut lines) = (Look::plain(None), Lines::default());
        let wait = |reason: WaitReason| Run {
            waits: vec![Wait { reason: reason.into(), message: "waits for an agent".to_owned(), ..Wait::default() }],
            ..run(0)
        };
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
        let told = Lines::default().update(&Look::plain(None), &run(0), Some(&event));
        assert_eq!(told, ["-  warning: roles/rename: the step started"]);
    }
}
