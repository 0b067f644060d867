//! Statements that are one transaction and would be better apart.
//!
//! A lock is held until the transaction ends. A statement that takes time in proportion to a table, behind one that locked the same
//! table, keeps its readers and writers out for as long. And a value that an enum gets cannot be used before the transaction that
//! adds it has committed. Neither is wrong everywhere, on a small table or a quiet one, so these are warnings.
//!
//! What must stay true: what is told is so, of whatever table is there already. Tables that the transaction has made itself are
//! nobody else's, and nothing is said of them.

use std::collections::{HashMap, HashSet};

use squawk_lexer::TokenKind;

use super::rules::Sql;
use super::set::Problem;
use crate::sql::lex::Token;
use crate::sql::statement::{Statement, statements};

/// A table as a text names it: folded, with its schema where that is written.
type Name = Vec<String>;

/// The most statements that are looked at; a dump has more, of tables that it has made itself.
const MOST: usize = 10_000;

/// Warnings about the statements of one transaction: the texts of its steps, in order.
pub(super) fn warnings(transaction: &[&Sql<'_>]) -> Vec<Problem> {
    let mut seen = Seen::default();
    let mut found = Vec::new();
    for sql in transaction {
        for statement in statements(&sql.text).iter().take(MOST) {
            found.extend(seen.statement(sql, statement));
        }
    }
    found
}

#[derive(Default)]
struct Seen {
    /// What the transaction has made itself.
    made: HashSet<Name>,
    /// The first lock on each table: by which statement, where, and whom it keeps out.
    locked: HashMap<Name, (String, String, Out)>,
    /// Tables that were told of.
    told: HashSet<Name>,
    /// Values that enums got, and where.
    values: HashMap<String, String>,
}

/// Whom a lock keeps out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Out {
    Everybody,
    Writers,
}

impl Seen {
    fn statement(&mut self, sql: &Sql<'_>, statement: &Statement<'_>) -> Vec<Problem> {
        let mut found = Vec::new();
        let read = read(statement);
        if let Some(long) = &read.long
            && let Some((what, place, out)) = self.locked.get(&read.table)
            && !self.made.contains(&read.table)
            && self.told.insert(read.table.clone())
        {
            let table = read.table.join(".");
            let whom = match out {
                Out::Everybody => "nobody reads or writes",
                Out::Writers => "nobody writes",
            };
            let message = format!(
                "{} goes through {table} in the transaction of the {what} at {place}, which locks it: until both are \
                 committed {whom} {table}",
                long.title
            );
            found.push(sql.warning(statement.offset(), message, long.apart));
        }
        // Only what uses data or a default looks a value up.
        if !read.adds_value && !self.values.is_empty() {
            let literal = statement.tokens().iter().find_map(|token| {
                let value = literal(token)?;
                Some((token.offset, self.values.get(value)?.clone(), value.to_owned()))
            });
            if let Some((at, place, value)) = literal {
                let message = format!(
                    "this looks like the value '{value}' that ALTER TYPE adds at {place}, in the same transaction: PostgreSQL \
                     lets a new value be used once it is committed"
                );
                found.push(sql.warning(at, message, "add the value in a step with `transaction = \"own\"`"));
                self.values.remove(&value);
            }
        }
        self.keep(sql, statement, read);
        found
    }

    fn keep(&mut self, sql: &Sql<'_>, statement: &Statement<'_>, read: Read) {
        if read.made {
            self.made.insert(read.table);
            return;
        }
        if let Some(value) = read.value.filter(|_| !self.made.contains(&read.table)) {
            self.values.insert(value, sql.place(statement.offset()));
        } else if let Some((what, out)) = read.lock {
            let lock = (what.to_owned(), sql.place(statement.offset()), out);
            match self.locked.get(&read.table) {
                Some((_, _, Out::Everybody)) => {}
                Some((_, _, Out::Writers)) if out == Out::Writers => {}
                _ => {
                    self.locked.insert(read.table, lock);
                }
            }
        }
    }
}

