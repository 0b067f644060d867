//! What is measured: three tables, a set of small migrations, and how long the death of a controller is felt.

use clap::ValueEnum;
use dunlin_proto::v1::RunPendingMigrationsRequest;
use dunlin_shared::postgres::throwaway::Server;
use tokio::time::Instant;

use crate::contender::{Change, Contender, wait_for};
use crate::fleet::Fleet;
use crate::measure::{connect, median};
use crate::report::{self, Series};
use crate::{Error, Options, failover};

/// The scenarios by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// A bigint key, an index on another column, an unindexed column updated.
    Bigint,
    /// A uuid key.
    Uuid,
    /// The updated column is indexed.
    Indexed,
    /// 200 trivial migrations.
    Small,
    /// One of three controllers is killed, again and again.
    Failover,
}

const COLUMNS: &str = "name text NOT NULL, email text NOT NULL, role text NOT NULL, note text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()";
const VALUES: &str = "'User ' || i, 'user' || i || '@example.org', (ARRAY['student', 'teacher', 'admin'])[1 + i % 3],
    repeat(md5(i::text), 4)";

struct Table {
    name: Name,
    title: &'static str,
    id_column: &'static str,
    id_value: &'static str,
    /// Executed after the rows are there.
    after: &'static str,
    change: Change,
}

const TABLES: [Table; 3] = [
    Table {
        name: Name::Bigint,
        title: "bigint key, UPDATE of a new text column that no index has",
        id_column: "bigint",
        id_value: "i",
        after: "",
        change: Change {
            table: "accounts",
            key: "id",
            key_type: "bigint",
            update: "UPDATE accounts SET display = upper(name)",
            unchanged: "SELECT count(*) FROM accounts WHERE display IS DISTINCT FROM upper(name)",
        },
    },
    Table {
        name: Name::Uuid,
        title: "random uuid key, UPDATE of a new text column that no index has",
        id_column: "uuid",
        id_value: "gen_random_uuid()",
        after: "",
        change: Change {
            table: "accounts",
            key: "id",
            key_type: "uuid",
            update: "UPDATE accounts SET display = upper(name)",
            unchanged: "SELECT count(*) FROM accounts WHERE display IS DISTINCT FROM upper(name)",
        },
    },
    Table {
        name: Name::Indexed,
        title: "bigint key, UPDATE of an indexed column",
        id_column: "bigint",
        id_value: "i",
        after: "CREATE INDEX ON accounts (display)",
        change: Change {
            table: "accounts",
            key: "id",
            key_type: "bigint",
            update: "UPDATE accounts SET display = upper(name)",
            unchanged: "SELECT count(*) FROM accounts WHERE display IS DISTINCT FROM upper(name)",
        },
    },
];

const ALL: [Contender; 7] = [
    Contender::Statement,
    Contender::Loop(1),
    Contender::Loop(2),
    Contender::ByHand(1),
    Contender::ByHand(2),
    Contender::Dunlin { agents: 1, slots: 1 },
    Contender::Dunlin { agents: 2, slots: 1 },
];

/// Measures what the options ask for, and prints it.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    // Nobody is disturbed by checkpoints or by vacuum, which would run beside those that commit as they go, and would come after
    // the clock has stopped for those that do not.
    let server = Server::start_with(&[
        ("shared_buffers", "1GB"),
        ("max_wal_size", "16GB"),
        ("checkpoint_timeout", "30min"),
        ("autovacuum", "off"),
    ])
    .await?;
    let version: String = connect(&server.url("postgres")).await?.query_one("SHOW server_version", &[]).await?.get(0);
    println!(
        "PostgreSQL {version}, {} rounds, medians; one fresh copy of the database for each contender, read into memory before",
        options.rounds
    );
    let wanted = |name: Name| options.only.is_empty() || options.only.contains(&name);
    for table in TABLES.iter().filter(|table| wanted(table.name)) {
        let rows = if table.name == Name::Bigint { options.rows } else { options.rows / 2 };
        let series = table_figures(&server, table, rows, options.rounds).await?;
        report::print(&format!("{rows} rows, {}", table.title), rows, &series);
        if table.name == Name::Bigint {
            report::print_aims(&series);
        }
    }
    if wanted(Name::Small) {
        small(&server, options.rounds).await?;
    }
    if wanted(Name::Failover) {
        failover::measure(&server, options.kills).await?;
    }
    server.stop().await?;
    Ok(())
}

