//! What statements with IF NOT EXISTS make, so that it can be made once more beside what is there, and compared.
//!
//! PostgreSQL is content with whatever has the name. Each statement becomes one that makes the same of a temporary table; what cannot
//! stand on a temporary table and is no part of the comparison, a reference to another table, is left out. What is not understood
//! is [`Created::Other`]: it is not compared, and that is said. What is built concurrently is looked at in the same way, with IF NOT
//! EXISTS or without: that it was built may not have been recorded.

use squawk_lexer::TokenKind;

use super::index::concurrent_index;
use super::lex::Token;
use super::statement::statements;

/// What a statement with IF NOT EXISTS makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// An index.
    Index {
        /// Its name as the catalog has it, not cut.
        name: String,
        /// The table as the statement writes it.
        table: String,
        /// Before the table, and behind it: what builds an index of PostgreSQL's choice of name.
        build: (String, String),
    },
    /// Columns of a table.
    Columns {
        /// The table as the statement writes it.
        table: String,
        /// Each as the catalog has its name, and behind ADD COLUMN.
        columns: Vec<(String, String)>,
    },
    /// A table.
    Table {
        /// The table as the statement writes it.
        table: String,
        /// Behind the name.
        definition: String,
        /// How long it lives, as the catalog says: `p`, `u` or `t`.
        persistence: char,
    },
    /// Something else, or written in a way that is not understood.
    Other,
}

/// What each statement of a text makes; `None` for those without IF NOT EXISTS.
#[must_use]
pub fn created(sql: &str) -> Vec<Option<Created>> {
    statements(sql).iter().map(|statement| of_statement(sql, statement.tokens())).collect()
}

/// The index that the first statement of a text builds concurrently, under a name; `None` when it is another statement.
#[must_use]
pub fn built_concurrently(sql: &str) -> Option<Created> {
    concurrent_index(sql)?.index?;
    let statements = statements(sql);
    Some(index(Reader { sql, tokens: statements.first()?.tokens() }).unwrap_or(Created::Other))
}

/// Words that a statement goes on with, and what they are in.
struct Reader<'t, 'a> {
    sql: &'a str,
    tokens: &'t [Token<'a>],
}

fn of_statement<'a>(sql: &'a str, tokens: &[Token<'a>]) -> Option<Created> {
    let says = tokens
        .windows(3)
        .any(|three| three.iter().zip(["IF", "NOT", "EXISTS"]).all(|(token, word)| token.is_word(word)));
    if !says {
        return None;
    }
    let reader = || Reader { sql, tokens };
    let read = index(reader()).or_else(|| columns(reader())).or_else(|| table(reader()));
    Some(read.unwrap_or(Created::Other))
}

fn index(mut at: Reader<'_, '_>) -> Option<Created> {
    at.words(&["CREATE"])?;
    let unique = at.take("UNIQUE");
    at.words(&["INDEX"])?;
    at.take("CONCURRENTLY");
    if at.take("IF") {
        at.words(&["NOT", "EXISTS"])?;
    }
    let name = at.next()?.name()?;
    at.words(&["ON"])?;
    at.take("ONLY");
    let table = at.dotted()?;
    let before = if unique { "CREATE UNIQUE INDEX ON" } else { "CREATE INDEX ON" };
    Some(Created::Index { name, table, build: (before.to_owned(), at.rest().to_owned()) })
}

fn columns(mut at: Reader<'_, '_>) -> Option<Created> {
    at.words(&["ALTER", "TABLE"])?;
    if at.take("IF") {
        at.words(&["EXISTS"])?;
    }
    at.take("ONLY");
    let table = at.dotted()?;
    let mut columns = Vec::new();
    for action in split(at.tokens, TokenKind::Comma) {
        let mut at = Reader { sql: at.sql, tokens: action };
        if at.words(&["ADD"]).is_none() {
            continue;
        }
        at.take("COLUMN");
        if at.words(&["IF", "NOT", "EXISTS"]).is_none() {
            continue;
        }
        let written = without_references(at.sql, at.tokens);
        columns.push((at.next()?.name()?, written));
    }
    (!columns.is_empty()).then_some(Created::Columns { table, columns })
}

