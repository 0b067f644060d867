//! What is told of a registration: in the history, and to those whose runs end with it.

use dunlin_shared::ids::MigrationId;

use super::{Became, Request, Stopped};
use crate::domain::register::{Current, Decision, Outcome, Unfinished};
use crate::domain::{Event, EventType, Severity};

/// " by user@host", or nothing where nobody has said who it is.
fn by(request: &Request) -> String {
    if request.by.is_empty() { String::new() } else { format!(" by {}", request.by) }
}

/// Why a run of a migration does not begin.
pub(super) fn reason(migration: &MigrationId, decision: &Decision, request: &Request) -> String {
    let by = by(request);
    match decision.withdrawn.contains(migration) {
        true => format!("{migration} was withdrawn{by} before the run began"),
        false => format!(
            "another definition of {migration} was registered{by} before the run began; `dunlin run` queues it as it is now"
        ),
    }
}

pub(super) fn would_stop(run: &Unfinished, decision: &Decision, request: &Request) -> Stopped {
    let message = format!(
        "run {} of {} would be cancelled: {}",
        run.run,
        run.migration,
        reason(&run.migration, decision, request)
    );
    Stopped { run: run.run, target: run.target.to_string(), migration: run.migration.to_string(), message }
}

pub(super) fn stopped(event: &Event) -> Option<Stopped> {
    Some(Stopped {
        run: event.run?,
        target: event.target.as_ref()?.to_string(),
        migration: event.migration.as_ref()?.to_string(),
        message: event.message.clone(),
    })
}

pub(super) fn registered_event(became: &Became<'_>, request: &Request) -> Event {
    let definition = &became.entry.definition;
    let (by, revision) = (by(request), became.revision);
    let (id, version) = (&definition.id, definition.version);
    let (event_type, message) = match became.decided.outcome {
        Outcome::Registered | Outcome::Unchanged => {
            (EventType::MigrationRegistered, format!("migration {id} (version {version}) was registered{by}"))
        }
        Outcome::Changed => (
            EventType::MigrationChanged,
            format!(
                "migration {id} (version {version}) has another definition now: revision {revision}, registered{by}"
            ),
        ),
        Outcome::Reworded => (
            EventType::MigrationChanged,
            format!(
                "migration {id} (version {version}) has other words now and does the same: revision {revision}, \
                 registered{by}"
            ),
        ),
        Outcome::Amended => {
            let kept: Vec<&str> = became.decided.kept.iter().map(|(target, _)| target.as_str()).collect();
            let why = if request.reason.is_empty() { String::new() } else { format!(": {}", request.reason) };
            let message = format!(
                "migration {id} (version {version}) was amended{by}: revision {revision} is for targets that do not have it, \
                 and {} keep what they have{why}",
                kept.join(", ")
            );
            (EventType::MigrationChanged, message)
        }
    };
    Event::new(event_type, Severity::Info, message)
        .of_migration(id)
        .with("checksum", became.checksum.as_str())
        .with("revision", revision)
        .with("registered_by", request.by.as_str())
        .with("reason", if request.amend.contains(id) { request.reason.as_str() } else { "" })
}

pub(super) fn withdrawn_event(id: &MigrationId, current: &Current, request: &Request) -> Event {
    let version = current.version;
    let message = format!(
        "migration {id} (version {version}) was withdrawn{}: it is in the set no more, and applied nowhere",
        by(request)
    );
    Event::new(EventType::MigrationWithdrawn, Severity::Info, message)
        .of_migration(id)
        .with("checksum", current.checksum.as_str())
        .with("withdrawn_by", request.by.as_str())
}
