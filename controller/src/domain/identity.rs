//! Whether a database that an agent sees is the target that its name says.
//!
//! Three facts tell: the place (server and database), the data (a UUID that goes wherever the data goes) and the line (a counter
//! that agents raise when they connect, with a mark of whoever raised it last). A name is bound to the first database that an
//! agent shows under it. Data at another place is a move, a copy or a restored backup, and only an operator knows which. A line that is
//! behind, at the same place, is a copy of the server's files or an earlier state of them; so is one that two have raised to one number.
//!
//! What must stay true: nothing is concluded from a report that may be older than what it is compared with. A line ahead of what is known
//! is no fault: controllers can have lost what they knew.

use dunlin_shared::ids::TargetName;
use serde::{Deserialize, Serialize};

/// A database as an agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The system identifier of the server; `None` where the agent's role may not read it.
    pub system: Option<String>,
    /// The oid of the database.
    pub database: i64,
    /// What it holds; `None` where nobody has written that yet.
    pub data: Option<String>,
    /// The counter.
    pub line: i64,
    /// The mark of who has raised it last.
    pub mark: Option<String>,
}

/// The database that a name is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// The database, as it was seen last.
    pub seen: Seen,
    /// Its data.
    pub data: String,
    /// True once the data was seen in it. Before, an agent is to write it.
    pub written: bool,
    /// The data that it has before.
    pub was: Option<String>,
}

/// What a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The target; its line is the one that is known.
    Same,
    /// The target; its line is ahead of the one that is known.
    Ahead,
    /// The report may be older than what is known: look again.
    Doubtful,
    /// A database that becomes the target: its data is to be written.
    Unwritten,
    /// A name without a database, and a database without a name.
    New,
    /// Something else.
    Other(Difference),
}

/// Why a database is not the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The data is elsewhere than it was, at an earlier state where `behind`.
    Moved {
        /// True when its line is behind.
        behind: bool,
    },
    /// The line is behind.
    Behind,
    /// Two have raised the line to one number.
    Forked,
    /// The data is another.
    Foreign,
    /// There is no data where there was some.
    Blank,
    /// It is the database of another name.
    Named(TargetName),
    /// The agent does not say what it sees.
    Untold,
}

/// What an operator says that a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The target, at another place.
    Moved,
    /// The target, put back to an earlier state.
    Restored,
    /// A copy, which takes the name.
    Copied,
    /// Another database, which takes the name.
    Replaced,
}

impl Seen {
    /// Whether two are at one place, as far as is known.
    #[must_use]
    pub fn beside(&self, other: &Self) -> bool {
        let systems = self.system.as_ref().zip(other.system.as_ref());
        self.database == other.database && systems.is_none_or(|(one, other)| one == other)
    }

    /// The place in words.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.system {
            Some(system) => format!("database {} of server {system}", self.database),
            None => format!("database {}", self.database),
        }
    }
}

/// Compares what an agent sees with what a name is bound to. `fresh`: the agent has looked after the line was known. `named` is another
/// target that is bound to what is seen.
#[must_use]
pub fn compare(bound: Option<&Bound>, seen: &Seen, fresh: bool, named: Option<TargetName>) -> Found {
    let Some(bound) = bound else {
        return match (named, &seen.data) {
            (Some(name), _) => Found::Other(Difference::Named(name)),
            (None, None) => Found::New,
            (None, Some(_)) => Found::Ahead,
        };
    };
    let here = bound.seen.beside(seen);
    if seen.data.as_ref() != Some(&bound.data) {
        return match (&seen.data, named) {
            (data, _) if here && !bound.written && *data == bound.was => Found::Unwritten,
            (_, Some(name)) => Found::Other(Difference::Named(name)),
            (None, None) => Found::Other(Difference::Blank),
            (Some(_), None) => Found::Other(Difference::Foreign),
        };
    }
    let known = bound.seen.line;
    if !here {
        return Found::Other(Difference::Moved { behind: seen.line < known });
    }
    match seen.line.cmp(&known) {
        std::cmp::Ordering::Greater => Found::Ahead,
        std::cmp::Ordering::Equal if seen.mark == bound.seen.mark => Found::Same,
        std::cmp::Ordering::Equal => Found::Other(Difference::Forked),
        std::cmp::Ordering::Less if fresh => Found::Other(Difference::Behind),
        std::cmp::Ordering::Less => Found::Doubtful,
    }
}

impl Difference {
    /// True when the whole target stands still for it, whoever sees what: nobody knows which of two databases is meant.
    #[must_use]
    pub fn suspends(&self) -> bool {
        matches!(self, Self::Behind | Self::Forked)
    }