fn table(mut at: Reader<'_, '_>) -> Option<Created> {
    at.words(&["CREATE"])?;
    let _scope = at.take("GLOBAL") || at.take("LOCAL");
    let persistence = match () {
        () if at.take("TEMP") || at.take("TEMPORARY") => 't',
        () if at.take("UNLOGGED") => 'u',
        () => 'p',
    };
    at.words(&["TABLE", "IF", "NOT", "EXISTS"])?;
    let table = at.dotted()?;
    let (open, close) = (at.tokens.first()?, parenthesis(at.tokens)?);
    // Anything else (of a type, a partition, as a query) is not made once more.
    if open.kind != TokenKind::OpenParen || at.tokens.iter().skip(close).any(|token| token.is_word("AS")) {
        return None;
    }
    let inside = at.tokens.get(1..close)?;
    let elements: Vec<String> = split(inside, TokenKind::Comma)
        .into_iter()
        .filter(|element| !is_foreign_key(element))
        .map(|element| without_references(at.sql, element))
        .collect();
    let behind = Reader { sql: at.sql, tokens: at.tokens.get(close + 1..)? };
    Some(Created::Table { table, definition: format!("({}) {}", elements.join(", "), behind.rest()), persistence })
}

fn is_foreign_key(element: &[Token<'_>]) -> bool {
    let skip = if element.first().is_some_and(|token| token.is_word("CONSTRAINT")) { 2 } else { 0 };
    element.get(skip).is_some_and(|token| token.is_word("FOREIGN"))
}

/// The index of the parenthesis that closes the first one.
fn parenthesis(tokens: &[Token<'_>]) -> Option<usize> {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenKind::OpenParen => depth += 1,
            TokenKind::CloseParen => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(i);
        }
    }
    None
}

/// The parts between separators that are in no parentheses.
fn split<'t, 'a>(tokens: &'t [Token<'a>], separator: TokenKind) -> Vec<&'t [Token<'a>]> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_usize, 0);
    for (i, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenKind::OpenParen | TokenKind::OpenBracket => depth += 1,
            TokenKind::CloseParen | TokenKind::CloseBracket => depth = depth.saturating_sub(1),
            kind if kind == separator && depth == 0 => {
                parts.extend(tokens.get(from..i));
                from = i + 1;
            }
            _ => {}
        }
    }
    parts.extend(tokens.get(from..));
    parts
}

