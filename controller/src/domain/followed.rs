//! A target says what it has applied, and its word is taken.
//!
//! What a controller knows of a target is a copy. It differs after a restore, after another controller's work, or simply
//! since a report was lost. What must stay true: the copy ends as the target's own registry, and a difference that no run
//! of this controller explains is told. One thing stands against the first: a report can be older than a row that was
//! stored in the meantime, since agents read the registry before they send it, and can stand still or be held up in between
//! for any time. A row is therefore given up only for a report that was asked for after the row was stored; any other report
//! that lacks the row is a reason to ask.

use std::collections::{BTreeMap, HashMap};

use dunlin_shared::ids::{MigrationId, RunId, TargetName};
use serde_json::Value;

use super::event::{Event, Severity, Type};
use super::report::Applied;

/// What is known of a row of the registry of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// The row.
    pub row: Applied,
    /// True when the report was asked for after the row was stored: it cannot be older than the row.
    pub settled: bool,
}

/// What to change so that the copy is what the target says.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Rows to write.
    pub write: Vec<Applied>,
    /// Migrations that the target does not have any more.
    pub remove: Vec<String>,
    /// Migrations that the target turned out to have, and no unfinished run explains it.
    pub gained: Vec<String>,
    /// Migrations whose row is another one: applied another number of times, or from another definition.
    pub altered: Vec<String>,
    /// True when the report lacks something and may be older than what it lacks.
    pub doubted: bool,
}

/// Compares what is known with what a target says. `runs` are the unfinished runs on it, by migration.
#[must_use]
pub fn compare(known: &[Known], reported: Vec<Applied>, runs: &HashMap<MigrationId, RunId>) -> Changes {
    let known: BTreeMap<&str, &Known> = known.iter().map(|known| (known.row.id.as_str(), known)).collect();
    let reported: BTreeMap<String, Applied> = reported.into_iter().map(|row| (row.id.clone(), row)).collect();
    let mut changes = Changes::default();
    for (id, known) in &known {
        if reported.contains_key(*id) {
            continue;
        }
        if known.settled {
            changes.remove.push((*id).to_owned());
        } else {
            changes.doubted = true;
        }
    }
    for (id, row) in reported {
        let explained = runs.get(id.as_str()).is_some_and(|run| run.0 == row.run_id);
        match known.get(id.as_str()) {
            None if explained => changes.write.push(row),
            None => {
                changes.gained.push(id);
                changes.write.push(row);
            }
            Some(known) if !known.settled && row.applications < known.row.applications => changes.doubted = true,
            Some(known) if known.row == row => {}
            Some(known) => {
                let same = known.row.applications == row.applications
                    && known.row.checksum == row.checksum
                    && known.row.version == row.version;
                if !same && !explained {
                    changes.altered.push(id);
                }
                changes.write.push(row);
            }
        }
    }
    changes
}

impl Changes {
    /// The event that tells of differences, where there are any that no run explains.
    #[must_use]
    pub fn event(&self, target: &TargetName) -> Option<Event> {
        let parts: Vec<String> = [
            ("it has", &self.gained),
            ("it does not have", &self.remove),
            ("it has another application of", &self.altered),
        ]
        .into_iter()
        .filter(|(_, ids)| !ids.is_empty())
        .map(|(verb, ids)| format!("{verb} {}", enumerate(ids)))
        .collect();
        if parts.is_empty() {
            return None;
        }
        let message = format!(
            "the registry of target {target} differs from what was known, and its word was taken: {}",
            parts.join("; ")
        );
        let list = |ids: &[String]| Value::from(ids.to_vec());
        Some(
            Event::new(Type::RegistryFollowed, Severity::Warning, message)
                .of_target(target)
                .with("gained", list(&self.gained))
                .with("lost", list(&self.remove))
                .with("altered", list(&self.altered)),
        )
    }
}

fn enumerate(ids: &[String]) -> String {
    const MOST: usize = 5;
    let shown = ids.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    if ids.len() > MOST { format!("{shown} and {} more", ids.len() - MOST) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, applications: i32, run_id: i64) -> Applied {
        Applied {
            id: id.to_owned(),
            version: 1,
            name: String::new(),
            checksum: "c".to_owned(),
            revision: 1,
            applications,
            run_id,
            agent_id: String::new(),
            rows: 0,
            result: serde_json::Map::new(),
            applied_at: None,
            last_applied_at: None,
        }
    }

    fn known(id: &str, settled: bool) -> Known {
        Known { row: row(id, 1, 1), settled }
    }

    #[test]
    fn a_restored_target_loses_what_it_had() {
        let changes = compare(&[known("a", true), known("b", true)], vec![row("a", 1, 1)], &HashMap::new());
        assert_eq!(changes.remove, ["b"]);
        assert!(changes.write.is_empty());
        let target = TargetName::default();
        assert!(changes.event(&target).unwrap().message.ends_with("it does not have b"));
    }

    #[test]
    fn a_report_that_is_older_than_a_row_takes_nothing_away() {
        let doubted = Changes { doubted: true, ..Changes::default() };
        assert_eq!(compare(&[known("a", false)], Vec::new(), &HashMap::new()), doubted);
        let again = Known { row: row("a", 2, 2), settled: false };
        assert_eq!(compare(&[again], vec![row("a", 1, 1)], &HashMap::new()), doubted);
    }

    #[test]
    fn what_an_unfinished_run_has_applied_is_no_surprise() {
        let runs = HashMap::from([(MigrationId::parse("a").unwrap(), RunId(7))]);
        let changes = compare(&[], vec![row("a", 1, 7)], &runs);
        assert_eq!(changes.write.len(), 1);
        assert!(changes.event(&TargetName::default()).is_none());
        let changes = compare(&[], vec![row("a", 1, 6)], &runs);
        assert_eq!(changes.gained, ["a"]);
    }
}
