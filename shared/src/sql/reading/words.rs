//! The tokens of a statement, looked at by their place.

use squawk_lexer::TokenKind;

use super::Unreadable;
use crate::sql::lex::Token;

/// The tokens of a statement, without blanks and comments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    pub(super) sql: &'a str,
    pub(super) tokens: &'a [Token<'a>],
}

/// A name as it stands in a statement.
#[derive(Clone, Debug)]
pub(super) struct Name {
    /// Its parts.
    pub(super) parts: Vec<String>,
    /// The place behind it.
    pub(super) end: usize,
}

impl<'a> Words<'a> {
    pub(super) fn kind(&self, at: usize) -> Option<TokenKind> {
        self.tokens.get(at).map(|token| token.kind)
    }

    /// True for a key word. What stands behind a dot is the name of something, whatever it is.
    pub(super) fn is(&self, at: usize, word: &str) -> bool {
        let named = at > 0 && self.kind(at - 1) == Some(TokenKind::Dot);
        !named && self.tokens.get(at).is_some_and(|token| token.is_word(word))
    }

    pub(super) fn is_any(&self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(at, word))
    }

    /// The offset of a token in the text, or that of the end of the last.
    pub(super) fn offset(&self, at: usize) -> usize {
        let end = || self.tokens.last().map_or(0, |token| token.offset + token.text.len());
        self.tokens.get(at).map_or_else(end, |token| token.offset)
    }

    /// The text from one token up to another.
    pub(super) fn text(&self, from: usize, to: usize) -> &'a str {
        let end =
            to.checked_sub(1).and_then(|last| self.tokens.get(last)).map_or(0, |last| last.offset + last.text.len());
        self.sql.get(self.offset(from)..end).unwrap_or_default()
    }

    /// A name with its schema, if one stands here.
    pub(super) fn name(&self, mut at: usize) -> Option<Name> {
        let mut parts = Vec::new();
        loop {
            parts.push(self.tokens.get(at)?.name()?);
            if self.kind(at + 1) != Some(TokenKind::Dot) {
                return Some(Name { parts, end: at + 1 });
            }
            at += 2;
        }
    }

    /// The place behind the bracket that closes the one here.
    pub(super) fn behind_group(&self, mut at: usize) -> usize {
        let mut depth = 0_usize;
        while let Some(kind) = self.kind(at) {
            at += 1;
            match kind {
                TokenKind::OpenParen | TokenKind::OpenBracket => depth += 1,
                TokenKind::CloseParen | TokenKind::CloseBracket => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        break;
                    }
                }
                _ => {}
            }
        }
        at
    }

    /// The first of some key words from a place on, or `end`: outside of brackets and of CASE, and not in IS DISTINCT FROM.
    pub(super) fn find(&self, mut at: usize, end: usize, words: &[&str]) -> usize {
        let mut cases = 0_usize;
        while at < end {
            match self.kind(at) {
                Some(TokenKind::OpenParen | TokenKind::OpenBracket) => {
                    at = self.behind_group(at);
                    continue;
                }
                _ if self.is(at, "CASE") => cases += 1,
                _ if cases > 0 && self.is(at, "END") => cases -= 1,
                _ if cases == 0
                    && self.is_any(at, words)
                    && !(self.is(at, "FROM") && at > 0 && self.is(at - 1, "DISTINCT")) =>
                {
                    return at;
                }
                _ => {}
            }
            at += 1;
        }
        end
    }

    pub(super) fn unreadable(&self, at: usize, expected: &str) -> Unreadable {
        let found = self.tokens.get(at).map_or("its end", |token| token.text);
        let found: String = found.chars().take(40).collect();
        Unreadable { offset: self.offset(at), what: format!("{expected} was expected where `{found}` stands") }
    }
}
