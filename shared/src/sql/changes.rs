//! Which statements of a text change rows, and where PostgreSQL says how many.
//!
//! PostgreSQL ends each statement with a tag: `UPDATE 5`, `SELECT 3`. The client library passes on the number and not the word, so the
//! word is read from the SQL. What a query changes in its WITH, or by the functions that it calls, stands in no tag.

use squawk_lexer::TokenKind;

use super::lex::Token;
use super::statement::{Statement, statements};

/// What the number at the end of a statement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The rows that the statement changed, whether or not it returns them.
    Rows,
    /// The rows that it changed, unless it returns rows.
    Unknown,
    /// The same; but it can change others, too, of which it says nothing: by functions, or in a WITH.
    Untold,
    /// The rows that it returned or passed over. It can change others, of which it says nothing.
    Returned,
}

impl Change {
    /// True when rows can be changed that no number tells of.
    #[must_use]
    pub fn tells_not_all(self) -> bool {
        match self {
            Self::Rows | Self::Unknown => false,
            Self::Untold | Self::Returned => true,
        }
    }
}

/// What the number at the end of each statement of a text means, in order.
#[must_use]
pub fn changes(sql: &str) -> Vec<Change> {
    let statements = statements(sql);
    let prepared: Vec<(&str, Change)> = statements.iter().filter_map(prepared).collect();
    statements.iter().map(|statement| change(statement.tokens(), &prepared)).collect()
}

/// How far into an EXPLAIN its options go at most.
const ANALYZE_WITHIN: usize = 64;

const WRITES: [&str; 4] = ["INSERT", "UPDATE", "DELETE", "MERGE"];

fn change(tokens: &[Token<'_>], prepared: &[(&str, Change)]) -> Change {
    let Some(first) = tokens.first() else { return Change::Unknown };
    let is = |word: &&str| first.is_word(word);
    if WRITES.iter().any(is) {
        return Change::Rows;
    }
    if first.is_word("WITH") {
        return behind_with(tokens);
    }
    if first.is_word("EXECUTE") {
        let named = |token: &&Token<'_>| prepared.iter().rev().find(|(name, _)| *name == token.text);
        return tokens.get(1).as_ref().and_then(named).map_or(Change::Untold, |(_, change)| *change);
    }
    if ["MOVE", "FETCH"].iter().any(is) || copies_out(tokens) {
        return Change::Returned;
    }
    let analyzes = first.is_word("EXPLAIN") && tokens.iter().take(ANALYZE_WITHIN).any(|token| token.is_word("ANALYZE"));
    let queries = ["SELECT", "VALUES", "TABLE", "DO", "CALL"].iter().any(is);
    if queries || analyzes || first.kind == TokenKind::OpenParen { Change::Untold } else { Change::Unknown }
}

/// `COPY t TO ...`, `COPY (...) TO ...`.
fn copies_out(tokens: &[Token<'_>]) -> bool {
    let depths = depths(tokens);
    tokens.first().is_some_and(|first| first.is_word("COPY"))
        && tokens
            .iter()
            .zip(depths)
            .find(|(token, depth)| *depth == 0 && (token.is_word("TO") || token.is_word("FROM")))
            .is_some_and(|(token, _)| token.is_word("TO"))
}

/// How many parentheses each token stands in.
fn depths(tokens: &[Token<'_>]) -> Vec<usize> {
    let mut depth = 0_usize;
    let mut found = Vec::with_capacity(tokens.len());
    for token in tokens {
        match token.kind {
            TokenKind::OpenParen => {
                found.push(depth);
                depth += 1;
                continue;
            }
            TokenKind::CloseParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        found.push(depth);
    }
    found
}

/// The statement behind the queries of a WITH. Their names can be words such as `update`, too.
fn behind_with(tokens: &[Token<'_>]) -> Change {
    let depths = depths(tokens);
    let mut name_comes = true;
    let mut main = None;
    for (index, token) in tokens.iter().enumerate().skip(1).filter(|(index, _)| depths[*index] == 0) {
        if name_comes {
            name_comes = token.is_word("RECURSIVE") && !tokens.get(index + 1).is_some_and(|next| next.is_word("AS"));
        } else if token.kind == TokenKind::Comma {
            name_comes = true;
        } else if token.kind == TokenKind::Ident
            && tokens[index - 1].kind == TokenKind::CloseParen
            && ["SELECT", "VALUES", "TABLE"].iter().chain(&WRITES).any(|word| token.is_word(word))
        {
            main = Some(token);
            break;
        }
    }
    if main.is_some_and(|main| WRITES.iter().any(|word| main.is_word(word))) { Change::Rows } else { Change::Untold }
}

/// What `PREPARE name AS ...` makes.
fn prepared<'a>(statement: &Statement<'a>) -> Option<(&'a str, Change)> {
    let tokens = statement.tokens();
    let name = tokens.first().filter(|first| first.is_word("PREPARE")).and(tokens.get(1))?;
    let body = tokens.iter().position(|token| token.is_word("AS"))? + 1;
    Some((name.text, change(tokens.get(body..)?, &[])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_tag_is_read_from_the_statement() {
        for (sql, expected) in [
            ("UPDATE t SET a = 1 RETURNING id", Change::Rows),
            ("insert into t values (1) returning *", Change::Rows),
            ("MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE RETURNING *", Change::Rows),
            ("WITH a AS (SELECT 1) UPDATE t SET a = 1 RETURNING 1", Change::Rows),
            (
                "WITH a AS (DELETE FROM t RETURNING *), b (x, y) AS MATERIALIZED (SELECT 1, 2) INSERT INTO s SELECT * FROM a",
                Change::Rows,
            ),
            ("WITH update AS (SELECT 1), insert AS NOT MATERIALIZED (SELECT 2) SELECT * FROM update", Change::Untold),
            ("WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT 2) SELECT * FROM r", Change::Untold),
            ("WITH recursive AS (SELECT 1) DELETE FROM t RETURNING 1", Change::Rows),
            ("WITH u AS (UPDATE t SET a = 1 RETURNING id) SELECT count(*) FROM u", Change::Untold),
            ("(WITH u AS (UPDATE t SET a = 1 RETURNING id) SELECT count(*) FROM u)", Change::Untold),
            ("WITH u AS (UPDATE t SET a = 1 RETURNING id) TABLE u", Change::Untold),
            ("SELECT 1", Change::Untold),
            ("SELECT * INTO s FROM t", Change::Untold),
            ("VALUES (f(1))", Change::Untold),
            ("DO $$ BEGIN END $$", Change::Untold),
            ("CALL p()", Change::Untold),
            ("EXPLAIN (VERBOSE, ANALYZE) UPDATE t SET a = 1", Change::Untold),
            ("EXPLAIN UPDATE t SET a = 1", Change::Unknown),
            ("CREATE TABLE s AS SELECT 1", Change::Unknown),
            ("TRUNCATE t", Change::Unknown),
            ("MOVE 5 FROM c", Change::Returned),
            ("COPY (SELECT 1 FROM t) TO '/tmp/x'", Change::Returned),
            ("COPY t (a) FROM '/tmp/x'", Change::Unknown),
        ] {
            assert_eq!(changes(sql), [expected], "{sql}");
        }
        assert_eq!(
            changes("PREPARE p (int) AS UPDATE t SET a = $1 RETURNING a; EXECUTE p (1); EXECUTE q"),
            [Change::Unknown, Change::Rows, Change::Untold]
        );
    }
}
