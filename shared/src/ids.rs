//! Names and numbers as types of their own, so that a run's number cannot be taken for a task's.
//!
//! A value of a textual id always obeys its rule: `parse` is the only way in, also for serde.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::visible::is_unseen;

/// A text that is not a valid id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {rule}")]
pub struct Error {
    /// The text that was refused, cut off after 100 characters.
    pub text: String,
    /// What it should have been, with its article: "a migration id".
    pub what: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The rule that every value obeys, in words.
            pub const RULE: &'static str = $rule;

            /// Takes a text that obeys [the rule](Self::RULE).
            ///
            /// # Errors
            /// The text breaks the rule.
            pub fn parse(text: impl Into<String>) -> Result<Self, Error> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(Error { text: text.chars().take(100).collect(), what: $what, rule: $rule })
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

pub(crate) use text_id;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<i64> for $name {
            fn from(number: i64) -> Self {
                Self(number)
            }
        }

        impl From<$name> for i64 {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

text_id!(
    /// The id of a migration.
    MigrationId,
    "a migration id",
    "1 to 100 lower-case letters, digits and '-', the first a letter or digit",
    |text| length(text, 100)
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);

text_id!(
    /// The name of a step, unique in its list of a migration.
    StepName,
    "a step name",
    "1 to 100 printable characters without blanks at the ends",
    printable
);

text_id!(
    /// The name of a target.
    TargetName,
    "a target name",
    "1 to 63 letters, digits, '-', '_' and '.', the first a letter or digit",
    |text| length(text, 63) && word(text)
);

impl TargetName {
    /// The target that is meant where none is named.
    pub const DEFAULT: &'static str = "main";

    /// The option that names the target in a command of an operator: " -t staging", or nothing for the one that needs no name.
    #[must_use]
    pub fn option(&self) -> String {
        if self.0 == Self::DEFAULT { String::new() } else { format!(" -t {self}") }
    }
}

impl Default for TargetName {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

text_id!(
    /// The id of an agent, unique in the fleet.
    AgentId,
    "an agent id",
    "1 to 100 printable characters without blanks at the ends",
    printable
);

text_id!(
    /// The name of a transform whose body is code in an agent.
    TransformName,
    "a transform name",
    "1 to 100 letters, digits, '-', '_' and '.', the first a letter or digit",
    |text| length(text, 100) && word(text)
);

number_id!(
    /// The number of a run.
    RunId
);

number_id!(
    /// The number of a task.
    TaskId
);

number_id!(
    /// The fencing number of a lease: only the holder of the newest epoch of a task may write.
    Epoch
);

impl Epoch {
    /// The epoch of a task that was never leased.
    pub const ZERO: Self = Self(0);

    /// The epoch of the lease that follows this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

fn length(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.chars().count())
}

fn word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn printable(text: &str) -> bool {
    length(text, 100) && text.trim() == text && !text.chars().any(is_unseen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_id_is_lower_case_letters_digits_and_dashes() {
        for good in ["a", "add-users", "2024-07", &"x".repeat(100)] {
            assert!(MigrationId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "Add", "a_b", "a b", "ä", &"x".repeat(101)] {
            assert!(MigrationId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_step_name_is_printable_text() {
        assert!(StepName::parse("rename back (2)").is_ok());
        for bad in ["", " a", "a ", "a\nb", "a\u{1b}[2Jb", "a\u{9b}b", "a\u{202e}b", "a\u{200f}", "a\u{2028}b"] {
            assert!(StepName::parse(bad).is_err(), "{bad:?}");
            let error = AgentId::parse(bad).unwrap_err().to_string();
            assert!(!error.chars().any(is_unseen), "{error:?}");
        }
    }

    #[test]
    fn serde_lets_no_invalid_id_in() {
        assert!(serde_json::from_str::<MigrationId>("\"a-b\"").is_ok());
        let error = serde_json::from_str::<MigrationId>("\"A\"").unwrap_err();
        assert!(error.to_string().contains("not a migration id"), "{error}");
    }
}
