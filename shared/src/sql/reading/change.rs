//! The changes of a statement: INSERT, UPDATE, DELETE and MERGE, also those in its WITH.

use std::ops::Range;

use squawk_lexer::TokenKind;

use super::Unreadable;
use super::words::Words;

/// What is done to the rows of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Rows are inserted.
    pub inserts: bool,
    /// Rows are updated.
    pub updates: bool,
    /// Rows are deleted.
    pub deletes: bool,
}

/// A change of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What is done.
    pub kinds: Kinds,
    /// The parts of the table's name, folded to lower case or as they are quoted.
    pub table: Vec<String>,
    /// By what name the statement calls it, as it stands there: the alias, or else the table.
    pub called: String,
    /// The columns that are assigned to rows which exist, as the catalog names them.
    pub columns: Vec<String>,
    /// True for the statement itself, false in its WITH.
    pub is_main: bool,
    /// True for a MERGE.
    pub merges: bool,
}

/// Where the parts of the statement itself stand, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Main {
    /// Where it begins, behind WITH.
    pub(super) begin: usize,
    /// The table that it updates or deletes from, with its alias; nothing for others.
    pub(super) target: Range<usize>,
    /// The tables behind FROM of an UPDATE or USING of a DELETE.
    pub(super) others: Range<usize>,
    /// What stands behind WHERE.
    pub(super) condition: Range<usize>,
    /// True when it has RETURNING.
    pub(super) returns: bool,
}

/// Reads a statement.
pub(super) fn read(words: Words<'_>, changes: &mut Vec<Change>) -> Result<Main, Unreadable> {
    statement(words, 0, words.tokens.len(), true, changes)
}

fn statement(
    words: Words<'_>,
    from: usize,
    end: usize,
    is_main: bool,
    changes: &mut Vec<Change>,
) -> Result<Main, Unreadable> {
    let at = if words.is(from, "WITH") { with(words, from, end, changes)? } else { from };
    let mut main = Main { begin: words.offset(at), ..Main::default() };
    if words.is_any(at, &["SELECT", "VALUES", "TABLE"]) || words.kind(at) == Some(TokenKind::OpenParen) {
        return Ok(main);
    }
    let first = changes.len();
    if words.is(at, "INSERT") {
        insert(words, at, end, &mut main, changes)?;
    } else if words.is(at, "UPDATE") {
        update(words, at, end, &mut main, changes)?;
    } else if words.is(at, "DELETE") {
        delete(words, at, end, &mut main, changes)?;
    } else if words.is(at, "MERGE") {
        merge(words, at, end, &mut main, changes)?;
    } else {
        return Err(words.unreadable(at, "SELECT, INSERT, UPDATE, DELETE or MERGE"));
    }
    for change in &mut changes[first..] {
        change.is_main = is_main;
    }
    Ok(main)
}

/// Reads the queries of a WITH, and returns the place behind them.
fn with(words: Words<'_>, from: usize, end: usize, changes: &mut Vec<Change>) -> Result<usize, Unreadable> {
    let mut at = from + 1;
    if words.is(at, "RECURSIVE") {
        at += 1;
    }
    loop {
        at = words.name(at).ok_or_else(|| words.unreadable(at, "the name of a query in WITH"))?.end;
        if words.kind(at) == Some(TokenKind::OpenParen) {
            at = words.behind_group(at);
        }
        if !words.is(at, "AS") {
            return Err(words.unreadable(at, "AS"));
        }
        at += 1;
        while words.is_any(at, &["NOT", "MATERIALIZED"]) {
            at += 1;
        }
        if words.kind(at) != Some(TokenKind::OpenParen) {
            return Err(words.unreadable(at, "a query in parentheses"));
        }
        let behind = words.behind_group(at);
        statement(words, at + 1, behind.saturating_sub(1), false, changes)?;
        at = behind;
        // SEARCH ... SET column, and CYCLE ... USING column.
        while words.is_any(at, &["SEARCH", "CYCLE"]) {
            let last = if words.is(at, "SEARCH") { "SET" } else { "USING" };
            at = words.find(at, end, &[last]) + 2;
        }
        if words.kind(at) != Some(TokenKind::Comma) {
            return Ok(at);
        }
        at += 1;
    }
}

/// The table that is changed: `[ONLY] name [*] [[AS] alias]`. Returns the place behind it.
fn target(words: Words<'_>, from: usize, changes: &mut Vec<Change>) -> Result<usize, Unreadable> {
    let mut at = from;
    let only = words.is(at, "ONLY");
    at += usize::from(only);
    let bracket = only && words.kind(at) == Some(TokenKind::OpenParen);
    at += usize::from(bracket);
    let name = words.name(at).ok_or_else(|| words.unreadable(at, "the name of a table"))?;
    let mut called = words.text(at, name.end).to_owned();
    at = name.end + usize::from(bracket);
    at += usize::from(words.kind(at) == Some(TokenKind::Star));
    let behind_as = at + usize::from(words.is(at, "AS"));
    let follows = ["SET", "USING", "WHERE", "RETURNING", "VALUES", "SELECT", "DEFAULT", "OVERRIDING", "WITH", "TABLE"];
    if (behind_as > at || !words.is_any(at, &follows))
        && let Some(alias) = words.name(behind_as)
    {
        words.text(behind_as, alias.end).clone_into(&mut called);
        at = alias.end;
    }
    changes.push(Change {
        kinds: Kinds::default(),
        table: name.parts,
        called,
        columns: Vec::new(),
        is_main: false,
        merges: false,
    });
    Ok(at)
}

