//! Errors of the API with their details: made by the controller, read by its clients.
//!
//! Every error carries a `google.rpc.ErrorInfo` of the domain [`DOMAIN`] whose reason is a constant in upper snake case
//! that programs can rely on; messages are for people and may change. Problems of a request are listed in a `BadRequest`,
//! obstacles in a `PreconditionFailure`.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};

/// The domain of all reasons.
pub const DOMAIN: &str = "dunlin.dev";

/// Details travel in the trailers of an answer. Beyond this many bytes the rest of a list is counted instead.
const DETAILS_LIMIT: usize = 512 * 1024;

/// An error with a reason.
pub fn error(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}

/// The reason of an error: no agent reaches the target now.
pub const TARGET_UNREACHED: &str = "TARGET_UNREACHED";

/// An error with a reason and named values for programs.
pub fn error_with<N: Into<String>, V: Into<String>>(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    metadata: impl IntoIterator<Item = (N, V)>,
) -> Status {
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
}

/// INVALID_ARGUMENT with the problems of a request, each a field and what is wrong with it.
pub fn invalid<F: Into<String>, D: Into<String>>(
    reason: &str,
    message: impl Into<String>,
    problems: impl IntoIterator<Item = (F, D)>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    let all = problems.into_iter().map(|(field, description)| FieldViolation::new(field, description));
    let (mut listed, more) = limit(all, |one| one.field.len() + one.description.len());
    if more > 0 {
        listed.push(FieldViolation::new("", format!("and {more} more")));
    }
    details.set_bad_request(listed);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// FAILED_PRECONDITION with the obstacles.
pub fn precondition(reason: &str, message: impl Into<String>, obstacles: impl IntoIterator<Item = Obstacle>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    let all = obstacles.into_iter().map(|one| PreconditionViolation::new(one.kind, one.subject, one.description));
    let (mut listed, more) = limit(all, |one| one.subject.len() + one.description.len());
    if more > 0 {
        listed.push(PreconditionViolation::new("", "", format!("and {more} more")));
    }
    details.set_precondition_failure(listed);
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// NOT_FOUND for a resource: its kind such as "migration", and its name.
pub fn not_found(kind: &str, name: impl Into<String>, message: impl Into<String>) -> Status {
    let mut details =
        ErrorDetails::with_error_info(format!("{}_NOT_FOUND", kind.to_ascii_uppercase()), DOMAIN, HashMap::new());
    details.set_resource_info(kind, name, "", "");
    Status::with_error_details(Code::NotFound, message, details)
}

fn limit<T>(all: impl Iterator<Item = T>, size: impl Fn(&T) -> usize) -> (Vec<T>, usize) {
    let mut listed = Vec::new();
    let mut used = 0;
    let mut more = 0;
    for one in all {
        used += size(&one) + 32;
        if used > DETAILS_LIMIT {
            more += 1;
        } else {
            listed.push(one);
        }
    }
    (listed, more)
}

/// Something that must change before a request can be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The kind in upper snake case, such as "DEPENDENCY".
    pub kind: String,
    /// What is in the way, such as the id of a migration.
    pub subject: String,
    /// How it is in the way and what to do.
    pub description: String,
}

impl Obstacle {
    /// An obstacle of a kind.
    pub fn new(kind: impl Into<String>, subject: impl Into<String>, description: impl Into<String>) -> Self {
        Self { kind: kind.into(), subject: subject.into(), description: description.into() }
    }
}

/// A problem of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The field; for definitions "file:line:column".
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// The details of an error, read back. Whatever the error does not carry is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The reason; only of this [`DOMAIN`].
    pub reason: String,
    /// Named values.
    pub metadata: HashMap<String, String>,
    /// The problems of the request.
    pub fields: Vec<Field>,
    /// The obstacles.
    pub obstacles: Vec<Obstacle>,
}

impl Details {
    /// Reads the details of an error; those that cannot be read are left out.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        let (reason, metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
        let fields = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
        let obstacles = status.get_details_precondition_failure().map(|details| details.violations).unwrap_or_default();
        Self {
            reason,
            metadata,
            fields: fields.into_iter().map(|one| Field { field: one.field, description: one.description }).collect(),
            obstacles: obstacles
                .into_iter()
                .map(|one| Obstacle::new(one.r#type, one.subject, one.description))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_read_back() {
        let status = invalid("INVALID_DEFINITION", "2 problems", [("a.toml:1:2", "one"), ("a.toml:3:4", "two")]);
        let details = Details::of(&status);
        assert_eq!((status.code(), details.reason.as_str()), (Code::InvalidArgument, "INVALID_DEFINITION"));
        assert_eq!(details.fields[1], Field { field: "a.toml:3:4".to_owned(), description: "two".to_owned() });

        let obstacle = Obstacle::new("DEPENDENCY", "add-users", "not applied; run it first");
        let status = precondition("NOT_READY", "it cannot run yet", [obstacle.clone()]);
        assert_eq!(Details::of(&status).obstacles, [obstacle]);

        let status = error_with(Code::Unavailable, "STOPPING", "stops", [("replica", "b")]);
        assert_eq!(Details::of(&status).metadata["replica"], "b");
        assert_eq!(Details::of(&not_found("run", "7", "no run 7")).reason, "RUN_NOT_FOUND");
        assert_eq!(Details::of(&Status::internal("plain")), Details::default());
    }

    #[test]
    fn a_list_that_is_too_long_ends_with_a_count() {
        let long = "x".repeat(1000);
        let status = invalid("MANY", "many", (0..1000).map(|_| ("f", long.as_str())));
        let fields = Details::of(&status).fields;
        assert!(fields.len() < 600);
        assert_eq!(fields.last().unwrap().description, format!("and {} more", 1001 - fields.len()));
    }
}
