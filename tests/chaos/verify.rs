//! The end: once everything is healed and all work is done, every promise is looked at.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_tests::database::Database;

use crate::history::{self, Change, Entry, Told};
use crate::records::{self, Applied, Control};
use crate::set::{Kind, Round, table, transform};
use crate::violations::Violations;
use crate::writer::Count;

/// How often a row can be transformed at most so that it can be told.
const MOST_TIMES: u32 = 12;

/// What was counted on the way.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) rows: i64,
    pub(crate) batches: i64,
    pub(crate) leases: usize,
    pub(crate) events: usize,
    pub(crate) succeeded: usize,
    pub(crate) failed: usize,
    pub(crate) cancelled: usize,
}

/// A target, its writer's counts and its watcher's story.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) name: &'static str,
    pub(crate) database: Database,
    pub(crate) counts: &'a BTreeMap<(usize, Kind), Count>,
    pub(crate) story: Vec<Told>,
    /// The number of the last event before the watcher began.
    pub(crate) watched_from: i64,
}

/// Looks at everything.
pub(crate) async fn all(
    control: &Database,
    targets: &[Target<'_>],
    rounds: &[Round],
    violations: &Violations,
) -> Totals {
    let recorded = Control::read(control).await;
    let mut totals = Totals { leases: recorded.grants.len(), ..Totals::default() };
    for run in &recorded.runs {
        match run.life.state.as_str() {
            "succeeded" => totals.succeeded += 1,
            "failed" => totals.failed += 1,
            "cancelled" => totals.cancelled += 1,
            state => violations.add(format!("run {} of {} is {state} at the end", run.life.id, run.migration)),
        }
        if let Some((sqlstate, message)) = &run.failure
            && !explained(sqlstate)
        {
            violations.add(format!(
                "run {} of {} on {} failed for no fault's reason: {sqlstate} {message}",
                run.life.id, run.migration, run.target
            ));
        }
    }
    violations.extend(history::grants(&recorded.grants));
    leftovers(control, violations).await;
    for target in targets {
        let registry = records::registry(&target.database).await;
        let events = recorded.events.get(target.name).map_or(&[][..], Vec::as_slice);
        totals.events += events.len();
        violations.extend(in_target(target.name, history::numbers(events)));
        violations.extend(in_target(target.name, history::leases(events)));
        for run in recorded.runs.iter().filter(|run| run.target == target.name) {
            let of_run: Vec<history::Event> = events.iter().filter(|event| event.run == run.life.id).cloned().collect();
            violations.extend(in_target(target.name, history::life(&run.life, &of_run)));
        }
        let told: Vec<Told> = recorded.told.get(target.name).into_iter().flatten().cloned().collect();
        let told: Vec<Told> = told.into_iter().filter(|told| told.sequence > target.watched_from).collect();
        violations.extend(in_target(target.name, history::watched(&target.story, &told)));
        runs(target.name, &recorded, &registry, violations);
        copy_of_registry(control, target.name, &registry, violations).await;

        let ledger = records::ledger(&target.database).await;
        violations.extend(in_target(target.name, history::checkpoints(&ledger)));
        taken(target.name, &ledger, &recorded, violations);
        totals.batches += target
            .database
            .value::<i64>(
                "SELECT count(*) FROM (SELECT batches > lag(batches) OVER (PARTITION BY migration, step, range ORDER BY id)
                     AS advanced FROM chaos.ledger WHERE kind = 'range') x WHERE advanced",
            )
            .await;
        order(&target.database, target.name, violations).await;
        for round in rounds {
            totals.rows += rows(target, round, &registry, violations).await;
            told_once(target, round, &registry, violations).await;
        }
        let expected: BTreeSet<&str> = rounds
            .iter()
            .flat_map(|round| &round.definitions)
            .filter_map(|(file, _)| file.strip_suffix(".toml"))
            .collect();
        let found: BTreeSet<&str> = registry.keys().map(String::as_str).collect();
        for id in expected.symmetric_difference(&found) {
            violations.add(format!("{}: {id} is registered and not applied, or the other way round", target.name));
        }
    }
    totals
}

fn in_target(target: &str, wrong: Vec<String>) -> impl Iterator<Item = String> {
    wrong.into_iter().map(move |sentence| format!("{target}: {sentence}"))
}

/// True when a fault can make a run fail so: all tries met a lock that somebody held, who was paused or cut off.
fn explained(sqlstate: &str) -> bool {
    matches!(sqlstate, "55P03" | "40P01" | "40001")
}

