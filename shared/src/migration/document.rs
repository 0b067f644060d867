//! One definition: from the text of its file to a [`Definition`], or to everything that is wrong with it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use toml_span::value::{Value, ValueInner};

use super::apart;
use super::definition::{Batch, Changes, Check, Definition, PlanRule, Step, StepBody, Version};
use super::fields::{At, Fields, Reader};
use super::files;
use super::isolation::{self, Isolation, Noted, Transaction};
use super::limits::{IN_BULK, KEY, RANGE, SIZE, SQL, STRIPES, TOKENS, VALUES, told};
use super::place::{List, SqlPlace};
use super::position::Source;
use super::raw::{Raw, raw};
use super::rules::{self, Said, Sql, Use};
use super::set::Problem;
use super::values;
use crate::ids::{self, MigrationId, StepName, TransformName};
use crate::sql::lex;
use crate::visible::is_unseen;

/// The fields of each table. The JSON Schema is tested against them.
pub(super) const MIGRATION: &[&str] = &[
    "id",
    "name",
    "description",
    "version",
    "run_after",
    "impacts",
    "before",
    "step",
    "after",
    "rollback",
    "isolation",
];
pub(super) const CHECK: &[&str] = &["name", "sql", "row_security"];
pub(super) const STEP: &[&str] = &[
    "name",
    "was",
    "sql",
    "file",
    "transform",
    "batch",
    "transaction",
    "isolation",
    "row_security",
    "idempotent",
    "unlogged",
    "foreign",
    "batch_is_mine",
    "changes",
];
pub(super) const BATCH: &[&str] = &["table", "key", "size", "range", "stripes", "plan"];

/// What else a TOML file in the directory of the definitions can be.
const NO_DEFINITION: &str = "`dunlin new ID` writes the first lines of one; a folder of another tool (`migration_lock.toml` is of Prisma, \
                             `metadata.toml` of Diesel) is not read: name a directory that has definitions alone";

/// What could be read of a definition.
#[derive(Debug)]
pub(super) struct Draft<'s> {
    pub(super) source: Source<'s>,
    pub(super) id: Option<At<MigrationId>>,
    pub(super) version: Option<At<Version>>,
    pub(super) run_after: Vec<At<MigrationId>>,
    /// The whole, when nothing is wrong with it.
    pub(super) definition: Option<Definition>,
    /// Where its SQL stands.
    pub(super) places: Vec<SqlPlace>,
}

/// Reads a definition. `texts` are the contents of all files of the set by path; `room` is what is left of [`SQL`].
pub(super) fn read<'s>(
    source: Source<'s>,
    texts: &HashMap<&'s str, &'s str>,
    room: &mut usize,
) -> (Draft<'s>, Vec<Problem>) {
    let mut document =
        Document { reader: Reader::new(source), texts, room, transactions: Vec::new(), places: Vec::new() };
    let mut draft =
        Draft { source, id: None, version: None, run_after: Vec::new(), definition: None, places: Vec::new() };
    if values::more_than(VALUES, source.text) {
        let message = format!("a definition has at most {} values, and this has more", told(VALUES));
        document.reader.tell_with_help(0, message, "split it into several migrations");
        return (draft, document.reader.into_problems());
    }
    match toml_span::parse(source.text) {
        Ok(root) => document.migration(root, &mut draft),
        Err(error) => document.reader.tell(error.span.start, format!("this is not TOML: {error}")),
    }
    draft.places = document.places;
    (draft, document.reader.into_problems())
}

struct Document<'s, 'x> {
    reader: Reader<'s>,
    texts: &'x HashMap<&'s str, &'s str>,
    room: &'x mut usize,
    /// The texts of the steps that are SQL in a transaction, of the list that is read.
    transactions: Vec<Sql<'s>>,
    places: Vec<SqlPlace>,
}

