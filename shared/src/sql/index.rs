//! What a CREATE INDEX CONCURRENTLY builds, so that a half-built index can be found and removed.

use squawk_lexer::TokenKind;

use super::lex::Token;
use super::statement::statements;

/// An index that is built concurrently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrentIndex {
    /// The name of the index as it stands in the catalog, not quoted; it lies in the schema of the table. `None` when
    /// PostgreSQL is to choose one.
    pub index: Option<String>,
    /// The table as the statement writes it, fit for `to_regclass`.
    pub table: String,
    /// True for a unique index.
    pub unique: bool,
    /// True when the statement says IF NOT EXISTS.
    pub if_not_exists: bool,
}

/// The index that the first statement of a text builds concurrently; `None` when it is another statement.
#[must_use]
pub fn concurrent_index(sql: &str) -> Option<ConcurrentIndex> {
    let statements = statements(sql);
    let mut words = Words(statements.first()?.tokens());
    if !words.take("CREATE") {
        return None;
    }
    let unique = words.take("UNIQUE");
    if !(words.take("INDEX") && words.take("CONCURRENTLY")) {
        return None;
    }
    let if_not_exists = words.take("IF") && words.take("NOT") && words.take("EXISTS");
    let index = if words.take("ON") {
        None
    } else {
        let name = words.next()?.name()?;
        if !words.take("ON") {
            return None;
        }
        Some(name)
    };
    words.take("ONLY");
    let start = words.0;
    let length = start
        .iter()
        .enumerate()
        .take_while(|(i, token)| if i % 2 == 0 { token.name().is_some() } else { token.kind == TokenKind::Dot })
        .count();
    let table: String = start[..length].iter().map(|token| token.text).collect();
    (length % 2 == 1).then_some(ConcurrentIndex { index, table, unique, if_not_exists })
}

struct Words<'t, 'a>(&'t [Token<'a>]);

impl<'t, 'a> Words<'t, 'a> {
    fn next(&mut self) -> Option<&'t Token<'a>> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let taken = self.0.first().is_some_and(|token| token.is_word(word));
        if taken {
            self.0 = &self.0[1..];
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(name: Option<&str>, table: &str, unique: bool, if_not_exists: bool) -> Option<ConcurrentIndex> {
        Some(ConcurrentIndex { index: name.map(str::to_owned), table: table.to_owned(), unique, if_not_exists })
    }

    #[test]
    fn the_index_and_its_table_are_read() {
        let read = concurrent_index;
        assert_eq!(read("CREATE INDEX CONCURRENTLY i ON t (a)"), index(Some("i"), "t", false, false));
        assert_eq!(
            read("create unique index concurrently if not exists \"My I\" on only Shop.\"T\" using btree (a);"),
            index(Some("My I"), "Shop.\"T\"", true, true)
        );
        assert_eq!(read("-- x\nCREATE INDEX CONCURRENTLY ON t(a)"), index(None, "t", false, false));
        assert_eq!(read("CREATE INDEX CONCURRENTLY Ix ON t USING gin (a)"), index(Some("ix"), "t", false, false));
    }

    #[test]
    fn other_statements_build_no_index_concurrently() {
        for sql in ["CREATE INDEX i ON t (a)", "DROP INDEX CONCURRENTLY i", "", "CREATE INDEX CONCURRENTLY", "SELECT 1"]
        {
            assert_eq!(concurrent_index(sql), None, "{sql}");
        }
    }
}