/// No task is open, and what succeeded is whole.
async fn leftovers(control: &Database, violations: &Violations) {
    for (what, sql) in [
        (
            "tasks are ready or leased",
            "SELECT format('task %s of run %s', id, run_id) FROM dunlin_controller.tasks WHERE state IN ('ready', 'leased')",
        ),
        (
            "runs have succeeded without all of their steps and tasks",
            "SELECT format('run %s', r.id) FROM dunlin_controller.runs r WHERE r.state = 'succeeded' AND (
                 EXISTS (SELECT FROM dunlin_controller.run_steps s WHERE s.run_id = r.id AND s.state <> 'succeeded')
                 OR EXISTS (SELECT FROM dunlin_controller.tasks t WHERE t.run_id = r.id AND t.state <> 'done'))",
        ),
        (
            "ranges do not fit together",
            "SELECT format('range %s of run %s', range, run_id) FROM (
                 SELECT run_id, range, range_low, step,
                        lag(range) OVER w AS before, lag(range_high) OVER w AS before_high
                 FROM dunlin_controller.tasks WHERE kind = 'range' WINDOW w AS (PARTITION BY run_id, step ORDER BY range)) x
             WHERE before = range - 1 AND range_low IS DISTINCT FROM before_high OR range = 1 AND range_low IS NOT NULL",
        ),
    ] {
        let found: Vec<String> = control.values(sql).await;
        if !found.is_empty() {
            violations.add(format!("control: {what}: {}", found.join(", ")));
        }
    }
}

/// The runs that have succeeded are the applications in the registry.
fn runs(target: &str, control: &Control, registry: &BTreeMap<String, Applied>, violations: &Violations) {
    let mut succeeded: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for run in control.runs.iter().filter(|run| run.target == target && run.life.state == "succeeded") {
        succeeded.entry(&run.migration).or_default().push(run.life.id);
    }
    for (id, row) in registry {
        let runs = succeeded.remove(id.as_str()).unwrap_or_default();
        if i64::try_from(runs.len()).ok() != Some(i64::from(row.applications)) || runs.last() != Some(&row.run) {
            violations.add(format!(
                "{target}: {id} was applied {} times, the last time by run {}; the runs that have succeeded are {runs:?}",
                row.applications, row.run
            ));
        }
    }
    for (id, runs) in succeeded {
        violations.add(format!("{target}: {id} is not applied; the runs that have succeeded are {runs:?}"));
    }
}

/// The controllers know what each target has, and never knew something else: none was put back to an earlier state.
async fn copy_of_registry(
    control: &Database,
    target: &str,
    registry: &BTreeMap<String, Applied>,
    violations: &Violations,
) {
    let sql = "SELECT sequence, message FROM dunlin_controller.events WHERE target = $1 AND type = 'registry_followed'";
    for row in control.rows(sql, &[&target]).await {
        let (sequence, message): (i64, String) = (row.get(0), row.get(1));
        violations.add(format!("{target}: event {sequence}: {message}"));
    }
    let sql = "SELECT migration_id, applications, run_id FROM dunlin_controller.target_registry WHERE target = $1";
    let known = control.rows(sql, &[&target]).await;
    let known: BTreeMap<String, (i32, i64)> = known.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let found: BTreeMap<String, (i32, i64)> =
        registry.iter().map(|(id, row)| (id.clone(), (row.applications, row.run))).collect();
    if known != found {
        violations.add(format!("{target}: its registry says {found:?}, and the controllers know {known:?}"));
    }
}

/// Every task that was taken was granted under that epoch.
fn taken(target: &str, ledger: &[Entry], control: &Control, violations: &Violations) {
    for entry in ledger {
        let Change::Now { epoch, .. } = entry.change else { continue };
        let (migration, step, range) = entry.place.clone();
        if epoch > 0 && !control.granted.contains(&(target.to_owned(), migration, step, range, epoch)) {
            violations
                .add(format!("{target}: {:?} was taken under epoch {epoch}, which was never granted", entry.place));
        }
    }
}

/// Nothing was begun before what it runs after was applied, and nothing is left of what was interrupted.
async fn order(database: &Database, target: &str, violations: &Violations) {
    for (what, sql) in [
        (
            "migrations were begun before what they run after was applied",
            "SELECT format('%s before %s', r.id, d.id) FROM dunlin.migrations_registry r
             JOIN dunlin.migrations_registry d ON d.id = ANY (r.run_after) WHERE r.started_at < d.applied_at",
        ),
        ("checkpoints are left", "SELECT format('%s %s %s', migration, step, range) FROM dunlin.checkpoints"),
        ("indexes are invalid", "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"),
    ] {
        let found: Vec<String> = database.values(sql).await;
        if !found.is_empty() {
            violations.add(format!("{target}: {what}: {}", found.join(", ")));
        }
    }
}