async fn table_figures(server: &Server, table: &Table, rows: u32, rounds: u32) -> Result<Vec<Series>, Error> {
    server.command("CREATE DATABASE template_of_round").await?;
    {
        let client = connect(&server.url("template_of_round")).await?;
        client
            .batch_execute(&format!(
                "CREATE TABLE accounts (id {} PRIMARY KEY, {COLUMNS});
                 INSERT INTO accounts SELECT {}, {VALUES} FROM generate_series(1, {rows}) AS i;
                 CREATE INDEX ON accounts (email);
                 ALTER TABLE accounts ADD COLUMN display text;
                 {}",
                table.id_column, table.id_value, table.after
            ))
            .await?;
        client.batch_execute("VACUUM (ANALYZE, FREEZE) accounts").await?;
    }
    let mut series: Vec<Series> =
        contenders(table.name).map(|contender| Series { contender, rounds: Vec::new() }).collect();
    for round in 1..=rounds {
        for one in &mut series {
            fresh(server, "copy_of_round", "template_of_round").await?;
            read_into_memory(&server.url("copy_of_round"), table.change.table).await?;
            server.command("DROP DATABASE IF EXISTS controller_of_round").await?;
            server.command("CREATE DATABASE controller_of_round").await?;
            server.command("CHECKPOINT").await?;
            let figures = one
                .contender
                .measure(table.change, &server.url("copy_of_round"), &server.url("controller_of_round"))
                .await?;
            eprintln!("round {round}: {}: {:.2} s", one.contender.label(), figures.seconds);
            one.rounds.push(figures);
        }
    }
    server.command("DROP DATABASE copy_of_round WITH (FORCE)").await?;
    server.command("DROP DATABASE template_of_round WITH (FORCE)").await?;
    Ok(series)
}

/// The order by hand is written for the first table only.
fn contenders(table: Name) -> impl Iterator<Item = Contender> {
    ALL.into_iter().filter(move |contender| !matches!(contender, Contender::ByHand(_)) || table == Name::Bigint)
}

pub(crate) async fn fresh(server: &Server, name: &str, template: &str) -> Result<(), Error> {
    server.command(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
    server.command(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
    Ok(())
}

/// Reads a table and its indexes into the server's memory, where those of a database in use are. All contenders would need the
/// same time for it. Read in the order of an index, since a scan of a large table keeps only a few of its pages.
pub(crate) async fn read_into_memory(url: &str, table: &str) -> Result<(), Error> {
    let client = connect(url).await?;
    client.batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off").await?;
    let first_columns = client
        .query(
            "SELECT pg_get_indexdef(indexrelid, 1, false) FROM pg_index WHERE indrelid = $1::text::regclass",
            &[&table],
        )
        .await?;
    for column in &first_columns {
        let column: String = column.get(0);
        let whole_rows = format!("SELECT each_row FROM {table} AS each_row ORDER BY {column} OFFSET 0");
        client.batch_execute(&format!("SELECT count(each_row) FROM ({whole_rows}) AS rows")).await?;
    }
    Ok(())
}

/// 100 CREATE TABLE and 100 ADD COLUMN, each a migration, by `RunPendingMigrations`; next to a client that executes the same
/// statements one after the other, each in a transaction with a row that records it.
async fn small(server: &Server, rounds: u32) -> Result<(), Error> {
    let (mut plain, mut dunlin) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let target = server.database("plain").await?;
        plain.push(small_loop(&target).await?);

        let (controller, target) = (server.database("controller").await?, server.database("target").await?);
        let fleet = Fleet::start(&controller, &target, 2, 2).await?;
        fleet.register(small_set()).await?;
        let start = Instant::now();
        let runs = fleet
            .runs()
            .run_pending_migrations(RunPendingMigrationsRequest { wait_for_agent: true, ..Default::default() })
            .await?
            .into_inner()
            .runs;
        wait_for(fleet.runs(), runs.iter().map(|run| run.id).collect()).await?;
        dunlin.push(start.elapsed().as_secs_f64());
        let applied: i64 =
            connect(&target).await?.query_one("SELECT count(*) FROM dunlin.migrations_registry", &[]).await?.get(0);
        if applied != 200 {
            return Err(Error::Unexpected(format!("{applied} of 200 migrations are applied")));
        }
        fleet.stop()?;
    }
    let (plain, figure) = (median(plain), median(dunlin));
    let verdict = if figure <= 2.0 { "reached" } else { "MISSED" };
    println!("\n200 trivial migrations, one transaction each, by a plain client: {plain:.2} s");
    println!("200 trivial migrations by run --pending: {figure:.2} s (aim <= 2): {verdict}");
    Ok(())
}

async fn small_loop(url: &str) -> Result<f64, Error> {
    let client = connect(url).await?;
    client.batch_execute("CREATE TABLE applied (id text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())").await?;
    let start = Instant::now();
    for (id, sql) in small_statements() {
        client.batch_execute(&format!("BEGIN; {sql}; INSERT INTO applied (id) VALUES ('{id}'); COMMIT")).await?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// The migrations in order: each an id and its statement.
fn small_statements() -> impl Iterator<Item = (String, String)> {
    let tables = (1..=100).map(|n| (format!("table-{n}"), format!("CREATE TABLE small_{n} (id bigint PRIMARY KEY)")));
    let columns = (1..=100).map(|n| (format!("column-{n}"), format!("ALTER TABLE small_{n} ADD COLUMN note text")));
    tables.chain(columns)
}

fn small_set() -> Vec<(String, String)> {
    (1_u32..)
        .zip(small_statements())
        .map(|(version, (id, sql))| {
            let run_after = id.strip_prefix("column-").map_or_else(String::new, |n| format!("\"table-{n}\""));
            let text = format!(
                "id = \"{id}\"\nname = \"{id}\"\ndescription = \"Small.\"\nversion = {version}\n\
                 run_after = [{run_after}]\n[[step]]\nname = \"step\"\nsql = \"{sql}\"\n"
            );
            (id, text)
        })
        .collect()
}