fn insert(
    words: Words<'_>,
    at: usize,
    end: usize,
    main: &mut Main,
    changes: &mut Vec<Change>,
) -> Result<(), Unreadable> {
    if !words.is(at + 1, "INTO") {
        return Err(words.unreadable(at + 1, "INTO"));
    }
    let behind = target(words, at + 2, changes)?;
    let returning = words.find(behind, end, &["RETURNING"]);
    main.returns = returning < end;
    let conflict = words.find(behind, returning, &["DO"]);
    let updates = conflict < returning && words.is(conflict + 1, "UPDATE");
    let columns = if updates { set(words, conflict + 2, returning, &["WHERE"])?.0 } else { Vec::new() };
    describe(changes, Kinds { inserts: true, updates, deletes: false }, columns);
    Ok(())
}

fn update(
    words: Words<'_>,
    at: usize,
    end: usize,
    main: &mut Main,
    changes: &mut Vec<Change>,
) -> Result<(), Unreadable> {
    let behind = target(words, at + 1, changes)?;
    main.target = words.offset(at + 1)..words.offset(behind);
    let (columns, behind) = set(words, behind, end, &["FROM", "WHERE", "RETURNING"])?;
    parts(words, behind, end, "FROM", main);
    describe(changes, Kinds { updates: true, ..Kinds::default() }, columns);
    Ok(())
}

fn delete(
    words: Words<'_>,
    at: usize,
    end: usize,
    main: &mut Main,
    changes: &mut Vec<Change>,
) -> Result<(), Unreadable> {
    if !words.is(at + 1, "FROM") {
        return Err(words.unreadable(at + 1, "FROM"));
    }
    let behind = target(words, at + 2, changes)?;
    main.target = words.offset(at + 2)..words.offset(behind);
    if behind < end && !words.is_any(behind, &["USING", "WHERE", "RETURNING"]) {
        return Err(words.unreadable(behind, "USING, WHERE or RETURNING"));
    }
    parts(words, behind, end, "USING", main);
    describe(changes, Kinds { deletes: true, ..Kinds::default() }, Vec::new());
    Ok(())
}

fn merge(
    words: Words<'_>,
    at: usize,
    end: usize,
    main: &mut Main,
    changes: &mut Vec<Change>,
) -> Result<(), Unreadable> {
    if !words.is(at + 1, "INTO") {
        return Err(words.unreadable(at + 1, "INTO"));
    }
    let mut at = target(words, at + 2, changes)?;
    if !words.is(at, "USING") {
        return Err(words.unreadable(at, "USING"));
    }
    let returning = words.find(at, end, &["RETURNING"]);
    main.returns = returning < end;
    let (mut kinds, mut columns) = (Kinds::default(), Vec::new());
    loop {
        at = words.find(at, returning, &["THEN"]) + 1;
        if at > returning {
            break;
        }
        if words.is(at, "UPDATE") {
            kinds.updates = true;
            columns.extend(set(words, at + 1, returning, &["WHEN"])?.0);
        } else if words.is(at, "DELETE") {
            kinds.deletes = true;
        } else if words.is(at, "INSERT") {
            kinds.inserts = true;
        } else if !words.is(at, "DO") {
            return Err(words.unreadable(at, "UPDATE, DELETE, INSERT or DO NOTHING"));
        }
    }
    describe(changes, kinds, columns);
    if let Some(change) = changes.last_mut() {
        change.merges = true;
    }
    Ok(())
}

fn describe(changes: &mut [Change], kinds: Kinds, columns: Vec<String>) {
    if let Some(change) = changes.last_mut() {
        change.kinds = kinds;
        change.columns = columns;
    }
}

/// Where the tables behind `FROM` (or `USING`) and the condition stand.
fn parts(words: Words<'_>, behind: usize, end: usize, from: &str, main: &mut Main) {
    let returning = words.find(behind, end, &["RETURNING"]);
    let condition = words.find(behind, returning, &["WHERE"]);
    let others = words.find(behind, condition, &[from]);
    main.returns = returning < end;
    if condition < returning {
        main.condition = words.offset(condition + 1)..words.offset(returning);
    }
    if others < condition {
        main.others = words.offset(others + 1)..words.offset(condition);
    }
}

/// The columns that a SET assigns, and the place behind it: of each assignment the name that it begins with, for a field or a
/// subscript behind it assigns to a part of the column.
fn set(words: Words<'_>, at: usize, end: usize, behind: &[&str]) -> Result<(Vec<String>, usize), Unreadable> {
    if !words.is(at, "SET") {
        return Err(words.unreadable(at, "SET"));
    }
    let end = words.find(at + 1, end, behind);
    let mut columns = Vec::new();
    let mut column = |at: usize| match words.tokens.get(at).and_then(|token| token.name()) {
        Some(name) => {
            columns.push(name);
            Ok(())
        }
        None => Err(words.unreadable(at, "the name of a column")),
    };
    let mut begins = true;
    let mut at = at + 1;
    while at < end {
        let group = matches!(words.kind(at), Some(TokenKind::OpenParen | TokenKind::OpenBracket));
        let next = if group { words.behind_group(at) } else { at + 1 };
        if begins && group {
            column(at + 1)?;
            let mut inside = at + 2;
            while inside + 1 < next {
                if words.kind(inside) == Some(TokenKind::Comma) {
                    column(inside + 1)?;
                }
                inside = match words.kind(inside) {
                    Some(TokenKind::OpenBracket | TokenKind::OpenParen) => words.behind_group(inside),
                    _ => inside + 1,
                };
            }
        } else if begins {
            column(at)?;
        }
        begins = words.kind(at) == Some(TokenKind::Comma);
        at = next;
    }
    columns.dedup();
    Ok((columns, end))
}