/// Each row was transformed as often as it must be. Returns how many there are.
async fn rows(
    target: &Target<'_>,
    round: &Round,
    registry: &BTreeMap<String, Applied>,
    violations: &Violations,
) -> i64 {
    let mut all = 0;
    for kind in Kind::ALL {
        let (name, migration) = (table(round.number, kind), transform(round.number, kind));
        // What is not applied is told elsewhere.
        let Some(applied) = registry.get(&migration) else { continue };
        let (a, times) = (applied.applications, times());
        // A row that was inserted after `born` applications was met by all later ones but the first: that one may have begun
        // before.
        let wrong = format!(
            "times IS NULL OR seed AND times <> {a} OR NOT seed AND (times > {a} - born OR times < {a} - born - 1)"
        );
        let sql = format!(
            "SELECT count(*) FILTER (WHERE seed), count(*) FILTER (WHERE NOT seed), coalesce(sum(touched), 0)::bigint,
                    count(*) FILTER (WHERE {wrong}), (array_agg(to_jsonb(x)::text) FILTER (WHERE {wrong}))[1:3]
             FROM (SELECT *, {times} AS times FROM {name}) x"
        );
        let found = &target.database.rows(&sql, &[]).await[0];
        let (seeds, others, touched, wrong): (i64, i64, i64, i64) =
            (found.get(0), found.get(1), found.get(2), found.get(3));
        all += seeds + others;
        if wrong > 0 {
            let sample: Vec<String> = found.get(4);
            violations.add(format!(
                "{}: {wrong} rows of {name} were not transformed as often as {migration} was applied ({a} times): {}",
                target.name,
                sample.join(", ")
            ));
        }
        let count = target.counts.get(&(round.number, kind)).copied().unwrap_or_default();
        let between = |found: i64, sure: u64, unsure: u64| {
            u64::try_from(found).is_ok_and(|found| (sure..=sure + unsure).contains(&found))
        };
        if seeds != i64::from(round.rows)
            || !between(others, count.inserted, count.perhaps_inserted)
            || !between(touched, count.touched, count.perhaps_touched)
        {
            violations.add(format!(
                "{}: {name} has {seeds} seed rows of {}, {others} others and {touched} updates; the writer has {count:?}",
                target.name, round.rows
            ));
        }
        if applied.rows < seeds || applied.rows > seeds + others {
            violations.add(format!("{}: the registry says {} rows of {migration}", target.name, applied.rows));
        }
        if kind == Kind::Code && applied.tripled != Some(applied.rows) {
            violations.add(format!(
                "{}: the counter of {migration} is {:?}, not {}",
                target.name, applied.tripled, applied.rows
            ));
        }
    }
    all
}

/// How often `3 n + 1` was done to a row, as SQL.
fn times() -> String {
    let mut sql = "CASE n".to_owned();
    for times in 0..=MOST_TIMES {
        let factor = 3_i64.pow(times);
        sql.push_str(&format!(" WHEN was * {factor} + {} THEN {times}", (factor - 1) / 2));
    }
    sql + " END"
}

/// What must not be done twice was done as often as its migration was applied.
async fn told_once(target: &Target<'_>, round: &Round, registry: &BTreeMap<String, Applied>, violations: &Violations) {
    let number = round.number;
    for (word, migration) in
        [("make", "make"), ("label", "label"), ("tally", "tally"), ("copy/make", "copy"), ("copy/tell", "copy")]
    {
        let Some(applied) = registry.get(&format!("r{number}-{migration}")) else { continue };
        let sql = format!("SELECT count(*) FROM chaos.told WHERE migration = 'r{number}-{word}'");
        let told: i64 = target.database.value(&sql).await;
        if told != i64::from(applied.applications) {
            violations.add(format!(
                "{}: r{number}-{word} was done {told} times, and applied {} times",
                target.name, applied.applications
            ));
        }
    }
    if !registry.contains_key(&format!("r{number}-copy")) {
        return;
    }
    let code = table(number, Kind::Code);
    let sql = format!(
        "SELECT count(*) FROM (SELECT t.id, t.seed, count(c.id) AS copies FROM {code} t
             LEFT JOIN r{number}_copy c ON c.id = t.id GROUP BY t.id, t.seed) x WHERE copies > 1 OR seed AND copies = 0"
    );
    let wrong: i64 = target.database.value(&sql).await;
    if wrong > 0 {
        violations.add(format!("{}: {wrong} rows of {code} are not once in r{number}_copy", target.name));
    }
    if registry.contains_key(&format!("r{number}-index")) {
        let sql = format!("SELECT to_regclass('{}_n') IS NOT NULL", table(number, Kind::Big));
        if !target.database.value::<bool>(&sql).await {
            violations.add(format!("{}: the index of r{number}-index is missing", target.name));
        }
    }
}