    /// What an operator may say to it.
    #[must_use]
    pub fn ways(&self) -> &'static [Kind] {
        match self {
            Self::Moved { behind: false } => &[Kind::Moved, Kind::Restored, Kind::Copied],
            Self::Moved { behind: true } | Self::Behind | Self::Forked => &[Kind::Restored, Kind::Copied],
            Self::Foreign => &[Kind::Replaced],
            Self::Blank => &[Kind::Restored, Kind::Replaced],
            Self::Named(_) => &[Kind::Copied],
            Self::Untold => &[],
        }
    }

    /// The difference in words, with the ways out.
    #[must_use]
    pub fn describe(&self, target: &TargetName) -> String {
        let what = match self {
            Self::Moved { behind: false } => {
                format!("it holds the data of target {target}, at another place than before: moved there, or a copy")
            }
            Self::Moved { behind: true } => format!(
                "it holds the data of target {target}, at another place than before and at an earlier state: a restored backup, or a copy"
            ),
            Self::Behind => format!(
                "it holds the data of target {target} at an earlier state than it had: a copy (a clone, a standby that was promoted), or the \
                 target put back"
            ),
            Self::Forked => format!(
                "two databases hold the data of target {target} at one place, and agents work on both: one is a copy of the other's files"
            ),
            Self::Foreign => format!("it is another database than the one that target {target} was so far"),
            Self::Blank => format!(
                "it has no schema dunlin, and target {target} had one: it is empty, being restored, or put back to before Dunlin's first \
                 visit"
            ),
            Self::Named(other) => {
                format!("it is the database of target {other}, and a database has one name only; or a copy of that")
            }
            Self::Untold => {
                return format!(
                    "its agent does not say which database it sees, and target {target} is bound to one: use an agent of this version"
                );
            }
        };
        let ways: Vec<&str> = self.ways().iter().map(|way| way.option()).collect();
        format!(
            "{what}. Nothing runs there until `dunlin target rebind {target} {} --reason TEXT` says what it is; where it is not meant, give \
             the agent another URL",
            ways.join("|")
        )
    }
}

impl Kind {
    /// The option of the command.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::Moved => "--moved",
            Self::Restored => "--restored",
            Self::Copied => "--copied",
            Self::Replaced => "--replaced",
        }
    }

    /// What it says, as the end of a sentence.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Moved => "the target has moved there",
            Self::Restored => "it is the target, put back to an earlier state",
            Self::Copied => "it is a copy, and has the name from now on",
            Self::Replaced => "it is another database, and has the name from now on",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(line: i64, mark: &str) -> Seen {
        let text = |text: &str| Some(text.to_owned());
        Seen { system: text("1"), database: 5, data: text("d"), line, mark: text(mark) }
    }

    fn bound() -> Bound {
        Bound { seen: seen(7, "m"), data: "d".to_owned(), written: true, was: None }
    }

    fn found(seen: &Seen, fresh: bool) -> Found {
        compare(Some(&bound()), seen, fresh, None)
    }

    #[test]
    fn the_same_place_and_data_with_a_line_that_is_not_behind_is_the_target() {
        assert_eq!(found(&seen(7, "m"), false), Found::Same);
        assert_eq!(found(&seen(8, "x"), false), Found::Ahead);
        let unreadable = Seen { system: None, ..seen(7, "m") };
        assert_eq!(found(&unreadable, false), Found::Same, "a role that may not read the system identifier");
    }

    #[test]
    fn a_line_is_behind_only_where_the_look_came_later() {
        assert_eq!(found(&seen(6, "x"), false), Found::Doubtful);
        assert_eq!(found(&seen(6, "x"), true), Found::Other(Difference::Behind));
        assert_eq!(found(&seen(7, "x"), false), Found::Other(Difference::Forked), "one number, two marks");
    }

    #[test]
    fn data_elsewhere_other_data_and_no_data_are_told_apart() {
        let elsewhere = Seen { database: 6, ..seen(7, "m") };
        assert_eq!(found(&elsewhere, false), Found::Other(Difference::Moved { behind: false }));
        let server = Seen { system: Some("2".to_owned()), ..seen(6, "x") };
        assert_eq!(found(&server, false), Found::Other(Difference::Moved { behind: true }));
        let foreign = Seen { data: Some("e".to_owned()), ..seen(7, "m") };
        assert_eq!(found(&foreign, false), Found::Other(Difference::Foreign));
        let blank = Seen { data: None, ..seen(0, "") };
        assert_eq!(found(&blank, false), Found::Other(Difference::Blank));
    }

    #[test]
    fn a_database_has_one_name() {
        let other = TargetName::parse("other").unwrap();
        let named = Found::Other(Difference::Named(other.clone()));
        assert_eq!(compare(None, &seen(7, "m"), false, Some(other.clone())), named);
        let foreign = Seen { data: Some("e".to_owned()), ..seen(7, "m") };
        assert_eq!(compare(Some(&bound()), &foreign, false, Some(other)), named);
        assert_eq!(compare(None, &seen(7, "m"), false, None), Found::Ahead);
        assert_eq!(compare(None, &Seen { data: None, ..seen(0, "") }, false, None), Found::New);
    }

    #[test]
    fn what_is_to_be_written_is_written_into_the_database_that_was_meant_alone() {
        let empty = Seen { data: None, ..seen(0, "") };
        let unwritten = Bound { written: false, ..bound() };
        assert_eq!(compare(Some(&unwritten), &empty, false, None), Found::Unwritten);
        let elsewhere = Seen { database: 6, ..empty };
        assert_eq!(compare(Some(&unwritten), &elsewhere, false, None), Found::Other(Difference::Blank));
        let copied = Bound { written: false, was: Some("old".to_owned()), ..bound() };
        let old = Seen { data: Some("old".to_owned()), ..seen(9, "m") };
        assert_eq!(compare(Some(&copied), &old, false, None), Found::Unwritten);
    }

    #[test]
    fn a_difference_says_what_to_type() {
        let text = Difference::Behind.describe(&TargetName::default());
        assert!(text.contains("`dunlin target rebind main --restored|--copied --reason TEXT`"), "{text}");
    }
}
