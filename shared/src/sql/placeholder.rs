//! The placeholder `:batch` in the SQL of a batch step.
//!
//! A placeholder is the word `batch` in lower case directly behind a single colon, as a token of SQL: so never inside
//! strings, quoted identifiers, comments or dollar quotes, and neither `::batch` (a cast) nor `:batchx`. Directly inside
//! square brackets a colon separates the bounds of an array slice: `a[1:batch]` is one, `a[(:batch)]` is none.
//! `:batch(u)` names the alias of the table; a parenthesis that stands directly behind `:batch` must hold one name.
//!
//! What must stay true: no text makes this panic, and everything that is not a placeholder comes out byte for byte.

use squawk_lexer::TokenKind;

use super::lex::{Token, tokens};

/// Why a text cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Error {
    /// Where, in bytes from the start of the text.
    pub offset: usize,
    /// What is wrong there.
    pub reason: Reason,
}

/// What is wrong in a text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// `:batch(` is not followed by a name and a closing parenthesis.
    #[error("`:batch(` must be followed by the table's alias and `)`, such as `:batch(u)`")]
    Alias,
    /// Something is open at the end of the text.
    #[error("{0} begins here and never ends")]
    LeftOpen(&'static str),
}

/// SQL with its placeholders found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSql {
    pieces: Vec<Piece>,
    tail: String,
}

/// Text and the placeholder behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    text: String,
    offset: usize,
    alias: Option<String>,
}

impl BatchSql {
    /// Where in the text, of so many bytes, a byte of what was rendered comes from: a byte of a condition comes from its placeholder.
    #[must_use]
    pub fn origin(&self, rendered: usize, length: usize, mut condition: impl FnMut(Option<&str>) -> String) -> usize {
        let mut done = 0;
        for piece in &self.pieces {
            if rendered < done + piece.text.len() {
                return piece.offset - piece.text.len() + (rendered - done);
            }
            done += piece.text.len() + condition(piece.alias.as_deref()).len();
            if rendered < done {
                return piece.offset;
            }
        }
        (length.saturating_sub(self.tail.len()) + rendered.saturating_sub(done)).min(length)
    }

    /// Finds the placeholders of a text; there may be none.
    ///
    /// # Errors
    /// An alias is not a name, or a string, comment or quoted identifier is left open.
    pub fn parse(sql: &str) -> Result<Self, Error> {
        let tokens = tokens(sql);
        let mut pieces = Vec::new();
        let mut brackets = Vec::new();
        let mut done = 0;
        let mut i = 0;
        while let Some(token) = tokens.get(i) {
            if let Some(what) = token.left_open() {
                return Err(Error { offset: token.offset, reason: Reason::LeftOpen(what) });
            }
            match token.kind {
                TokenKind::OpenParen | TokenKind::OpenBracket => brackets.push(token.kind),
                TokenKind::CloseParen | TokenKind::CloseBracket => {
                    brackets.pop();
                }
                TokenKind::Colon if brackets.last() != Some(&TokenKind::OpenBracket) && is_placeholder(&tokens, i) => {
                    let (alias, next) = alias(sql, &tokens, i)?;
                    pieces.push(Piece { text: sql[done..token.offset].to_owned(), offset: token.offset, alias });
                    done = tokens.get(next).map_or(sql.len(), |token| token.offset);
                    i = next;
                    continue;
                }
                _ => {}
            }
            i += 1;
        }
        Ok(Self { pieces, tail: sql[done..].to_owned() })
    }

    /// The number of placeholders.
    #[must_use]
    pub fn placeholders(&self) -> usize {
        self.pieces.len()
    }

    /// Where the placeholders stand, in bytes from the start of the text.
    pub fn offsets(&self) -> impl Iterator<Item = usize> + '_ {
        self.pieces.iter().map(|piece| piece.offset)
    }

    /// Where those placeholders stand that name no alias, in bytes from the start of the text.
    pub fn placeholders_without_alias(&self) -> impl Iterator<Item = usize> + '_ {
        self.pieces.iter().filter(|piece| piece.alias.is_none()).map(|piece| piece.offset)
    }

    /// The aliases of the placeholders, in the order of the text.
    pub fn aliases(&self) -> impl Iterator<Item = Option<&str>> + '_ {
        self.pieces.iter().map(|piece| piece.alias.as_deref())
    }

    /// The text with each placeholder replaced by what `predicate` makes of its alias, which is given as SQL writes it.
    pub fn render(&self, mut predicate: impl FnMut(Option<&str>) -> String) -> String {
        let mut sql = String::new();
        for piece in &self.pieces {
            sql.push_str(&piece.text);
            sql.push_str(&predicate(piece.alias.as_deref()));
        }
        sql.push_str(&self.tail);
        sql
    }
}

