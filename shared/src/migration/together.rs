//! How definitions fit together, and with what is registered already.

use std::collections::{HashMap, HashSet};

use super::definition::Version;
use super::document::Draft;
use super::fields::{At, meant};
use super::limits::PROBLEMS;
use super::set::{Known, Problem};
use crate::graph::{self, Cycle};
use crate::ids::MigrationId;

/// Everything that is wrong between the definitions. What could not be read of a definition is left out of the comparison. `registered`
/// is nothing where nobody could be asked what is.
pub(super) fn problems(drafts: &[Draft<'_>], registered: Option<&[Known]>) -> Vec<Problem> {
    let known = registered.unwrap_or_default();
    let mut found = duplicate_ids(drafts);
    found.extend(duplicate_versions(drafts, known));
    let versions = versions(drafts, known);
    let cycles = cycles(drafts);
    for draft in drafts {
        let together = Together { drafts, versions: &versions, cycles: &cycles, asked: registered.is_some() };
        let wrong = draft.run_after.iter().filter_map(|before| together.dependency(draft, before));
        found.extend(wrong.take(PROBLEMS));
    }
    found.extend(cycles.iter().filter_map(|cycle| told_cycle(cycle, drafts)));
    found
}

fn duplicate_ids(drafts: &[Draft<'_>]) -> Vec<Problem> {
    let mut first: HashMap<&MigrationId, String> = HashMap::new();
    let mut found = Vec::new();
    for draft in drafts {
        let Some(id) = &draft.id else { continue };
        match first.get(&id.value) {
            Some(place) => {
                let message = format!("the id `{}` is taken already", id.value);
                found.push(draft.source.problem(id.at, message, Some(format!("the first stands at {place}"))));
            }
            None => {
                first.insert(&id.value, draft.source.place(id.at));
            }
        }
    }
    found
}

fn duplicate_versions(drafts: &[Draft<'_>], known: &[Known]) -> Vec<Problem> {
    let in_set: HashSet<&MigrationId> =
        drafts.iter().filter_map(|draft| draft.id.as_ref()).map(|id| &id.value).collect();
    let mut taken: HashMap<Version, (Option<&MigrationId>, String)> = known
        .iter()
        .filter(|known| !in_set.contains(&known.id))
        .map(|known| (known.version, (Some(&known.id), format!("`{}`, which is registered, has it", known.id))))
        .collect();
    let highest = drafts.iter().filter_map(|draft| draft.version.as_ref().map(|version| version.value));
    let highest = highest.chain(known.iter().map(|known| known.version)).map(Version::get).max().unwrap_or(0);
    let mut found = Vec::new();
    for draft in drafts {
        let Some(version) = &draft.version else { continue };
        let id = draft.id.as_ref().map(|id| &id.value);
        match taken.get(&version.value) {
            // Two files with one id are one mistake, not two.
            Some((other, _)) if other.is_some() && *other == id => {}
            Some((_, who)) => {
                let message = format!("the version {} is taken already", version.value);
                let help = match highest.checked_add(1) {
                    Some(free) => format!("{who}; the next free version is {free}"),
                    None => who.clone(),
                };
                found.push(draft.source.problem(version.at, message, Some(help)));
            }
            None => {
                let place = draft.source.place(version.at);
                let who = match id {
                    Some(id) => format!("`{id}` has it at {place}"),
                    None => format!("it stands at {place}"),
                };
                taken.insert(version.value, (id, who));
            }
        }
    }
    found
}

/// The version of every migration that can be named, the set's own word before what is registered.
fn versions<'x>(drafts: &'x [Draft<'_>], known: &'x [Known]) -> HashMap<&'x MigrationId, Option<Version>> {
    let mut versions: HashMap<_, _> = known.iter().map(|known| (&known.id, Some(known.version))).collect();
    for draft in drafts {
        if let Some(id) = &draft.id {
            versions.insert(&id.value, draft.version.as_ref().map(|version| version.value));
        }
    }
    versions
}

/// What a dependency is compared with.
struct Together<'x> {
    drafts: &'x [Draft<'x>],
    versions: &'x HashMap<&'x MigrationId, Option<Version>>,
    cycles: &'x [Cycle],
    /// True where somebody was asked what is registered.
    asked: bool,
}

impl Together<'_> {
    fn dependency(&self, draft: &Draft<'_>, before: &At<MigrationId>) -> Option<Problem> {
        let id = &before.value;
        let Some(version) = self.versions.get(id) else {
            // A file whose id cannot be read may well be the one that is meant.
            if self.drafts.iter().any(|draft| draft.id.is_none()) {
                return None;
            }
            return Some(self.no_migration(draft, before));
        };
        let in_cycle = |cycle: &Cycle| {
            cycle.path.contains(id) && draft.id.as_ref().is_some_and(|own| cycle.path.contains(&own.value))
        };
        let (own, version) = (draft.version.as_ref()?.value, (*version)?);
        if version < own || self.cycles.iter().any(in_cycle) {
            return None;
        }
        let message = format!("`{id}` has the version {version}, which is not lower than {own}");
        let help = "a migration runs after lower versions only: raise its version, or leave this out";
        Some(draft.source.problem(before.at, message, Some(help.to_owned())))
    }

    fn no_migration(&self, draft: &Draft<'_>, before: &At<MigrationId>) -> Problem {
        let id = &before.value;
        let names: Vec<&str> = self.versions.keys().map(|id| id.as_str()).collect();
        let (where_not, otherwise) = if self.asked {
            ("in this set, and none is registered", "put its definition into the set, or register it before")
        } else {
            (
                "in this set",
                "put its definition into the set; whether it is registered only a controller knows: `dunlin register --dry-run` asks",
            )
        };
        let help = match meant(id.as_str(), &names) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => otherwise.to_owned(),
        };
        draft.source.problem(before.at, format!("there is no migration `{id}` {where_not}"), Some(help))
    }
}

fn cycles(drafts: &[Draft<'_>]) -> Vec<Cycle> {
    let lowest = Version::new(1).ok();
    let migrations: Vec<_> = drafts
        .iter()
        .filter_map(|draft| {
            let version = draft.version.as_ref().map(|version| version.value).or(lowest)?;
            let run_after = draft.run_after.iter().map(|before| before.value.clone()).collect();
            Some((draft.id.as_ref()?.value.clone(), version, run_after))
        })
        .collect();
    graph::cycles(&migrations)
}

/// A cycle, told where its first migration names the second.
fn told_cycle(cycle: &Cycle, drafts: &[Draft<'_>]) -> Option<Problem> {
    let first = cycle.path.first()?;
    let second = cycle.path.get(1).unwrap_or(first);
    let (draft, before) = drafts
        .iter()
        .filter(|draft| draft.id.as_ref().is_some_and(|id| id.value == *first))
        .find_map(|draft| Some((draft, draft.run_after.iter().find(|before| before.value == *second)?)))?;
    let message = format!("these migrations wait for each other: {cycle}");
    Some(draft.source.problem(before.at, message, Some("leave one of them out of `run_after`".to_owned())))
}
