//! The tables that a statement names, and what it calls them.

use squawk_lexer::TokenKind;

use super::words::Words;

/// A table where a statement reads or changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The parts of its name, folded to lower case or as they are quoted. It may be the name of a query in WITH.
    pub table: Vec<String>,
    /// The name as it stands in the text.
    pub text: String,
    /// Its alias as it stands in the text.
    pub alias: Option<String>,
    /// The alias, folded to lower case or as it is quoted.
    pub alias_name: Option<String>,
    /// True when its name stands behind ONLY: without the tables that inherit from it.
    pub only: bool,
}

impl Reference {
    /// True when columns that are qualified with this name are those of the reference.
    #[must_use]
    pub fn is_called(&self, qualifier: &[String]) -> bool {
        match (&self.alias_name, qualifier) {
            (Some(alias), [name]) => alias == name,
            (Some(_), _) => false,
            (None, qualifier) => {
                super::same_table(&self.table, qualifier) && qualifier.len() <= self.table.len().max(2)
            }
        }
    }
}

/// What stands between two brackets, or outside of all.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    /// A table can stand here.
    expecting: bool,
    /// Tables are listed, with commas between.
    listing: bool,
    /// It is a query or a change, and no call or list.
    query: bool,
    /// USING lists tables.
    using: bool,
}

const QUERIES: [&str; 8] = ["SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE"];
const ENDS: [&str; 13] = [
    "SELECT",
    "WHERE",
    "GROUP",
    "HAVING",
    "WINDOW",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "RETURNING",
];
/// What stands behind a table and is no alias, though it reads like a name.
const NO_ALIAS: [&str; 32] = [
    "SET",
    "WHERE",
    "JOIN",
    "INNER",
    "LEFT",
    "RIGHT",
    "FULL",
    "CROSS",
    "NATURAL",
    "ON",
    "USING",
    "TABLESAMPLE",
    "GROUP",
    "HAVING",
    "WINDOW",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "FOR",
    "RETURNING",
    "WHEN",
    "VALUES",
    "SELECT",
    "DEFAULT",
    "OVERRIDING",
    "WITH",
    "DO",
    "TABLE",
];

/// All references of a statement, in the order of its text.
pub(super) fn all(words: Words<'_>) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut frames = vec![Frame { query: true, ..Frame::default() }];
    let mut only = false;
    let mut at = 0;
    while let Some(kind) = words.kind(at) {
        let Some(frame) = frames.last_mut() else { return found };
        match kind {
            TokenKind::OpenParen | TokenKind::OpenBracket => {
                let query = words.is_any(at + 1, &QUERIES);
                let expecting = std::mem::take(&mut frame.expecting) && !query && kind == TokenKind::OpenParen;
                frames.push(Frame { query, expecting, listing: expecting, using: false });
                at += 1;
            }
            TokenKind::CloseParen | TokenKind::CloseBracket => {
                if frames.len() > 1 {
                    frames.pop();
                }
                at += 1;
            }
            TokenKind::Comma => {
                frame.expecting = frame.listing;
                at += 1;
            }
            _ if frame.expecting && words.is(at, "LATERAL") => at += 1,
            _ if frame.expecting && words.is(at, "ONLY") => {
                only = true;
                at += 1;
            }
            TokenKind::Ident | TokenKind::QuotedIdent { .. } if frame.expecting => {
                frame.expecting = false;
                let only = std::mem::take(&mut only);
                at = table(words, at, only, &mut found);
            }
            _ => {
                only = false;
                word(words, at, frame);
                at += 1;
            }
        }
    }
    found
}

/// Takes in a table where one can stand, and returns the place behind it.
fn table(words: Words<'_>, at: usize, only: bool, found: &mut Vec<Reference>) -> usize {
    let Some(name) = words.name(at) else { return at + 1 };
    let mut end = name.end;
    if words.kind(end) == Some(TokenKind::OpenParen) && !words.is(at.wrapping_sub(1), "INTO") {
        // A function.
        return end;
    }
    let bracket = only && words.kind(end) == Some(TokenKind::CloseParen);
    let mut behind = end + usize::from(bracket);
    behind += usize::from(words.kind(behind) == Some(TokenKind::Star));
    let behind_as = behind + usize::from(words.is(behind, "AS"));
    let named = behind_as > behind || !words.is_any(behind, &NO_ALIAS);
    let alias = if named { words.name(behind_as) } else { None };
    let text = words.text(at, name.end).to_owned();
    let alias_text = alias.as_ref().map(|alias| words.text(behind_as, alias.end).to_owned());
    // The bracket that closes is left to whoever has seen it open.
    if !bracket {
        end = alias.as_ref().map_or(behind, |alias| alias.end);
    }
    let alias_name = alias.and_then(|alias| alias.parts.into_iter().next());
    found.push(Reference { table: name.parts, text, alias: alias_text, alias_name, only });
    end
}

/// Takes in a key word.
fn word(words: Words<'_>, at: usize, frame: &mut Frame) {
    frame.expecting = false;
    let before = |word: &str| at > 0 && words.is(at - 1, word);
    if words.is(at, "FROM") {
        if frame.query && !before("DISTINCT") {
            frame.expecting = true;
            frame.listing = !before("DELETE");
        }
    } else if words.is(at, "UPDATE") {
        frame.expecting = !["FOR", "KEY", "DO", "THEN"].iter().any(|word| before(word));
    } else if words.is(at, "DELETE") {
        frame.using |= !before("THEN");
    } else if words.is(at, "INTO") && (before("INSERT") || before("MERGE")) {
        frame.using = before("MERGE");
        frame.expecting = true;
    } else if words.is(at, "USING") {
        if std::mem::take(&mut frame.using) {
            frame.expecting = true;
            frame.listing = true;
        }
    } else if words.is(at, "JOIN") {
        frame.expecting = true;
    } else if words.is(at, "SET") || words.is_any(at, &ENDS) {
        frame.listing = false;
    }
}
