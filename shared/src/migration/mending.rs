//! What a target holds of a half-done migration, compared with the definition that is to go on with it.
//!
//! A definition can change between two attempts, and a target remembers steps by their names. What must stay true: a step that
//! is done is not done again unless somebody has said so, a step that is begun goes on with the text that began it, and what the
//! definition does not explain is refused with the ways out. The controller asks before it makes a run; the target has the last
//! word, when a task is taken there.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::figures::{count, rows};

/// A step as a definition has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// The name that it had in an earlier text.
    pub was: Option<String>,
    /// The checksum over what it does.
    pub checksum: String,
    /// True when it walks a table.
    pub walks: bool,
    /// True when it may be carried out again.
    pub idempotent: bool,
}

/// How far a step is in a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has a checkpoint, and has changed nothing yet.
    Prepared,
    /// Some of it may have taken effect.
    Begun,
    /// All of it has.
    Done,
}

/// A step as a target has it. Stored as JSON: fields may be added with a default, never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// The name that it had before a definition gave it this one; empty when it had none.
    pub was: String,
    /// Its place among the steps of the definition that it was begun under.
    pub ordinal: i32,
    /// The checksum over what it does.
    pub checksum: String,
    /// True when it walks a table.
    pub walks: bool,
    /// How far it is.
    pub standing: Standing,
    /// Rows that it has walked.
    pub rows_walked: i64,
    /// Rows that it has changed.
    pub rows: i64,
    /// The request that it is carried out again for; empty when it is not.
    pub redo: String,
}

/// What an operator asks for beside the text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Names the request. What was begun again for it is not begun again a second time.
    pub request: &'a str,
    /// Steps that are carried out again over everything.
    pub redo: &'a [String],
    /// Steps that are begun and go on with another text.
    pub go_on: &'a [String],
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is begun, or goes on where it stands.
    Work,
    /// It is done.
    Skip,
    /// It is carried out from its beginning, whatever was done of it.
    Again,
    /// It goes on where it stands, with another text than that which began it.
    Adopt,
}

/// What a definition makes of what a target holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What becomes of each step, in the order of the definition.
    pub fates: Vec<Fate>,
    /// Steps that have another name now: the old one, and the new one.
    pub renamed: Vec<(String, String)>,
    /// Steps that the definition does not have and that have changed nothing: they are forgotten.
    pub forgotten: Vec<String>,
}

/// Why a target cannot go on with a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The definition does not have a step that is done or begun.
    Gone {
        /// The step in the target.
        held: Box<Held>,
    },
    /// A step that is done has another text now.
    Changed {
        /// The step.
        step: String,
    },
    /// A step that is begun has another text now.
    BegunOtherwise {
        /// The step.
        step: String,
        /// What was done of it.
        held: Box<Held>,
        /// True when it can go on with the new text where it stands.
        can_go_on: bool,
    },
    /// A step is not done and stands before one that is done or begun.
    Before {
        /// The step.
        step: String,
        /// The step behind it.
        behind: Box<Held>,
    },
    /// Steps were carried out in another order.
    Order {
        /// The step.
        step: String,
        /// The step that stands before it now and was carried out after it.
        before: String,
    },
    /// A step that is asked for is not one of the definition.
    Unknown {
        /// What was asked for.
        step: String,
    },
    /// A step is to go on and is done.
    DoneAlready {
        /// The step.
        step: String,
    },
}

/// Compares a definition with what a target holds of its migration.
///
/// # Errors
/// The first thing that the definition does not explain.
pub fn compare(wanted: &[Wanted], held: &[Held], asked: Asked<'_>) -> Result<Plan, Refusal> {
    let named = |step: &&String| wanted.iter().all(|wanted| wanted.name != **step);
    if let Some(step) = asked.redo.iter().chain(asked.go_on).find(named) {
        return Err(Refusal::Unknown { step: step.clone() });
    }
    let mut plan = Plan::default();
    let found = find(wanted, held, &mut plan.renamed);
    let explained: HashSet<&str> = found.iter().flatten().map(|held| held.name.as_str()).collect();
    for step in held.iter().filter(|step| !explained.contains(step.name.as_str())) {
        match step.standing {
            Standing::Prepared => plan.forgotten.push(step.name.clone()),
            Standing::Begun | Standing::Done => return Err(Refusal::Gone { held: Box::new(step.clone()) }),
        }
    }
    in_order(wanted, &found)?;
    for (step, found) in wanted.iter().zip(&found) {
        plan.fates.push(fate(step, *found, asked)?);
    }
    Ok(plan)
}

