//! `dunlin list`: the registered migrations in version order, and whether a target has them.

use std::collections::BTreeMap;

use comfy_table::Color;
use dunlin_proto::v1::{
    AppliedMigration, ListAppliedMigrationsRequest, ListMigrationsRequest, ListMigrationsResponse, Migration,
};
use tonic::{Code, Status};

use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;
use crate::render::{Align, Cell, Columns, Look, time_or};

/// The options of `dunlin list`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The database, by the name that agents give it [default: main]
    #[arg(long, short, value_name = "NAME")]
    target: Option<String>,
}

/// What a target has, by the ids of the migrations.
type Applied = BTreeMap<String, AppliedMigration>;

/// Asks and prints.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let answer = ListMigrationsResponse { migrations: all(controllers).await?, next_page_token: String::new() };
    let target = args.target.as_deref().unwrap_or("main");
    let applied = match applied(controllers, target).await? {
        // Who names no target asks for the migrations; that nobody has ever served `main` takes nothing from the answer.
        Err(status) if args.target.is_some() => return Err(status.into()),
        Err(_never_served) => None,
        Ok(applied) => Some(applied),
    };
    output.answer(&answer, |look| {
        if answer.migrations.is_empty() && applied.as_ref().is_none_or(Applied::is_empty) {
            return "No migrations are registered. `dunlin register DIR` registers those of a directory.".to_owned();
        }
        let mut text = table(look, &answer.migrations, target, applied.as_ref());
        text.push_str(&unregistered(look, &answer.migrations, target, applied.as_ref()));
        text
    })
}

async fn all(controllers: &Controllers) -> Result<Vec<Migration>, Error> {
    let mut client = controllers.registry().await?;
    let mut migrations = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client
            .list_migrations(ListMigrationsRequest { page_size: 1_000, page_token, with_sql: false })
            .await?
            .into_inner();
        migrations.extend(page.migrations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(migrations);
        }
    }
}

/// What a target has, by id; the inner error when no agent has ever served the target.
async fn applied(controllers: &Controllers, target: &str) -> Result<Result<Applied, Status>, Error> {
    let mut client = controllers.registry().await?;
    let mut applied = Applied::new();
    let mut page_token = String::new();
    loop {
        let request = ListAppliedMigrationsRequest { target: target.to_owned(), page_size: 1_000, page_token };
        let page = match client.list_applied_migrations(request).await {
            Ok(page) => page.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(Err(status)),
            Err(status) => return Err(status.into()),
        };
        applied.extend(page.applied.into_iter().map(|row| (row.id.clone(), row)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(Ok(applied));
        }
    }
}

fn table(look: &Look, migrations: &[Migration], target: &str, applied: Option<&Applied>) -> String {
    let header = format!("APPLIED ON {target}");
    // As long as there is one of each, nobody needs to hear of revisions.
    let revisions = migrations.iter().any(|migration| migration.revision > 1 || !migration.other_revisions.is_empty());
    let mut columns = vec![
        ("VERSION", Align::Right),
        ("MIGRATION", Align::Left),
        ("STEPS", Align::Left),
        (header.as_str(), Align::Left),
        ("RUN AFTER", Align::Left),
    ];
    if revisions {
        columns.insert(2, ("REVISION", Align::Left));
    }
    let mut table = Columns::new(look, &columns);
    for migration in migrations {
        let steps = migration.steps.len();
        let steps = if migration.atomic { format!("{steps}, atomic") } else { steps.to_string() };
        let state = match applied.map(|applied| applied.get(&migration.id)) {
            None => Cell::new("not known"),
            Some(None) => Cell::new("pending").fg(Color::Yellow),
            Some(Some(row)) => Cell::new(when(look, row)).fg(Color::Green),
        };
        let after = if migration.run_after.is_empty() { "-".to_owned() } else { migration.run_after.join(", ") };
        let mut cells =
            vec![Cell::new(migration.version), Cell::new(&migration.id), Cell::new(steps), state, Cell::new(after)];
        if revisions {
            cells.insert(2, Cell::new(revision(migration)));
        }
        table.row(cells);
    }
    table.render()
}

/// `2; staging has 1`.
fn revision(migration: &Migration) -> String {
    let mut text = migration.revision.to_string();
    for held in &migration.other_revisions {
        let revision = if held.revision == 0 { "another".to_owned() } else { held.revision.to_string() };
        text.push_str(&format!("; {} has {revision}", held.target));
    }
    text
}

fn when(look: &Look, row: &AppliedMigration) -> String {
    let times = if row.applications > 1 { format!(" (x{})", row.applications) } else { String::new() };
    format!("{}{times}", time_or(look, row.last_apply_time.as_ref(), "applied"))
}

/// What a target has and nobody has registered, or somebody has withdrawn.
fn unregistered(look: &Look, migrations: &[Migration], target: &str, applied: Option<&Applied>) -> String {
    let mut found: Vec<&AppliedMigration> = applied
        .into_iter()
        .flat_map(Applied::values)
        .filter(|row| !migrations.iter().any(|migration| migration.id == row.id))
        .collect();
    if found.is_empty() {
        return String::new();
    }
    found.sort_by_key(|row| row.version);
    let mut table = Columns::new(
        look,
        &[
            ("VERSION", Align::Right),
            ("MIGRATION", Align::Left),
            ("REVISION", Align::Right),
            ("APPLIED", Align::Left),
            ("CHECKSUM", Align::Left),
        ],
    );
    for row in found {
        let checksum: String = row.checksum.chars().take(12).chain(['…']).collect();
        table.row([
            Cell::new(row.version),
            Cell::new(&row.id),
            Cell::new(row.revision),
            Cell::new(when(look, row)),
            Cell::new(checksum),
        ]);
    }
    format!(
        "\nApplied on {target} and not registered; `dunlin show ID` has the text of what was registered once:\n\n{}",
        table.render()
    )
}

#[cfg(test)]
mod tests {
    use dunlin_proto::v1::HeldRevision;

    use super::*;

    #[test]
    fn who_has_another_revision_is_shown_once_there_is_one() {
        let look = Look::plain(None);
        let mut migration = Migration { id: "years".to_owned(), version: 1, revision: 1, ..Migration::default() };
        let applied = Applied::new();
        let one = std::slice::from_ref(&migration);
        assert!(!table(&look, one, "main", Some(&applied)).contains("REVISION"));
        migration.revision = 2;
        migration.other_revisions = vec![HeldRevision { target: "staging".to_owned(), revision: 1 }];
        assert_eq!(
            table(&look, &[migration], "main", Some(&applied)),
            "VERSION  MIGRATION  REVISION          STEPS  APPLIED ON main  RUN AFTER\n      \
             1  years      2; staging has 1  0      pending          -\n"
        );
    }

    #[test]
    fn what_a_target_has_and_nobody_has_registered_is_shown() {
        let row = AppliedMigration { id: "gone".to_owned(), version: 3, revision: 2, ..AppliedMigration::default() };
        let applied = Applied::from([("gone".to_owned(), row)]);
        let text = unregistered(&Look::plain(None), &[], "main", Some(&applied));
        assert!(text.contains("gone") && text.contains("not registered"), "{text}");
    }
}