impl<'s> Document<'s, '_> {
    fn migration(&mut self, root: Value<'_>, draft: &mut Draft<'s>) {
        let reader = &mut self.reader;
        let Some(mut fields) = Fields::new(reader, "a migration", MIGRATION, root) else { return };
        if !MIGRATION.iter().any(|name| fields.has(name)) {
            reader.tell_with_help(
                fields.at,
                "this is not a definition of a migration: it has none of the fields of one",
                NO_DEFINITION,
            );
            return;
        }
        draft.id = fields.required_string(reader, "id").and_then(|id| checked(reader, &id, MigrationId::parse));
        let name = fields.required_string(reader, "name").and_then(|name| seen(reader, name));
        let description = fields.required_string(reader, "description");
        if !fields.has("version") {
            reader.tell(fields.at, "a migration needs the field `version`");
        }
        draft.version = fields.integer(reader, "version").and_then(|number| match Version::new(number.value) {
            Ok(value) => Some(At { value, at: number.at }),
            Err(error) => {
                reader.tell(number.at, error.to_string());
                None
            }
        });
        let run_after = fields.strings(reader, "run_after");
        draft.run_after = run_after.iter().filter_map(|id| checked(reader, id, MigrationId::parse)).collect();
        let mut named = HashSet::new();
        for id in &draft.run_after {
            if !named.insert(&id.value) {
                reader.tell(id.at, format!("`{}` stands in `run_after` twice", id.value));
            }
        }
        let impacts = fields.strings(reader, "impacts").into_iter().map(|text| text.value.into_owned()).collect();
        let isolation = isolation::read(reader, &mut fields);
        let before = self.checks(&mut fields, "before", List::Before);
        let no_steps = !fields.has("step");
        let step_position = fields.position("step");
        let (steps, given) = self.steps(&mut fields, "step", List::Step, isolation.as_ref());
        let transactions = std::mem::take(&mut self.transactions);
        let after = self.checks(&mut fields, "after", List::After);
        if no_steps || given == Some(0) {
            let message = if before.is_empty() && after.is_empty() {
                "this migration has no steps and no checks: a run of it does nothing but record it"
            } else {
                "this migration does nothing but check: it has no steps"
            };
            let help =
                "that is right for a change that is made elsewhere; otherwise add a [[step]] with a name and `sql`";
            self.reader.warn(step_position, message, help);
        }
        let (rollback, _) = self.steps(&mut fields, "rollback", List::Rollback, None);
        fields.finish(&mut self.reader);
        // What is wrong comes first; and of a dump every statement would be looked at again.
        if self.reader.count() == 0 {
            let atomic = isolation::atomic(&steps);
            let transactions: Vec<&Sql<'_>> = transactions.iter().collect();
            let of = |together: &[&Sql<'_>]| apart::warnings(together);
            let warnings = if atomic { of(&transactions) } else { transactions.chunks(1).flat_map(of).collect() };
            self.reader.tell_all(|_| warnings);
        }

        if let (true, Some(id), Some(name), Some(description), Some(version)) =
            (self.reader.count() == 0, &draft.id, name, description, &draft.version)
        {
            draft.definition = Some(Definition {
                id: id.value.clone(),
                name: name.value.trim().to_owned(),
                description: description.value.trim().to_owned(),
                version: version.value,
                run_after: draft.run_after.iter().map(|id| id.value.clone()).collect(),
                impacts,
                before,
                steps,
                after,
                rollback,
                isolation: isolation.map(|isolation| isolation.value),
            });
        }
    }

    fn checks(&mut self, fields: &mut Fields<'_>, list: &str, kind: List) -> Vec<Check> {
        let mut names = HashMap::new();
        let mut checks = Vec::new();
        for value in fields.tables(&mut self.reader, list) {
            let reader = &mut self.reader;
            let Some(mut fields) = Fields::new(reader, "a check", CHECK, value) else { continue };
            // Checks are named by the same rule as steps: both stand in messages and in the history.
            let name = fields.required_string(reader, "name").and_then(|name| checked(reader, &name, StepName::parse));
            let sql = fields.required_string(reader, "sql");
            let row_security = fields.boolean(reader, "row_security").is_some_and(|flag| flag.value);
            fields.finish(reader);
            self.unique(&mut names, name.as_ref(), "check", list);
            let Some(sql) = sql.and_then(|sql| self.inline(&sql.value, sql.at)) else { continue };
            self.reader.tell_all(|_| rules::problems(&sql, Use::Check));
            if let Some(name) = name {
                self.places.push(sql.stands(kind, name.value.as_str()));
                checks.push(Check { name: name.value.into(), sql: sql.canonical(), row_security });
            }
        }
        checks
    }

    /// The steps that could be read, and how many there are when the list is one.
    fn steps(
        &mut self,
        fields: &mut Fields<'_>,
        list: &str,
        kind: List,
        isolation: Option<&At<Isolation>>,
    ) -> (Vec<Step>, Option<usize>) {
        let is_list = fields.has(list);
        let before = self.reader.count();
        let values = fields.tables(&mut self.reader, list);
        let count = (is_list && self.reader.count() == before).then_some(values.len());
        let mut names = HashMap::new();
        let mut earlier = Vec::new();
        let (mut steps, mut noted) = (Vec::new(), Vec::new());
        let given = values.len();
        for value in values {
            let Some(mut fields) = Fields::new(&mut self.reader, "a step", STEP, value) else { continue };
            let name = fields
                .required_string(&mut self.reader, "name")
                .and_then(|name| checked(&mut self.reader, &name, StepName::parse));
            self.unique(&mut names, name.as_ref(), "step", list);
            let was =
                fields.string(&mut self.reader, "was").and_then(|was| checked(&mut self.reader, &was, StepName::parse));
            let idempotent = fields.boolean(&mut self.reader, "idempotent").is_some_and(|flag| flag.value);
            let isolation = isolation::read(&mut self.reader, &mut fields);
            let row_security = fields.boolean(&mut self.reader, "row_security").is_some_and(|flag| flag.value);
            let unlogged = fields.boolean(&mut self.reader, "unlogged").is_some_and(|flag| flag.value);
            let foreign = fields.boolean(&mut self.reader, "foreign").is_some_and(|flag| flag.value);
            let said = self.said(&mut fields);
            let transaction = self.transaction(&mut fields);
            let mut shared = Noted { isolation_at: isolation.as_ref().map(|at| at.at), when_shared: Vec::new() };
            let (body, place) = self.body(&mut fields, &transaction, said, &mut shared);
            fields.finish(&mut self.reader);
            if let (Some(name), Some(body)) = (name, body) {
                self.places.extend(place.map(|place| SqlPlace { list: kind, name: name.value.to_string(), ..place }));
                let isolation = isolation.map(|isolation| isolation.value);
                let own_transaction = transaction.value == Transaction::Own;
                if let Some(was) = &was {
                    earlier.push((name.value.clone(), was.clone()));
                }
                let was = was.map(|was| was.value);
                steps.push(Step {
                    name: name.value,
                    was,
                    idempotent,
                    body,
                    isolation,
                    row_security,
                    own_transaction,
                    unlogged,
                    foreign,
                    batch_is_mine: said.batch_is_mine,
                    changes: said.elsewhere.then_some(Changes::Elsewhere),
                });
                noted.push(shared);
            }
        }
        if steps.len() == given {
            isolation::together(&mut self.reader, isolation, &steps, noted);
        }
        self.renamed(&earlier, &names);
        (steps, count)
    }

    /// A name that a step had is that of one step only: what a target has under it must have one place to go to.
    fn renamed(&mut self, earlier: &[(StepName, At<StepName>)], names: &HashMap<StepName, usize>) {
        let mut taken: HashSet<&StepName> = HashSet::new();
        for (name, was) in earlier {
            let moved_on = earlier.iter().any(|(other, _)| *other == was.value);
            if *name == was.value {
                let help = "name the one that it had in the text that was run, or leave `was` out";
                self.reader.tell_with_help(was.at, format!("the step `{name}` was called `{name}` already"), help);
            } else if names.contains_key(&was.value) && !moved_on {
                let message = format!("another step is called `{}`", was.value);
                let help =
                    "a name that a step had is free only when the step that has it now was called something else";
                self.reader.tell_with_help(was.at, message, help);
            } else if !taken.insert(&was.value) {
                let message = format!("two steps say that they were called `{}`", was.value);
                let help = "leave `was` out of the one that is new";
                self.reader.tell_with_help(was.at, message, help);
            }
        }
    }

    fn unique(&mut self, names: &mut HashMap<StepName, usize>, name: Option<&At<StepName>>, what: &str, list: &str) {
        let Some(name) = name else { return };
        if let Some(first) = names.get(&name.value) {
            self.reader.tell_all(|source| {
                let message = format!("the {what} name `{}` is taken already in [[{list}]]", name.value);
                let help = format!("the first stands at {}", source.place(*first));
                [source.problem(name.at, message, Some(help))]
            });
        } else {
            names.insert(name.value.clone(), name.at);
        }
    }

    /// What a step says of its statement. That makes sense for a statement with `:batch` only.
    fn said(&mut self, fields: &mut Fields<'_>) -> Said {
        let of_a_statement = fields.has("batch") && (fields.has("sql") || fields.has("file"));
        for field in ["batch_is_mine", "changes"].into_iter().filter(|field| fields.has(field) && !of_a_statement) {
            let message = format!("`{field}` is about the statement of a step with `batch`");
            self.reader.tell_with_help(fields.position(field), message, "leave it out");
        }
        let batch_is_mine = fields.boolean(&mut self.reader, "batch_is_mine").is_some_and(|flag| flag.value);
        let changes = fields.string(&mut self.reader, "changes");
        if let Some(changes) = changes.as_ref().filter(|changes| changes.value != "elsewhere") {
            let message = format!("`changes` can be \"elsewhere\", not \"{}\"", changes.value);
            let help = "leave it out where the statement changes no rows of its table but those of the batch";
            self.reader.tell_with_help(changes.at, message, help);
        }
        Said { batch_is_mine, elsewhere: changes.is_some() }
    }

    fn transaction(&mut self, fields: &mut Fields<'_>) -> At<Transaction> {
        let at = fields.position("transaction");
        let Some(mut value) = fields.take("transaction") else { return At { value: Transaction::Any, at } };
        let value = match value.take() {
            ValueInner::Boolean(true) => Transaction::Any,
            ValueInner::Boolean(false) => Transaction::Outside,
            ValueInner::String(text) if text == "own" => Transaction::Own,
            _ => {
                let help = "false runs the step outside a transaction, \"own\" in one that no other step shares";
                self.reader.tell_with_help(value.span.start, "`transaction` must be true, false or \"own\"", help);
                Transaction::Any
            }
        };
        At { value, at }
    }

    /// What a step does, and where its SQL stands.
    fn body(
        &mut self,
        fields: &mut Fields<'_>,
        transaction: &At<Transaction>,
        said: Said,
        noted: &mut Noted,
    ) -> (Option<StepBody>, Option<SqlPlace>) {
        let given: Vec<&str> = ["sql", "file", "transform"].into_iter().filter(|name| fields.has(name)).collect();
        let step_at = fields.at;
        let second_at = given.get(1).map(|name| fields.position(name));
        let transform_at = fields.position("transform");
        let transaction_at = transaction.at;
        let has_batch = fields.has("batch");

        let batch = fields.take("batch").and_then(|value| self.batch(value));
        let reader = &mut self.reader;
        let outside = transaction.value == Transaction::Outside;
        let sql = fields.string(reader, "sql");
        let file = fields.string(reader, "file");
        let transform =
            fields.string(reader, "transform").and_then(|name| checked(reader, &name, TransformName::parse));

        if given.is_empty() {
            let help = "give it `sql`, or `file`, or `transform` with `batch`";
            reader.tell_with_help(step_at, "a step needs something to do", help);
        }
        if let (Some(at), Some(second)) = (second_at, given.get(1)) {
            reader.tell(at, format!("`{}` and `{second}` exclude each other: a step does one thing", given[0]));
        }
        if outside && has_batch {
            let help = "leave `transaction` out";
            reader.tell_with_help(transaction_at, "a step with `batch` cannot run outside a transaction", help);
        }
        if transaction.value == Transaction::Own && has_batch {
            let help = "leave `transaction` out";
            reader.tell_with_help(
                transaction_at,
                "each batch of a step with `batch` is a transaction of its own",
                help,
            );
        }
        if let (true, Some(at)) = (outside, noted.isolation_at) {
            reader.tell(at, "a step outside a transaction has no isolation");
        }
        if given.contains(&"transform") && !has_batch {
            let help = "add batch = { table = \"...\" }";
            reader.tell_with_help(transform_at, "a step with `transform` needs `batch`", help);
        }
        if given.contains(&"transform") && batch.as_ref().is_some_and(|batch| batch.plan.is_some()) {
            let help = "leave `plan` out";
            reader.tell_with_help(transform_at, "`plan` is about the statement of a step, and code has its own", help);
        }

        let sql = match (sql, file) {
            (Some(sql), _) => self.inline(&sql.value, sql.at),
            (None, Some(file)) => self.file(&file.value, file.at),
            (None, None) => None,
        };
        if let Some(sql) = sql {
            let r#use = match (has_batch, outside) {
                (true, _) => Use::Batch(batch.as_ref(), said),
                (false, true) => Use::NoTransaction,
                (false, false) => Use::Transaction,
            };
            self.reader.tell_all(|_| rules::problems(&sql, r#use));
            if matches!(r#use, Use::Transaction) {
                noted.when_shared = rules::when_shared(&sql);
            }
            let place = sql.stands(List::Step, "");
            let text = sql.canonical();
            let body = match batch {
                Some(batch) => StepBody::Batch { batch, sql: text },
                None => {
                    if !outside && !has_batch {
                        self.transactions.push(sql);
                    }
                    StepBody::Sql { sql: text, transaction: !outside }
                }
            };
            return (Some(body), Some(place));
        }
        let body = batch.zip(transform);
        (body.map(|(batch, transform)| StepBody::Transform { batch, transform: transform.value }), None)
    }

    fn batch(&mut self, value: Value<'_>) -> Option<Batch> {
        let reader = &mut self.reader;
        let mut fields = Fields::new(reader, "`batch`", BATCH, value)?;
        let table = fields.required_string(reader, "table");
        if let Some((table, wrong)) = table.as_ref().and_then(|table| Some((table, rules::table_name(&table.value)?))) {
            reader.tell(table.at, wrong);
        }
        let key_at = fields.position("key");
        let empty_key = fields.has("key");
        let key = fields.strings(reader, "key");
        if empty_key && key.is_empty() {
            let help = "leave it out to walk the table by its primary key";
            reader.tell_with_help(key_at, "`key` must name at least one column", help);
        }
        if key.len() > KEY {
            let message = format!("`key` names {} columns, and an index has at most {KEY}", key.len());
            reader.tell_with_help(key_at, message, "name the columns of a unique index");
            return None;
        }
        for (i, column) in key.iter().enumerate() {
            if key[..i].iter().any(|other| other.value == column.value) {
                reader.tell(column.at, format!("the column `{}` stands in `key` twice", column.value));
            }
        }
        let size = number(reader, &mut fields, "size", SIZE);
        let range = number(reader, &mut fields, "range", RANGE);
        let stripes = number(reader, &mut fields, "stripes", STRIPES);
        let plan = fields.string(reader, "plan");
        if let Some(plan) = plan.as_ref().filter(|plan| plan.value != "strict") {
            let help = "write plan = \"strict\", or leave it out: a plan that reads the whole table for each batch is then told only";
            reader.tell_with_help(plan.at, format!("`plan` can be \"strict\", not \"{}\"", plan.value), help);
        }
        if let (Some(size), Some(range)) = (&size, &range)
            && range.value < size.value
        {
            let message = format!("`range` is {}, less than `size`, which is {}", range.value, size.value);
            reader.tell_with_help(range.at, message, "a range holds many batches");
        }
        fields.finish(reader);
        Some(Batch {
            table: table?.value.trim().to_owned(),
            key: key.into_iter().map(|column| column.value.into_owned()).collect(),
            size: size.map(|number| number.value),
            range: range.map(|number| number.value),
            stripes: stripes.map(|number| number.value),
            plan: plan.map(|_| PlanRule::Strict),
        })
    }

    fn inline(&mut self, text: &str, at: usize) -> Option<Sql<'s>> {
        let source = self.reader.source;
        let Raw { text, exact } = raw(source.text.get(at..).unwrap_or_default(), text);
        self.fits(&text, at).then(|| Sql { text: text.into_owned(), source, start: at, exact })
    }

    /// A file can be named by any number of steps, and each has its text.
    fn fits(&mut self, text: &str, at: usize) -> bool {
        if lex::more_than(TOKENS, text) {
            let message = format!("this SQL has more than {} words and signs, the most that can be read", told(TOKENS));
            self.reader.tell_with_help(at, message, IN_BULK);
            return false;
        }
        match self.room.checked_sub(text.len()) {
            Some(room) => {
                *self.room = room;
                true
            }
            None => {
                let message = format!("the SQL of the set comes to more than {} bytes", told(SQL));
                let help =
                    "a file counts as often as steps name it: split the set, or call a function that you create once";
                self.reader.tell_with_help(at, message, help);
                false
            }
        }
    }

    fn file(&mut self, name: &str, at: usize) -> Option<Sql<'s>> {
        let Some(path) = files::resolve(self.reader.source.path, name) else {
            let help = "name a file beside the definition or below it, with `/` between the parts of its path";
            self.reader.tell_with_help(at, format!("`{name}` lies outside the directory of the set"), help);
            return None;
        };
        match self.texts.get_key_value(path.as_str()) {
            Some((path, text)) if text.contains('\0') => {
                self.reader.tell(at, format!("the file `{path}` contains the character U+0000"));
                None
            }
            Some((_, text)) if !self.fits(text, at) => None,
            Some((path, text)) => {
                let source = Source::new(path, text);
                Some(Sql { text: source.text.to_owned(), source, start: 0, exact: true })
            }
            None => {
                let help = format!("it was looked for at {path} in the directory of the set");
                self.reader.tell_with_help(at, format!("there is no file `{name}`"), help);
                None
            }
        }
    }
}

