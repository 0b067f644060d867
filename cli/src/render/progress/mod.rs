//! Progress while runs are followed: bars on a terminal, plain lines elsewhere, always on standard error.
//!
//! Bars: one for each run that is worked on, a line for each that has ended, and a last line that counts those that
//! wait, so that two hundred queued runs do not fill the screen. Lines: one for each event, and the figures of a run every
//! few seconds.

mod bars;
mod lines;
mod screen;

use std::io::IsTerminal;

use comfy_table::Color;
use dunlin_proto::v1::{Event, Run, Severity};

use super::Look;
use crate::output::tell;
use bars::Bars;
use lines::Lines;
pub(crate) use lines::subject;

/// What is followed, and how much of it is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Everything on a target, until it is interrupted: nothing is told at an end.
    pub(crate) endless: bool,
    /// Also how the work is done inside.
    pub(crate) verbose: bool,
}

/// Whether an event is told.
pub(crate) fn shown(event: &Event, scope: Scope) -> bool {
    scope.verbose || event.severity() != Severity::Debug
}

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
    pub(crate) fn new(scope: Scope) -> Self {
        let stderr = std::io::stderr();
        let look = Look::of(&stderr);
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let kind =
            if stderr.is_terminal() && !dumb { Kind::Bars(Bars::new(scope)) } else { Kind::Lines(Lines::new(scope)) };
        Self { look, kind }
    }

    /// Takes the runs that will be told of: bars have their final shape from the start, and lines do not tell what is known.
    pub(crate) fn expect(&mut self, runs: &[Run]) {
        match &mut self.kind {
            Kind::Bars(bars) => {
                for run in runs {
                    bars.widen(run);
                    bars.states.insert(run.id, run.state());
                }
            }
            Kind::Lines(lines) => runs.iter().for_each(|run| lines.expect(run)),
        }
    }

    /// Takes what a controller tells about a run.
    pub(crate) fn update(&mut self, run: &Run, event: Option<&Event>) {
        match &mut self.kind {
            Kind::Bars(bars) => bars.update(&self.look, run, event),
            Kind::Lines(lines) => {
                for line in lines.update(&self.look, run, event) {
                    tell(&line);
                }
            }
        }
    }

    /// Tells something about the connection.
    pub(crate) fn note(&self, text: &str) {
        let text = self.look.paint(text, Color::Yellow);
        match &self.kind {
            Kind::Bars(bars) => bars.print(&text),
            Kind::Lines(_) => tell(&text),
        }
    }

    /// Takes the bars away: what comes next is printed below what has ended.
    pub(crate) fn finish(&self) {
        if let Kind::Bars(bars) = &self.kind {
            bars.finish();
        }
    }
}
