//! What the SQL of steps and checks must and must not hold.
//!
//! The rules work on tokens and first words; they never refuse SQL for not knowing it. What a rule refuses would fail or do
//! harm on every target: end the transaction that the checkpoint is part of, outlast it, or run outside of one unasked.

use super::characters;
use super::definition::Batch;
use super::limits::{BATCH_TOKENS, PROBLEMS, told};
use super::place::{List, SqlPlace};
use super::placed;
use super::position::Source;
use super::set::Problem;
use crate::sql::concurrent_index;
use crate::sql::placeholder::BatchSql;
use crate::sql::reading::{Reading, Reference, name_parts, same_table};
use crate::sql::statement::{Outlasts, Statement, statements};
use crate::sql::{foreign, lex};

/// SQL and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Sql<'s> {
    pub(super) text: String,
    pub(super) source: Source<'s>,
    /// Where the text begins in the source.
    pub(super) start: usize,
    /// True when the text stands in the source as it is, so that what is inside can be pointed at.
    pub(super) exact: bool,
}

impl Sql<'_> {
    pub(super) fn problem(&self, offset: usize, message: impl Into<String>, help: Option<&str>) -> Problem {
        let at = if self.exact { self.start + offset } else { self.start };
        self.source.problem(at, message, help.map(str::to_owned))
    }

    /// "file:line:column" of an offset in the text.
    pub(super) fn place(&self, offset: usize) -> String {
        self.source.place(if self.exact { self.start + offset } else { self.start })
    }

    pub(super) fn warning(&self, offset: usize, message: impl Into<String>, help: impl Into<String>) -> Problem {
        let at = if self.exact { self.start + offset } else { self.start };
        self.source.warning(at, message, Some(help.into()))
    }

    /// The text as definitions keep it and agents send it: as it stands in the file, without blanks around it and without what
    /// pg_dump says to psql alone.
    pub(super) fn canonical(&self) -> String {
        foreign::without_restrictions(&self.text).trim().to_owned()
    }
}

impl Sql<'_> {
    /// Where the [canonical](Self::canonical) text of a step or check stands.
    pub(super) fn stands(&self, list: List, name: &str) -> SqlPlace {
        let canonical = self.canonical();
        let inside = self.text.find(&canonical).filter(|_| self.exact);
        let (line, column) = self.source.line_and_column(self.start + inside.unwrap_or(0));
        let path = self.source.path.to_owned();
        SqlPlace { list, name: name.to_owned(), path, line, column, exact: inside.is_some() }
    }
}

/// Where SQL is used.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use<'b> {
    /// A check.
    Check,
    /// A step in a transaction.
    Transaction,
    /// A step outside a transaction.
    NoTransaction,
    /// A batch step. The batch is absent when it is wrong itself.
    Batch(Option<&'b Batch>, Said),
}

/// What a step says of its statement itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    /// That nobody is to look where `:batch` stands.
    pub(super) batch_is_mine: bool,
    /// That it changes rows outside of its batch.
    pub(super) elsewhere: bool,
}

