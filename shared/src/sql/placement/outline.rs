//! The tree of a text in which each placeholder is a name.
//!
//! The parser goes as deep as the text is nested, and so does the end of its tree; a text comes from anybody. So long lists and long CASE
//! expressions without placeholder and without query are left out, which are most of any long statement; what is then still long, or
//! deep, is not understood; and whatever is not short is read where there is room to go deep.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use squawk_lexer::TokenKind;
use squawk_syntax::{SourceFile, SyntaxNode};

use super::climb::Why;
use super::{Misplaced, Placement};
use crate::sql::lex::{Token, tokens};
use crate::sql::placeholder::BatchSql;

/// What a placeholder is in the tree, with its number behind.
const MARK: &str = "dunlin_batch_";

/// A bracket or a CASE of more tokens is left out where nothing in it matters.
const LONG: usize = 100;

/// Tokens of a text that is understood, and brackets in brackets.
const TOKENS: usize = 5_000;
const DEPTH: usize = 100;

/// Up to so many tokens and brackets a text is read where the caller stands.
const SHORT: usize = 400;
const FLAT: usize = 8;

/// The stack for all others.
const STACK: usize = 64 << 20;

/// The number of the placeholder that a name stands for.
pub(super) fn mark(name: &str) -> Option<usize> {
    name.strip_prefix(MARK)?.parse().ok()
}

/// Reads the tree of a text.
pub(super) fn with_tree(
    parsed: &BatchSql,
    length: usize,
    read: impl FnOnce(&SyntaxNode) -> Result<Placement, Misplaced> + Send,
) -> Result<Placement, Misplaced> {
    let first = parsed.offsets().next().unwrap_or(0);
    let at = |offset, what: &str| Misplaced { offset, why: Why::NotUnderstood(what.to_owned()) };
    let marked = {
        let number = Cell::new(0_usize);
        parsed.render(|_| marker(&number))
    };
    let outline = Outline::of(&marked);
    if outline.tokens > TOKENS || outline.depth > DEPTH {
        return Err(at(first, "the statement is too long, or too deep"));
    }
    let wrong = |offset: usize, what: &str| {
        let number = Cell::new(0_usize);
        let offset = parsed.origin(outline.origin(offset), length, |_| marker(&number));
        Misplaced { offset, why: Why::NotUnderstood(what.to_owned()) }
    };
    let text = outline.text.as_str();
    let work = || {
        let tree = SourceFile::parse(text);
        if let Some(error) = tree.errors().first() {
            let offset = usize::try_from(u32::from(error.range().start())).unwrap_or(0);
            return Err((offset, error.message().to_owned()));
        }
        Ok(read(&tree.syntax_node()))
    };
    let done = if outline.tokens <= SHORT && outline.depth <= FLAT {
        catch_unwind(AssertUnwindSafe(work)).ok()
    } else {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
            thread.ok()?.join().ok()
        })
    };
    match done {
        Some(Ok(read)) => read,
        Some(Err((offset, what))) => Err(wrong(offset, &what)),
        None => Err(at(first, "the parser has given up")),
    }
}

/// A placeholder as it is read: in parentheses, as its condition is.
fn marker(number: &Cell<usize>) -> String {
    let place = number.get();
    number.set(place + 1);
    format!("({MARK}{place})")
}

/// A text without its long parts.
struct Outline {
    text: String,
    /// Where what follows a part that was left out stands, here and in the whole text.
    shifts: Vec<(usize, usize)>,
    tokens: usize,
    depth: usize,
}

/// A bracket or a CASE: from one token to another.
#[derive(Clone, Copy)]
struct Group {
    from: usize,
    to: usize,
    /// What is in its place.
    instead: &'static str,
}

const QUERIES: [&str; 8] = ["SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE"];

