//! What the server says while SQL of a definition is executed goes into the history of the run.
//!
//! A `RAISE WARNING` may be the only sign that data was left alone. The first notices of a lease are told one by one, the others are
//! counted and told as a number at its end; the controller does the same over all leases of a step. What a transaction has said that
//! was rolled back was said all the same.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_proto::v1::{EventType, Severity, TaskNote};
use dunlin_shared::postgres::{Heard, Level, Notice};

use super::Context;
use crate::failure::NOT_TOLD;

/// How many messages of a step a lease tells one by one.
const MOST: u32 = 100;

/// How much of what the server says was told.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<BTreeMap<String, Count>>);

/// The messages of a step.
#[derive(Debug, Default)]
struct Count {
    told: u32,
    left_out: u64,
}

impl Told {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<String, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when one more message of a step is told.
    fn one_more(&self, step: &str) -> bool {
        let mut counts = self.counts();
        let count = counts.entry(step.to_owned()).or_default();
        let tells = count.told < MOST;
        if tells {
            count.told += 1;
        } else {
            count.left_out += 1;
        }
        tells
    }

    fn leave_out(&self, step: &str, number: u64) {
        if number > 0 {
            self.counts().entry(step.to_owned()).or_default().left_out += number;
        }
    }

    /// Takes what was counted only, by step.
    fn take(&self) -> Vec<(String, u64)> {
        let mut counts = self.counts();
        let left_out = counts.iter_mut().map(|(step, count)| (step.clone(), std::mem::take(&mut count.left_out)));
        left_out.filter(|(_, number)| *number > 0).collect()
    }
}

/// Tells what was heard while SQL of a step, or of a check where it has no name, was executed.
pub(super) fn tell(context: &Context, step: &str, heard: &Heard) {
    for notice in &heard.notices {
        say(context, step, level(notice), text(context, notice));
    }
    context.told.leave_out(step, heard.left_out);
}

/// Tells one thing that the server has said.
pub(super) fn say(context: &Context, step: &str, severity: Severity, message: String) {
    if !context.told.one_more(step) {
        return;
    }
    context.lease.tell(TaskNote {
        r#type: EventType::ServerMessage.into(),
        message,
        step: step.to_owned(),
        severity: severity.into(),
        ..TaskNote::default()
    });
}

/// Tells how much was counted only.
pub(super) fn finish(context: &Context) {
    for (step, left_out) in context.told.take() {
        context.lease.tell(TaskNote {
            r#type: EventType::ServerMessage.into(),
            step,
            left_out: i64::try_from(left_out).unwrap_or(i64::MAX),
            ..TaskNote::default()
        });
    }
}

pub(super) fn level(notice: &Notice) -> Severity {
    match notice.level {
        Level::Notice => Severity::Info,
        Level::Warning => Severity::Warning,
    }
}

/// A notice in PostgreSQL's words, where they may be told.
pub(super) fn text(context: &Context, notice: &Notice) -> String {
    let level = match notice.level {
        Level::Notice => "NOTICE",
        Level::Warning => "WARNING",
    };
    if context.limits.redact_rows {
        return format!("{level}: {NOT_TOLD}");
    }
    let mut text = format!("{level}: {}", notice.message);
    for (name, more) in [("DETAIL", &notice.detail), ("HINT", &notice.hint)] {
        if !more.is_empty() {
            text.push_str(&format!("; {name}: {more}"));
        }
    }
    text
}