/// What a statement means for others.
#[derive(Default)]
struct Read {
    table: Name,
    /// It makes the table, or the type.
    made: bool,
    /// It locks the table.
    lock: Option<(&'static str, Out)>,
    /// It takes time in proportion to the table.
    long: Option<Long>,
    /// It adds a value to an enum.
    adds_value: bool,
    value: Option<String>,
}

struct Long {
    title: &'static str,
    apart: &'static str,
}

const ROWS: &str = "change rows in a step with `batch`, or in a step with `transaction = \"own\"`";
const VALIDATE: &str =
    "give VALIDATE CONSTRAINT a step with `transaction = \"own\"`: it hinders neither readers nor writers then";
const INDEX: &str = "build the index in a step with `transaction = false`: CREATE INDEX CONCURRENTLY";
const REWRITE: &str = "give it a step with `transaction = \"own\"`";

fn read(statement: &Statement<'_>) -> Read {
    let mut words = Words(statement.tokens());
    let plain = Read::default;
    if words.take("ALTER") {
        if words.take("TABLE") {
            return alter_table(words);
        }
        if words.take("TYPE") {
            let Some(table) = words.name() else { return plain() };
            if words.take("ADD") && words.take("VALUE") {
                words.if_not_exists();
                let value = words.0.first().and_then(literal).map(str::to_owned);
                return Read { table, adds_value: true, value, ..plain() };
            }
        }
        return plain();
    }
    if words.take("CREATE") {
        return create(words);
    }
    let long = |title, table| Read { table, long: Some(Long { title, apart: ROWS }), ..plain() };
    if words.take("UPDATE") {
        words.take("ONLY");
        return words.name().map_or_else(plain, |table| long("UPDATE", table));
    }
    if words.take("DELETE") && words.take("FROM") {
        words.take("ONLY");
        return words.name().map_or_else(plain, |table| long("DELETE", table));
    }
    if words.take("MERGE") && words.take("INTO") {
        words.take("ONLY");
        return words.name().map_or_else(plain, |table| long("MERGE", table));
    }
    if words.take("INSERT") && words.take("INTO") {
        let Some(table) = words.name() else { return plain() };
        let query = words.0.iter().any(|token| token.is_word("SELECT"));
        return if query { long("INSERT ... SELECT", table) } else { plain() };
    }
    if words.take("TRUNCATE") {
        words.take("TABLE");
        words.take("ONLY");
        return words.name().map_or_else(plain, |table| Read {
            table,
            lock: Some(("TRUNCATE", Out::Everybody)),
            ..plain()
        });
    }
    plain()
}

fn create(mut words: Words<'_, '_>) -> Read {
    let plain = Read::default;
    words.take("OR");
    words.take("REPLACE");
    let unique = words.take("UNIQUE");
    if words.take("INDEX") {
        let title = if unique { "CREATE UNIQUE INDEX" } else { "CREATE INDEX" };
        if !words.seek("ON") {
            return plain();
        }
        words.take("ONLY");
        let Some(table) = words.name() else { return plain() };
        return Read { table, lock: Some((title, Out::Writers)), long: Some(Long { title, apart: INDEX }), ..plain() };
    }
    words.take("CONSTRAINT");
    if words.take("TRIGGER") {
        if !words.seek("ON") {
            return plain();
        }
        return words.name().map_or_else(plain, |table| Read {
            table,
            lock: Some(("CREATE TRIGGER", Out::Writers)),
            ..plain()
        });
    }
    for word in ["GLOBAL", "LOCAL", "TEMP", "TEMPORARY", "UNLOGGED", "FOREIGN"] {
        words.take(word);
    }
    if words.take("TABLE") || words.take("TYPE") || words.take("MATERIALIZED") && words.take("VIEW") {
        words.if_not_exists();
        return words.name().map_or_else(plain, |table| Read { table, made: true, ..plain() });
    }
    plain()
}

/// Actions that hinder neither readers nor writers for long, by what they begin with.
const LIGHT: [&[&str]; 5] = [&["VALIDATE"], &["ATTACH"], &["CLUSTER"], &["SET", "("], &["RESET"]];

fn alter_table(mut words: Words<'_, '_>) -> Read {
    words.if_exists();
    words.take("ONLY");
    let Some(table) = words.name() else { return Read::default() };
    let mut read = Read { table, ..Read::default() };
    for action in actions(words.0) {
        let begins = |wanted: &[&str]| {
            wanted.iter().zip(action.iter()).filter(|(word, token)| token.is_word(word) || token.text == **word).count()
                == wanted.len()
        };
        let has = |word: &str| action.iter().any(|token| token.is_word(word));
        if begins(&["VALIDATE"]) {
            read.long = Some(Long { title: "VALIDATE CONSTRAINT", apart: VALIDATE });
        } else if begins(&["ALTER"]) && has("STATISTICS") || LIGHT.iter().any(|light| begins(light)) {
        } else {
            let foreign = begins(&["ADD"]) && has("FOREIGN") && has("KEY");
            let out = if foreign { Out::Writers } else { Out::Everybody };
            if read.lock.is_none_or(|(_, before)| before == Out::Writers) {
                read.lock = Some(("ALTER TABLE", out));
            }
            if begins(&["ALTER"]) && has("SET") && has("NOT") && has("NULL") {
                read.long = Some(Long { title: "SET NOT NULL", apart: REWRITE });
            } else if begins(&["ALTER"]) && has("TYPE") {
                read.long = Some(Long { title: "ALTER COLUMN ... TYPE", apart: REWRITE });
            }
        }
    }
    read
}

/// The actions of an ALTER TABLE, which commas divide.
fn actions<'t, 'a>(tokens: &'t [Token<'a>]) -> impl Iterator<Item = &'t [Token<'a>]> {
    let mut depth = 0_usize;
    tokens.split(move |token| {
        match token.kind {
            TokenKind::OpenParen => depth += 1,
            TokenKind::CloseParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && token.kind == TokenKind::Comma
    })
}

/// What a plain string without escapes says.
fn literal<'a>(token: &Token<'a>) -> Option<&'a str> {
    let inner = token.text.strip_prefix('\'')?.strip_suffix('\'')?;
    (!inner.contains('\'')).then_some(inner)
}

