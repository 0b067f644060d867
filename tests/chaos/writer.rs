//! The application of a target: it inserts and updates rows while they are migrated, and goes on after every crash.
//!
//! It keeps count of what was answered, and of what was sent and never answered: the rows at the end must lie between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::again::Again;
use crate::set::{Kind, table, transform};
use crate::violations::Violations;

/// What was done to a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Rows inserted, as answered.
    pub(crate) inserted: u64,
    /// Inserts without an answer.
    pub(crate) perhaps_inserted: u64,
    /// Rows updated, as answered.
    pub(crate) touched: u64,
    /// Updates without an answer.
    pub(crate) perhaps_touched: u64,
}

/// What a writer is told from outside.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// The rounds that have begun on the target.
    pub(crate) rounds: AtomicUsize,
    /// True when it is to end.
    pub(crate) stop: AtomicBool,
}

/// Writes until it is told to stop; returns what it has done to each table.
pub(crate) async fn write(
    url: String,
    seed: u64,
    order: Arc<Order>,
    violations: Violations,
) -> BTreeMap<(usize, Kind), Count> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut counts: BTreeMap<(usize, Kind), Count> = BTreeMap::new();
    let mut database = Again::new(url);
    while !order.stop.load(Ordering::SeqCst) {
        // Now and then it is quiet: each of its commits brings to the disk what others have committed before.
        let pause = if rng.random_bool(0.02) { 500..2000 } else { 2..15 };
        sleep(Duration::from_millis(rng.random_range(pause))).await;
        let rounds = order.rounds.load(Ordering::SeqCst);
        if rounds == 0 {
            continue;
        }
        // It is down.
        let Some(client) = database.client().await else { continue };
        // Mostly where the migrations are, sometimes where they have been.
        let round = if rng.random_bool(0.8) { rounds - 1 } else { rng.random_range(0..rounds) };
        let kind = *Kind::ALL.choose(&mut rng).unwrap_or(&Kind::Big);
        let inserts = rng.random_bool(0.5);
        let sql = if inserts { insert(round, kind, &mut rng) } else { touch(round, kind, &mut rng) };
        let count = counts.entry((round, kind)).or_default();
        match client.execute(&sql, &[]).await {
            Ok(rows) if inserts => count.inserted += rows,
            Ok(rows) => count.touched += rows,
            Err(error) => match error.code().map(|code| code.code().to_owned()) {
                // The table is not made yet.
                Some(code) if code == "42P01" => {}
                // The server stops or starts: refused, or rolled back.
                Some(code) if code.starts_with("57P") => {}
                None if inserts => count.perhaps_inserted += 1,
                None => count.perhaps_touched += 1,
                Some(code) => violations.add(format!("the writer was refused: {code}: {error}: {sql}")),
            },
        }
    }
    counts
}

fn insert(round: usize, kind: Kind, rng: &mut StdRng) -> String {
    let (table, migration) = (table(round, kind), transform(round, kind));
    // Between the keys of the seed rows.
    let id = rng.random_range(0..3000_i64) * 10 + rng.random_range(1..10_i64);
    let was = rng.random_range(1..1000);
    let (columns, values) = match kind {
        Kind::Big | Kind::Code => ("id, ", format!("{id}, ")),
        Kind::Uuid => ("", String::new()),
        Kind::Pair => ("region, no, ", format!("'region {}', {id}, ", id % 7)),
    };
    format!(
        "INSERT INTO {table} ({columns}was, n, born) SELECT {values}{was}, {was}, coalesce((SELECT applications \
         FROM dunlin.migrations_registry WHERE id = '{migration}'), 0) ON CONFLICT DO NOTHING"
    )
}

fn touch(round: usize, kind: Kind, rng: &mut StdRng) -> String {
    let table = table(round, kind);
    let i = rng.random_range(1..800);
    let which = match kind {
        Kind::Big | Kind::Code => format!("id = {}", i * 10),
        Kind::Uuid => {
            let from: u128 = rng.random();
            format!("id = (SELECT min(id::text)::uuid FROM {table} WHERE id >= '{from:032x}'::uuid)")
        }
        Kind::Pair => format!("region = 'region {}' AND no = {}", i % 7, i * 10),
    };
    format!("UPDATE {table} SET touched = touched + 1 WHERE {which}")
}