/// What a target holds of each step, under its name or under the one that it had.
fn find<'h>(wanted: &[Wanted], held: &'h [Held], renamed: &mut Vec<(String, String)>) -> Vec<Option<&'h Held>> {
    let by_name: HashMap<&str, &Held> = held.iter().map(|held| (held.name.as_str(), held)).collect();
    // Two steps can have changed their names with each other: what was moved already bears the name that it had.
    let moved = |step: &Wanted| {
        step.was.as_ref().is_some_and(|was| by_name.get(step.name.as_str()).is_some_and(|held| held.was == *was))
    };
    let settled: HashSet<&str> = wanted.iter().filter(|step| moved(step)).map(|step| step.name.as_str()).collect();
    let claimed: HashSet<&str> =
        wanted.iter().filter(|step| !moved(step)).filter_map(|step| step.was.as_deref()).collect();
    let one = |step: &Wanted| {
        let earlier = step.was.as_deref().filter(|was| !moved(step) && !settled.contains(was));
        match earlier.and_then(|was| by_name.get(was)) {
            Some(held) => {
                renamed.push((held.name.clone(), step.name.clone()));
                Some(*held)
            }
            None => {
                let free = moved(step) || !claimed.contains(step.name.as_str());
                by_name.get(step.name.as_str()).copied().filter(|_| free)
            }
        }
    };
    wanted.iter().map(one).collect()
}

/// What is not done stands behind what is done or begun, and that stands in the order in which it was carried out.
fn in_order(wanted: &[Wanted], found: &[Option<&Held>]) -> Result<(), Refusal> {
    let effective = |held: &Held| held.standing != Standing::Prepared;
    let mut last: Option<&Held> = None;
    for (index, (step, held)) in wanted.iter().zip(found).enumerate() {
        let behind = || found[index + 1..].iter().flatten().find(|held| effective(held)).copied();
        match held.filter(|held| effective(held)) {
            Some(held) => {
                if let Some(before) = last.filter(|before| before.ordinal > held.ordinal) {
                    return Err(Refusal::Order { step: step.name.clone(), before: before.name.clone() });
                }
                if held.standing == Standing::Begun
                    && held.redo.is_empty()
                    && let Some(behind) = behind()
                {
                    return Err(Refusal::Before { step: step.name.clone(), behind: Box::new(behind.clone()) });
                }
                last = Some(held);
            }
            // What is carried out again begins at nothing, and what stands behind it was done before.
            None if held.is_some_and(|held| !held.redo.is_empty()) => {}
            None => {
                if let Some(behind) = behind() {
                    return Err(Refusal::Before { step: step.name.clone(), behind: Box::new(behind.clone()) });
                }
            }
        }
    }
    Ok(())
}

fn fate(step: &Wanted, held: Option<&Held>, asked: Asked<'_>) -> Result<Fate, Refusal> {
    let Some(held) = held else { return Ok(Fate::Work) };
    let same = held.checksum == step.checksum;
    if asked.redo.contains(&step.name) && held.redo != asked.request {
        return Ok(Fate::Again);
    }
    let goes_on = asked.go_on.contains(&step.name);
    match (held.standing, same) {
        (Standing::Done, true) => Ok(Fate::Skip),
        (Standing::Prepared | Standing::Begun, true) => Ok(Fate::Work),
        (Standing::Prepared, false) => Ok(Fate::Again),
        (Standing::Begun | Standing::Done, false) if step.idempotent => Ok(Fate::Again),
        (Standing::Done, false) if goes_on => Err(Refusal::DoneAlready { step: step.name.clone() }),
        (Standing::Done, false) => Err(Refusal::Changed { step: step.name.clone() }),
        (Standing::Begun, false) => {
            let can_go_on = step.walks && held.walks;
            if goes_on && can_go_on {
                return Ok(Fate::Adopt);
            }
            Err(Refusal::BegunOtherwise { step: step.name.clone(), held: Box::new(held.clone()), can_go_on })
        }
    }
}

