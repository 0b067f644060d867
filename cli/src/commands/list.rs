//! `dunlin list`: the registered migrations in version order, and whether a target has them.

use std::collections::BTreeMap;

use comfy_table::{Cell, Color};
use dunlin_proto::v1::{
    AppliedMigration, ListAppliedMigrationsRequest, ListMigrationsRequest, ListMigrationsResponse, Migration,
};
use tonic::Code;

use crate::args::Target;
use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;
use crate::render::{Align, Columns, Look, time_or};

/// The options of `dunlin list`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
}

/// Asks and prints.
pub(crate) async fn execute(args: &Args, controllers: &Controllers, output: &Output) -> Result<(), Error> {
    let answer = ListMigrationsResponse { migrations: all(controllers).await?, next_page_token: String::new() };
    let applied = if output.json() { None } else { applied(controllers, &args.target.target).await? };
    output.answer(&answer, |look| {
        if answer.migrations.is_empty() {
            return "No migrations are registered. `dunlin register DIR` registers those of a directory.".to_owned();
        }
        table(look, &answer.migrations, &args.target.target, applied.as_ref())
    })
}

async fn all(controllers: &Controllers) -> Result<Vec<Migration>, Error> {
    let mut client = controllers.registry().await?;
    let mut migrations = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = client.list_migrations(ListMigrationsRequest { page_size: 1_000, page_token }).await?.into_inner();
        migrations.extend(page.migrations);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(migrations);
        }
    }
}

/// What a target has, by id. None when no agent has ever served the target.
async fn applied(controllers: &Controllers, target: &str) -> Result<Option<BTreeMap<String, AppliedMigration>>, Error> {
    let mut client = controllers.registry().await?;
    let mut applied = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let request = ListAppliedMigrationsRequest { target: target.to_owned(), page_size: 1_000, page_token };
        let page = match client.list_applied_migrations(request).await {
            Ok(page) => page.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(status.into()),
        };
        applied.extend(page.applied.into_iter().map(|row| (row.id.clone(), row)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(Some(applied));
        }
    }
}

fn table(
    look: &Look,
    migrations: &[Migration],
    target: &str,
    applied: Option<&BTreeMap<String, AppliedMigration>>,
) -> String {
    let header = format!("ON {}", target.to_uppercase());
    let mut table = Columns::new(
        look,
        &[
            ("VERSION", Align::Right),
            ("MIGRATION", Align::Left),
            ("STEPS", Align::Left),
            (&header, Align::Left),
            ("RUN AFTER", Align::Left),
        ],
    );
    for migration in migrations {
        let steps = migration.steps.len();
        let steps = if migration.atomic { format!("{steps}, atomic") } else { steps.to_string() };
        let state = match applied.map(|applied| applied.get(&migration.id)) {
            None => Cell::new("no agent"),
            Some(None) => Cell::new("pending").fg(Color::Yellow),
            Some(Some(row)) => {
                let times = if row.applications > 1 { format!(" (x{})", row.applications) } else { String::new() };
                Cell::new(format!("{}{times}", time_or(look, row.last_apply_time.as_ref(), "applied"))).fg(Color::Green)
            }
        };
        let after = if migration.run_after.is_empty() { "-".to_owned() } else { migration.run_after.join(", ") };
        table.row([Cell::new(migration.version), Cell::new(&migration.id), Cell::new(steps), state, Cell::new(after)]);
    }
    table.render()
}
