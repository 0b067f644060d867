//! A controller's refusal as text: the message, then its details, one to a line.

use std::fmt::Write;

use dunlin_proto::status::Details;
use tonic::Status;

/// The text of a refusal.
pub(crate) fn status(status: &Status) -> String {
    let mut text =
        if status.message().is_empty() { status.code().description().to_owned() } else { status.message().to_owned() };
    let details = Details::of(status);
    let fields = details.fields.iter().map(|one| (&one.field, &one.description));
    let obstacles = details.obstacles.iter().map(|one| (&one.subject, &one.description));
    for (subject, description) in fields.chain(obstacles) {
        if text.contains(description.as_str()) {
            continue;
        }
        let _infallible = if subject.is_empty() || description.contains(subject.as_str()) {
            write!(text, "\n  {description}")
        } else {
            write!(text, "\n  {subject}: {description}")
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use dunlin_proto::status::{Obstacle, precondition};
    use tonic::Code;

    use super::*;

    #[test]
    fn each_violation_is_a_line() {
        let refused = precondition(
            "NOT_READY",
            "the migration c cannot run on main yet",
            [
                Obstacle::new("DEPENDENCY", "a", "a is not applied on main; run it first"),
                Obstacle::new("DEPENDENCY", "b", "it is not applied on main; run it first"),
            ],
        );
        assert_eq!(
            status(&refused),
            "the migration c cannot run on main yet\n  a is not applied on main; run it first\n  \
             b: it is not applied on main; run it first"
        );
    }

    #[test]
    fn a_status_without_words_has_those_of_its_code() {
        assert_eq!(status(&Status::new(Code::Unavailable, "")), "The service is currently unavailable");
    }
}
