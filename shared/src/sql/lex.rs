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

/// All tokens of a text, which together are the text.
pub(crate) fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut offset = 0;
    let mut found = Vec::new();
    for token in tokenize(sql) {
        let end = offset + usize::try_from(token.len).unwrap_or(usize::MAX);
        let Some(text) = sql.get(offset..end) else { break };
        found.push(Token { kind: token.kind, offset, text });
        offset = end;
    }
    found
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
    fn names_fold_unless_they_are_quoted() {
        assert_eq!(name_parts(r#"Shop . "Or""der""#), Some(vec!["shop".to_owned(), "Or\"der".to_owned()]));
        assert_eq!(name_parts("users"), Some(vec!["users".to_owned()]));
        for bad in ["", "a.", ".a", "a b", "a; DROP", "1a", "\"a", "a..b"] {
            assert_eq!(name_parts(bad), None, "{bad}");
        }
    }
}
