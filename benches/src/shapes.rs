//! `make bench-shapes`: statements of many shapes, as one statement and as batches by Dunlin.
//!
//! Real migrations are seldom the plain UPDATE of the other measurements: they join, delete, insert, have keys of other types. Some cost
//! much for each batch whatever its rows. Each shape is measured next to itself as one statement, on identical fresh copies of the
//! same database, round after round; the figures are medians. Dunlin has one agent of one slot.

use comfy_table::{CellAlignment, Table, presets};
use dunlin_proto::v1::RunMigrationRequest;
use dunlin_shared::postgres::throwaway::Server;
use tokio::time::Instant;

use crate::Error;
use crate::contender::wait_for;
use crate::fleet::Fleet;
use crate::measure::{connect, median};
use crate::scenario::{fresh, read_into_memory};

/// What is aimed at: the time of Dunlin over that of the one statement.
const AIM: f64 = 1.5;
const AIM_WITH_FIXED_COST: f64 = 2.5;

const TEMPLATE: &str = "shapes_template";
const COPY: &str = "shapes_copy";
const CONTROLLER: &str = "shapes_controller";

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rows of each table.
    #[arg(long, default_value_t = 200_000)]
    rows: u32,
    /// Rounds; the figures are medians over them.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Only the shapes whose names have one of these texts.
    #[arg(long)]
    only: Vec<String>,
}

struct Shape {
    name: &'static str,
    table: &'static str,
    /// The statement with `:batch`, which is `true` for the one statement.
    sql: &'static str,
    /// Counts the rows that are not changed yet.
    left: &'static str,
    /// True where each batch costs much whatever its rows.
    fixed: bool,
}

/// The tables, for `{rows}` rows each.
const TABLES: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, name text NOT NULL, note text NOT NULL, role text, total bigint);
    INSERT INTO accounts SELECT i, 'User ' || i, repeat(md5(i::text), 4) FROM generate_series(1, {rows}) i;
    CREATE TABLE orders (id bigint PRIMARY KEY, account_id bigint NOT NULL, amount bigint NOT NULL, note text NOT NULL);
    INSERT INTO orders SELECT i, 1 + i % {rows}, i % 1000, md5(i::text) FROM generate_series(1, {rows} * 2) i;
    CREATE TABLE names (account_id bigint NOT NULL, name text NOT NULL);
    CREATE TABLE by_uuid (id uuid PRIMARY KEY, name text NOT NULL, note text NOT NULL, role text);
    INSERT INTO by_uuid SELECT gen_random_uuid(), name, note FROM accounts;
    CREATE TABLE by_text (code text PRIMARY KEY, name text NOT NULL, note text NOT NULL, role text);
    INSERT INTO by_text SELECT 'account-' || id, name, note FROM accounts;
    CREATE TABLE by_three (tenant int, day date, id bigint, name text NOT NULL, note text NOT NULL, role text, PRIMARY KEY (tenant, day, id));
    INSERT INTO by_three SELECT id % 20, '2026-01-01'::date + (id % 300)::int, id, name, note FROM accounts;
    CREATE TABLE documents (id bigint PRIMARY KEY, body jsonb NOT NULL);
    INSERT INTO documents SELECT id, jsonb_build_object('name', name, 'note', note, 'role', 'student') FROM accounts;
    CREATE TABLE tagged (id bigint PRIMARY KEY, tags text[] NOT NULL, note text NOT NULL);
    INSERT INTO tagged SELECT id, ARRAY['a', name], note FROM accounts;
    CREATE SCHEMA \"Shop\";
    CREATE TABLE \"Shop\".\"User Accounts\" (\"Id\" bigint PRIMARY KEY, \"Name\" text NOT NULL, note text NOT NULL, \"Role\" text);
    INSERT INTO \"Shop\".\"User Accounts\" SELECT id, name, note FROM accounts";

