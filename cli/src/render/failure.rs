//! The failure of a run: which migration, which step, what PostgreSQL said, on which rows, and what to do next.

use std::fmt::Write;

use comfy_table::Color;
use dunlin_proto::v1::Run;

use super::{Columns, Look, table::Align};

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

/// The table of runs that were cancelled, each with the reason.
pub(crate) fn cancelled<'a>(look: &Look, runs: impl IntoIterator<Item = (&'a Run, &'a str)>) -> Option<String> {
    let mut table = Columns::new(look, &[("RUN", Align::Right), ("CANCELLED", Align::Left), ("WHY", Align::Left)]);
    for (run, why) in runs {
        table.row([run.id.to_string().as_str(), &run.migration_id, why]);
    }
    (!table.is_empty()).then(|| table.render())
}

#[cfg(test)]
mod tests {
    use dunlin_proto::v1::RunError;

    use super::*;

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
