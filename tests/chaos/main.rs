//! `make chaos`: everything that can break is broken at random while migrations run, and afterwards every promise is checked.
//!
//! Three controllers, four agents and three PostgreSQL servers, with a proxy on every way between them. [`plan`] draws the
//! faults from a seed, [`world`] lets them happen. Meanwhile an [`operator`] for each target runs round after round of the
//! migrations of [`set`], a [`writer`] inserts and updates rows, a [`watcher`] follows the history, and an [`auditor`] compares
//! what the controllers say with what the targets have. Triggers record every lease and every batch. Then everything is healed, the work is finished, and [`verify`] looks at every row, every checkpoint,
//! every event and every run.
//!
//! A violation is a broken promise. It is told with the place to look at, the logs are kept, and the exit code is 1.

mod again;
mod api;
mod auditor;
mod history;
mod operator;
mod plan;
mod proxy;
mod records;
mod set;
mod verify;
mod violations;
mod watcher;
mod world;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use clap::Parser;
use dunlin_proto::client;
use dunlin_proto::v1::ListAgentsRequest;
use dunlin_tests::database::Database;
use dunlin_tests::until::until;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::api::Api;
use crate::operator::Operator;
use crate::plan::{AGENTS, Node, TARGETS};
use crate::set::Round;
use crate::verify::{Target, Totals};
use crate::violations::Violations;
use crate::watcher::Story;
use crate::world::World;
use crate::writer::Order;

/// How long the work may take to be finished once everything is healed. A dead connection is noticed within half a minute, and
/// an agent may hold several.
const FINISH: Duration = Duration::from_secs(300);

/// How long the last reports and looks may take after that.
const SETTLE: Duration = Duration::from_secs(60);

/// Breaks everything that can break, while migrations run, and checks every promise.
#[derive(Debug, Parser)]
#[command(name = "dunlin-chaos", version)]
struct Options {
    /// How long faults are injected
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    /// What the faults and the migrations are drawn from [default: a fresh one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("chaos: SECONDS={} SEED={seed}", options.seconds);
    let logs = tempfile::Builder::new().prefix("dunlin-chaos-").tempdir().expect("a directory for the logs");
    let violations = Violations::default();
    tokio::select! {
        () = run(seed, Duration::from_secs(options.seconds), logs.path(), &violations) => {}
        // Whatever was started is stopped as it is dropped.
        () = dunlin_agent::shutdown_signal() => return ExitCode::from(130),
    }
    if violations.count() == 0 {
        return ExitCode::SUCCESS;
    }
    println!("logs: {}", logs.keep().display());
    println!("once more with the same faults: make chaos SECONDS={} SEED={seed}", options.seconds);
    ExitCode::FAILURE
}

async fn run(seed: u64, length: Duration, logs: &Path, violations: &Violations) {
    let world = Arc::new(World::start(logs, violations.clone()).await);
    agents_connected(&Api::new(world.controllers())).await;
    let control = Database::connect(world.url(Node::Control)).await;
    control.execute(include_str!("grants.sql")).await;

    let (over, is_over) = watch::channel(false);
    let mut writers = JoinSet::new();
    let mut operators = JoinSet::new();
    let mut followers = JoinSet::new();
    let mut orders = Vec::new();
    let mut stories: Vec<(i64, Story)> = Vec::new();
    for (index, target) in TARGETS.into_iter().enumerate() {
        let database = Database::connect(world.url(Node::Target(index))).await;
        until("an agent has made the ledger", async || {
            let sql = "SELECT to_regclass('dunlin.checkpoints') IS NOT NULL";
            database.value::<bool>(sql).await.then_some(())
        })
        .await;
        database.execute(include_str!("audit.sql")).await;
        let order = Arc::new(Order::default());
        orders.push(Arc::clone(&order));
        let salt = u64::try_from(index).unwrap_or(0);
        let url = world.url(Node::Target(index)).to_owned();
        let writer = writer::write(url, seed.wrapping_add(salt), Arc::clone(&order), violations.clone());
        writers.spawn(async move { (index, writer.await) });
        // The watcher begins behind an event: from the very beginning it would be told of what has not ended only.
        let last = until("the target is reached", async || {
            let sql = format!("SELECT last_sequence FROM dunlin_controller.targets WHERE name = '{target}'");
            Some(control.value::<i64>(&sql).await).filter(|last| *last > 0)
        })
        .await;
        let story = Story::default();
        stories.push((last, Arc::clone(&story)));
        followers.spawn(watcher::watch(Api::new(world.controllers()), target, last, story, violations.clone()));
        let operator =
            Operator { api: Api::new(world.controllers()), target, seed, order, violations: violations.clone() };
        let over = is_over.clone();
        operators.spawn(async move {
            let rounds = operator.work(over).await;
            (rounds, operator)
        });
    }
    drop(control);
    let urls = [Node::Target(0), Node::Target(1)].map(|target| world.url(target).to_owned());
    followers.spawn(auditor::audit(world.url(Node::Control).to_owned(), urls, violations.clone()));
    let guard = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.guard().await })
    };

    let faults = plan::draw(seed, length);
    let began = Instant::now();
    world::suffer_all(&world, &faults, length).await;
    let _told = over.send(true);
    let finished = timeout(FINISH, finish(&mut operators, violations)).await;
    let rounds = finished.unwrap_or_else(|_| {
        violations.add(format!("the work is not finished {} s after all faults were over", FINISH.as_secs()));
        0
    });
    guard.abort();
    let _aborted = guard.await;
    for order in &orders {
        order.stop.store(true, Ordering::SeqCst);
    }
    let mut counts = BTreeMap::new();
    while let Some(written) = writers.join_next().await {
        let (index, count) = written.expect("a writer does not fail");
        counts.insert(index, count);
    }
    let control = Database::connect(world.url(Node::Control)).await;
    settle(&control, &stories, violations).await;
    followers.shutdown().await;

    let rounds: Vec<Round> = (0..rounds).map(|number| Round::draw(seed, number)).collect();
    let mut targets = Vec::new();
    for (index, name) in TARGETS.into_iter().enumerate() {
        targets.push(Target {
            name,
            database: Database::connect(world.url(Node::Target(index))).await,
            counts: &counts[&index],
            story: stories[index].1.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            watched_from: stories[index].0,
        });
    }
    let totals = verify::all(&control, &targets, &rounds, violations).await;
    if violations.count() > 0 {
        keep_tables(logs, &control, &targets).await;
        world.keep_logs().await;
    }
    report(&faults, &rounds, &totals, began.elapsed(), violations);
    drop((control, targets));
    if let Ok(world) = Arc::try_unwrap(world) {
        world.stop().await;
    }
}

