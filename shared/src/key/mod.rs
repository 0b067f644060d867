//! Keys: the columns that a table is walked by, bounds and ranges of them, and the predicate that selects a range.

pub mod comparison;
mod predicate;
mod type_name;

pub use predicate::predicate;
pub use type_name::TypeName;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids;

/// A column of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyColumn {
    /// The name as it stands in the catalog, not quoted.
    pub name: String,
    /// The type.
    pub type_name: TypeName,
    /// The schema of the operators that compare it, not quoted, where the catalog has told. Who has no catalog at hand leaves it open:
    /// then comparisons find them as any statement does, unless the type is PostgreSQL's own.
    pub operators: Option<String>,
}

impl KeyColumn {
    /// A column of a key, told by somebody.
    ///
    /// # Errors
    /// Its type is not the name of one, or it has no name itself.
    pub fn parse(name: &str, type_name: &str) -> Result<Self, ids::Error> {
        let type_name = TypeName::parse(type_name)?;
        if name.is_empty() || name.contains('\0') {
            let rule = "1 character at least, and none that PostgreSQL cannot store";
            return Err(ids::Error { text: name.chars().take(100).collect(), what: "the name of a column", rule });
        }
        let operators = is_built_in(&type_name).then(|| "pg_catalog".to_owned());
        Ok(Self { name: name.to_owned(), type_name, operators })
    }

    /// The same, with the schema of its operators.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse).
    pub fn with_operators(name: &str, type_name: &str, operators: &str) -> Result<Self, ids::Error> {
        Ok(Self { operators: Some(operators.to_owned()), ..Self::parse(name, type_name)? })
    }

    /// The type so that it means the same in any session, whatever its `search_path`.
    #[must_use]
    pub fn qualified_type(&self) -> String {
        // These words are the grammar's own: no schema may stand before them, and none can take them.
        const WORDS: [&str; 12] = [
            "bigint",
            "bit",
            "boolean",
            "character",
            "double",
            "integer",
            "interval",
            "numeric",
            "real",
            "smallint",
            "time",
            "timestamp",
        ];
        let type_name = self.type_name.as_str();
        let first = type_name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        if is_built_in(&self.type_name) && !WORDS.contains(&first) {
            format!("pg_catalog.{type_name}")
        } else {
            type_name.to_owned()
        }
    }
}

/// True for a type of PostgreSQL's own. A type of another schema is written with that.
fn is_built_in(type_name: &TypeName) -> bool {
    !type_name.as_str().contains('.')
}

/// The columns of a key with their types, for messages.
#[must_use]
pub fn in_words(key: &[KeyColumn]) -> String {
    key.iter().map(|column| format!("{} {}", column.name, column.type_name)).collect::<Vec<_>>().join(", ")
}

/// True for a key of one integer: keys that can be computed with.
#[must_use]
pub fn is_one_integer(key: &[KeyColumn]) -> bool {
    matches!(key, [column] if matches!(column.type_name.as_str(), "smallint" | "integer" | "bigint"))
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

/// One of the stripes into which the keys of a window are dealt: those that leave one of some neighbouring remainders when they, or
/// their hashes, are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stripe {
    /// By what they are divided.
    pub of: u32,
    /// The first of the remainders.
    pub first: u32,
    /// The number behind the last of them, at most `of`.
    pub end: u32,
}

#[cfg(test)]
mod model;
