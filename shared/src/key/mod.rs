//! Keys: the columns that a table is walked by, bounds and ranges of them, and the predicate that selects a range.

mod predicate;

pub use predicate::predicate;

use std::fmt;

use serde::{Deserialize, Serialize};

/// A column of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyColumn {
    /// The name as it stands in the catalog, not quoted.
    pub name: String,
    /// The type as `format_type` writes it.
    pub type_name: String,
}

/// A key: the text of each column, in the order of the key's columns.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyBound(pub Vec<String>);

impl fmt::Display for KeyBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({})", self.0.join(", "))
    }
}

/// The keys above `low`, up to and with `high`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    /// The key that the range lies above. `None`: the range has no lower end.
    pub low: Option<KeyBound>,
    /// The last key of the range.
    pub high: KeyBound,
}

/// One of the stripes into which the keys of a window are dealt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stripe {
    /// The number of stripes; 1 is all keys.
    pub of: u32,
    /// Which of them, from 0.
    pub index: u32,
}

#[cfg(test)]
mod model;
