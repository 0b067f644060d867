//! The history as lines of the log: each event is logged by the replica that has committed it, once it has.
//!
//! So whoever reads the log of a controller, or has it collected, sees which runs start, wait, fail and succeed, which leases are
//! lost and which agents and targets come and go, with the run, the migration and the target as fields. The history in the
//! database stays the truth: a replica that dies between the commit and the line has logged nothing.

use crate::domain::{Event, Severity};

/// Logs an event.
pub(super) fn line(event: &Event) {
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                event = event.event_type.as_str(),
                target = event.target.as_ref().map(|target| target.as_str()),
                migration = event.migration.as_ref().map(|migration| migration.as_str()),
                run = event.run.map(i64::from),
                step = Some(event.step.as_str()).filter(|step| !step.is_empty()),
                agent = event.agent.as_ref().map(|agent| agent.as_str()),
                "{}",
                event.message
            )
        };
    }
    match event.severity {
        Severity::Debug => log!(debug),
        Severity::Info => log!(info),
        Severity::Warning => log!(warn),
        Severity::Error => log!(error),
    }
}