/// The definition of a column without its references to other tables.
fn without_references(sql: &str, tokens: &[Token<'_>]) -> String {
    let mut kept = String::new();
    let mut at = Reader { sql, tokens };
    while let Some(token) = at.tokens.first() {
        let named = token.is_word("CONSTRAINT") && at.tokens.get(2).is_some_and(|token| token.is_word("REFERENCES"));
        if named {
            at.tokens = at.tokens.get(2..).unwrap_or_default();
        }
        if at.take("REFERENCES") {
            at.reference();
            continue;
        }
        kept.push_str(token.text);
        // A quoted name and its dot stand together, and words do not.
        kept.push(' ');
        at.next();
    }
    kept.trim_end().to_owned()
}

impl<'t, 'a> Reader<'t, 'a> {
    fn next(&mut self) -> Option<&'t Token<'a>> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let taken = self.tokens.first().is_some_and(|token| token.is_word(word));
        if taken {
            self.tokens = self.tokens.get(1..).unwrap_or_default();
        }
        taken
    }

    fn words(&mut self, words: &[&str]) -> Option<()> {
        words.iter().all(|word| self.take(word)).then_some(())
    }

    /// A name with dots in it, as it is written.
    fn dotted(&mut self) -> Option<String> {
        let mut name = self.next().filter(|token| token.name().is_some())?.text.to_owned();
        while self.tokens.first().is_some_and(|token| token.kind == TokenKind::Dot) {
            self.next();
            name.push('.');
            name.push_str(self.next().filter(|token| token.name().is_some())?.text);
        }
        Some(name)
    }

    /// The text from here to the end of the statement.
    fn rest(&self) -> &'a str {
        let (Some(first), Some(last)) = (self.tokens.first(), self.tokens.last()) else { return "" };
        self.sql.get(first.offset..last.offset + last.text.len()).unwrap_or_default()
    }

    /// Goes behind what follows the word REFERENCES.
    fn reference(&mut self) {
        let _table = self.dotted();
        if self.tokens.first().is_some_and(|token| token.kind == TokenKind::OpenParen)
            && let Some(close) = parenthesis(self.tokens)
        {
            self.tokens = self.tokens.get(close + 1..).unwrap_or_default();
        }
        loop {
            let more = if self.take("MATCH") || self.take("INITIALLY") {
                self.next().is_some()
            } else if self.take("ON") {
                self.next();
                match () {
                    () if self.take("NO") => self.take("ACTION"),
                    () if self.take("SET") => self.next().is_some(),
                    () => self.next().is_some(),
                }
            } else if self.tokens.first().is_some_and(|token| token.is_word("NOT"))
                && self.tokens.get(1).is_some_and(|token| token.is_word("DEFERRABLE"))
            {
                self.next();
                self.take("DEFERRABLE")
            } else {
                self.take("DEFERRABLE")
            };
            if !more {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(sql: &str) -> Created {
        created(sql).remove(0).unwrap()
    }

    #[test]
    fn an_index_is_built_on_another_table() {
        let index = one(
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"I\" ON ONLY shop.t USING btree (a, lower(b)) WHERE c > 0;",
        );
        let build = ("CREATE UNIQUE INDEX ON".to_owned(), "USING btree (a, lower(b)) WHERE c > 0".to_owned());
        assert_eq!(index, Created::Index { name: "I".to_owned(), table: "shop.t".to_owned(), build });
    }

    #[test]
    fn what_is_built_concurrently_is_read_with_if_not_exists_or_without() {
        let index = |sql: &str| match built_concurrently(sql) {
            Some(Created::Index { name, table, build: (before, behind) }) => {
                Some((name, format!("{before} {table} {behind}")))
            }
            other => panic!("{other:?}"),
        };
        for if_not_exists in ["", "if not exists "] {
            let sql = format!("create index concurrently {if_not_exists}I on only t using gin (a);");
            assert_eq!(index(&sql), Some(("i".to_owned(), "CREATE INDEX ON t using gin (a)".to_owned())));
        }
        for sql in ["CREATE INDEX CONCURRENTLY ON t (a)", "CREATE INDEX i ON t (a)", "DROP INDEX CONCURRENTLY i"] {
            assert_eq!(built_concurrently(sql), None, "{sql}");
        }
    }

    #[test]
    fn columns_are_read_without_their_references() {
        let sql = "ALTER TABLE IF EXISTS ONLY t ADD COLUMN IF NOT EXISTS a numeric(10, 2) DEFAULT 0 NOT NULL,
            ADD IF NOT EXISTS b bigint CONSTRAINT f REFERENCES o (id) MATCH FULL ON DELETE SET NULL NOT DEFERRABLE NOT NULL,
            DROP COLUMN c, ADD COLUMN d int";
        let columns = vec![
            ("a".to_owned(), "a numeric ( 10 , 2 ) DEFAULT 0 NOT NULL".to_owned()),
            ("b".to_owned(), "b bigint NOT NULL".to_owned()),
        ];
        assert_eq!(one(sql), Created::Columns { table: "t".to_owned(), columns });
    }

    #[test]
    fn a_table_is_read_without_its_references() {
        let sql =
            "CREATE UNLOGGED TABLE IF NOT EXISTS \"T\" (id int PRIMARY KEY, o int REFERENCES o ON DELETE NO ACTION,
            CONSTRAINT f FOREIGN KEY (o) REFERENCES o (id), UNIQUE (o)) WITH (fillfactor = 70)";
        let definition = "(id int PRIMARY KEY, o int, UNIQUE ( o )) WITH (fillfactor = 70)".to_owned();
        assert_eq!(one(sql), Created::Table { table: "\"T\"".to_owned(), definition, persistence: 'u' });
    }

    #[test]
    fn statements_are_counted_and_others_are_not_understood() {
        let all = created(
            "SELECT 1; CREATE SCHEMA IF NOT EXISTS s; CREATE TABLE IF NOT EXISTS t AS SELECT 1; CREATE TABLE t (a int)",
        );
        assert_eq!(all, [None, Some(Created::Other), Some(Created::Other), None]);
        for sql in [
            "CREATE TABLE IF NOT EXISTS p PARTITION OF t DEFAULT",
            "CREATE INDEX IF NOT EXISTS",
            "CREATE TABLE IF NOT EXISTS t (",
        ] {
            assert_eq!(one(sql), Created::Other, "{sql}");
        }
    }
}
