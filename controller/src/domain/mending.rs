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

/// What an unfinished run was asked to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doing {
    /// It repeats an applied migration.
    pub rerun: bool,
    /// Steps that it carries out again.
    pub redo_steps: Vec<String>,
    /// Steps that go on with another text in it.
    pub continue_steps: Vec<String>,
}

/// Why an unfinished run is none that somebody who asks for one can follow instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlike {
    /// It does not repeat an applied migration.
    NoRerun,
    /// It does not carry out these steps again.
    NoRedo(Vec<String>),
    /// It does not let these steps go on with another text.
    NoContinue(Vec<String>),
}

impl Doing {
    /// What a new request asks for and this run does not do. A request that asks for nothing special is served by any run.
    #[must_use]
    pub fn unlike(&self, rerun: bool, wanted: &Mending) -> Option<Unlike> {
        let lacking = |wanted: &[String], has: &[String]| -> Vec<String> {
            wanted.iter().filter(|step| !has.contains(step)).cloned().collect()
        };
        let redo = lacking(&wanted.redo_steps, &self.redo_steps);
        let go_on = lacking(&wanted.continue_steps, &self.continue_steps);
        match (redo.is_empty(), go_on.is_empty()) {
            (false, _) => Some(Unlike::NoRedo(redo)),
            (_, false) => Some(Unlike::NoContinue(go_on)),
            _ if rerun && !self.rerun => Some(Unlike::NoRerun),
            _ => None,
        }
    }
}

impl Unlike {
    /// The end of a sentence about the run.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::NoRerun => "does not repeat it".to_owned(),
            Self::NoRedo(steps) => format!("does not carry out again {}", names(steps)),
            Self::NoContinue(steps) => format!("does not let {} go on with another text", names(steps)),
        }
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

    #[test]
    fn a_run_is_followed_by_those_who_ask_for_what_it_does() {
        let plain = Doing::default();
        let redo = Doing { redo_steps: vec!["fill".to_owned()], ..Doing::default() };
        let wanted = |redo: &[&str], go_on: &[&str]| Mending {
            redo_steps: redo.iter().map(|step| (*step).to_owned()).collect(),
            continue_steps: go_on.iter().map(|step| (*step).to_owned()).collect(),
            ..Mending::default()
        };
        assert_eq!(plain.unlike(false, &wanted(&[], &[])), None);
        assert_eq!(redo.unlike(false, &wanted(&[], &[])), None);
        assert_eq!(redo.unlike(false, &wanted(&["fill"], &[])), None);
        let unlike = |asked: &Doing, rerun, wanted: &Mending| asked.unlike(rerun, wanted).unwrap().describe();
        assert_eq!(unlike(&plain, false, &wanted(&["fill"], &[])), "does not carry out again the step \"fill\"");
        assert_eq!(
            unlike(&redo, false, &wanted(&[], &["fill"])),
            "does not let the step \"fill\" go on with another text"
        );
        assert_eq!(unlike(&plain, true, &wanted(&[], &[])), "does not repeat it");
        assert_eq!(Doing { rerun: true, ..plain }.unlike(true, &wanted(&[], &[])), None);
    }
}
