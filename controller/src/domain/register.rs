//! Whether a set of migrations may be registered, and what becomes of what is registered already.
//!
//! What must stay true: everything that a target ever applied can be looked up, so a definition that a target has stays as it
//! was for that target, under its revision; a run executes the definition that it was queued with, or never begins; and what
//! somebody else has registered is neither run nor taken back by accident.

use std::collections::{BTreeMap, HashMap, HashSet};

use dunlin_shared::ids::{MigrationId, RunId, TargetName};
use dunlin_shared::migration::{Checksum, Version};

/// What is done with migrations that are registered, applied nowhere, and not in the set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// The set is refused.
    #[default]
    Refuse,
    /// They are taken back.
    Withdraw,
    /// They stay registered.
    Keep,
}

/// What becomes of a migration of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Registered,
    /// It was known with another definition, which no target has applied.
    Changed,
    /// Its words have changed, and what it does has not: that holds for all targets.
    Reworded,
    /// It does something else for targets that do not have it; those that have it keep what they have.
    Amended,
    /// It was known with this definition.
    Unchanged,
}

/// What becomes of a migration of a set, and who keeps another revision of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// What becomes of it.
    pub outcome: Outcome,
    /// The targets that have another definition of it applied, and its revision.
    pub kept: Vec<(TargetName, i32)>,
}

/// What follows for everything that is registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the migrations of the set, in its order.
    pub set: Vec<Decided>,
    /// What is taken back.
    pub withdrawn: Vec<MigrationId>,
    /// Runs that have not begun, whose definition is no more the registered one.
    pub cancelled: Vec<Unfinished>,
}

/// A migration of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its id.
    pub migration: MigrationId,
    /// The checksum of its definition.
    pub checksum: Checksum,
    /// The checksum of what it does.
    pub deed: Checksum,
}

/// A migration as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// Its version.
    pub version: Version,
    /// The checksum of its definition.
    pub checksum: Checksum,
    /// True when a target has it.
    pub applied: bool,
    /// Who registered it, as it was stated; may be empty.
    pub by: String,
    /// When its definition was registered, for people.
    pub since: String,
}

/// What a target has of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The migration.
    pub migration: MigrationId,
    /// The target.
    pub target: TargetName,
    /// The checksum of the definition.
    pub checksum: Checksum,
    /// The revision, as the target says; 0 when it does not.
    pub revision: i32,
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The run.
    pub run: RunId,
    /// Its migration.
    pub migration: MigrationId,
    /// Its target.
    pub target: TargetName,
    /// True when a task of it was ever granted.
    pub begun: bool,
}

/// A run that has ended, and not in success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The run.
    pub run: RunId,
    /// Its migration.
    pub migration: MigrationId,
    /// Its target.
    pub target: TargetName,
}

/// What is known beside the set.
#[derive(Debug, Default)]
pub struct Known {
    /// What is registered.
    pub registered: HashMap<MigrationId, Current>,
    /// What targets have of the migrations of the set.
    pub held: Vec<Held>,
    /// What the definitions with these checksums do, as far as they are kept here.
    pub deeds: HashMap<Checksum, Checksum>,
    /// Runs that have not ended.
    pub unfinished: Vec<Unfinished>,
    /// The last runs on targets that do not have the migration, where they failed.
    pub failed: Vec<Ended>,
    /// Runs that may have left a part of a migration that is missing in the set.
    pub partial: Vec<Ended>,
}

