//! What a CREATE INDEX CONCURRENTLY or a REINDEX CONCURRENTLY builds, so that a half-built index can be found and removed.

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
    let table = words.dotted()?;
    Some(ConcurrentIndex { index, table, unique, if_not_exists })
}

/// What is indexed anew, concurrently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConcurrentReindex {
    /// One index, as the statement writes it.
    Index(String),
    /// All indexes of a table, as the statement writes it.
    Table(String),
    /// All indexes of a schema, as the statement writes it.
    Schema(String),
    /// All indexes of the database.
    Database,
}

/// What the first statement of a text indexes anew without blocking; `None` when it is another statement.
#[must_use]
pub fn concurrent_reindex(sql: &str) -> Option<ConcurrentReindex> {
    let statements = statements(sql);
    let mut words = Words(statements.first()?.tokens());
    if !words.take("REINDEX") {
        return None;
    }
    let mut concurrently = false;
    if words.0.first().is_some_and(|token| token.kind == TokenKind::OpenParen) {
        let end = words.0.iter().position(|token| token.kind == TokenKind::CloseParen)?;
        let (options, rest) = words.0.split_at(end + 1);
        let mut off = false;
        for pair in options.windows(2) {
            concurrently |= pair[0].is_word("CONCURRENTLY");
            let no = ["OFF", "FALSE", "0"].iter().any(|word| pair[1].text.eq_ignore_ascii_case(word));
            off |= pair[0].is_word("CONCURRENTLY") && no;
        }
        concurrently &= !off;
        words = Words(rest);
    }
    let scope = ["INDEX", "TABLE", "SCHEMA", "DATABASE"].into_iter().find(|word| words.take(word))?;
    concurrently |= words.take("CONCURRENTLY");
    let name = words.dotted();
    match (concurrently, scope, name) {
        (false, ..) => None,
        (true, "INDEX", Some(name)) => Some(ConcurrentReindex::Index(name)),
        (true, "TABLE", Some(name)) => Some(ConcurrentReindex::Table(name)),
        (true, "SCHEMA", Some(name)) => Some(ConcurrentReindex::Schema(name)),
        (true, "DATABASE", _) => Some(ConcurrentReindex::Database),
        (true, ..) => None,
    }
}

/// A partition that is detached concurrently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrentDetach {
    /// The partitioned table as the statement writes it, fit for `to_regclass`.
    pub table: String,
    /// The partition, likewise.
    pub partition: String,
}

/// The partition that the first statement of a text detaches concurrently; `None` when it is another statement.
#[must_use]
pub fn concurrent_detach(sql: &str) -> Option<ConcurrentDetach> {
    let statements = statements(sql);
    let mut words = Words(statements.first()?.tokens());
    if !(words.take("ALTER") && words.take("TABLE")) {
        return None;
    }
    let _if_exists = words.take("IF") && words.take("EXISTS");
    words.take("ONLY");
    let table = words.dotted()?;
    if !(words.take("DETACH") && words.take("PARTITION")) {
        return None;
    }
    let partition = words.dotted()?;
    words.take("CONCURRENTLY").then_some(ConcurrentDetach { table, partition })
}

struct Words<'t, 'a>(&'t [Token<'a>]);

impl<'t, 'a> Words<'t, 'a> {
    /// A name with dots in it, as it is written.
    fn dotted(&mut self) -> Option<String> {
        let length = self
            .0
            .iter()
            .enumerate()
            .take_while(|(i, token)| if i % 2 == 0 { token.name().is_some() } else { token.kind == TokenKind::Dot })
            .count();
        let (name, rest) = self.0.split_at(length);
        self.0 = rest;
        (length % 2 == 1).then(|| name.iter().map(|token| token.text).collect())
    }

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

    #[test]
    fn the_partition_that_is_detached_concurrently_is_read() {
        let detach = |sql| concurrent_detach(sql).map(|detach| (detach.table, detach.partition));
        let expected = Some(("shop.\"T\"".to_owned(), "p1".to_owned()));
        assert_eq!(detach("alter table if exists shop.\"T\" detach partition p1 concurrently"), expected);
        for sql in ["ALTER TABLE t DETACH PARTITION p", "ALTER TABLE t DETACH PARTITION p FINALIZE", "SELECT 1"] {
            assert_eq!(detach(sql), None, "{sql}");
        }
    }

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
    fn what_is_indexed_anew_is_read() {
        let read = concurrent_reindex;
        assert_eq!(read("REINDEX INDEX CONCURRENTLY i"), Some(ConcurrentReindex::Index("i".to_owned())));
        assert_eq!(
            read("reindex table concurrently Shop.\"T\";"),
            Some(ConcurrentReindex::Table("Shop.\"T\"".to_owned()))
        );
        assert_eq!(read("REINDEX (VERBOSE, CONCURRENTLY) SCHEMA s"), Some(ConcurrentReindex::Schema("s".to_owned())));
        assert_eq!(read("REINDEX (CONCURRENTLY true) DATABASE d"), Some(ConcurrentReindex::Database));
        assert_eq!(read("REINDEX DATABASE CONCURRENTLY"), Some(ConcurrentReindex::Database));
        for sql in [
            "REINDEX TABLE t",
            "REINDEX (CONCURRENTLY off) TABLE t",
            "REINDEX (VERBOSE) INDEX i",
            "REINDEX",
            "SELECT 1",
        ] {
            assert_eq!(read(sql), None, "{sql}");
        }
    }

    #[test]
    fn other_statements_build_no_index_concurrently() {
        for sql in ["CREATE INDEX i ON t (a)", "DROP INDEX CONCURRENTLY i", "", "CREATE INDEX CONCURRENTLY", "SELECT 1"]
        {
            assert_eq!(concurrent_index(sql), None, "{sql}");
        }
    }
}