fn is_placeholder(tokens: &[Token<'_>], colon: usize) -> bool {
    let cast = colon > 0 && tokens[colon - 1].kind == TokenKind::Colon;
    !cast && tokens.get(colon + 1).is_some_and(|word| word.kind == TokenKind::Ident && word.text == "batch")
}

/// The alias of the placeholder at `colon`, and the number of the token behind the placeholder.
fn alias(sql: &str, tokens: &[Token<'_>], colon: usize) -> Result<(Option<String>, usize), Error> {
    let open = colon + 2;
    if tokens.get(open).is_none_or(|token| token.kind != TokenKind::OpenParen) {
        return Ok((None, open));
    }
    let wrong = || Error { offset: tokens[colon].offset, reason: Reason::Alias };
    let mut end = open + 1;
    while tokens.get(end).is_some_and(|token| {
        matches!(
            token.kind,
            TokenKind::Whitespace | TokenKind::Ident | TokenKind::Dot | TokenKind::QuotedIdent { terminated: true, .. }
        )
    }) {
        end += 1;
    }
    let close = tokens.get(end).filter(|token| token.kind == TokenKind::CloseParen).ok_or_else(wrong)?;
    let alias = sql[tokens[open].offset + 1..close.offset].trim();
    super::lex::name_parts(alias).ok_or_else(wrong)?;
    Ok((Some(alias.to_owned()), end + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn render(sql: &str) -> String {
        BatchSql::parse(sql).unwrap().render(|alias| format!("<{}>", alias.unwrap_or("-")))
    }

    #[test]
    fn placeholders_are_found_with_and_without_alias() {
        assert_eq!(render("UPDATE t SET a = 1 WHERE :batch"), "UPDATE t SET a = 1 WHERE <->");
        assert_eq!(render("SELECT (:batch)AND :batch(u)OR :batch( \"U\" );"), "SELECT (<->)AND <u>OR <\"U\">;");
        assert_eq!(render("WHERE :batch(public.users)"), "WHERE <public.users>");
        assert_eq!(render("WHERE :batch (SELECT 1)"), "WHERE <-> (SELECT 1)");
        assert_eq!(render("x[(:batch)]"), "x[(<->)]");
    }

    #[test]
    fn what_only_looks_like_a_placeholder_is_left_alone() {
        for sql in [
            "a::batch",
            ":batchx",
            ":batch_2",
            ":BATCH",
            ": batch",
            "a[1:batch]",
            "a[:batch]",
            "f(a := batch)",
            "':batch'",
            "E'\\':batch'",
            "U&':batch'",
            "\":batch\"",
            "-- :batch",
            "/* /* :batch */ :batch */",
            "$$ :batch $$",
            "$tag$ $$ :batch $tag$",
            "'it''s :batch'",
            "$1:: batch",
        ] {
            assert_eq!(render(sql), sql);
        }
    }

    #[test]
    fn a_dollar_inside_an_identifier_opens_no_quote() {
        assert_eq!(render("a$b$ :batch c$b$"), "a$b$ <-> c$b$");
    }

    #[test]
    fn a_parenthesis_behind_the_placeholder_holds_one_name() {
        for sql in [":batch()", ":batch(1)", ":batch(a b)", ":batch(a,b)", ":batch(", ":batch(a"] {
            assert_eq!(BatchSql::parse(sql), Err(Error { offset: 0, reason: Reason::Alias }), "{sql}");
        }
    }

    #[test]
    fn what_is_left_open_is_an_error_where_it_begins() {
        assert_eq!(BatchSql::parse("a 'b").unwrap_err().offset, 2);
        assert_eq!(BatchSql::parse("/* /* */").unwrap_err().reason, Reason::LeftOpen("a comment"));
    }

    fn plain() -> impl Strategy<Value = String> {
        "[a-z0-9 +=<>.,;()\n]{0,20}"
    }

    fn inside() -> impl Strategy<Value = String> {
        prop_oneof![Just(":batch".to_owned()), Just(" :batch(u) ".to_owned()), "[a-z :]{0,10}"]
            .prop_flat_map(|head| "[a-z :]{0,8}".prop_map(move |tail| format!("{head}{tail}")))
    }

    fn quoted() -> impl Strategy<Value = String> {
        (inside(), 0..8).prop_map(|(text, form)| match form {
            0 => format!("'{text}'"),
            1 => format!(" E'\\'{text}'"),
            2 => format!(" U&'{text}'"),
            3 => format!("\"{text}\""),
            4 => format!("--{text}\n"),
            5 => format!("/* /*{text}*/ {text}*/"),
            6 => format!(" $${text}$$"),
            _ => format!(" $t${text}$$ {text}$t$"),
        })
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(sql in ".*") {
            let _parsed = BatchSql::parse(&sql);
        }

        #[test]
        fn no_text_of_hard_characters_makes_it_panic(sql in "[a:batch()$'\"\\[\\]/*\\\\Eé -]{0,40}") {
            if let Ok(parsed) = BatchSql::parse(&sql) {
                prop_assert!(parsed.offsets().all(|offset| sql[offset..].starts_with(":batch")));
            }
        }

        #[test]
        fn what_is_quoted_is_left_alone_and_the_rest_comes_out_byte_for_byte(
            parts in prop::collection::vec((plain(), quoted(), any::<bool>()), 0..6)
        ) {
            let mut sql = String::new();
            let mut rendered = String::new();
            for (plain, quoted, placeholder) in parts {
                sql.push_str(&plain);
                rendered.push_str(&plain);
                if placeholder {
                    sql.push_str(" :batch ");
                    rendered.push_str(" TRUE ");
                }
                sql.push_str(&quoted);
                rendered.push_str(&quoted);
            }
            let parsed = BatchSql::parse(&sql).unwrap();
            prop_assert_eq!(parsed.render(|_| "TRUE".to_owned()), rendered);
            prop_assert_eq!(parsed.render(|_| ":batch".to_owned()), sql);
        }
    }
}