const SHAPES: [Shape; 11] = [
    Shape {
        name: "UPDATE with a literal",
        table: "accounts",
        sql: "UPDATE accounts SET role = 'instructor' WHERE :batch",
        left: "SELECT count(*) FROM accounts WHERE role IS NULL",
        fixed: false,
    },
    Shape {
        name: "UPDATE FROM an aggregate",
        table: "accounts",
        sql: "UPDATE accounts SET total = o.total FROM (SELECT account_id, sum(amount) AS total FROM orders GROUP BY account_id) o \
              WHERE o.account_id = accounts.id AND :batch",
        left: "SELECT count(*) FROM accounts WHERE total IS NULL",
        fixed: true,
    },
    Shape {
        name: "DELETE USING an aggregate",
        table: "accounts",
        sql: "DELETE FROM accounts a USING (SELECT account_id FROM orders GROUP BY account_id HAVING count(*) > 1) o \
              WHERE o.account_id = a.id AND :batch(a)",
        left: "SELECT count(*) FROM accounts",
        fixed: true,
    },
    Shape {
        name: "INSERT SELECT",
        table: "accounts",
        sql: "INSERT INTO names (account_id, name) SELECT id, upper(name) FROM accounts WHERE :batch",
        left: "SELECT (SELECT count(*) FROM accounts) - (SELECT count(*) FROM names)",
        fixed: false,
    },
    Shape {
        name: "uuid key",
        table: "by_uuid",
        sql: "UPDATE by_uuid SET role = upper(name) WHERE :batch",
        left: "SELECT count(*) FROM by_uuid WHERE role IS NULL",
        fixed: false,
    },
    Shape {
        name: "text key",
        table: "by_text",
        sql: "UPDATE by_text SET role = upper(name) WHERE :batch",
        left: "SELECT count(*) FROM by_text WHERE role IS NULL",
        fixed: false,
    },
    Shape {
        name: "key of three columns",
        table: "by_three",
        sql: "UPDATE by_three SET role = upper(name) WHERE :batch",
        left: "SELECT count(*) FROM by_three WHERE role IS NULL",
        fixed: false,
    },
    Shape {
        name: "jsonb",
        table: "documents",
        sql: "UPDATE documents SET body = jsonb_set(body, '{role}', '\"instructor\"') WHERE :batch",
        left: "SELECT count(*) FROM documents WHERE body ->> 'role' = 'student'",
        fixed: false,
    },
    Shape {
        name: "array",
        table: "tagged",
        sql: "UPDATE tagged SET tags = array_append(tags, 'b') WHERE :batch",
        left: "SELECT count(*) FROM tagged WHERE NOT 'b' = ANY (tags)",
        fixed: false,
    },
    Shape {
        name: "CTE with UPDATE",
        table: "accounts",
        sql: "WITH largest AS (SELECT account_id, max(amount) AS amount FROM orders GROUP BY account_id) \
              UPDATE accounts a SET total = l.amount FROM largest l WHERE l.account_id = a.id AND :batch(a)",
        left: "SELECT count(*) FROM accounts WHERE total IS NULL",
        fixed: true,
    },
    Shape {
        name: "quoted names",
        table: "\"Shop\".\"User Accounts\"",
        sql: "UPDATE \"Shop\".\"User Accounts\" SET \"Role\" = upper(\"Name\") WHERE :batch",
        left: "SELECT count(*) FROM \"Shop\".\"User Accounts\" WHERE \"Role\" IS NULL",
        fixed: false,
    },
];

/// Measures each shape, and prints the figures.
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let server = Server::start_with(&[
        ("shared_buffers", "1GB"),
        ("max_wal_size", "16GB"),
        ("checkpoint_timeout", "30min"),
        ("autovacuum", "off"),
    ])
    .await?;
    server.command(&format!("CREATE DATABASE {TEMPLATE}")).await?;
    {
        let client = connect(&server.url(TEMPLATE)).await?;
        client.batch_execute(&TABLES.replace("{rows}", &options.rows.to_string())).await?;
        client.batch_execute("VACUUM (ANALYZE, FREEZE)").await?;
    }
    let wanted = |shape: &&Shape| options.only.is_empty() || options.only.iter().any(|text| shape.name.contains(text));
    let mut series: Vec<(&Shape, Vec<f64>, Vec<f64>)> =
        SHAPES.iter().filter(wanted).map(|shape| (shape, Vec::new(), Vec::new())).collect();
    for round in 1..=options.rounds {
        for (shape, plain, batched) in &mut series {
            plain.push(one_statement(&server, shape).await?);
            let (seconds, notes) = dunlin(&server, shape).await?;
            batched.push(seconds);
            let last = (plain.last().copied().unwrap_or(f64::NAN), seconds);
            eprintln!("round {round}: {}: {:.2} s, Dunlin {:.2} s", shape.name, last.0, last.1);
            if round == 1 {
                notes.iter().for_each(|note| eprintln!("    {note}"));
            }
        }
    }
    print(options, series);
    server.stop().await?;
    Ok(())
}

