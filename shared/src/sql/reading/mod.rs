//! What the statement of a batch changes and refers to, as far as its text tells.
//!
//! Only the frame of a statement is read: its WITH, the tables that it changes, what stands in SET, and the tables behind FROM,
//! JOIN and USING. Expressions are passed over bracket by bracket, so a text may be as long and as deep as it likes, and have syntax
//! in them that is newer than this program. What names mean is the server's to say.
//!
//! What must stay true: a statement whose frame is not understood is an error and never a statement that changes nothing.

mod change;
mod reference;
mod rewrite;
#[cfg(test)]
mod tests;
mod words;

pub use change::{Change, Kinds};
pub use reference::Reference;

use super::lex;
use super::statement::statements;

/// Why a text cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Unreadable {
    /// Where, in bytes from the start of the text.
    pub offset: usize,
    /// What is not understood.
    pub what: String,
}

/// A text of SQL that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What its statements change, in the order of the text.
    pub changes: Vec<Change>,
    /// The tables that it names, those that are changed among them.
    pub references: Vec<Reference>,
    /// The text without the semicolon at its end.
    text: String,
    /// The statement itself, behind its WITH.
    main: change::Main,
}

impl Reading {
    /// Reads a text. Placeholders `:batch` may stand in it.
    ///
    /// # Errors
    /// There is a statement that is none of SELECT, INSERT, UPDATE, DELETE and MERGE, or whose frame is not understood.
    pub fn of(sql: &str) -> Result<Self, Unreadable> {
        let mut changes = Vec::new();
        let mut references = Vec::new();
        let mut main = change::Main::default();
        let mut end = 0;
        // What ends the transaction by itself is found out when it does, and changes no rows.
        for statement in statements(sql).into_iter().filter(|statement| !statement.controls_transactions()) {
            let words = words::Words { sql, tokens: statement.tokens() };
            main = change::read(words, &mut changes)?;
            references.extend(reference::all(words));
            end = words.offset(words.tokens.len());
        }
        Ok(Self { changes, references, text: sql.get(..end).unwrap_or(sql).to_owned(), main })
    }

    /// The columns of a table that are assigned, each once. Names mean the same table when they agree as far as both go: a schema can
    /// be left to the search path.
    #[must_use]
    pub fn assigned(&self, table: &[String]) -> Vec<String> {
        let mut columns: Vec<String> = Vec::new();
        for change in self.changes.iter().filter(|change| same_table(&change.table, table)) {
            for column in &change.columns {
                if !columns.contains(column) {
                    columns.push(column.clone());
                }
            }
        }
        columns
    }
}

/// True when names can mean the same table.
#[must_use]
pub fn same_table(a: &[String], b: &[String]) -> bool {
    a.iter().rev().zip(b.iter().rev()).all(|(a, b)| a == b)
}

/// The parts of the name of a table as SQL writes it, folded to lower case or as they are quoted; `None` when it is no name.
#[must_use]
pub fn name_parts(name: &str) -> Option<Vec<String>> {
    lex::name_parts(name)
}
