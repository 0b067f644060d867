//! What is measured of the control plane, in this order.

use clap::{Args, ValueEnum};
use dunlin_shared::open_files;
use dunlin_shared::postgres::throwaway::Server;

use tokio_postgres::Client;

use super::{cycles, growth, idle, migrations, table};
use crate::Error;
use crate::measure::connect;

/// What is measured, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these parts.
    #[arg(long, value_enum)]
    pub(crate) only: Vec<Part>,
    /// Rounds of lease cycles; the figures are medians over them.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
    /// Ranges that are leased in a round.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) ranges: u32,
    /// Agents that work.
    #[arg(long, default_value_t = 200)]
    pub(crate) agents: u32,
    /// Agents that are connected and have nothing to do.
    #[arg(long, default_value_t = 2000)]
    pub(crate) idle: u32,
    /// Also print the statements that cost the database most, of each part. Needs the extension `pg_stat_statements`.
    #[arg(long)]
    pub(crate) statements: bool,
    /// Ranges of one run.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 10_000, 100_000])]
    pub(crate) sizes: Vec<u32>,
    /// Migrations in the registry.
    #[arg(long, value_delimiter = ',', default_values_t = [20, 200, 2000])]
    pub(crate) migrations: Vec<u32>,
}

/// The parts by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Lease cycles in a second, next to SQL alone.
    Cycles,
    /// Agents with nothing to do.
    Idle,
    /// Runs of more and more ranges.
    Growth,
    /// Registries of more and more migrations.
    Migrations,
}

/// Measures what the options ask for, and prints it.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    // Each agent is a connection. Controllers raise their own limit.
    open_files::raise_limit()?;
    let mut settings = vec![("shared_buffers", "512MB"), ("max_wal_size", "4GB")];
    if options.statements {
        settings.push(("shared_preload_libraries", "pg_stat_statements"));
    }
    let server = Server::start_with(&settings).await?;
    let client = connect(&server.url("postgres")).await?;
    let version: String = client.query_one("SHOW server_version", &[]).await?.get(0);
    let processors = std::thread::available_parallelism()?;
    println!(
        "PostgreSQL {version}, {processors} processors for the database, the controllers and the agents that are played"
    );
    if options.statements {
        client.batch_execute("CREATE EXTENSION pg_stat_statements").await?;
    }
    for part in [Part::Cycles, Part::Idle, Part::Growth, Part::Migrations] {
        if !options.only.is_empty() && !options.only.contains(&part) {
            continue;
        }
        match part {
            Part::Cycles => cycles::run(&server, options).await?,
            Part::Idle => idle::run(&server, options).await?,
            Part::Growth => growth::run(&server, options).await?,
            Part::Migrations => migrations::run(&server, options).await?,
        }
        if options.statements {
            statements(&client).await?;
        }
    }
    drop(client);
    // The figures stand; a server that is slow to stop goes on doing so by itself.
    if let Err(error) = server.stop().await {
        eprintln!("bench: {error}");
    }
    Ok(())
}

/// Prints the statements that took the longest in all since the last time.
async fn statements(client: &Client) -> Result<(), Error> {
    let rows = client
        .query(
            r"SELECT total_exec_time / 1000, calls, mean_exec_time, (rows::float8 / calls)::float8,
                    ((shared_blks_hit + shared_blks_read)::float8 / calls)::float8, (wal_bytes / calls)::float8,
                    left(regexp_replace(query, '\s+', ' ', 'g'), 70)
             FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 16",
            &[],
        )
        .await?;
    let rows = rows
        .iter()
        .map(|row| {
            [
                row.get(6),
                format!("{:.2} s", row.get::<_, f64>(0)),
                row.get::<_, i64>(1).to_string(),
                format!("{:.3} ms", row.get::<_, f64>(2)),
                format!("{:.1}", row.get::<_, f64>(3)),
                format!("{:.0}", row.get::<_, f64>(4)),
                format!("{:.0}", row.get::<_, f64>(5)),
            ]
        })
        .collect();
    let header = ["statement", "in all", "calls", "each", "rows", "pages", "WAL bytes"];
    table::print("Where the time of the database went", header, rows);
    client.batch_execute("SELECT pg_stat_statements_reset()").await?;
    Ok(())
}
