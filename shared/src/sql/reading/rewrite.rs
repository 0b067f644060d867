//! A statement rewritten so that it tells more about what it does.

use super::Reading;

impl Reading {
    /// The text without the semicolon at its end.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text with more values in the RETURNING of the statement itself: they are the last of each row.
    #[must_use]
    pub fn returning(&self, values: &str) -> String {
        // On a line of its own: a comment may end the text.
        let and = if self.main.returns { "," } else { "\nRETURNING" };
        format!("{}\n{and} {values}", self.text)
    }

    /// A query for how many rows an UPDATE or a DELETE matches, under the name of a column; `None` for any other statement, and where its
    /// WITH changes something.
    #[must_use]
    pub fn matching(&self, column: &str) -> Option<String> {
        let [change] = self.changes.as_slice() else { return None };
        if !change.is_main || change.kinds.inserts || change.merges {
            return None;
        }
        let part = |range: &std::ops::Range<usize>| self.text.get(range.clone()).unwrap_or_default().trim();
        let (with, target) = (part(&(0..self.main.begin)), part(&self.main.target));
        let others = part(&self.main.others);
        let others = if others.is_empty() { String::new() } else { format!(",\n{others}\n") };
        let condition = if self.main.condition.is_empty() { "true" } else { part(&self.main.condition) };
        let called = &change.called;
        Some(format!(
            "{with}\nSELECT pg_catalog.count(*) AS {column} FROM (SELECT DISTINCT {called}.tableoid, {called}.ctid FROM {target}\n{others} WHERE {condition}\n) AS matching"
        ))
    }
}