impl Held {
    /// How much of it has taken effect, in words.
    fn told(&self) -> String {
        match self.standing {
            Standing::Done if self.walks || self.rows > 0 => {
                format!("done ({} changed)", rows(self.rows))
            }
            Standing::Done => "done".to_owned(),
            Standing::Begun if self.walks => {
                format!("begun ({} walked, {} changed)", rows(self.rows_walked), count(self.rows))
            }
            Standing::Begun => "begun".to_owned(),
            Standing::Prepared => "prepared".to_owned(),
        }
    }
}

impl Refusal {
    /// The step that it is about.
    #[must_use]
    pub fn step(&self) -> &str {
        match self {
            Self::Gone { held } => &held.name,
            Self::Changed { step }
            | Self::BegunOtherwise { step, .. }
            | Self::Before { step, .. }
            | Self::Order { step, .. }
            | Self::Unknown { step }
            | Self::DoneAlready { step } => step,
        }
    }

    /// What stands in the way, in a sentence without its end. `target` is named as in "target main", or as "the target".
    #[must_use]
    pub fn describe(&self, target: &str) -> String {
        match self {
            Self::Gone { held } => {
                format!("{target} has the step {:?} {}, and the definition has it no more", held.name, held.told())
            }
            Self::Changed { step } => {
                format!("the step {step:?} was carried out on {target} already with another text")
            }
            Self::BegunOtherwise { step, held, .. } => {
                format!("the step {step:?} is half done on {target} with another text: {}", {
                    if held.walks {
                        format!("{} were walked with it, {} changed", rows(held.rows_walked), count(held.rows))
                    } else {
                        "it was begun outside a transaction".to_owned()
                    }
                })
            }
            Self::Before { step, behind } => format!(
                "the step {step:?} is not done on {target} and stands before the step {:?}, which is {}",
                behind.name,
                behind.told()
            ),
            Self::Order { step, before } => format!(
                "the steps {before:?} and {step:?} were carried out on {target} in the other order than the definition has them in"
            ),
            Self::Unknown { step } => format!("the definition has no step {step:?}"),
            Self::DoneAlready { step } => {
                format!(
                    "the step {step:?} is done on {target}: nothing of it is left that could go on with another text"
                )
            }
        }
    }

    /// The ways out, in sentences. `run` is the command that runs the migration on the target, such as `dunlin run x`.
    #[must_use]
    pub fn next(&self, run: &str) -> String {
        let again = format!("`dunlin register DIR` and `{run}`");
        let redo = |step: &str| format!("`{run} --redo {}`", quoted(step));
        match self {
            Self::Gone { held } => format!(
                "Give the step its name back; or write `was = {:?}` into the step that it has become, where it does the same; then {again}. \
                 What the step has done stays done: if another step is to replace it, keep it and put the difference into a new step \
                 behind it, or keep its name, change its text and carry it out again over everything with {}.",
                held.name,
                redo(&held.name)
            ),
            Self::Changed { step } => format!(
                "Restore its text and put the difference into a new step behind it, then {again}; or carry the new text out over \
                 everything that the old one has done, with {}. A step that may always be repeated says `idempotent = true`.",
                redo(step)
            ),
            Self::BegunOtherwise { step, held, can_go_on } => {
                let go_on = if *can_go_on {
                    format!(
                        "; or let the new text go on with the rest of the rows, with `{run} --continue {} --reason ...`",
                        quoted(step)
                    )
                } else {
                    String::new()
                };
                let left = if held.walks {
                    "over all rows"
                } else {
                    "from its beginning (look first at what the old one may have left, such as an index that is not valid)"
                };
                format!("Restore its text, then {again}; or carry the new text out {left}, with {}{go_on}.", redo(step))
            }
            Self::Before { step, behind } => format!(
                "Put the step {step:?} behind everything that is done or begun; or, if it is the step {:?} under another name, give \
                 it its name back or write `was`; then {again}.",
                behind.name
            ),
            Self::Order { .. } => format!("Put them back into the order in which they were carried out, then {again}."),
            Self::Unknown { .. } => {
                "Name a step of the definition that is registered: `dunlin show` lists them.".to_owned()
            }
            Self::DoneAlready { step } => format!(
                "Restore its text and put the difference into a new step behind it, then {again}; or carry the new text out over \
                 everything, with {}.",
                redo(step)
            ),
        }
    }
}