fn print(options: &Options, series: Vec<(&Shape, Vec<f64>, Vec<f64>)>) {
    println!("\n{} rows, {} rounds, medians; one agent of one slot", options.rows, options.rounds);
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header([
        "shape",
        "one statement",
        "Dunlin",
        "min-max",
        "times as long",
        "aim",
        "",
    ]);
    for column in 1..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (shape, plain, batched) in series {
        let all = batched.iter().copied();
        let range = format!("{:.2}-{:.2}", all.clone().fold(f64::INFINITY, f64::min), all.fold(0.0, f64::max));
        let (plain, batched) = (median(plain), median(batched));
        let aim = if shape.fixed { AIM_WITH_FIXED_COST } else { AIM };
        table.add_row([
            shape.name.to_owned(),
            format!("{plain:.2} s"),
            format!("{batched:.2} s"),
            range,
            format!("{:.2}", batched / plain),
            format!("<= {aim}"),
            if batched <= plain * aim { "reached" } else { "MISSED" }.to_owned(),
        ]);
    }
    println!("{table}");
}

/// A fresh copy of the tables, and an empty database for the controllers.
async fn prepare(server: &Server, shape: &Shape) -> Result<(), Error> {
    fresh(server, COPY, TEMPLATE).await?;
    read_into_memory(&server.url(COPY), shape.table).await?;
    server.command(&format!("DROP DATABASE IF EXISTS {CONTROLLER} WITH (FORCE)")).await?;
    server.command(&format!("CREATE DATABASE {CONTROLLER}")).await?;
    server.command("CHECKPOINT").await.map_err(Error::from)
}

async fn one_statement(server: &Server, shape: &Shape) -> Result<f64, Error> {
    prepare(server, shape).await?;
    let client = connect(&server.url(COPY)).await?;
    let statement = shape.sql.replace(":batch(a)", "true").replace(":batch", "true");
    let start = Instant::now();
    client.batch_execute(&statement).await?;
    let seconds = start.elapsed().as_secs_f64();
    changed(server, shape).await?;
    Ok(seconds)
}

/// The time from the call to the success of the run, and what the agent told of it.
async fn dunlin(server: &Server, shape: &Shape) -> Result<(f64, Vec<String>), Error> {
    prepare(server, shape).await?;
    let fleet = Fleet::start(&server.url(CONTROLLER), &server.url(COPY), 1, 1).await?;
    let definition = format!(
        "id = \"change\"\nname = \"Change\"\ndescription = \"The measured change.\"\nversion = 1\n\
         [[step]]\nname = \"change\"\nbatch = {{ table = '{}' }}\nsql = '''{}'''\n",
        shape.table, shape.sql
    );
    fleet.register(vec![("change".to_owned(), definition)]).await?;
    let start = Instant::now();
    let request = RunMigrationRequest { migration_id: "change".to_owned(), ..Default::default() };
    let run = fleet.runs().run_migration(request).await?.into_inner().run;
    let run = run.ok_or_else(|| Error::Unexpected("the migration was skipped".to_owned()))?;
    wait_for(fleet.runs(), vec![run.id]).await?;
    let seconds = start.elapsed().as_secs_f64();
    changed(server, shape).await?;
    let notes = connect(&server.url(CONTROLLER))
        .await?
        .query("SELECT message FROM dunlin_controller.events WHERE type = 'agent_note' ORDER BY id", &[])
        .await?;
    fleet.stop()?;
    Ok((seconds, notes.iter().map(|row| row.get(0)).collect()))
}

async fn changed(server: &Server, shape: &Shape) -> Result<(), Error> {
    let left: i64 = connect(&server.url(COPY)).await?.query_one(shape.left, &[]).await?.get(0);
    if left == 0 { Ok(()) } else { Err(Error::Unexpected(format!("{}: {left} rows were not changed", shape.name))) }
}
