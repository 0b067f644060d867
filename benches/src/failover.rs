//! How long work stands still when one of three controllers is killed.
//!
//! Triggers note, by the clock of the one server that has both databases, every sign of work: each grant and each stored
//! report in the controllers' database, and each batch in the target. An agent of one slot gives such
//! signs one after the other: grant, take, batches, done, stored, the next grant. The longest time between two of them is how
//! long a task was delayed at most, wherever it happened: in the agent's way to another controller, in a grant that was not
//! sent, in a report that was not acknowledged. Where runs wait for each other, it is the longest time between two signs of
//! any agent.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use dunlin_proto::v1::{RunMigrationRequest, RunPendingMigrationsRequest};
use dunlin_shared::postgres::throwaway::Server;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use crate::Error;
use crate::fleet::Fleet;
use crate::measure::{connect, median};

const CONTROLLERS: usize = 3;
const AGENTS: u32 = 6;
/// Rows of the table: 100 ranges of 10 batches of 100, each of which takes about 10 ms.
const ROWS: u32 = 100_000;
/// Runs of a chain, each of which takes about 20 ms.
const CHAIN: usize = 60;
/// What is aimed at, in seconds.
const AIM: f64 = 2.0;
const DEADLINE: Duration = Duration::from_secs(120);

const CONTROL_SIGNS: &str = "
    CREATE TABLE signs (at timestamptz NOT NULL DEFAULT clock_timestamp(), task bigint NOT NULL, epoch bigint NOT NULL,
        agent text NOT NULL);
    CREATE FUNCTION note_sign() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.signs (task, epoch, agent) VALUES (new.id, new.epoch, coalesce(new.agent_id, old.agent_id));
        RETURN NULL;
    END $$;
    CREATE TRIGGER note_sign AFTER UPDATE ON dunlin_controller.tasks FOR EACH ROW
        WHEN (old.state <> new.state AND 'leased' IN (old.state, new.state)) EXECUTE FUNCTION note_sign()";

/// The table that is worked on, whose batches last some time and are signs, each with the lease that it is for.
const TARGET_SIGNS: &str = "
    CREATE TABLE signs (at timestamptz NOT NULL DEFAULT clock_timestamp(), lease text NOT NULL);
    CREATE TABLE accounts (id bigint PRIMARY KEY, n bigint NOT NULL);
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(0.01);
        INSERT INTO public.signs (lease) VALUES (current_setting('dunlin.lease'));
        RETURN NULL;
    END $$;";

/// What is being done while controllers are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// The ranges of one run.
    Ranges,
    /// Runs that wait for each other.
    Chain,
}

/// The figures of one kill, in seconds.
struct Felt {
    before: f64,
    after: f64,
    moved: i64,
}

/// Kills controllers in the middle of work until `kills` of them had agents, for each kind of work, and prints what was felt.
pub(crate) async fn measure(server: &Server, kills: usize) -> Result<(), Error> {
    let (controller, target) = (server.database("controller").await?, server.database("target").await?);
    let mut fleet = Fleet::start_replicas(CONTROLLERS, &controller, &target, AGENTS, 1).await?;
    let (control, data) = (connect(&controller).await?, connect(&target).await?);
    control.batch_execute(CONTROL_SIGNS).await?;
    data.batch_execute(TARGET_SIGNS).await?;
    data.batch_execute(&format!(
        "INSERT INTO accounts SELECT i, 0 FROM generate_series(1, {ROWS}) AS i;
         CREATE TRIGGER slow AFTER UPDATE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION slow()"
    ))
    .await?;
    let definition = "id = \"ranges\"\nname = \"Ranges\"\ndescription = \"The work.\"\nversion = 1\n[[step]]\n\
        name = \"step\"\nbatch = { table = \"accounts\", size = 100, range = 1000, stripes = 1 }\n\
        sql = \"UPDATE accounts SET n = n + 1 WHERE :batch\"\n";
    fleet.register(vec![("ranges".to_owned(), definition.to_owned())]).await?;

    println!(
        "\nKilling one of {CONTROLLERS} controllers, {AGENTS} agents of 1 slot, {kills} kills that hit some of them"
    );
    let mut round = 0;
    for work in [Work::Ranges, Work::Chain] {
        let mut felt = Vec::new();
        while felt.len() < kills {
            let one = kill_once(&mut fleet, &control, &data, work, round).await?;
            eprintln!(
                "kill {round}, {work:?}: {:.0} ms before, {:.0} ms behind it, {} agents moved",
                one.before * 1000.0,
                one.after * 1000.0,
                one.moved
            );
            if one.moved > 0 {
                felt.push(one);
            }
            round += 1;
        }
        print(work, &felt);
    }
    let wrong: i64 =
        data.query_one("SELECT count(*) FROM accounts WHERE n <> (SELECT max(n) FROM accounts)", &[]).await?.get(0);
    if wrong > 0 {
        return Err(Error::Unexpected(format!("{wrong} rows were not changed as often as the others")));
    }
    fleet.stop()
}

