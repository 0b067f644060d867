//! What stands between a migration and its start, and for whom a run waits.

use std::collections::HashSet;
use std::time::SystemTime;

use dunlin_shared::ids::{MigrationId, RunId, TargetName, TransformName};

/// Something that must happen first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A migration of `run_after` is not applied.
    Dependency(MigrationId),
    /// Another migration goes first.
    Order(MigrationId),
    /// A run of the same migration on the same target has not ended.
    Run(RunId),
    /// No connected agent serves the target, or none reaches it.
    Agent {
        /// Why the target was not reached; empty when no agent serves it.
        error: String,
    },
    /// No connected agent of the target has the code.
    Transform(TransformName),
    /// A task rests before it is tried again.
    Retry {
        /// Why, as a sentence that begins with "waits".
        why: String,
        /// Until when.
        until: SystemTime,
    },
    /// All slots of the agents are taken.
    Slot,
    /// Something in the target, as the end of a sentence that begins with "waits".
    Lock(String),
    /// Nobody has said yet whether the database that agents see is the target: why, with the ways out.
    Identity(String),
}

impl Wait {
    /// The reason in words, with what to do where something can be done.
    #[must_use]
    pub fn describe(&self, target: &TargetName) -> String {
        match self {
            Self::Dependency(id) => format!("waits until {id} is applied on target {target}"),
            Self::Order(id) => format!("waits for its turn: {id} goes first"),
            Self::Run(run) => format!("run {run} of it on target {target} has not ended"),
            Self::Agent { error } if error.is_empty() => {
                format!("no connected agent serves target {target}; start one with --target {target}=URL")
            }
            Self::Agent { error } => {
                format!("no connected agent reaches target {target} ({error}); it goes on by itself when one does")
            }
            Self::Transform(name) => format!(
                "no connected agent of target {target} has the code of transform {name}; start one that registers it"
            ),
            Self::Retry { why, .. } if why.is_empty() => "waits before it is tried again".to_owned(),
            Self::Retry { why, .. } => why.clone(),
            Self::Slot => format!("waits for a free slot of an agent of target {target}"),
            Self::Lock(what) => format!("waits {what}"),
            Self::Identity(why) => {
                format!("no connected agent is let work on the database that it sees as target {target}: {why}")
            }
        }
    }
}

/// The connected agents of a target, taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// How many agents reach it.
    pub reaching: i64,
    /// Why the others do not, where there are any.
    pub error: String,
    /// Why they are not let work on the database that they see, where that is so.
    pub refusal: String,
    /// The code that those that reach it have.
    pub transforms: HashSet<String>,
}

impl Fleet {
    /// Why no agent reaches the target now; `None` when one does.
    #[must_use]
    pub fn unreached(&self, target: &TargetName) -> Option<String> {
        if self.reaching > 0 {
            return None;
        }
        if !self.refusal.is_empty() {
            return Some(Wait::Identity(self.refusal.clone()).describe(target));
        }
        Some(match self.error.as_str() {
            "" => format!("no connected agent serves target {target}; start one with --target {target}=URL"),
            error => format!("no connected agent reaches target {target}: {error}"),
        })
    }

    /// What a task that needs some code waits for.
    #[must_use]
    pub fn waits(&self, transforms: &[TransformName]) -> Vec<Wait> {
        if self.reaching == 0 && !self.refusal.is_empty() {
            return vec![Wait::Identity(self.refusal.clone())];
        }
        if self.reaching == 0 {
            return vec![Wait::Agent { error: self.error.clone() }];
        }
        let missing = transforms.iter().filter(|name| !self.transforms.contains(name.as_str()));
        missing.map(|name| Wait::Transform(name.clone())).collect()
    }
}

/// A migration that is not applied, at its place in the order.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The migration.
    pub id: MigrationId,
    /// What must be applied first.
    pub run_after: Vec<MigrationId>,
    /// The code that its steps need.
    pub transforms: Vec<TransformName>,
    /// Its run that has not ended.
    pub unfinished: Option<RunId>,
}

/// What each of the pending migrations of a target waits for, in the order in which they would run.
#[must_use]
pub fn of_pending(pending: &[Pending], applied: &HashSet<MigrationId>, fleet: &Fleet) -> Vec<Vec<Wait>> {
    let mut before: Option<&Pending> = None;
    let mut all = Vec::with_capacity(pending.len());
    for migration in pending {
        let mut waits: Vec<Wait> = migration.unfinished.map(Wait::Run).into_iter().collect();
        let lacking = migration.run_after.iter().filter(|id| !applied.contains(*id));
        waits.extend(lacking.map(|id| Wait::Dependency(id.clone())));
        if let Some(before) = before
            && !migration.run_after.contains(&before.id)
        {
            waits.push(Wait::Order(before.id.clone()));
        }
        waits.extend(fleet.waits(&migration.transforms));
        all.push(waits);
        before = Some(migration);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MigrationId {
        MigrationId::parse(text).unwrap()
    }

    fn pending(name: &str, run_after: &[&str]) -> Pending {
        Pending {
            id: id(name),
            run_after: run_after.iter().map(|name| id(name)).collect(),
            transforms: Vec::new(),
            unfinished: None,
        }
    }

    #[test]
    fn what_waits_says_for_whom() {
        let fleet = Fleet { reaching: 1, ..Fleet::default() };
        let order = [pending("b", &["a"]), pending("c", &["b"]), pending("d", &["a"])];
        let waits = of_pending(&order, &HashSet::from([id("a")]), &fleet);
        assert_eq!(waits[0], []);
        assert_eq!(waits[1], [Wait::Dependency(id("b"))]);
        assert_eq!(waits[2], [Wait::Order(id("c"))]);
    }

    #[test]
    fn missing_agents_and_missing_code_are_told_apart() {
        let code = TransformName::parse("parents").unwrap();
        assert_eq!(Fleet::default().waits(std::slice::from_ref(&code)), [Wait::Agent { error: String::new() }]);
        let mut fleet = Fleet { reaching: 2, ..Fleet::default() };
        assert_eq!(fleet.waits(std::slice::from_ref(&code)), [Wait::Transform(code.clone())]);
        fleet.transforms.insert("parents".to_owned());
        assert_eq!(fleet.waits(&[code]), []);
    }
}
