//! The one conversion of errors to statuses. Errors that are not the caller's are logged here, once.

use dunlin_proto::status::{self, Obstacle};
use dunlin_shared::figures;
use dunlin_shared::ids::{self, TargetName};
use dunlin_shared::migration::set::Problem;
use tonic::{Code, Status};

use crate::domain::register::Refusal;
use crate::domain::waits::Fleet;
use crate::store;
use crate::store::registering::RegisterError;

/// The most characters of a name that a caller states, such as "user@host".
pub(crate) const STATED: usize = 200;

/// A failure of the store.
pub(crate) fn of_store(error: store::Error) -> Status {
    match &error {
        store::Error::Unavailable { .. } | store::Error::Deadline { .. } => {
            // That the database is away is said once, by whoever brings it back; not for each call meanwhile.
            match &error {
                store::Error::Unavailable { .. } => tracing::debug!(%error, "a call was refused"),
                _ => tracing::warn!(%error, "a call was refused"),
            }
            let message = format!("{error}; it is tried again by itself, call again in a moment");
            status::error(Code::Unavailable, "DATABASE_UNAVAILABLE", message)
        }
        store::Error::Conflict { .. } => {
            tracing::warn!(%error, "a call was refused");
            status::error(Code::Aborted, "CONFLICT", format!("{error}; call again"))
        }
        store::Error::Refused { .. }
        | store::Error::NoRow { .. }
        | store::Error::Unknown { .. }
        | store::Error::Schema(_)
        | store::Error::Url(_)
        | store::Error::Domain(_) => {
            tracing::error!(%error, "a call failed");
            status::error(Code::Internal, "INTERNAL", format!("{error}; the controller's log may say more"))
        }
    }
}

/// A set that was not registered.
pub(crate) fn of_register(error: RegisterError) -> Status {
    match error {
        RegisterError::Store(error) => of_store(error),
        RegisterError::Problems(problems) => {
            let problems: Vec<Problem> = problems.into_iter().filter(|problem| !problem.is_warning()).collect();
            let count = problems.len();
            let message = match problems.first() {
                Some(first) if count == 1 => format!("{first}; nothing was registered"),
                Some(first) => {
                    format!("{count} problems in the definitions; nothing was registered. The first: {first}")
                }
                None => "the definitions have problems; nothing was registered".to_owned(),
            };
            let fields = problems.into_iter().map(|problem| {
                let place = match problem.file.as_str() {
                    "" => "files".to_owned(),
                    file => format!("{file}:{}:{}", problem.line, problem.column),
                };
                let text = match problem.help {
                    Some(help) => format!("{} ({help})", problem.message),
                    None => problem.message,
                };
                (place, text)
            });
            status::invalid("INVALID_DEFINITIONS", message, fields)
        }
        RegisterError::NotInSet(ids) => {
            let fields = ids.iter().map(|id| ("amend", format!("{id} is to be amended, and is not in the set")));
            status::invalid(
                "INVALID_ARGUMENT",
                "migrations to amend are not in the set; nothing was registered",
                fields,
            )
        }
        RegisterError::Refused(refusals) => {
            let missing = refusals.iter().filter(|refusal| matches!(refusal, Refusal::Missing { .. })).count();
            let (reason, message) = match refusals.first() {
                Some(first) if missing == 0 && refusals.len() == 1 => {
                    ("MIGRATION_IN_USE", format!("{}; nothing was registered", first.describe()))
                }
                Some(first) if missing == 0 => (
                    "MIGRATION_IN_USE",
                    format!("{} obstacles; nothing was registered. The first: {}", refusals.len(), first.describe()),
                ),
                _ if missing == refusals.len() => ("MIGRATIONS_MISSING", format!("{}:", told_missing(missing))),
                _ => ("MIGRATION_IN_USE", format!("{}. Something else is in the way, too:", told_missing(missing))),
            };
            let obstacles = refusals.into_iter().map(|refusal| {
                let kind = match refusal {
                    Refusal::Applied { .. } => "APPLIED",
                    Refusal::Running { .. } => "UNFINISHED_RUN",
                    Refusal::Missing { .. } => "MISSING",
                    Refusal::Partial { .. } => "PARTIAL",
                };
                Obstacle::new(kind, refusal.migration().as_str(), refusal.describe())
            });
            status::precondition(reason, message, obstacles)
        }
    }
}

/// That migrations are missing in a set, and the ways out.
fn told_missing(count: usize) -> String {
    let (what, them, their) = match count {
        1 => ("1 migration is".to_owned(), "it", "its file"),
        many => (format!("{} migrations are", figures::count(figures::length(many))), "them", "their files"),
    };
    format!(
        "{what} registered, applied nowhere, and not in this set; nothing was registered. If the set is all there is, take {them} back with `dunlin register --withdraw`; if \
         others register too, leave {them} alone with `dunlin register --add`; or put {their} back"
    )
}

/// No agent has ever served a target.
pub(crate) fn no_target(target: &TargetName) -> Status {
    let message = format!(
        "target {target} is not known: no agent has ever served it, or not since it was forgotten; start one with \
         --target {target}=URL, or name another target"
    );
    status::not_found("target", target.as_str(), message)
}

/// No agent reaches a target now. Another call may succeed, so this is UNAVAILABLE.
pub(crate) fn unreached(target: &TargetName, fleet: &Fleet) -> Status {
    let why = fleet.unreached(target).unwrap_or_default();
    let message = format!(
        "{why}; what target {target} has now cannot be known. `wait_for_agent` (`dunlin run --wait-for-agent`) queues what \
         its last report lacks, to run when an agent reaches it"
    );
    status::error(Code::Unavailable, status::TARGET_UNREACHED, message)
}

/// A statement of the caller about itself or its reasons, fit for storing.
pub(crate) fn stated(field: &str, text: &str, longest: usize) -> Result<String, Status> {
    let text = text.trim();
    if text.chars().count() > longest {
        return Err(bad_field(field, format!("it has more than {longest} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(bad_field(field, "it has control characters"));
    }
    Ok(text.to_owned())
}

/// No migration with an id is registered.
pub(crate) fn no_migration(id: &str) -> Status {
    status::not_found("migration", id, format!("migration {id:?} is not registered; register the set that has it"))
}

/// A migration has no such revision.
pub(crate) fn no_revision(id: &str, revision: i32) -> Status {
    let message = format!("migration {id:?} has no revision {revision}; `dunlin show {id}` tells which is registered");
    status::not_found("revision", format!("{id} {revision}"), message)
}

/// No run with a number.
pub(crate) fn no_run(id: i64) -> Status {
    status::not_found("run", id.to_string(), format!("there is no run {id}"))
}

/// A field of a request that cannot be used.
pub(crate) fn bad_field(field: &str, description: impl Into<String>) -> Status {
    let description = description.into();
    status::invalid("INVALID_ARGUMENT", format!("{field}: {description}"), [(field, description)])
}

/// The target that a request names; `main` when it names none.
pub(crate) fn target(name: &str) -> Result<TargetName, Status> {
    match name {
        "" => Ok(TargetName::default()),
        name => TargetName::parse(name).map_err(|error| bad_id("target", &error)),
    }
}

/// The target that a request names, where an agent has ever served it; `main` when it names none.
pub(crate) async fn known(store: &store::Store, name: &str) -> Result<TargetName, Status> {
    let target = target(name)?;
    if store.knows_target(&target).await.map_err(of_store)? { Ok(target) } else { Err(no_target(&target)) }
}

/// A text that is no id.
pub(crate) fn bad_id(field: &str, error: &ids::Error) -> Status {
    bad_field(field, error.to_string())
}
