//! The statements of a text, told apart and recognised by their first words.
//!
//! Works on tokens and not on a grammar, so that it never stands in the way of syntax that is newer than this program.

use squawk_lexer::TokenKind;

use super::lex::{Token, each};

/// A statement: its tokens without blanks and comments; at least one.
#[derive(Clone, Debug)]
pub(crate) struct Statement<'a> {
    tokens: Vec<Token<'a>>,
}

/// What a SET changes for longer than its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlasts {
    /// A setting, which the agent puts back.
    Setting,
    /// Who the session is, or what its transactions are like.
    Role,
}

/// The statements of a text, in order. Empty ones are left out.
///
/// A semicolon ends a statement unless it stands in parentheses (CREATE RULE) or in the body of a function in standard
/// SQL (BEGIN ATOMIC ... END).
pub(crate) fn statements(sql: &str) -> Vec<Statement<'_>> {
    let mut found = Vec::new();
    let mut current: Vec<Token<'_>> = Vec::new();
    let mut parentheses = 0_usize;
    let mut blocks = 0_usize;
    for token in each(sql).filter(|token| !token.is_trivia()) {
        match token.kind {
            TokenKind::OpenParen => parentheses += 1,
            TokenKind::CloseParen => parentheses = parentheses.saturating_sub(1),
            TokenKind::Ident if token.is_word("ATOMIC") && current.last().is_some_and(|last| last.is_word("BEGIN")) => {
                blocks += 1;
            }
            TokenKind::Ident if blocks > 0 && token.is_word("CASE") => blocks += 1,
            TokenKind::Ident if blocks > 0 && token.is_word("END") => blocks -= 1,
            TokenKind::Semi if parentheses == 0 && blocks == 0 => {
                // Statements are many, and most of them short.
                found.push(current.clone());
                current.clear();
                continue;
            }
            _ => {}
        }
        current.push(token);
    }
    found.push(current);
    found.into_iter().filter(|tokens| !tokens.is_empty()).map(|tokens| Statement { tokens }).collect()
}

/// What the first statement of a text is when it can commit by itself outside a transaction: "CALL" or "DO".
#[must_use]
pub fn commits_by_itself(sql: &str) -> Option<&'static str> {
    let statements = statements(sql);
    ["CALL", "DO"].into_iter().find(|word| statements.first().is_some_and(|first| first.begins(&[word])))
}

/// True when the first statement of a text is a DROP INDEX CONCURRENTLY.
#[must_use]
pub fn drops_index_concurrently(sql: &str) -> bool {
    statements(sql).first().is_some_and(|first| first.begins(&["DROP", "INDEX", "CONCURRENTLY"]))
}

/// The texts of the statements that can be prepared: of all that do not begin or end a transaction.
#[must_use]
pub fn preparable(sql: &str) -> Vec<&str> {
    let text = |statement: &Statement<'_>| {
        let last = statement.tokens.last()?;
        sql.get(statement.offset()..last.offset + last.text.len())
    };
    statements(sql).iter().filter(|statement| !statement.controls_transactions()).filter_map(text).collect()
}

/// Where a statement of a text begins, in bytes; the first has the number 0.
#[must_use]
pub fn statement_offset(sql: &str, number: usize) -> Option<usize> {
    statements(sql).get(number).map(Statement::offset)
}

/// The line and column of a byte, in characters from 1, and the text of the line.
#[must_use]
pub fn line_of(sql: &str, at: usize) -> (usize, usize, &str) {
    let mut at = at.min(sql.len());
    while !sql.is_char_boundary(at) {
        at -= 1;
    }
    let (before, behind) = sql.split_at(at);
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let end = behind.find('\n').map_or(sql.len(), |end| at + end);
    let line = before.matches('\n').count() + 1;
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (line, column, sql.get(start..end).unwrap_or_default().trim_end_matches('\r'))
}

impl<'a> Statement<'a> {
    /// Where the statement begins, in bytes from the start of the text.
    pub(crate) fn offset(&self) -> usize {
        self.tokens.first().map_or(0, |token| token.offset)
    }

    pub(crate) fn tokens(&self) -> &[Token<'a>] {
        &self.tokens
    }

