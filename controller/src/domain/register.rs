//! Whether a set of migrations may be registered.
//!
//! What must stay true: the definition of a migration that a target has applied is the one that is registered, so that
//! everything ever applied can be looked up; and a run executes the definition that was registered when it was queued.

use std::collections::HashMap;

use dunlin_shared::ids::{MigrationId, RunId, TargetName};
use dunlin_shared::migration::Checksum;

/// What becomes of a migration of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Registered,
    /// It was known with another definition, which is replaced.
    Changed,
    /// It was known with this definition.
    Unchanged,
}

/// Why a migration of a set is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A target has it applied from another definition.
    Applied {
        /// The migration.
        migration: MigrationId,
        /// The target.
        target: TargetName,
    },
    /// A run of the definition that it had has not ended.
    Running {
        /// The migration.
        migration: MigrationId,
        /// The target of the run.
        target: TargetName,
        /// The run.
        run: RunId,
    },
}

impl Refusal {
    /// The migration.
    #[must_use]
    pub fn migration(&self) -> &MigrationId {
        match self {
            Self::Applied { migration, .. } | Self::Running { migration, .. } => migration,
        }
    }

    /// What stands in the way, and what to do.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Applied { migration, target } => format!(
                "the definition of {migration} differs from the one that target {target} has applied; restore its text \
                 and put the difference into a new migration"
            ),
            Self::Running { migration, target, run } => format!(
                "the definition of {migration} was changed while run {run} of it on target {target} has not ended; \
                 register it when the run has ended"
            ),
        }
    }
}

/// What is known of the migrations of a set.
#[derive(Debug, Default)]
pub struct Known {
    /// The checksums that are registered.
    pub registered: HashMap<MigrationId, Checksum>,
    /// What targets have applied.
    pub applied: Vec<(MigrationId, TargetName, Checksum)>,
    /// Runs that have not ended.
    pub unfinished: Vec<(MigrationId, TargetName, RunId)>,
}

/// Decides for each migration of a set, in its order.
///
/// # Errors
/// Everything that stands in the way of any of them; nothing may be registered then.
pub fn decide(set: &[(MigrationId, Checksum)], known: &Known) -> Result<Vec<Outcome>, Vec<Refusal>> {
    let mut applied: HashMap<&MigrationId, Vec<(&TargetName, &Checksum)>> = HashMap::new();
    for (migration, target, checksum) in &known.applied {
        applied.entry(migration).or_default().push((target, checksum));
    }
    let mut unfinished: HashMap<&MigrationId, Vec<(&TargetName, RunId)>> = HashMap::new();
    for (migration, target, run) in &known.unfinished {
        unfinished.entry(migration).or_default().push((target, *run));
    }
    let mut outcomes = Vec::with_capacity(set.len());
    let mut refusals = Vec::new();
    for (migration, checksum) in set {
        let outcome = match known.registered.get(migration) {
            Some(registered) if registered == checksum => Outcome::Unchanged,
            Some(_) => Outcome::Changed,
            None => Outcome::Registered,
        };
        outcomes.push(outcome);
        if outcome == Outcome::Unchanged {
            continue;
        }
        for (target, applied) in applied.get(migration).into_iter().flatten() {
            if *applied != checksum {
                refusals.push(Refusal::Applied { migration: migration.clone(), target: (*target).clone() });
            }
        }
        for (target, run) in unfinished.get(migration).into_iter().flatten() {
            refusals.push(Refusal::Running { migration: migration.clone(), target: (*target).clone(), run: *run });
        }
    }
    if refusals.is_empty() { Ok(outcomes) } else { Err(refusals) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MigrationId {
        MigrationId::parse(text).unwrap()
    }

    fn checksum(text: &str) -> Checksum {
        Checksum::from_stored(text)
    }

    #[test]
    fn a_definition_that_a_target_has_applied_cannot_change_but_can_come_back() {
        let known = Known {
            registered: HashMap::from([(id("a"), checksum("1"))]),
            applied: vec![(id("a"), TargetName::default(), checksum("1"))],
            unfinished: Vec::new(),
        };
        assert_eq!(decide(&[(id("a"), checksum("1"))], &known), Ok(vec![Outcome::Unchanged]));
        let refusals = decide(&[(id("a"), checksum("2")), (id("b"), checksum("3"))], &known).unwrap_err();
        assert_eq!(refusals, [Refusal::Applied { migration: id("a"), target: TargetName::default() }]);

        let followed = Known { registered: HashMap::from([(id("a"), checksum("0"))]), ..known };
        assert_eq!(decide(&[(id("a"), checksum("1"))], &followed), Ok(vec![Outcome::Changed]));
    }

    #[test]
    fn a_failed_run_is_mended_by_another_definition_but_not_an_unfinished_one() {
        let mut known = Known { registered: HashMap::from([(id("a"), checksum("1"))]), ..Known::default() };
        assert_eq!(decide(&[(id("a"), checksum("2"))], &known), Ok(vec![Outcome::Changed]));
        known.unfinished.push((id("a"), TargetName::default(), RunId(4)));
        assert!(decide(&[(id("a"), checksum("2"))], &known).is_err());
    }
}
