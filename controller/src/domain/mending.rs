//! How a run goes on with a half-done migration: what an operator asks for beside the text, with who asks and why.

use dunlin_shared::migration::mending::Asked;
use serde::Serialize;
use serde_json::Value;

use super::event::Event;

/// What was asked for when a run was queued.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mending {
    /// Steps that are carried out again, each from its beginning.
    pub redo_steps: Vec<String>,
    /// Steps that are begun and go on with another text.
    pub continue_steps: Vec<String>,
    /// Why, in words; may be empty.
    pub reason: String,
    /// Who asks, as the caller says; may be empty.
    pub requested_by: String,
}

impl Mending {
    /// True when steps are named that something is to be done with.
    #[must_use]
    pub fn names_steps(&self) -> bool {
        !(self.redo_steps.is_empty() && self.continue_steps.is_empty())
    }

    /// What is compared with what a target holds. The request is none that a target can have heard of.
    #[must_use]
    pub fn asked(&self) -> Asked<'_> {
        Asked { request: "not made yet", redo: &self.redo_steps, go_on: &self.continue_steps }
    }

    /// The end of a sentence that tells of the run; empty where nothing was asked for.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if !self.redo_steps.is_empty() {
            parts.push(format!("it carries out again {}", names(&self.redo_steps)));
        }
        if !self.continue_steps.is_empty() {
            parts.push(format!("it goes on with another text in {}", names(&self.continue_steps)));
        }
        if !self.reason.is_empty() {
            parts.push(format!("the reason: {}", self.reason));
        }
        if !self.requested_by.is_empty() && self.names_steps() {
            parts.push(format!("asked for by {}", self.requested_by));
        }
        if parts.is_empty() { String::new() } else { format!("; {}", parts.join("; ")) }
    }

    /// The same as details of an event.
    #[must_use]
    pub fn detail(&self, mut event: Event) -> Event {
        for (name, steps) in [("redo_steps", &self.redo_steps), ("continue_steps", &self.continue_steps)] {
            if !steps.is_empty() {
                event = event.with(name, Value::from(steps.clone()));
            }
        }
        for (name, text) in [("reason", &self.reason), ("requested_by", &self.requested_by)] {
            if !text.is_empty() {
                event = event.with(name, text.as_str());
            }
        }
        event
    }
}

fn names(steps: &[String]) -> String {
    let names: Vec<String> = steps.iter().map(|name| format!("{name:?}")).collect();
    let noun = if steps.len() == 1 { "the step" } else { "the steps" };
    format!("{noun} {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_mends_says_what_why_and_for_whom() {
        assert_eq!(Mending::default().describe(), "");
        let mending = Mending {
            redo_steps: vec!["fill".to_owned()],
            reason: "the rate was wrong".to_owned(),
            requested_by: "ann@desk".to_owned(),
            ..Mending::default()
        };
        let told = "; it carries out again the step \"fill\"; the reason: the rate was wrong; asked for by ann@desk";
        assert_eq!(mending.describe(), told);
    }
}