    fn begins(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, word)| self.tokens.get(i).is_some_and(|token| token.is_word(word)))
    }

    fn has(&self, word: &str) -> bool {
        self.tokens.iter().any(|token| token.is_word(word))
    }

    /// The first words, for messages: "CREATE INDEX".
    pub(crate) fn title(&self, words: usize) -> String {
        let words: Vec<String> = self
            .tokens
            .iter()
            .take(words)
            .take_while(|token| token.kind == TokenKind::Ident)
            .map(|token| token.text.to_ascii_uppercase())
            .collect();
        words.join(" ")
    }

    /// True for statements that return rows and, but for WITH, change nothing.
    pub(crate) fn is_query(&self) -> bool {
        self.tokens.first().is_some_and(|token| token.kind == TokenKind::OpenParen)
            || ["SELECT", "WITH", "VALUES", "TABLE"].iter().any(|word| self.begins(&[word]))
    }

    /// True for statements that begin or end a transaction or set a savepoint.
    pub(crate) fn controls_transactions(&self) -> bool {
        let first = ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "END", "ABORT"];
        first.iter().any(|word| self.begins(&[word]))
            || self.begins(&["START", "TRANSACTION"])
            || self.begins(&["PREPARE", "TRANSACTION"])
    }

    /// What a SET changes for longer than its transaction.
    pub(crate) fn sets_for_the_session(&self) -> Option<Outlasts> {
        if !self.begins(&["SET"])
            || ["LOCAL", "CONSTRAINTS", "TRANSACTION"].iter().any(|word| self.begins(&["SET", word]))
        {
            return None;
        }
        let rest = if self.begins(&["SET", "SESSION"]) { &self.tokens[2..] } else { &self.tokens[1..] };
        let word = |word| rest.first().is_some_and(|first| first.is_word(word));
        Some(if word("ROLE") || word("AUTHORIZATION") || word("CHARACTERISTICS") {
            Outlasts::Role
        } else {
            Outlasts::Setting
        })
    }

    /// The words behind SET, or SET LOCAL, or SET SESSION.
    fn set(&self) -> Option<&[Token<'a>]> {
        let behind = if self.begins(&["SET", "LOCAL"]) || self.begins(&["SET", "SESSION"]) { 2 } else { 1 };
        if self.begins(&["SET"]) { self.tokens.get(behind..) } else { None }
    }

    fn sets(&self, name: &str) -> bool {
        self.set().and_then(<[_]>::first).is_some_and(|token| token.is_word(name))
    }

    /// True for a SET of the isolation of the transaction.
    pub(crate) fn sets_isolation(&self) -> bool {
        self.sets("TRANSACTION_ISOLATION") || (self.sets("TRANSACTION") && self.has("ISOLATION"))
    }

    /// True for a SET that makes the transaction read-only.
    pub(crate) fn sets_read_only(&self) -> bool {
        let read_only = |pair: &[Token<'_>]| pair[0].is_word("READ") && pair[1].is_word("ONLY");
        self.sets("TRANSACTION_READ_ONLY") || (self.sets("TRANSACTION") && self.tokens.windows(2).any(read_only))
    }

    /// What sets something that lasts to the end of the transaction and that nothing takes back before; `None` for all else.
    pub(crate) fn sets_the_transaction(&self) -> Option<&'static str> {
        if self.begins(&["SET", "CONSTRAINTS"]) {
            return Some("SET CONSTRAINTS");
        }
        let whole = ["TRANSACTION", "TRANSACTION_ISOLATION", "TRANSACTION_READ_ONLY", "TRANSACTION_DEFERRABLE"];
        whole.iter().any(|name| self.sets(name)).then_some("SET TRANSACTION")
    }

    /// True for a COPY that talks to the client.
    pub(crate) fn copies_with_the_client(&self) -> bool {
        self.begins(&["COPY"]) && (self.has("STDIN") || self.has("STDOUT"))
    }

    /// What PostgreSQL refuses to execute inside a transaction, in words; `None` for everything else.
    pub(crate) fn needs_no_transaction(&self) -> Option<String> {
        let concurrently = |most: usize| self.tokens.iter().take(most).any(|token| token.is_word("CONCURRENTLY"));
        if self.begins(&["CREATE", "INDEX"]) && concurrently(3)
            || self.begins(&["CREATE", "UNIQUE", "INDEX"]) && concurrently(4)
        {
            return Some("CREATE INDEX CONCURRENTLY".to_owned());
        }
        if self.begins(&["DROP", "INDEX"]) && concurrently(3) {
            return Some("DROP INDEX CONCURRENTLY".to_owned());
        }
        if self.begins(&["REINDEX"]) {
            let scope = ["SCHEMA", "DATABASE", "SYSTEM"];
            return if concurrently(16) {
                Some("REINDEX CONCURRENTLY".to_owned())
            } else {
                scope
                    .iter()
                    .find(|word| self.tokens.iter().take(16).any(|token| token.is_word(word)))
                    .map(|word| format!("REINDEX {word}"))
            };
        }
        if self.begins(&["ALTER", "TABLE"]) && self.has("DETACH") && self.has("CONCURRENTLY") {
            return Some("DETACH PARTITION CONCURRENTLY".to_owned());
        }
        if self.begins(&["CLUSTER"]) && self.tokens.len() == 1 {
            return Some("CLUSTER of all tables".to_owned());
        }
        if self.begins(&["ALTER", "DATABASE"]) && self.has("TABLESPACE") {
            return Some("ALTER DATABASE ... SET TABLESPACE".to_owned());
        }
        let plain: [&[&str]; 7] = [
            &["VACUUM"],
            &["CREATE", "DATABASE"],
            &["DROP", "DATABASE"],
            &["CREATE", "TABLESPACE"],
            &["DROP", "TABLESPACE"],
            &["ALTER", "SYSTEM"],
            &["DISCARD", "ALL"],
        ];
        plain.iter().find(|words| self.begins(words)).map(|words| words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_text_is_its_line_column_and_statement() {
        let sql = "SELECT 1;\r\n-- é\nSELECT é;\n\nSELECT 3";
        assert_eq!(line_of(sql, statement_offset(sql, 1).unwrap()), (3, 1, "SELECT é;"));
        assert_eq!(line_of(sql, sql.find("é;").unwrap() + 1), (3, 8, "SELECT é;"));
        assert_eq!(line_of(sql, 3), (1, 4, "SELECT 1;"));
        assert_eq!(line_of(sql, 1000), (5, 9, "SELECT 3"));
        assert_eq!(statement_offset(sql, 3), None);
    }

    #[test]
    fn semicolons_end_statements_only_where_they_can() {
        let count = |sql| statements(sql).len();
        assert_eq!(count("SELECT 1; SELECT 2"), 2);
        assert_eq!(count("; -- nothing\n ;/* ; */"), 0);
        assert_eq!(count("SELECT ';', $$ ; $$, \";\";"), 1);
        assert_eq!(count("CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2); SELECT 3"), 2);
        assert_eq!(
            count(
                "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3"
            ),
            2
        );
    }

    #[test]
    fn statements_that_need_no_transaction_are_known() {
        let needs = |sql| statements(sql)[0].needs_no_transaction().is_some();
        for sql in [
            "create index concurrently i on t (a)",
            "CREATE UNIQUE INDEX CONCURRENTLY ON t (a)",
            "DROP INDEX CONCURRENTLY i",
            "REINDEX TABLE CONCURRENTLY t",
            "REINDEX (VERBOSE, CONCURRENTLY) TABLE t",
            "REINDEX DATABASE d",
            "/* a */ VACUUM (ANALYZE) t",
            "CREATE DATABASE d",
            "ALTER SYSTEM SET a = 1",
            "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
            "CLUSTER",
        ] {
            assert!(needs(sql), "{sql}");
        }
        for sql in [
            "CREATE INDEX i ON t (a)",
            "CREATE TABLE concurrently (a int)",
            "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
            "REINDEX TABLE t",
            "CLUSTER t",
            "ALTER TABLE t DETACH PARTITION p",
            "ANALYZE t",
        ] {
            assert!(!needs(sql), "{sql}");
        }
    }

    #[test]
    fn transaction_control_is_known_from_what_only_contains_the_word() {
        for sql in ["BEGIN", "commit", "START TRANSACTION", "ROLLBACK TO a", "PREPARE TRANSACTION 'x'", "END"] {
            assert!(statements(sql)[0].controls_transactions(), "{sql}");
        }
        for sql in ["DO $$ BEGIN COMMIT; END $$", "SELECT 'BEGIN'", "PREPARE p AS SELECT 1", "\"begin\""] {
            assert!(!statements(sql)[0].controls_transactions(), "{sql}");
        }
    }

    #[test]
    fn what_is_set_for_the_rest_of_the_transaction_is_known() {
        for sql in [
            "SET CONSTRAINTS ALL DEFERRED",
            "set transaction isolation level serializable",
            "SET LOCAL transaction_isolation = 'serializable'",
            "SET TRANSACTION READ WRITE",
            "SET LOCAL TRANSACTION DEFERRABLE",
        ] {
            assert!(statements(sql)[0].sets_the_transaction().is_some(), "{sql}");
        }
        for sql in
            ["SET LOCAL search_path = transaction", "UPDATE t SET transaction = 1", "SET LOCAL constraints.a = 1"]
        {
            assert_eq!(statements(sql)[0].sets_the_transaction(), None, "{sql}");
        }
        assert!(statements("SET TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE")[0].sets_isolation());
        assert!(statements("SET transaction_isolation TO 'serializable'")[0].sets_isolation());
        assert!(statements("SET TRANSACTION READ ONLY")[0].sets_read_only());
        assert!(!statements("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")[0].sets_read_only());
    }

    #[test]
    fn a_set_for_the_session_is_known_from_one_for_the_transaction() {
        for (sql, outlasts) in [
            ("SET search_path TO a", Some(Outlasts::Setting)),
            ("SET SESSION a = 1", Some(Outlasts::Setting)),
            ("SET TIME ZONE 'UTC'", Some(Outlasts::Setting)),
            ("SET role TO a", Some(Outlasts::Role)),
            ("SET SESSION ROLE a", Some(Outlasts::Role)),
            ("SET SESSION AUTHORIZATION a", Some(Outlasts::Role)),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Some(Outlasts::Role)),
            ("SET LOCAL a = 1", None),
            ("SET CONSTRAINTS ALL DEFERRED", None),
            ("UPDATE t SET a = 1", None),
        ] {
            assert_eq!(statements(sql)[0].sets_for_the_session(), outlasts, "{sql}");
        }
    }
}