/// The tokens that are left of a statement.
#[derive(Clone, Copy)]
struct Words<'t, 'a>(&'t [Token<'a>]);

impl Words<'_, '_> {
    fn take(&mut self, word: &str) -> bool {
        let taken = self.0.first().is_some_and(|token| token.is_word(word));
        if taken {
            self.0 = &self.0[1..];
        }
        taken
    }

    fn if_exists(&mut self) {
        let _optional = self.take("IF") && self.take("EXISTS");
    }

    fn if_not_exists(&mut self) {
        let _optional = self.take("IF") && self.take("NOT") && self.take("EXISTS");
    }

    /// Goes behind the next word that is this.
    fn seek(&mut self, word: &str) -> bool {
        let at = self.0.iter().position(|token| token.is_word(word));
        self.0 = at.map_or(&[], |at| &self.0[at + 1..]);
        at.is_some()
    }

    /// A name with its schema, folded.
    fn name(&mut self) -> Option<Name> {
        let mut name = vec![self.0.first()?.name()?];
        self.0 = &self.0[1..];
        while let [dot, part, ..] = self.0
            && dot.kind == TokenKind::Dot
        {
            name.push(part.name()?);
            self.0 = &self.0[2..];
        }
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::position::Source;
    use super::*;

    fn told(steps: &[&str]) -> Vec<String> {
        let source = |text| Source::new("a.sql", text);
        let texts: Vec<Sql<'_>> = steps
            .iter()
            .map(|text| Sql { text: (*text).to_owned(), source: source(text), start: 0, exact: true })
            .collect();
        warnings(&texts.iter().collect::<Vec<_>>()).iter().map(|warning| warning.message.clone()).collect()
    }

    #[test]
    fn what_goes_through_a_table_behind_a_lock_on_it_is_warned_of() {
        for (steps, expected) in [
            (
                vec![
                    "ALTER TABLE big ADD CONSTRAINT c CHECK (n > 0) NOT VALID",
                    "ALTER TABLE big VALIDATE CONSTRAINT c",
                ],
                "VALIDATE CONSTRAINT goes through big in the transaction of the ALTER TABLE at a.sql:1:1, which locks it: until \
                 both are committed nobody reads or writes big",
            ),
            (
                vec![
                    "ALTER TABLE s.b ADD FOREIGN KEY (a) REFERENCES x NOT VALID; ALTER TABLE S.\"b\" VALIDATE CONSTRAINT c",
                ],
                "VALIDATE CONSTRAINT goes through s.b in the transaction of the ALTER TABLE at a.sql:1:1, which locks it: until \
                 both are committed nobody writes s.b",
            ),
            (vec!["ALTER TABLE t ADD a int; UPDATE t SET a = 1; DELETE FROM t"], "UPDATE goes through t"),
            (
                vec!["CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); UPDATE ONLY t SET a = 1"],
                "UPDATE",
            ),
            (vec!["ALTER TABLE t DROP a", "CREATE UNIQUE INDEX ON t (b)"], "CREATE UNIQUE INDEX goes through t"),
            (vec!["TRUNCATE t; INSERT INTO t SELECT * FROM u"], "INSERT ... SELECT goes through t"),
            (
                vec!["ALTER TABLE t ADD a int", "ALTER TABLE IF EXISTS t ALTER a SET NOT NULL"],
                "SET NOT NULL goes through t",
            ),
        ] {
            let told = told(&steps);
            assert_eq!(told.len(), 1, "{steps:?}\n{told:#?}");
            assert!(told[0].starts_with(expected), "{expected}\n{told:#?}");
        }
    }

    #[test]
    fn nothing_is_said_of_what_holds_up_nobody() {
        for steps in [
            vec!["ALTER TABLE t ADD a int; UPDATE u SET a = 1"],
            vec!["UPDATE t SET a = 1; ALTER TABLE t ADD b int"],
            vec!["CREATE TABLE t (a int); ALTER TABLE t ADD b int; INSERT INTO t SELECT 1; CREATE INDEX ON t (a)"],
            vec!["ALTER TABLE t ALTER a SET STATISTICS 100; ALTER TABLE t SET (fillfactor = 50); UPDATE t SET a = 1"],
            vec!["ALTER TABLE t ADD a int; INSERT INTO t VALUES (1)", "ALTER TABLE u VALIDATE CONSTRAINT c"],
            vec!["ALTER TABLE t ADD a int, ALTER a SET NOT NULL"],
            vec!["DO $$ BEGIN ALTER TABLE t ADD a int; UPDATE t SET a = 1; END $$"],
            vec!["CREATE TYPE e AS ENUM ('a'); ALTER TYPE e ADD VALUE 'b'; UPDATE t SET a = 'b'"],
            vec!["ALTER TYPE e ADD VALUE 'b'; ALTER TYPE e ADD VALUE 'c' AFTER 'b'"],
            vec!["ALTER TABLE", "CREATE INDEX", "ALTER TYPE e ADD VALUE", "UPDATE", "CREATE TRIGGER x"],
        ] {
            assert_eq!(told(&steps), [""; 0], "{steps:?}");
        }
    }

    #[test]
    fn a_value_that_an_enum_gets_is_not_used_in_the_same_transaction() {
        let told =
            told(&["ALTER TYPE status ADD VALUE IF NOT EXISTS 'lost'", "UPDATE t SET s = 'lost' WHERE s = 'lost'"]);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].starts_with("this looks like the value 'lost' that ALTER TYPE adds at a.sql:1:1"), "{told:#?}");
    }
}
