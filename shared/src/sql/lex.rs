//! The tokens of a text of SQL, by PostgreSQL's lexical rules with `standard_conforming_strings` on.
//!
//! Nothing here fails: text that is no SQL gives tokens all the same, and whatever is left open (a string, a comment)
//! reaches to the end of the text.

use squawk_lexer::{LiteralKind, TokenKind, tokenize};

/// A token and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: TokenKind,
    /// The offset in bytes.
    pub(crate) offset: usize,
    pub(crate) text: &'a str,
}

impl Token<'_> {
    /// True for blanks and comments.
    pub(crate) fn is_trivia(&self) -> bool {
        matches!(self.kind, TokenKind::Whitespace | TokenKind::LineComment | TokenKind::BlockComment { .. })
    }

    /// True for an identifier or key word that is not quoted and reads as this, in any case of letters.
    pub(crate) fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Ident && self.text.eq_ignore_ascii_case(word)
    }

    /// True for strings of any kind and quoted identifiers.
    pub(crate) fn is_quoted(&self) -> bool {
        match self.kind {
            TokenKind::QuotedIdent { .. } => true,
            TokenKind::Literal { kind } => !matches!(kind, LiteralKind::Int { .. } | LiteralKind::Numeric { .. }),
            _ => false,
        }
    }

    /// What the token leaves open at the end of the text, in words.
    pub(crate) fn left_open(&self) -> Option<&'static str> {
        match self.kind {
            TokenKind::BlockComment { terminated: false } => Some("a comment"),
            TokenKind::QuotedIdent { terminated: false, .. } => Some("a quoted identifier"),
            TokenKind::Literal { kind } => match kind {
                LiteralKind::DollarQuotedString { terminated: false } => Some("a dollar-quoted string"),
                LiteralKind::Str { terminated: false }
                | LiteralKind::NationalStr { terminated: false }
                | LiteralKind::ByteStr { terminated: false }
                | LiteralKind::BitStr { terminated: false }
                | LiteralKind::UnicodeEscStr { terminated: false }
                | LiteralKind::EscStr { terminated: false } => Some("a string"),
                _ => None,
            },
            _ => None,
        }
    }

    /// The name that an identifier stands for: folded to lower case, or as it is quoted. `None` for other tokens.
    pub(crate) fn name(&self) -> Option<String> {
        match self.kind {
            TokenKind::Ident => Some(self.text.to_ascii_lowercase()),
            TokenKind::QuotedIdent { terminated: true, uescape: false } => {
                Some(self.text[1..self.text.len() - 1].replace("\"\"", "\""))
            }
            _ => None,
        }
    }
}

/// A text without its comments, with one space for whatever stood between two tokens. Where nothing stood there, nothing does
/// now; and a line break stays between two constants, which it joins.
pub(crate) fn without_layout(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut gap = None;
    let mut behind_literal = false;
    for token in each(sql) {
        if token.is_trivia() {
            gap = Some(gap.unwrap_or(false) || token.text.contains(['\n', '\r']));
            continue;
        }
        let literal = matches!(token.kind, TokenKind::Literal { .. });
        if let Some(broken) = gap.take().filter(|_| !text.is_empty()) {
            text.push(if broken && behind_literal && literal { '\n' } else { ' ' });
        }
        text.push_str(token.text);
        behind_literal = literal;
    }
    text
}

/// All tokens of a text, which together are the text.
pub(crate) fn tokens(sql: &str) -> Vec<Token<'_>> {
    each(sql).collect()
}

/// The tokens of a text one after the other, none of which is kept.
pub(crate) fn each(sql: &str) -> Lexer<'_> {
    Lexer { sql, offset: 0, lexer: Box::new(tokenize(sql)), continued: Continued::No }
}

/// True when a text has more tokens than this.
pub(crate) fn more_than(most: usize, sql: &str) -> bool {
    // Each has a byte at least.
    sql.len() > most && each(sql).take(most + 1).count() > most
}

/// Reads the tokens of a text. `read_on` sees each, and says where to read on if not behind it: what lies between is left out.
pub(crate) fn lex<'a>(sql: &'a str, mut read_on: impl FnMut(&Token<'a>) -> Option<usize>) {
    let mut lexer = each(sql);
    while let Some(token) = lexer.next() {
        if let Some(elsewhere) = read_on(&token) {
            lexer.go_on_at(elsewhere);
        }
    }
}

/// The tokens of a text that are still to come.
pub(crate) struct Lexer<'a> {
    sql: &'a str,
    offset: usize,
    lexer: Box<dyn Iterator<Item = squawk_lexer::Token> + 'a>,
    continued: Continued,
}

/// Whether a string with escapes goes on in quotes that stand here: there is a line's end between, and else only blanks and
/// comments to the end of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Continued {
    No,
    BehindString,
    OnNewLine,
}

