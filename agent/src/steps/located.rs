//! Where in the SQL of a step or check an error is: the character that PostgreSQL points at, or the statement that failed.
//!
//! Both are read from the wire, where the error stands behind the answers to the statements before it. Which file that SQL stands in
//! knows the controller.

use dunlin_proto::v1::SqlPosition;
use dunlin_shared::postgres::Failed;
use dunlin_shared::sql::{line_of, statement_offset};

use super::Error;

/// An error with its place in the SQL that was sent as one message.
pub(super) fn in_sql(error: Error, sql: &str, failed: Option<Failed>) -> Error {
    let at = failed.and_then(|failed| match failed.position {
        Some(position) => byte_of(sql, position),
        None => statement_offset(sql, failed.command),
    });
    let statement = failed.map(|failed| failed.command);
    with(error, sql, at, statement)
}

/// An error with its place in a text, in bytes.
pub(super) fn with(error: Error, sql: &str, at: Option<usize>, statement: Option<usize>) -> Error {
    let set = |mut error: Box<dunlin_proto::v1::RunError>| {
        // What PostgreSQL has not said has no place there.
        if let Some(at) = at.filter(|_| !error.sqlstate.is_empty()) {
            let (line, column, text) = line_of(sql, at);
            error.position = Some(SqlPosition {
                line: i32::try_from(line).unwrap_or(i32::MAX),
                column: i32::try_from(column).unwrap_or(i32::MAX),
                text: shortened(text),
                statement: statement.and_then(|number| i32::try_from(number + 1).ok()).unwrap_or(0),
                ..SqlPosition::default()
            });
        }
        error
    };
    match error {
        Error::Final(error) => Error::Final(set(error)),
        Error::Passing(error) => Error::Passing(set(error)),
        error => error,
    }
}

/// The byte at which a character begins, of which PostgreSQL counts the first as 1.
pub(super) fn byte_of(sql: &str, position: usize) -> Option<usize> {
    let index = position.checked_sub(1)?;
    sql.char_indices().map(|(byte, _)| byte).chain([sql.len()]).nth(index)
}

/// A line that can be shown: data in a line of a megabyte are no use to anyone.
fn shortened(text: &str) -> String {
    const MOST: usize = 1000;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
