//! Progress while runs are followed: bars on a terminal, plain lines elsewhere, always on standard error.
//!
//! Bars: one for each run that is worked on, a line for each that has ended, and a last line that counts those that
//! wait, so that two hundred queued runs do not fill the screen. Lines: one for each event, and the figures of a run every
//! few seconds.

mod bars;
mod lines;

use std::io::IsTerminal;

use comfy_table::Color;
use dunlin_proto::v1::{Event, Run};

use super::Look;
use crate::output::tell;
use bars::Bars;
use lines::Lines;
pub(crate) use lines::subject;

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

    /// Takes the runs that will be told of: bars have their final shape from the start, and lines do not tell what is known.
    pub(crate) fn expect(&mut self, runs: &[Run]) {
        match &mut self.kind {
            Kind::Bars(bars) => {
                for run in runs {
                    bars.widen(run);
                    bars.states.insert(run.id, run.state());
                }
            }
            Kind::Lines(lines) => lines.expected.extend(runs.iter().map(|run| run.id)),
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
