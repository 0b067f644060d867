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
    // What must be applied first is often named by the message.
    let obstacles = details
        .obstacles
        .iter()
        .filter(|one| one.kind != "DEPENDENCY" || !names(status.message(), &one.subject))
        .map(|one| (&one.subject, &one.description));
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

/// Whether a message has a word.
fn names(message: &str, word: &str) -> bool {
    message.split(|letter: char| !(letter.is_alphanumeric() || letter == '-')).any(|one| one == word)
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
    fn what_the_message_says_is_not_said_again() {
        let refused = precondition(
            "DEPENDENCIES_MISSING",
            "c runs after a, b, which are not applied on target main: run those first",
            [
                Obstacle::new("DEPENDENCY", "a", "a is not applied on target main"),
                Obstacle::new("DEPENDENCY", "b", "b is not applied on target main"),
            ],
        );
        assert_eq!(status(&refused), "c runs after a, b, which are not applied on target main: run those first");
    }

    #[test]
    fn a_status_without_words_has_those_of_its_code() {
        assert_eq!(status(&Status::new(Code::Unavailable, "")), "The service is currently unavailable");
    }
}