async fn agents_connected(api: &Api) {
    let wait = async {
        loop {
            let send = |channel, request| async move { client::fleet(channel).list_agents(request).await };
            let agents = api.call(ListAgentsRequest::default(), send).await;
            let agents = agents.expect("the list of agents").agents;
            let ready = |agent: &&dunlin_proto::v1::Agent| agent.connected && agent.targets.len() == TARGETS.len();
            if agents.iter().filter(ready).count() == AGENTS {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SETTLE, wait).await.expect("all agents connect at the beginning");
}

/// Waits until the operators have finished their rounds, and what the others registered last. Returns the number of rounds.
async fn finish(operators: &mut JoinSet<(usize, Operator)>, violations: &Violations) -> usize {
    let mut most = 0;
    let mut all = Vec::new();
    while let Some(done) = operators.join_next().await {
        let (rounds, operator) = done.expect("an operator does not fail");
        most = most.max(rounds);
        all.push(operator);
    }
    for operator in all {
        if let Err(operator::Refused(why)) = operator.bring_to_date().await {
            violations.add(format!("{}: {why}", operator.target));
        }
    }
    most
}

/// Waits until the controllers know what the targets have, nothing is open, and the watchers have seen the last event.
async fn settle(control: &Database, stories: &[(i64, Story)], violations: &Violations) {
    let deadline = Instant::now() + SETTLE;
    let mut open = Vec::new();
    loop {
        open.clear();
        let leases: i64 =
            control.value("SELECT count(*) FROM dunlin_controller.tasks WHERE state IN ('ready', 'leased')").await;
        if leases > 0 {
            open.push(format!("{leases} tasks are open"));
        }
        for (index, target) in TARGETS.iter().enumerate() {
            let last = control
                .value::<i64>(&format!(
                    "SELECT coalesce(max(sequence), 0) FROM dunlin_controller.events
                     WHERE target = '{target}' AND run_id IS NOT NULL"
                ))
                .await;
            let story = &stories[index].1;
            let seen = story.lock().unwrap_or_else(PoisonError::into_inner).last().map_or(0, |told| told.sequence);
            if seen < last {
                open.push(format!("the watcher of {target} has seen event {seen}, and the last is {last}"));
            }
        }
        if open.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            violations.extend(open.into_iter().map(|what| format!("{what} {} s after the end", SETTLE.as_secs())));
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Writes down what the databases have recorded, for whoever looks for the cause.
async fn keep_tables(logs: &Path, control: &Database, targets: &[Target<'_>]) {
    let mut tables: Vec<(String, &Database, &str)> = Vec::new();
    for table in ["events", "runs", "run_steps", "tasks", "target_registry", "agents"] {
        tables.push((format!("control-{table}.jsonl"), control, table));
    }
    for (file, database, table) in tables {
        let sql = format!("SELECT to_jsonb(t)::text FROM dunlin_controller.{table} t");
        let rows: Vec<String> = database.values(&sql).await;
        let _unwritten = std::fs::write(logs.join(file), rows.join("\n"));
    }
    for (file, database, table) in [("control-grants.jsonl".to_owned(), control, "chaos.grants")].into_iter().chain(
        targets.iter().flat_map(|target| {
            ["chaos.ledger", "dunlin.migrations_registry", "dunlin.checkpoints"]
                .map(|table| (format!("{}-{}.jsonl", target.name, table), &target.database, table))
        }),
    ) {
        let rows: Vec<String> = database.values(&format!("SELECT to_jsonb(t)::text FROM {table} t")).await;
        let _unwritten = std::fs::write(logs.join(file), rows.join("\n"));
    }
}

fn report(
    faults: &[(Duration, plan::Fault)],
    rounds: &[Round],
    totals: &Totals,
    took: Duration,
    violations: &Violations,
) {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, fault) in faults {
        *kinds.entry(fault.kind()).or_default() += 1;
    }
    println!("faults injected: {}", faults.len());
    for (kind, count) in kinds {
        println!("  {count:>5}  {kind}");
    }
    println!("rounds: {} on each of {} targets, finished after {} s", rounds.len(), TARGETS.len(), took.as_secs());
    println!("batches committed: {}", totals.batches);
    println!("rows checked: {}", totals.rows);
    println!("leases granted: {}, events: {}", totals.leases, totals.events);
    println!(
        "runs succeeded: {}, failed and run again: {}, cancelled behind them: {}",
        totals.succeeded, totals.failed, totals.cancelled
    );
    println!("violations: {}", violations.count());
}