/// Why a set is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A target has a migration applied that did something else.
    Applied {
        /// The migration.
        migration: MigrationId,
        /// The target.
        target: TargetName,
        /// The revision that it has; 0 when it does not say.
        revision: i32,
    },
    /// A run of a migration that is changed or taken back has begun and not ended.
    Running {
        /// The migration.
        migration: MigrationId,
        /// The target of the run.
        target: TargetName,
        /// The run.
        run: RunId,
    },
    /// A migration is registered, applied nowhere, and not in the set.
    Missing {
        /// The migration.
        migration: MigrationId,
        /// Its version.
        version: Version,
        /// Who registered it, as it was stated; may be empty.
        by: String,
        /// When, for people.
        since: String,
    },
    /// A migration cannot be taken back: a target may have a part of it.
    Partial {
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
            Self::Applied { migration, .. }
            | Self::Running { migration, .. }
            | Self::Missing { migration, .. }
            | Self::Partial { migration, .. } => migration,
        }
    }

    /// What stands in the way, and what to do.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Applied { migration, target, revision } => {
                let has = match revision {
                    0 => "what".to_owned(),
                    revision => format!("revision {revision}, which"),
                };
                format!(
                    "the definition of {migration} does something else than {has} target {target} has applied; restore its \
                     text and put the difference into a new migration, or register it for targets that do not have it: \
                     `dunlin register --amend {migration} --reason TEXT`"
                )
            }
            Self::Running { migration, target, run } => format!(
                "{migration} cannot change now: run {run} of it on target {target} has begun and not ended; register when the \
                 run has ended"
            ),
            Self::Missing { migration, version, by, since } => {
                let by = if by.is_empty() { "somebody who did not say who" } else { by };
                format!("{migration} (version {version}), registered at {since} by {by}")
            }
            Self::Partial { migration, target, run } => format!(
                "{migration} cannot be taken back: run {run} of it on target {target} has begun and not succeeded, so the \
                 target may have a part of it; put its file back, mend it and run it to its end, or leave it registered: \
                 `dunlin register --add`"
            ),
        }
    }
}

/// What is registered, applied nowhere, and not among these, in version order.
#[must_use]
pub fn missing(set: &HashSet<MigrationId>, registered: &HashMap<MigrationId, Current>) -> Vec<MigrationId> {
    let mut missing: Vec<(Version, &MigrationId)> = registered
        .iter()
        .filter(|(id, current)| !current.applied && !set.contains(*id))
        .map(|(id, current)| (current.version, id))
        .collect();
    missing.sort_unstable();
    missing.into_iter().map(|(_, id)| id.clone()).collect()
}

