//! `dunlin show ID`: one migration: what it is, its steps and checks, and where it is applied.

use std::fmt::Write;

use dunlin_proto::v1::{AppliedMigration, Check, GetMigrationRequest, Migration, Step};

use crate::connection::Controllers;
use crate::error::Error;
use crate::output::{Output, print_raw};
use crate::render::{Align, Cell, Columns, Look, count, time_or, words};

/// The options of `dunlin show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The migration
    #[arg(value_name = "ID")]
    id: String,
    /// Which definition of it: a corrected one is the next revision [default: the registered one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    revision: Option<i32>,
    /// Print only the text of the definition, as registered (at a terminal with control characters escaped)
    #[arg(long)]
    definition: bool,
}

/// Asks and prints.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let request = GetMigrationRequest { id: args.id.clone(), revision: args.revision.unwrap_or(0) };
    let answer = controllers.registry().await?.get_migration(request).await?.into_inner();
    let migration = answer.migration.clone().unwrap_or_default();
    if args.definition && !output.json() {
        return print_raw(&migration.definition);
    }
    output.answer(&answer, |look| text(look, &migration, &answer.applied))
}

fn text(look: &Look, migration: &Migration, applied: &[AppliedMigration]) -> String {
    let list = |items: &[String]| if items.is_empty() { "-".to_owned() } else { items.join(", ") };
    let changed = migration.update_time.as_ref().filter(|time| Some(*time) != migration.register_time.as_ref());
    let changed = time_or(look, changed, "-");
    let mut revision = migration.revision.to_string();
    if migration.registered_revision > 0 && migration.registered_revision != migration.revision {
        revision.push_str(&format!(" (registered is {})", migration.registered_revision));
    }
    for held in &migration.other_revisions {
        revision.push_str(&format!("; {} has {}", held.target, held.revision));
    }
    let withdrawn = migration.withdraw_time.as_ref().map(|time| {
        format!(
            "{} by {}; it is not registered any more",
            time_or(look, Some(time), "-"),
            stated(&migration.withdrawn_by)
        )
    });
    let withdrawn = withdrawn.unwrap_or_default();
    let mut text = format!("{}\n", look.bold(&format!("{} (version {})", migration.id, migration.version)));
    for (name, value) in [
        ("name", migration.name.as_str()),
        ("description", migration.description.trim_end()),
        ("run after", &list(&migration.run_after)),
        ("impacts", &list(&migration.impacts)),
        ("transaction", if migration.atomic { "one for the whole migration" } else { "one for each step or batch" }),
        ("revision", &revision),
        ("registered", &time_or(look, migration.register_time.as_ref(), "-")),
        ("changed", &changed),
        ("by", stated(&migration.registered_by)),
        ("reason", migration.reason.as_str()),
        ("withdrawn", &withdrawn),
        ("checksum", &migration.checksum),
    ] {
        // Few migrations have these.
        if value.is_empty() && ["reason", "withdrawn"].contains(&name) {
            continue;
        }
        let _infallible = writeln!(text, "  {:<13} {}", format!("{name}:"), value.replace('\n', "\n                "));
    }
    checks(look, &mut text, "Checks before", &migration.before);
    steps(look, &mut text, "Steps", &migration.steps);
    checks(look, &mut text, "Checks after", &migration.after);
    steps(look, &mut text, "Rollback", &migration.rollback);
    let _infallible = writeln!(text, "\n{}", look.bold("Applied"));
    if applied.is_empty() {
        text.push_str("  nowhere\n");
    } else {
        text.push_str(&table(look, applied));
    }
    text
}

/// Who it was, as that was stated.
fn stated(by: &str) -> &str {
    if by.is_empty() { "somebody who did not say who" } else { by }
}

fn checks(look: &Look, text: &mut String, title: &str, checks: &[Check]) {
    if checks.is_empty() {
        return;
    }
    let _infallible = writeln!(text, "\n{}", look.bold(title));
    for check in checks {
        let _infallible = writeln!(text, "  {}\n{}", check.name, indent(&check.sql));
    }
}

fn steps(look: &Look, text: &mut String, title: &str, steps: &[Step]) {
    if steps.is_empty() {
        return;
    }
    let _infallible = writeln!(text, "\n{}", look.bold(title));
    for step in steps {
        let mut kind = words::step_kind(step.kind()).to_owned();
        if let Some(batch) = &step.batch {
            kind.push_str(&format!(" over {}", batch.table));
        }
        let body = if step.transform.is_empty() { step.sql.as_str() } else { step.transform.as_str() };
        let _infallible = writeln!(text, "  {} ({kind})\n{}", step.name, indent(body));
    }
}

fn indent(body: &str) -> String {
    body.trim().lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn table(look: &Look, applied: &[AppliedMigration]) -> String {
    let mut table = Columns::new(
        look,
        &[
            ("TARGET", Align::Left),
            ("FIRST APPLIED", Align::Left),
            ("LAST APPLIED", Align::Left),
            ("REVISION", Align::Right),
            ("TIMES", Align::Right),
            ("RUN", Align::Right),
            ("ROWS", Align::Right),
        ],
    );
    for row in applied {
        table.row([
            Cell::new(&row.target),
            Cell::new(time_or(look, row.apply_time.as_ref(), "-")),
            Cell::new(time_or(look, row.last_apply_time.as_ref(), "-")),
            Cell::new(row.revision),
            Cell::new(row.applications),
            Cell::new(row.run_id),
            Cell::new(count(row.rows)),
        ]);
    }
    table.render()
}