fn checked<T, S: AsRef<str>>(
    reader: &mut Reader<'_>,
    text: &At<S>,
    parse: impl Fn(String) -> Result<T, ids::Error>,
) -> Option<At<T>> {
    match parse(text.value.as_ref().to_owned()) {
        Ok(value) => Some(At { value, at: text.at }),
        Err(error) => {
            reader.tell(text.at, error.to_string());
            None
        }
    }
}

/// A name is one line, of what is seen.
fn seen<'t>(reader: &mut Reader<'_>, name: At<Cow<'t, str>>) -> Option<At<Cow<'t, str>>> {
    let Some(c) = name.value.trim().chars().find(|c| is_unseen(*c)) else { return Some(name) };
    let message = format!("`name` has the character U+{:04X}, which nobody sees", u32::from(c));
    reader.tell_with_help(name.at, message, "remove it: a name is one line of text; `description` can have several");
    None
}

fn number(reader: &mut Reader<'_>, fields: &mut Fields<'_>, name: &str, most: u32) -> Option<At<u32>> {
    let given = fields.integer(reader, name)?;
    match u32::try_from(given.value) {
        Ok(value) if (1..=most).contains(&value) => Some(At { value, at: given.at }),
        _ => {
            reader.tell(given.at, format!("`{name}` must be from 1 to {most}, not {}", given.value));
            None
        }
    }
}