fn print(work: Work, felt: &[Felt]) {
    let name = match work {
        Work::Ranges => "ranges of one run, longest standstill of an agent",
        Work::Chain => "runs that wait for each other, longest standstill of all",
    };
    let most = |figure: fn(&Felt) -> f64| felt.iter().map(figure).fold(0.0, f64::max);
    let worst = most(|felt| felt.after);
    println!(
        "{name}: median {:.0} ms, maximum {:.0} ms (before the kill: {:.0} and {:.0} ms) (aim <= {:.0} ms): {}",
        median(felt.iter().map(|felt| felt.after)) * 1000.0,
        worst * 1000.0,
        median(felt.iter().map(|felt| felt.before)) * 1000.0,
        most(|felt| felt.before) * 1000.0,
        AIM * 1000.0,
        if worst <= AIM { "reached" } else { "MISSED" }
    );
}

/// Starts work, kills a controller in the middle of it, waits for the end of the work, and starts the controller again.
async fn kill_once(
    fleet: &mut Fleet,
    control: &Client,
    data: &Client,
    work: Work,
    round: usize,
) -> Result<Felt, Error> {
    control.batch_execute("TRUNCATE signs").await?;
    data.batch_execute("TRUNCATE signs").await?;
    match work {
        Work::Ranges => {
            let request = RunMigrationRequest {
                migration_id: "ranges".to_owned(),
                rerun: round > 0,
                wait_for_agent: true,
                ..Default::default()
            };
            fleet.runs().run_migration(request).await?;
        }
        Work::Chain => {
            let first = 2 + round * CHAIN;
            fleet.register((first..first + CHAIN).map(link).collect()).await?;
            fleet
                .runs()
                .run_pending_migrations(RunPendingMigrationsRequest { wait_for_agent: true, ..Default::default() })
                .await?;
        }
    }
    // Each time at another place.
    let (signs, some) = match work {
        Work::Ranges => (data, 100 + round * 53 % 500),
        Work::Chain => (control, 20 + round * 17 % 60),
    };
    wait(signs, &format!("SELECT count(*) >= {some} FROM signs")).await?;
    let row = control
        .query_one(
            "SELECT extract(epoch FROM clock_timestamp())::float8,
                    (SELECT count(*) FROM dunlin_controller.events WHERE type = 'agent_connected')",
            &[],
        )
        .await?;
    let (killed, connected): (f64, i64) = (row.get(0), row.get(1));
    let victim = round % CONTROLLERS;
    fleet.kill_controller(victim)?;
    wait(control, "SELECT count(*) = 0 FROM dunlin_controller.runs WHERE ended_at IS NULL").await?;
    let row = control
        .query_one(
            "SELECT (SELECT count(*) FROM dunlin_controller.runs WHERE state <> 'succeeded'),
                    (SELECT count(*) FROM dunlin_controller.events WHERE type = 'agent_connected')",
            &[],
        )
        .await?;
    if row.get::<_, i64>(0) > 0 {
        return Err(Error::Unexpected("a run did not succeed".to_owned()));
    }
    let moved = row.get::<_, i64>(1) - connected;
    let (before, after) = standstills(control, data, work, killed).await?;
    fleet.restart_controller(victim).await?;
    Ok(Felt { before, after, moved })
}

fn link(number: usize) -> (String, String) {
    let id = format!("link-{number}");
    let text = format!(
        "id = \"{id}\"\nname = \"{id}\"\ndescription = \"A link.\"\nversion = {number}\n[[step]]\nname = \"step\"\n\
         sql = \"SELECT pg_sleep(0.02)\"\n"
    );
    (id, text)
}

/// The longest times between two signs that ended before and behind a moment, in seconds.
async fn standstills(control: &Client, data: &Client, work: Work, killed: f64) -> Result<(f64, f64), Error> {
    const AT: &str = "extract(epoch FROM at)::float8";
    let mut by_agent: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut holders: HashMap<String, String> = HashMap::new();
    for row in control.query(&format!("SELECT {AT}, task || '.' || epoch, agent FROM signs"), &[]).await? {
        let agent: String = row.get(2);
        holders.insert(row.get(1), agent.clone());
        let agent = if work == Work::Chain { String::new() } else { agent };
        by_agent.entry(agent).or_default().push(row.get(0));
    }
    if work == Work::Ranges {
        for row in data.query(&format!("SELECT {AT}, lease FROM signs"), &[]).await? {
            if let Some(agent) = holders.get(row.get::<_, &str>(1)) {
                by_agent.entry(agent.clone()).or_default().push(row.get(0));
            }
        }
    }
    let (mut before, mut after) = (0.0_f64, 0.0_f64);
    for (agent, signs) in &mut by_agent {
        signs.sort_by(f64::total_cmp);
        for pair in signs.windows(2) {
            let standstill = pair[1] - pair[0];
            if standstill > AIM / 4.0 {
                eprintln!(
                    "{agent} stood still from {:.3} s to {:.3} s behind the kill",
                    pair[0] - killed,
                    pair[1] - killed
                );
            }
            let longest = if pair[1] < killed { &mut before } else { &mut after };
            *longest = longest.max(standstill);
        }
    }
    Ok((before, after))
}

/// Waits until a query says true.
async fn wait(client: &Client, sql: &str) -> Result<(), Error> {
    let deadline = Instant::now() + DEADLINE;
    while !client.query_one(sql, &[]).await?.get::<_, bool>(0) {
        if Instant::now() > deadline {
            return Err(Error::Unexpected(format!("waited {} s in vain: {sql}", DEADLINE.as_secs())));
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