impl<'a> Lexer<'a> {
    fn go_on_at(&mut self, offset: usize) {
        self.offset = offset;
        self.lexer = Box::new(tokenize(self.sql.get(offset..).unwrap_or_default()));
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let (sql, offset) = (self.sql, self.offset);
        let mut token = self.lexer.next()?;
        let mut again = false;
        // The lexer takes the further lines of a string with escapes for strings without.
        if self.continued == Continued::OnNewLine
            && let Some(line) = sql.get(offset..).filter(|rest| rest.starts_with('\''))
            && let Some(whole) = tokenize(&format!("e{line}")).next()
        {
            token = squawk_lexer::Token { kind: whole.kind, len: whole.len - 1 };
            again = true;
        }
        // It also takes letters that stand directly behind a dollar or a parameter for a part of it. They can begin a string.
        if let TokenKind::PositionalParam { trailing_junk_start } = token.kind
            && trailing_junk_start < token.len
        {
            token.len = trailing_junk_start;
            again = true;
        }
        // An exponent without digits begins a name for PostgreSQL 14, which can hold dollars; later versions refuse it.
        if let TokenKind::Literal { kind: LiteralKind::Numeric { empty_exponent_start: Some(end), .. } } = token.kind {
            token.len = end;
            again = true;
        }
        let end = offset.saturating_add(length(&token));
        let text = sql.get(offset..end)?;
        let token = Token { kind: token.kind, offset, text };
        self.continued = match (token.kind, self.continued) {
            (TokenKind::Literal { kind: LiteralKind::EscStr { terminated: true } }, _) => Continued::BehindString,
            (TokenKind::Whitespace, Continued::BehindString) if text.contains(['\n', '\r']) => Continued::OnNewLine,
            (TokenKind::Whitespace | TokenKind::LineComment, as_before) => as_before,
            _ => Continued::No,
        };
        self.offset = end;
        if again {
            self.go_on_at(end);
        }
        Some(token)
    }
}

fn length(token: &squawk_lexer::Token) -> usize {
    usize::try_from(token.len).unwrap_or(usize::MAX)
}

/// The parts of a name as SQL writes it, such as `shop."Order"`: each folded or as it is quoted. `None` when the text is
/// no name.
pub(crate) fn name_parts(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut wants_name = true;
    for token in tokens(text).iter().filter(|token| !token.is_trivia()) {
        if wants_name {
            parts.push(token.name()?);
        } else if token.kind != TokenKind::Dot {
            return None;
        }
        wants_name = !wants_name;
    }
    (!wants_name).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_with_escapes_has_them_on_its_further_lines_too() {
        let strings = |sql: &str| {
            let tokens = tokens(sql);
            assert_eq!(tokens.iter().map(|token| token.text).collect::<String>(), sql);
            let strings = tokens.iter().filter(|token| matches!(token.kind, TokenKind::Literal { .. }));
            strings.map(|token| token.text.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(strings("e'a'\n'\\'b' c"), ["e'a'", "'\\'b'"]);
        assert_eq!(strings("E'a' -- x\n\t'\\'b'\r'\\''"), ["E'a'", "'\\'b'", "'\\''"]);
        for separate in ["e'a' '\\' c", "e'a'\n/* */'\\' c", "'a'\n'\\' c", "e'a'\n+'\\' c"] {
            assert_eq!(strings(separate).last().unwrap(), "'\\'", "{separate}");
        }
    }

    #[test]
    fn what_stands_behind_a_dollar_or_a_number_is_read_as_the_server_reads_it() {
        for (sql, texts) in [
            ("$e'\\''", ["$", "e'\\''"]),
            ("$1E'\\''", ["$1", "E'\\''"]),
            ("$12abc", ["$12", "abc"]),
            ("1e$$", ["1", "e$$"]),
        ] {
            assert_eq!(tokens(sql).iter().map(|token| token.text).collect::<Vec<_>>(), texts, "{sql}");
        }
    }

    #[test]
    fn names_fold_unless_they_are_quoted() {
        assert_eq!(name_parts(r#"Shop . "Or""der""#), Some(vec!["shop".to_owned(), "Or\"der".to_owned()]));
        assert_eq!(name_parts("users"), Some(vec!["users".to_owned()]));
        for bad in ["", "a.", ".a", "a b", "a; DROP", "1a", "\"a", "a..b"] {
            assert_eq!(name_parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn layout_and_comments_leave_no_trace_and_everything_else_does() {
        let plain = without_layout("SELECT a, 'b -- c' FROM t");
        for same in ["-- why\nSELECT a,\n  'b -- c' /* what */ FROM t -- end", "\r\n SELECT  a, 'b -- c'\tFROM t\n"] {
            assert_eq!(without_layout(same), plain, "{same:?}");
        }
        for other in [
            "SELECT a, 'b --  c' FROM t",
            "SELECT a,'b -- c' FROM t",
            "SELECT a, 'b -- c' FROM t;",
            "SELECT A, 'b -- c' FROM t",
        ] {
            assert_ne!(without_layout(other), plain, "{other:?}");
        }
        assert_ne!(without_layout("SELECT 'a'\n'b'"), without_layout("SELECT 'a' 'b'"), "one of them is no SQL");
        assert_ne!(without_layout("SELECT 1 - -1"), without_layout("SELECT 1 --1"));
    }
}
