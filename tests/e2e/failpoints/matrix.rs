//! Which faults there are: every point, and what happens at it.

use std::fmt;

/// The points of agents: a kind of task, and its points.
const AGENTS: [(&str, &[&str]); 7] = [
    ("atomic", &["taken", "changed", "advanced", "committed", "reported"]),
    ("statement", &["taken", "changed", "advanced", "committed", "reported"]),
    ("outside", &["taken", "changed", "advanced", "committed", "reported"]),
    ("plan", &["taken", "changed", "advanced", "committed", "reported"]),
    ("range", &["taken", "changed", "advanced", "committed", "reported"]),
    ("code", &["taken", "changed", "advanced", "committed", "reported"]),
    ("seal", &["taken", "advanced", "committed", "reported"]),
];

/// The points of a controller, and how often each is passed before something happens at it: in the first run, and among the steps of
/// the second. Queueing happens once.
const CONTROLLER: [(&str, &[u32]); 7] = [
    ("queue.written", &[0]),
    ("queue.stored", &[0]),
    ("grant.written", &[0, 4]),
    ("report.written", &[0, 4]),
    ("report.stored", &[0, 4]),
    ("report.flushed", &[0, 4]),
    ("run.advanced", &[0, 4]),
];

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The process ends at once.
    Abort,
    /// Whoever came to the point waits for longer than a lease lives, while heartbeats go on.
    Pause,
    /// The process stands still for longer than a lease lives.
    Stop,
    /// What would go wrong there goes wrong.
    Error,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Culprit {
    /// Both agents.
    Agents,
    /// The controller.
    Controller,
}

/// One fault.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) culprit: Culprit,
    pub(super) point: String,
    pub(super) action: Action,
    /// True where a step is carried out again.
    pub(super) again: bool,
    passes: u32,
}

impl Case {
    /// What the programs read in `FAILPOINTS`.
    pub(super) fn variable(&self) -> String {
        let action = match self.action {
            Action::Abort => "abort",
            Action::Pause => "pause 1500",
            Action::Stop => "stop",
            Action::Error => "error",
        };
        let passes = if self.passes == 0 { String::new() } else { format!("{}*off->", self.passes) };
        format!("{}={passes}1*return({action})", self.point)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = if self.again { ", a step again" } else { "" };
        write!(f, "{:?}: {}{again}", self.culprit, self.variable())
    }
}

/// All faults.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |culprit, point: &str, passes, again| {
        for action in [Action::Abort, Action::Pause, Action::Stop, Action::Error] {
            // A worker that is slow while its lease lives on is of interest where it holds something: a transaction.
            if action == Action::Pause && culprit == Culprit::Agents && !point.ends_with("advanced") {
                continue;
            }
            cases.push(Case { culprit, point: point.to_owned(), action, again, passes });
        }
    };
    // The controller first: an agent that was armed and not hit stays armed until it is replaced, which every case of agents does.
    for (point, passes) in CONTROLLER {
        for passes in passes {
            add(Culprit::Controller, point, *passes, false);
        }
    }
    for (kind, points) in AGENTS {
        for point in points {
            let passes = match (kind, *point) {
                (_, "taken" | "reported") => 0,
                // The third batch of a range is begun ahead of the commit of the second.
                ("range", "changed") => 2,
                ("range" | "code", _) => 1,
                _ => 0,
            };
            add(Culprit::Agents, &format!("{kind}.{point}"), passes, false);
            // Where a step with batches comes by.
            if matches!(kind, "plan" | "range") {
                add(Culprit::Agents, &format!("{kind}.{point}"), passes, true);
            }
        }
    }
    cases
}