/// Decides for each migration of a set, in its order, and for what is missing in it. `amend` are the migrations that may do
/// something else for targets that do not have them.
///
/// # Errors
/// Everything that stands in the way of any of them; nothing may be registered then.
pub fn decide(
    set: &[Proposed],
    policy: Missing,
    amend: &HashSet<MigrationId>,
    known: &Known,
) -> Result<Decision, Vec<Refusal>> {
    let held = by_migration(&known.held, |held| &held.migration);
    let unfinished = by_migration(&known.unfinished, |run| &run.migration);
    let failed: HashSet<&MigrationId> = known.failed.iter().map(|run| &run.migration).collect();
    let mut decision = Decision::default();
    let mut refusals = Vec::new();
    let mut settle = |migration: &MigrationId, refusals: &mut Vec<Refusal>| {
        for run in unfinished.get(migration).into_iter().flatten() {
            match run.begun {
                true => refusals.push(Refusal::Running {
                    migration: migration.clone(),
                    target: run.target.clone(),
                    run: run.run,
                }),
                false => decision.cancelled.push((*run).clone()),
            }
        }
    };
    let mut decided = Vec::with_capacity(set.len());
    for proposed in set {
        let others =
            held.get(&proposed.migration).into_iter().flatten().filter(|held| held.checksum != proposed.checksum);
        let others: Vec<&Held> = others.copied().collect();
        let current = known.registered.get(&proposed.migration);
        let does_the_same = |checksum: &Checksum| known.deeds.get(checksum) == Some(&proposed.deed);
        let different: Vec<&Held> = others.iter().copied().filter(|held| !does_the_same(&held.checksum)).collect();
        let outcome = match current {
            Some(current) if current.checksum == proposed.checksum => Outcome::Unchanged,
            // What one target has must not keep another, where it failed, from being mended.
            _ if !different.is_empty()
                && !amend.contains(&proposed.migration)
                && !failed.contains(&proposed.migration) =>
            {
                refusals.extend(different.iter().map(|held| Refusal::Applied {
                    migration: proposed.migration.clone(),
                    target: held.target.clone(),
                    revision: held.revision,
                }));
                Outcome::Unchanged
            }
            _ if !different.is_empty() => Outcome::Amended,
            Some(current) if does_the_same(&current.checksum) => Outcome::Reworded,
            Some(_) => Outcome::Changed,
            None => Outcome::Registered,
        };
        if outcome != Outcome::Unchanged {
            settle(&proposed.migration, &mut refusals);
        }
        let kept = others.into_iter().map(|held| (held.target.clone(), held.revision)).collect();
        decided.push(Decided { outcome, kept });
    }
    let in_set: HashSet<MigrationId> = set.iter().map(|proposed| proposed.migration.clone()).collect();
    let missing = missing(&in_set, &known.registered);
    match policy {
        Missing::Keep => {}
        Missing::Refuse => refusals.extend(missing.into_iter().filter_map(|migration| {
            let current = known.registered.get(&migration)?;
            Some(Refusal::Missing {
                migration,
                version: current.version,
                by: current.by.clone(),
                since: current.since.clone(),
            })
        })),
        Missing::Withdraw => {
            for migration in &missing {
                settle(migration, &mut refusals);
                // Of several runs on a target the last says it for all.
                let partial = known.partial.iter().filter(|run| run.migration == *migration);
                let last: BTreeMap<&TargetName, &Ended> = partial.map(|run| (&run.target, run)).collect();
                refusals.extend(last.into_values().map(|run| Refusal::Partial {
                    migration: migration.clone(),
                    target: run.target.clone(),
                    run: run.run,
                }));
            }
            decision.withdrawn = missing;
        }
    }
    decision.set = decided;
    if refusals.is_empty() { Ok(decision) } else { Err(refusals) }
}

