//! The failure of a run: which migration, which step, what PostgreSQL said, on which rows, and what to do next.

use std::fmt::Write;

use comfy_table::Color;
use dunlin_proto::v1::{Run, SqlPosition};
use dunlin_shared::figures::{self, length};
use dunlin_shared::visible::is_unseen;

use super::Look;
use crate::follow::Cancelled;

/// The failure of one run.
pub(crate) fn failure(look: &Look, run: &Run) -> String {
    let mut text =
        look.paint(&format!("migration {} failed on {} (run {})", run.migration_id, run.target, run.id), Color::Red);
    let Some(error) = &run.error else {
        let _infallible = write!(text, "\n  next:      dunlin events {} tells what happened", run.id);
        return text;
    };
    let next = if error.next.is_empty() {
        format!("dunlin events {} tells what happened", run.id)
    } else {
        error.next.clone()
    };
    let fields = [
        ("step", &error.step),
        ("check", &error.check),
        ("error", &error.message),
        ("at", &error.position.as_ref().map(place).unwrap_or_default()),
        ("detail", &error.detail),
        ("hint", &error.hint),
        ("context", &error.context),
        ("table", &error.table),
        ("column", &error.column),
        ("constraint", &error.constraint),
        ("sqlstate", &error.sqlstate),
        ("rows", &error.rows),
        ("agent", &error.agent_id),
        ("next", &next),
    ];
    for (name, value) in fields {
        if !value.is_empty() {
            let name = format!("{name}:");
            let value = value.trim_end().replace('\n', "\n             ");
            let _infallible = write!(text, "\n  {name:<10} {value}");
        }
    }
    text
}

/// The most of a line of SQL that is shown.
const MOST: usize = 100;

/// Where in the SQL an error is: the file, and the line with a caret.
fn place(position: &SqlPosition) -> String {
    let statement = if position.statement > 1 { format!(", statement {}", position.statement) } else { String::new() };
    let (line, place) = if position.path.is_empty() {
        (position.line, format!("line {}, column {} of the SQL{statement}", position.line, position.column))
    } else {
        let (line, column) = (position.file_line, position.file_column);
        (line, format!("{}:{line}:{column}{statement}", position.path))
    };
    let column = usize::try_from(position.column).unwrap_or(1).saturating_sub(1);
    // Of a long line, what is around the caret.
    let skipped = column.saturating_sub(MOST / 2);
    let plain = |letter: char| if is_unseen(letter) { ' ' } else { letter };
    let mut shown: Vec<char> = position.text.chars().skip(skipped).take(MOST).map(plain).collect();
    // What is left out is seen to be, and nothing moves against the caret.
    let more = position.text.chars().count() > skipped + MOST;
    if let Some(cut) = shown.first_mut().filter(|_| skipped > 0) {
        *cut = '…';
    }
    if let Some(cut) = shown.last_mut().filter(|_| more) {
        *cut = '…';
    }
    let shown: String = shown.into_iter().collect();
    let number = line.to_string();
    let caret = " ".repeat(column - skipped);
    format!("{place}\n{number} | {shown}\n{} | {caret}^", " ".repeat(number.len()))
}

/// The runs that were cancelled: those behind others in one line, whatever their number, and each other with its reason.
pub(crate) fn cancelled(runs: &[(&Run, Option<&Cancelled>)], failed: &[&Run]) -> Vec<String> {
    let (behind, others): (Vec<_>, Vec<_>) = runs.iter().partition(|(_, why)| matches!(why, Some(Cancelled::Behind)));
    let mut lines = Vec::new();
    if let (Some((first, _)), Some((last, _))) = (behind.first(), behind.last()) {
        let waited = match failed {
            [only] => format!("run {} of {}", only.id, only.migration_id),
            _ => "others that have not succeeded".to_owned(),
        };
        lines.push(if behind.len() == 1 {
            format!("run {} of {} was cancelled: it waited for {waited}", first.id, first.migration_id)
        } else {
            let (count, all) = (length(behind.len()), last.id - first.id + 1);
            let reach = if count == all || count == 2 { "" } else { ", with gaps" };
            let to = if count == 2 { "and" } else { "to" };
            format!(
                "{} runs were cancelled, {} of {} {to} {} of {}{reach}: they waited for {waited}",
                figures::count(count),
                first.id,
                first.migration_id,
                last.id,
                last.migration_id
            )
        });
    }
    lines.extend(others.iter().map(|(run, why)| match why {
        Some(Cancelled::Because(message)) => message.clone(),
        _ => format!("run {} of {} was cancelled", run.id, run.migration_id),
    }));
    lines
}