/// A name as a shell takes it.
#[must_use]
pub fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.chars().all(plain) { name.to_owned() } else { format!("'{}'", name.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, text: &str) -> Wanted {
        Wanted { name: name.to_owned(), was: None, checksum: text.to_owned(), walks: true, idempotent: false }
    }

    fn was(name: &str, was: &str, text: &str) -> Wanted {
        Wanted { was: Some(was.to_owned()), ..wanted(name, text) }
    }

    fn held(ordinal: i32, name: &str, text: &str, standing: Standing) -> Held {
        Held {
            name: name.to_owned(),
            was: String::new(),
            ordinal,
            checksum: text.to_owned(),
            walks: true,
            standing,
            rows_walked: 20,
            rows: 10,
            redo: String::new(),
        }
    }

    fn plain(wanted: &[Wanted], held: &[Held]) -> Result<Plan, Refusal> {
        compare(wanted, held, Asked { request: "r", ..Asked::default() })
    }

    #[test]
    fn a_step_that_is_renamed_is_refused_unless_it_says_what_it_was() {
        let target = [held(1, "old", "A", Standing::Done), held(2, "b", "B", Standing::Begun)];
        let refused = plain(&[wanted("new", "A"), wanted("b", "B")], &target).unwrap_err();
        assert!(matches!(&refused, Refusal::Gone { held } if held.name == "old"), "{refused:?}");
        assert!(refused.next("dunlin run x").contains("was = \"old\""));
        let plan = plain(&[was("new", "old", "A"), wanted("b", "B")], &target).unwrap();
        assert_eq!(plan.renamed, [("old".to_owned(), "new".to_owned())]);
        assert_eq!(plan.fates, [Fate::Skip, Fate::Work]);
        // And once that has happened.
        let moved = [Held { was: "old".to_owned(), ..held(1, "new", "A", Standing::Done) }];
        let plan = plain(&[was("new", "old", "A"), wanted("b", "B")], &moved).unwrap();
        assert_eq!((plan.renamed.len(), plan.fates), (0, vec![Fate::Skip, Fate::Work]));
    }

    #[test]
    fn two_steps_change_their_names_with_each_other_once() {
        let definition = [was("b", "a", "A"), was("a", "b", "B")];
        let before = [held(1, "a", "A", Standing::Done), held(2, "b", "B", Standing::Done)];
        let plan = plain(&definition, &before).unwrap();
        assert_eq!(plan.renamed.len(), 2);
        assert_eq!(plan.fates, [Fate::Skip, Fate::Skip]);
        let after = [
            Held { was: "a".to_owned(), ..held(1, "b", "A", Standing::Done) },
            Held { was: "b".to_owned(), ..held(2, "a", "B", Standing::Done) },
        ];
        let plan = plain(&definition, &after).unwrap();
        assert_eq!((plan.renamed.len(), plan.fates), (0, vec![Fate::Skip, Fate::Skip]));
    }

    #[test]
    fn steps_in_another_order_merged_or_split_are_refused() {
        let target = [held(1, "a", "A", Standing::Done), held(2, "b", "B", Standing::Done)];
        let other = plain(&[wanted("b", "B"), wanted("a", "A")], &target).unwrap_err();
        assert!(matches!(other, Refusal::Order { .. }), "{other:?}");
        let merged = plain(&[wanted("a", "AB")], &target).unwrap_err();
        assert!(matches!(merged, Refusal::Gone { .. }), "{merged:?}");
        let split = plain(&[wanted("a", "A"), wanted("b", "B1"), wanted("c", "B2")], &target).unwrap_err();
        assert_eq!(split, Refusal::Changed { step: "b".to_owned() });
    }

    #[test]
    fn a_new_step_stands_behind_what_is_done_or_begun() {
        for standing in [Standing::Done, Standing::Begun] {
            let target = [held(1, "a", "A", standing)];
            let before = plain(&[wanted("new", "N"), wanted("a", "A")], &target).unwrap_err();
            assert!(matches!(before, Refusal::Before { .. }), "{before:?}");
            assert!(plain(&[wanted("a", "A"), wanted("new", "N")], &target).is_ok());
        }
        // What has changed nothing yet is in nobody's way.
        let target = [held(1, "a", "A", Standing::Prepared), held(2, "gone", "G", Standing::Prepared)];
        let plan = plain(&[wanted("new", "N"), wanted("a", "other")], &target).unwrap();
        assert_eq!((plan.fates, plan.forgotten), (vec![Fate::Work, Fate::Again], vec!["gone".to_owned()]));
    }

    #[test]
    fn a_step_that_is_begun_goes_on_with_its_own_text_only() {
        let target = [held(1, "a", "A", Standing::Begun)];
        assert_eq!(plain(&[wanted("a", "A")], &target).unwrap().fates, [Fate::Work]);
        let refused = plain(&[wanted("a", "new")], &target).unwrap_err();
        assert!(refused.describe("the target").contains("20 rows were walked with it, 10 changed"));
        let next = refused.next("dunlin run x");
        assert!(next.contains("--redo a") && next.contains("--continue a --reason"), "{next}");
        let names = ["a".to_owned()];
        let asked = |redo: &'static [String], go_on| Asked { request: "r", redo, go_on };
        let redo: &'static [String] = Box::leak(Box::new(names.clone()));
        assert_eq!(compare(&[wanted("a", "new")], &target, asked(redo, &[])).unwrap().fates, [Fate::Again]);
        assert_eq!(compare(&[wanted("a", "new")], &target, asked(&[], &names)).unwrap().fates, [Fate::Adopt]);
        let sql = [Wanted { walks: false, ..wanted("a", "new") }];
        let refused = compare(&sql, &target, asked(&[], &names)).unwrap_err();
        assert!(
            matches!(refused, Refusal::BegunOtherwise { can_go_on: false, .. }),
            "another kind of step: {refused:?}"
        );
    }

    #[test]
    fn a_step_is_begun_again_once_for_a_request_whatever_stands_behind_it() {
        let names = ["a".to_owned()];
        let asked = Asked { request: "r2", redo: &names, go_on: &[] };
        let definition = [wanted("a", "A"), wanted("b", "B")];
        let done =
            [Held { redo: "r1".to_owned(), ..held(1, "a", "A", Standing::Done) }, held(2, "b", "B", Standing::Done)];
        assert_eq!(compare(&definition, &done, asked).unwrap().fates, [Fate::Again, Fate::Skip]);
        for (standing, fate) in
            [(Standing::Prepared, Fate::Work), (Standing::Begun, Fate::Work), (Standing::Done, Fate::Skip)]
        {
            let again = [Held { redo: "r2".to_owned(), ..held(1, "a", "A", standing) }, done[1].clone()];
            assert_eq!(compare(&definition, &again, asked).unwrap().fates, [fate, Fate::Skip]);
        }
        let unknown = compare(&definition[1..], &done[1..], asked).unwrap_err();
        assert_eq!(unknown, Refusal::Unknown { step: "a".to_owned() });
    }

    #[test]
    fn a_step_that_may_be_repeated_is_done_again_when_its_text_has_changed() {
        for standing in [Standing::Begun, Standing::Done] {
            let target = [held(1, "a", "A", standing)];
            let step = Wanted { idempotent: true, ..wanted("a", "new") };
            assert_eq!(plain(&[step], &target).unwrap().fates, [Fate::Again]);
        }
        let same = Wanted { idempotent: true, ..wanted("a", "A") };
        assert_eq!(plain(&[same], &[held(1, "a", "A", Standing::Done)]).unwrap().fates, [Fate::Skip]);
    }

    #[test]
    fn names_are_written_as_a_shell_takes_them() {
        assert_eq!(
            (quoted("fill"), quoted("to cents"), quoted("it's")),
            ("fill".to_owned(), "'to cents'".to_owned(), "'it'\\''s'".to_owned())
        );
    }
}
