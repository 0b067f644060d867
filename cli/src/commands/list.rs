//! `dunlin list`: the registered migrations in version order, and whether a target has them.

use std::collections::BTreeMap;

use comfy_table::{Cell, Color};
use dunlin_proto::v1::{
    AppliedMigration, ListAppliedMigrationsRequest, ListMigrationsRequest, ListMigrationsResponse, Migration,
};
use tonic::{Code, Status};

use crate::connection::Controllers;
use crate::error::Error;
use crate::output::Output;
use crate::render::{Align, Columns, Look, time_or};

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
        if answer.migrations.is_empty() {
            return "No migrations are registered. `dunlin register DIR` registers those of a directory.".to_owned();
        }
        table(look, &answer.migrations, target, applied.as_ref())
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