#[cfg(test)]
mod tests {
    use dunlin_proto::v1::RunError;

    use super::*;

    #[test]
    fn a_place_is_a_line_of_the_file_with_a_caret() {
        let position = SqlPosition {
            line: 3,
            column: 8,
            text: "SELECT\tnone FROM users".to_owned(),
            statement: 2,
            path: "sql/fill.sql".to_owned(),
            file_line: 12,
            file_column: 8,
        };
        assert_eq!(place(&position), "sql/fill.sql:12:8, statement 2\n12 | SELECT none FROM users\n   |        ^");
        let long = SqlPosition { text: "x".repeat(5000), column: 4000, statement: 1, path: String::new(), ..position };
        let text = place(&long);
        assert!(text.starts_with("line 3, column 4000 of the SQL\n3 | …xx"), "{text}");
        assert!(text.lines().nth(1).unwrap().ends_with("xx…"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= MOST + 10), "{text}");
        assert_eq!(text.lines().nth(2).unwrap().find('^'), Some(4 + MOST / 2));
    }

    #[test]
    fn what_was_cancelled_behind_a_failure_is_one_line() {
        let run = |id: i64| Run { id, migration_id: format!("m{id}"), ..Run::default() };
        let (failed, runs) = (run(4), (5..=100).map(run).collect::<Vec<_>>());
        let behind: Vec<_> = runs.iter().map(|run| (run, Some(&Cancelled::Behind))).collect();
        let expected = "96 runs were cancelled, 5 of m5 to 100 of m100: they waited for run 4 of m4";
        assert_eq!(cancelled(&behind, &[&failed]), [expected]);
        assert_eq!(cancelled(&behind[..1], &[&failed]), ["run 5 of m5 was cancelled: it waited for run 4 of m4"]);
        let two = "2 runs were cancelled, 5 of m5 and 6 of m6: they waited for run 4 of m4";
        assert_eq!(cancelled(&behind[..2], &[&failed]), [two]);
        let own = Cancelled::Because("run 7 of m7 was cancelled by hand".to_owned());
        let told = cancelled(&[(&runs[0], Some(&Cancelled::Behind)), (&runs[2], Some(&own))], &[]);
        let expected = "run 5 of m5 was cancelled: it waited for others that have not succeeded";
        assert_eq!(told, [expected, "run 7 of m7 was cancelled by hand"]);
    }

    #[test]
    fn a_failure_tells_everything_that_is_known() {
        let run = Run {
            id: 4,
            target: "main".to_owned(),
            migration_id: "update-user-roles".to_owned(),
            error: Some(RunError {
                migration_id: "update-user-roles".to_owned(),
                step: "rename".to_owned(),
                message: "column \"rolle\" does not exist".to_owned(),
                sqlstate: "42703".to_owned(),
                hint: "Perhaps you meant to reference the column \"users.role\".".to_owned(),
                rows: "(id) > (1000) and <= (2000)".to_owned(),
                next: "Correct the definition, register it and run it again.".to_owned(),
                agent_id: "dev-1".to_owned(),
                ..RunError::default()
            }),
            ..Run::default()
        };
        assert_eq!(
            failure(&Look::plain(None), &run),
            "migration update-user-roles failed on main (run 4)\n  \
               step:      rename\n  \
               error:     column \"rolle\" does not exist\n  \
               hint:      Perhaps you meant to reference the column \"users.role\".\n  \
               sqlstate:  42703\n  \
               rows:      (id) > (1000) and <= (2000)\n  \
               agent:     dev-1\n  \
               next:      Correct the definition, register it and run it again."
        );
    }
}