fn by_migration<'x, T>(all: &'x [T], of: impl Fn(&'x T) -> &'x MigrationId) -> HashMap<&'x MigrationId, Vec<&'x T>> {
    let mut found: HashMap<&MigrationId, Vec<&T>> = HashMap::new();
    for one in all {
        found.entry(of(one)).or_default().push(one);
    }
    found
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

    /// A definition whose checksum is a letter for what it does and more for its words.
    fn proposed(name: &str, text: &str) -> Proposed {
        Proposed { migration: id(name), checksum: checksum(text), deed: checksum(&text[..1]) }
    }

    fn known(registered: &[(&str, &str)], held: &[(&str, &str, &str)]) -> Known {
        let current = |(version, (name, text)): (i64, &(&str, &str))| {
            let applied = held.iter().any(|(migration, ..)| migration == name);
            let version = Version::new(version).unwrap();
            let (by, since) = ("ann@desk".to_owned(), "noon".to_owned());
            (id(name), Current { version, checksum: checksum(text), applied, by, since })
        };
        let held: Vec<Held> = held
            .iter()
            .map(|(name, target, text)| Held {
                migration: id(name),
                target: TargetName::parse(*target).unwrap(),
                checksum: checksum(text),
                revision: 1,
            })
            .collect();
        let deeds = ["a1", "a2", "b1"].map(|text| (checksum(text), checksum(&text[..1])));
        Known {
            registered: (1..).zip(registered).map(current).collect(),
            held,
            deeds: deeds.into(),
            ..Known::default()
        }
    }

    fn outcomes(set: &[Proposed], known: &Known, amend: &[&str]) -> Result<Vec<Outcome>, Vec<Refusal>> {
        let amend = amend.iter().map(|name| id(name)).collect();
        let decision = decide(set, Missing::Keep, &amend, known)?;
        Ok(decision.set.into_iter().map(|decided| decided.outcome).collect())
    }

    #[test]
    fn what_a_target_has_applied_changes_for_others_only_and_only_when_it_is_amended() {
        let mut known = known(&[("m", "a1")], &[("m", "staging", "a1")]);
        assert_eq!(outcomes(&[proposed("m", "a1")], &known, &[]), Ok(vec![Outcome::Unchanged]));
        let refused = outcomes(&[proposed("m", "b1"), proposed("n", "a1")], &known, &[]).unwrap_err();
        let staging = TargetName::parse("staging").unwrap();
        assert_eq!(refused, [Refusal::Applied { migration: id("m"), target: staging.clone(), revision: 1 }]);
        let decision = decide(&[proposed("m", "b1")], Missing::Keep, &[id("m")].into(), &known).unwrap();
        assert_eq!(decision.set, [Decided { outcome: Outcome::Amended, kept: vec![(staging.clone(), 1)] }]);
        // Nor does it keep another target from being mended where it failed.
        known.failed.push(Ended { run: RunId(4), migration: id("m"), target: TargetName::default() });
        assert_eq!(outcomes(&[proposed("m", "b1")], &known, &[]), Ok(vec![Outcome::Amended]));
    }

    #[test]
    fn other_words_hold_for_all_targets_and_need_no_leave() {
        let known = known(&[("m", "a1")], &[("m", "staging", "a1")]);
        assert_eq!(outcomes(&[proposed("m", "a2")], &known, &[]), Ok(vec![Outcome::Reworded]));
    }

    #[test]
    fn a_definition_that_is_not_kept_here_is_taken_for_another() {
        let known = known(&[], &[("m", "staging", "z1")]);
        assert!(outcomes(&[proposed("m", "a1")], &known, &[]).is_err());
        // What the target has is always welcome back.
        assert_eq!(outcomes(&[proposed("m", "z1")], &known, &[]), Ok(vec![Outcome::Registered]));
    }

    #[test]
    fn a_run_that_has_begun_refuses_a_change_and_one_that_has_not_is_cancelled() {
        let mut known = known(&[("m", "a1")], &[]);
        let run = |begun| Unfinished { run: RunId(4), migration: id("m"), target: TargetName::default(), begun };
        known.unfinished = vec![run(false)];
        let decision = decide(&[proposed("m", "b1")], Missing::Keep, &HashSet::new(), &known).unwrap();
        assert_eq!(decision.cancelled, [run(false)]);
        assert_eq!(decide(&[proposed("m", "a1")], Missing::Keep, &HashSet::new(), &known).unwrap().cancelled, []);
        known.unfinished = vec![run(true)];
        assert!(outcomes(&[proposed("m", "b1")], &known, &["m"]).is_err());
    }

    #[test]
    fn what_is_missing_is_refused_taken_back_or_kept_unless_a_target_has_it() {
        let mut known = known(&[("gone", "a1"), ("m", "a1"), ("old", "a1")], &[("old", "staging", "a1")]);
        let set = [proposed("m", "a1")];
        let refused = decide(&set, Missing::Refuse, &HashSet::new(), &known).unwrap_err();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].describe(), "gone (version 1), registered at noon by ann@desk");
        assert_eq!(decide(&set, Missing::Keep, &HashSet::new(), &known).unwrap().withdrawn, []);
        assert_eq!(decide(&set, Missing::Withdraw, &HashSet::new(), &known).unwrap().withdrawn, [id("gone")]);

        let part = |run| Ended { run: RunId(run), migration: id("gone"), target: TargetName::default() };
        known.partial.extend([part(4), part(7)]);
        let refused = decide(&set, Missing::Withdraw, &HashSet::new(), &known).unwrap_err();
        assert!(matches!(refused[..], [Refusal::Partial { run: RunId(7), .. }]), "{refused:?}");
    }
}