impl Outline {
    fn of(sql: &str) -> Self {
        let all: Vec<Token<'_>> = tokens(sql);
        let kept: Vec<usize> = (0..all.len()).filter(|at| !all[*at].is_trivia()).collect();
        let words: Vec<Token<'_>> = kept.iter().map(|at| all[*at]).collect();
        let groups = groups(&words);
        let mut outline =
            Self { text: String::with_capacity(sql.len().min(1 << 16)), shifts: Vec::new(), tokens: 0, depth: 0 };
        let (mut at, mut depth, mut next) = (0, 0_usize, 0);
        let mut behind = 0;
        while let Some(token) = words.get(at) {
            while groups.get(next).is_some_and(|group| group.from < at) {
                next += 1;
            }
            outline.text.push_str(sql.get(behind..token.offset).unwrap_or(" "));
            if let Some(group) = groups.get(next).filter(|group| group.from == at) {
                outline.text.push_str(group.instead);
                let last = words[group.to];
                behind = last.offset + last.text.len();
                outline.shifts.push((outline.text.len(), behind));
                outline.tokens += 3;
                at = group.to + 1;
                continue;
            }
            match token.kind {
                TokenKind::OpenParen | TokenKind::OpenBracket => depth += 1,
                TokenKind::CloseParen | TokenKind::CloseBracket => depth = depth.saturating_sub(1),
                _ if token.is_word("CASE") => depth += 1,
                _ if token.is_word("END") => depth = depth.saturating_sub(1),
                _ => {}
            }
            outline.depth = outline.depth.max(depth);
            outline.tokens += 1;
            outline.text.push_str(token.text);
            behind = token.offset + token.text.len();
            at += 1;
        }
        outline
    }

    /// Where in the whole text a byte stands.
    fn origin(&self, offset: usize) -> usize {
        let shift = self.shifts.iter().rev().find(|(here, _)| *here <= offset);
        shift.map_or(offset, |(here, there)| there + (offset - here))
    }
}

/// A group that is not closed yet.
struct Open {
    at: usize,
    case: bool,
    /// Key words of queries in it, and placeholders.
    matters: usize,
}

/// The groups of a text that can be left out, in its order.
fn groups(words: &[Token<'_>]) -> Vec<Group> {
    let mut open: Vec<Open> = Vec::new();
    let mut found = Vec::new();
    for (at, token) in words.iter().enumerate() {
        let named = at > 0 && words[at - 1].kind == TokenKind::Dot;
        let is = |word: &str| !named && token.is_word(word);
        match token.kind {
            TokenKind::OpenParen | TokenKind::OpenBracket => open.push(Open { at, case: false, matters: 0 }),
            TokenKind::CloseParen | TokenKind::CloseBracket => {
                while open.last().is_some_and(|open| open.case) {
                    close(&mut open);
                }
                if let Some(group) = close(&mut open).filter(|group| at - group.at > LONG)
                    && let Some(instead) = instead(words, &group)
                {
                    found.push(Group { from: group.at, to: at, instead });
                }
            }
            _ if is("CASE") => open.push(Open { at, case: true, matters: 0 }),
            _ if is("END") && open.last().is_some_and(|open| open.case) => {
                if let Some(case) = close(&mut open).filter(|case| at - case.at > LONG && case.matters == 0) {
                    found.push(Group { from: case.at, to: at, instead: "NULL" });
                }
            }
            _ if QUERIES.iter().any(|word| is(word)) || token.text.starts_with(MARK) => {
                if let Some(last) = open.last_mut() {
                    last.matters += 1;
                }
            }
            _ => {}
        }
    }
    found.sort_by_key(|group| (group.from, std::cmp::Reverse(group.to)));
    found
}

/// Closes the innermost group. What matters in it matters around it.
fn close(open: &mut Vec<Open>) -> Option<Open> {
    let closed = open.pop()?;
    if let Some(around) = open.last_mut() {
        around.matters += closed.matters;
    }
    Some(closed)
}

/// What stands in the place of a long bracket, if it can be left out.
fn instead(words: &[Token<'_>], group: &Open) -> Option<&'static str> {
    match (group.matters, words[group.at].kind) {
        (0, TokenKind::OpenParen) => Some("(dunlin_left_out)"),
        (0, _) => Some("[0]"),
        (1, _) if words.get(group.at + 1).is_some_and(|word| word.is_word("VALUES")) => Some("(VALUES (NULL))"),
        _ => None,
    }
}
