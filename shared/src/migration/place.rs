//! Where the SQL of a definition stands in its files.
//!
//! Errors of PostgreSQL point into the SQL that it was sent; whoever mends a definition looks at a file. The places are kept beside a
//! definition and are no part of it: a comment above a step moves its SQL and changes nothing.

use serde::{Deserialize, Serialize};

/// The list of a definition that a step or check stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum List {
    /// Checks before the first step.
    Before,
    /// Steps.
    Step,
    /// Checks after the last step.
    After,
    /// Steps that undo.
    Rollback,
}

/// Where the SQL of a step or check begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlPlace {
    /// The list.
    pub list: List,
    /// The name of the step or check.
    pub name: String,
    /// The path of the file in the set.
    pub path: String,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// True when the SQL stands there as it is, so that what is inside can be pointed at. False where it has escapes.
    pub exact: bool,
}

impl SqlPlace {
    /// The line and column in the file of a line and column of the SQL, all from 1.
    #[must_use]
    pub fn of(&self, line: u32, column: u32) -> (u32, u32) {
        match (self.exact, line) {
            (false, _) => (self.line, self.column),
            (true, 0 | 1) => (self.line, self.column.saturating_add(column).saturating_sub(1)),
            (true, _) => (self.line.saturating_add(line).saturating_sub(1), column),
        }
    }

    /// The place of a step's SQL, or of a check's where that is named.
    #[must_use]
    pub fn find<'p>(places: &'p [Self], step: &str, check: &str) -> Option<&'p Self> {
        let (name, lists) =
            if check.is_empty() { (step, [List::Step; 2]) } else { (check, [List::Before, List::After]) };
        places.iter().find(|place| lists.contains(&place.list) && place.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_sql_is_a_place_in_the_file() {
        let place = |exact| SqlPlace {
            list: List::Step,
            name: "fill".to_owned(),
            path: "a.toml".to_owned(),
            line: 10,
            column: 8,
            exact,
        };
        assert_eq!(place(true).of(1, 3), (10, 10));
        assert_eq!(place(true).of(4, 3), (13, 3));
        assert_eq!(place(false).of(4, 3), (10, 8));
        let places = [place(true)];
        assert_eq!(SqlPlace::find(&places, "fill", ""), Some(&places[0]));
        assert_eq!(SqlPlace::find(&places, "", "fill"), None);
    }
}