/// Everything that is wrong with the SQL.
pub(super) fn problems(sql: &Sql<'_>, r#use: Use<'_>) -> Vec<Problem> {
    if let Some(too_many) = too_many_tokens(sql, r#use) {
        return vec![too_many];
    }
    let mut found = characters::problems(sql);
    let looked = foreign::look(&sql.text);
    for foreign in &looked.foreign {
        let (message, help) = foreign.what.told();
        found.push(sql.problem(foreign.offset, message, Some(&help)));
    }
    let parsed = match BatchSql::parse(&looked.sql) {
        Ok(parsed) => parsed,
        Err(error) => {
            found.push(sql.problem(error.offset, error.reason.to_string(), None));
            return found;
        }
    };
    let statements = statements(&looked.sql);
    found.extend(placeholders(sql, r#use, &parsed));
    if statements.is_empty() && looked.foreign.is_empty() {
        let message = "there is no statement in this SQL";
        found.push(match r#use {
            Use::Transaction => {
                sql.warning(0, format!("{message}: the step does nothing"), "say what is meant, or leave it out")
            }
            Use::Check | Use::NoTransaction | Use::Batch(..) => sql.problem(0, message, None),
        });
    }
    if let (Some(second), Some(message)) = (statements.get(1), one_statement(r#use)) {
        found.push(sql.problem(second.offset(), message, Some("move the others to steps of their own")));
    }
    for statement in &statements {
        found.extend(general(sql, statement, r#use));
        found.extend(special(sql, statement, r#use));
        if found.len() >= PROBLEMS {
            break;
        }
    }
    if let (Use::NoTransaction, [only]) = (r#use, statements.as_slice()) {
        found.extend(index_without_a_name(sql, only.offset()));
    }
    if let (Use::Batch(Some(batch), said), true) = (r#use, found.iter().all(Problem::is_warning)) {
        found.extend(of_batch(sql, batch, said, &parsed));
    }
    found
}

/// A statement whose tree takes more than a controller has.
fn too_many_tokens(sql: &Sql<'_>, r#use: Use<'_>) -> Option<Problem> {
    let too_many = matches!(r#use, Use::Batch(..)) && lex::more_than(BATCH_TOKENS, &sql.text);
    let message =
        || format!("a statement with `:batch` has at most {} words and signs, and this has more", told(BATCH_TOKENS));
    too_many.then(|| sql.problem(0, message(), Some("keep values in bulk in a table, and join it")))
}

fn placeholders(sql: &Sql<'_>, r#use: Use<'_>, parsed: &BatchSql) -> Vec<Problem> {
    match r#use {
        Use::Batch(..) if parsed.placeholders() == 0 => vec![sql.problem(
            0,
            "a batch step needs `:batch` in its SQL",
            Some("add it to the condition on the table, such as WHERE ... AND :batch"),
        )],
        Use::Batch(..) => Vec::new(),
        Use::Check => parsed
            .offsets()
            .take(PROBLEMS)
            .map(|offset| sql.problem(offset, "`:batch` has no meaning in a check", None))
            .collect(),
        Use::Transaction | Use::NoTransaction => parsed
            .offsets()
            .take(PROBLEMS)
            .map(|offset| {
                let help = "give the step batch = { table = \"...\" }, or leave `:batch` out";
                sql.problem(offset, "`:batch` has a meaning only in a step with `batch`", Some(help))
            })
            .collect(),
    }
}

fn one_statement(r#use: Use<'_>) -> Option<&'static str> {
    match r#use {
        Use::Check => Some("a check is one query"),
        Use::NoTransaction => Some("a step outside a transaction is one statement"),
        Use::Batch(..) => Some("a batch step is one statement"),
        Use::Transaction => None,
    }
}

fn general(sql: &Sql<'_>, statement: &Statement<'_>, r#use: Use<'_>) -> Option<Problem> {
    if statement.controls_transactions() {
        let message = format!("{} is not allowed: transactions are the agent's", statement.title(1));
        let help = "leave it out; every step runs in a transaction of its own unless it says `transaction = false`";
        return Some(sql.problem(statement.offset(), message, Some(help)));
    }
    if statement.copies_with_the_client() {
        let message = "COPY to or from the client is not possible: there is no client";
        let help = "use INSERT ... VALUES (`pg_dump --inserts` writes them), or a file on the server";
        return Some(sql.problem(statement.offset(), message, Some(help)));
    }
    if statement.sets_isolation() {
        let message =
            "the isolation of a transaction cannot be set in it: statements of the agent come before the step's";
        let help = "write `isolation = \"serializable\"` on the step, or on the migration where its steps share one transaction";
        return Some(sql.problem(statement.offset(), message, Some(help)));
    }
    if statement.sets_read_only() {
        let message = "a step cannot be read-only: what it has done is recorded in the same transaction";
        return Some(sql.problem(statement.offset(), message, Some("leave it out")));
    }
    match (statement.sets_for_the_session()?, r#use) {
        // The agent puts settings back behind the step.
        (Outlasts::Setting, Use::Transaction) => None,
        (_, Use::Transaction) => {
            let message = "this SET is meant for the session, and the session is the agent's";
            let help = "write SET LOCAL in each step that needs it: it ends with the step";
            Some(sql.problem(statement.offset(), message, Some(help)))
        }
        _ => {
            let message = "this SET is meant for the session, and the session is the agent's";
            let help = "only a step of several statements in a transaction can change its settings, with SET LOCAL; elsewhere use those \
                        of a role (ALTER ROLE ... SET) or of a function (CREATE FUNCTION ... SET)";
            Some(sql.problem(statement.offset(), message, Some(help)))
        }
    }
}

/// What cannot be undone within a transaction, and so must not stand in one that other steps share.
pub(super) fn when_shared(sql: &Sql<'_>) -> Vec<Problem> {
    let statements = statements(&sql.text);
    let found = statements.iter().filter_map(|statement| Some((statement.offset(), statement.sets_the_transaction()?)));
    let help = "give the step `transaction = \"own\"`: then each step has a transaction of its own, and stays done when one behind it fails";
    let problem = |(offset, what)| {
        sql.problem(
            offset,
            format!("{what} would last beyond this step, to the end of the transaction that all steps share"),
            Some(help),
        )
    };
    found.map(problem).take(PROBLEMS).collect()
}

fn special(sql: &Sql<'_>, statement: &Statement<'_>, r#use: Use<'_>) -> Option<Problem> {
    let at = statement.offset();
    match r#use {
        Use::Check => (!statement.is_query())
            .then(|| sql.problem(at, "a check is a query that returns one boolean", Some("begin it with SELECT"))),
        Use::Transaction | Use::Batch(..) => statement.needs_no_transaction().map(|what| {
            let help = match r#use {
                Use::Batch(..) => "move it to a step of its own without `batch` and with `transaction = false`",
                _ => "put it alone into a step with `transaction = false`",
            };
            sql.problem(at, format!("{what} cannot run in a transaction"), Some(help))
        }),
        Use::NoTransaction => None,
    }
}

fn index_without_a_name(sql: &Sql<'_>, at: usize) -> Option<Problem> {
    concurrent_index(&sql.text).filter(|index| index.index.is_none()).map(|_| {
        let message = "an index that is built concurrently needs a name";
        let help = "name it: an interrupted build leaves an invalid index behind, which is found by its name";
        sql.problem(at, message, Some(help))
    })
}

/// What the agent would refuse as well, found without a database. What names mean, and keys that are not named here, are the agent's
/// to look up.
fn of_batch(sql: &Sql<'_>, batch: &Batch, said: Said, parsed: &BatchSql) -> Vec<Problem> {
    let reading = match Reading::of(&sql.text) {
        Ok(reading) => reading,
        Err(error) => {
            let message = format!("what this statement changes cannot be told: {error}");
            let help = "a batch is one SELECT, INSERT, UPDATE, DELETE or MERGE, also with WITH";
            return vec![sql.problem(error.offset, message, Some(help))];
        }
    };
    let mut found = alias_left_out(sql, batch, parsed, &reading.references);
    let assigned = name_parts(&batch.table).map_or_else(Vec::new, |table| reading.assigned(&table));
    found.extend(batch.key.iter().filter(|column| assigned.contains(column)).map(|column| {
        let message = format!("the statement assigns the key column `{column}`: its rows would move between ranges");
        sql.problem(0, message, Some("walk the table by a key that the statement leaves alone"))
    }));
    found.extend(placed::problems(sql, batch, said, &reading));
    found
}

/// A table that has an alias is not known by its name any more. What names mean is the server's to say, so this is a warning; the agent
/// asks the server before anything is changed.
fn alias_left_out(sql: &Sql<'_>, batch: &Batch, parsed: &BatchSql, references: &[Reference]) -> Vec<Problem> {
    let Some(table) = name_parts(&batch.table) else { return Vec::new() };
    let named: Vec<&Reference> = references.iter().filter(|reference| same_table(&reference.table, &table)).collect();
    let Some(alias) = named.first().and_then(|reference| reference.alias.as_deref()) else { return Vec::new() };
    if named.iter().any(|reference| reference.alias.is_none()) {
        return Vec::new();
    }
    let bare = parsed.placeholders_without_alias().take(PROBLEMS);
    bare.map(|offset| {
        let message =
            format!("the statement calls the table `{}` by the alias `{alias}`, and `:batch` does not", batch.table);
        sql.warning(offset, message, format!("write `:batch({alias})`: the run would be refused"))
    })
    .collect()
}

/// What is wrong with the name of a table, if anything.
pub(super) fn table_name(table: &str) -> Option<&'static str> {
    match lex::name_parts(table) {
        Some(parts) if parts.len() <= 2 => None,
        _ => Some("`table` must name a table as SQL does, such as users or shop.\"Order\""),
    }
}
