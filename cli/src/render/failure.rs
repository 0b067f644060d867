//! The failure of a run: which migration, which step, what PostgreSQL said, on which rows, and what to do next.

use std::fmt::Write;

use comfy_table::Color;
use dunlin_proto::v1::Run;

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
        ("detail", &error.detail),
        ("hint", &error.hint),
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
            let (count, all) = (behind.len(), last.id - first.id + 1);
            let reach = if i64::try_from(count) == Ok(all) { "" } else { ", with gaps" };
            format!(
                "{count} runs were cancelled, {} of {} to {} of {}{reach}: they waited for {waited}",
                first.id, first.migration_id, last.id, last.migration_id
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
    fn what_was_cancelled_behind_a_failure_is_one_line() {
        let run = |id: i64| Run { id, migration_id: format!("m{id}"), ..Run::default() };
        let (failed, runs) = (run(4), (5..=100).map(run).collect::<Vec<_>>());
        let behind: Vec<_> = runs.iter().map(|run| (run, Some(&Cancelled::Behind))).collect();
        let expected = "96 runs were cancelled, 5 of m5 to 100 of m100: they waited for run 4 of m4";
        assert_eq!(cancelled(&behind, &[&failed]), [expected]);
        assert_eq!(cancelled(&behind[..1], &[&failed]), ["run 5 of m5 was cancelled: it waited for run 4 of m4"]);
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
