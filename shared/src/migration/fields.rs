//! The fields of a TOML table, taken one by one: what has the wrong type, is missing, empty or unknown is told, and
//! reading goes on.

use std::borrow::Cow;

use toml_span::value::{Key, Table, Value, ValueInner};

use super::limits::PROBLEMS;
use super::position::Source;
use super::set::{Problem, Severity};

/// The file that is read and what is wrong in it so far.
#[derive(Debug)]
pub(super) struct Reader<'s> {
    pub(super) source: Source<'s>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl<'s> Reader<'s> {
    pub(super) fn new(source: Source<'s>) -> Self {
        Self { source, problems: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn tell(&mut self, at: usize, message: impl Into<String>) {
        self.tell_all(|source| [source.problem(at, message, None)]);
    }

    pub(super) fn tell_with_help(&mut self, at: usize, message: impl Into<String>, help: impl Into<String>) {
        self.tell_all(|source| [source.problem(at, message, Some(help.into()))]);
    }

    /// Tells something that is allowed, but better otherwise.
    pub(super) fn warn(&mut self, at: usize, message: impl Into<String>, help: impl Into<String>) {
        let warning = self.source.warning(at, message, Some(help.into()));
        self.tell_all(|_| [warning]);
    }

    /// Takes in problems and warnings as far as there is room for them. They are only looked for when there is.
    pub(super) fn tell_all<P: IntoIterator<Item = Problem>>(&mut self, problems: impl FnOnce(Source<'s>) -> P) {
        if self.problems.len() >= PROBLEMS {
            return;
        }
        for problem in problems(self.source) {
            let list = match problem.severity {
                Severity::Error => &mut self.problems,
                Severity::Warning => &mut self.warnings,
            };
            if list.len() < PROBLEMS {
                list.push(problem);
            }
        }
    }

    /// How many problems there are so far; warnings do not count.
    pub(super) fn count(&self) -> usize {
        self.problems.len()
    }

    /// Everything that was told.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut told = self.problems;
        told.extend(self.warnings);
        told
    }
}

/// A value and the offset where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

/// The table of a migration, step, check or batch.
pub(super) struct Fields<'t> {
    /// What the table is, with its article.
    what: &'static str,
    /// The fields that it can have.
    known: &'static [&'static str],
    table: Table<'t>,
    /// Where the table begins.
    pub(super) at: usize,
}

impl<'t> Fields<'t> {
    pub(super) fn new(
        reader: &mut Reader<'_>,
        what: &'static str,
        known: &'static [&'static str],
        mut value: Value<'t>,
    ) -> Option<Self> {
        let at = value.span.start;
        match value.take() {
            ValueInner::Table(table) => Some(Self { what, known, table, at }),
            other => {
                reader.tell(at, format!("{what} must be a table, not {}", kind(&other)));
                None
            }
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Where the name of a field stands; where the table begins when it has no such field.
    pub(super) fn position(&self, name: &str) -> usize {
        self.table.get_key_value(name).map_or(self.at, |(key, _)| key.span.start)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value<'t>> {
        debug_assert!(self.known.contains(&name), "{} has no field {name}", self.what);
        self.table.remove(name)
    }

    pub(super) fn string(&mut self, reader: &mut Reader<'_>, name: &str) -> Option<At<Cow<'t, str>>> {
        let value = self.take(name)?;
        string(reader, &format!("`{name}`"), value)
    }

    pub(super) fn required_string(&mut self, reader: &mut Reader<'_>, name: &str) -> Option<At<Cow<'t, str>>> {
        if !self.has(name) {
            reader.tell(self.at, format!("{} needs the field `{name}`", self.what));
        }
        self.string(reader, name)
    }

    pub(super) fn strings(&mut self, reader: &mut Reader<'_>, name: &str) -> Vec<At<Cow<'t, str>>> {
        let elements = self.list(reader, name, "a list of texts");
        elements.into_iter().filter_map(|value| string(reader, &format!("each of `{name}`"), value)).collect()
    }

    pub(super) fn integer(&mut self, reader: &mut Reader<'_>, name: &str) -> Option<At<i64>> {
        let mut value = self.take(name)?;
        let at = value.span.start;
        match value.take() {
            ValueInner::Integer(value) => Some(At { value, at }),
            other => {
                reader.tell(at, format!("`{name}` must be a whole number, not {}", kind(&other)));
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, reader: &mut Reader<'_>, name: &str) -> Option<At<bool>> {
        let mut value = self.take(name)?;
        let at = value.span.start;
        match value.take() {
            ValueInner::Boolean(value) => Some(At { value, at }),
            other => {
                reader.tell(at, format!("`{name}` must be true or false, not {}", kind(&other)));
                None
            }
        }
    }

    /// The elements of a list of tables, which is written with double brackets.
    pub(super) fn tables(&mut self, reader: &mut Reader<'_>, name: &str) -> Vec<Value<'t>> {
        let position = self.position(name);
        let mut list = match self.take(name) {
            None => return Vec::new(),
            Some(list) => list,
        };
        match list.take() {
            ValueInner::Array(elements) => elements,
            other => {
                let message = format!("`{name}` must be a list of tables, not {}", kind(&other));
                reader.tell_with_help(position, message, format!("begin each with [[{name}]]"));
                Vec::new()
            }
        }
    }

    fn list(&mut self, reader: &mut Reader<'_>, name: &str, wanted: &str) -> Vec<Value<'t>> {
        let Some(mut list) = self.take(name) else { return Vec::new() };
        match list.take() {
            ValueInner::Array(elements) => elements,
            other => {
                reader.tell(list.span.start, format!("`{name}` must be {wanted}, not {}", kind(&other)));
                Vec::new()
            }
        }
    }

    /// Tells what is left: fields that nobody asked for.
    pub(super) fn finish(self, reader: &mut Reader<'_>) {
        for Key { name, span } in self.table.into_keys() {
            let help = match meant(&name, self.known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("its fields are {}", self.known.join(", ")),
            };
            reader.tell_with_help(span.start, format!("{} has no field `{name}`", self.what), help);
        }
    }
}

/// A text that says something: not empty, and fit for PostgreSQL.
fn string<'t>(reader: &mut Reader<'_>, what: &str, mut value: Value<'t>) -> Option<At<Cow<'t, str>>> {
    let at = value.span.start;
    match value.take() {
        ValueInner::String(text) if text.trim().is_empty() => {
            reader.tell(at, format!("{what} must not be empty"));
            None
        }
        ValueInner::String(text) if text.contains('\0') => {
            reader.tell(at, format!("{what} must not contain the character U+0000"));
            None
        }
        ValueInner::String(value) => Some(At { value, at }),
        other => {
            reader.tell(at, format!("{what} must be a text in quotes, not {}", kind(&other)));
            None
        }
    }
}

fn kind(value: &ValueInner<'_>) -> &'static str {
    match value {
        ValueInner::String(_) => "a text",
        ValueInner::Integer(_) => "a whole number",
        ValueInner::Float(_) => "a number with a fraction",
        ValueInner::Boolean(_) => "true or false",
        ValueInner::Array(_) => "a list",
        ValueInner::Table(_) => "a table",
    }
}

/// Names that other tools use for a field.
const SYNONYMS: [(&str, &str); 12] = [
    ("depends_on", "run_after"),
    ("dependencies", "run_after"),
    ("requires", "run_after"),
    ("up", "step"),
    ("down", "rollback"),
    ("undo", "rollback"),
    ("title", "name"),
    ("query", "sql"),
    ("statement", "sql"),
    ("chunk", "size"),
    ("batch_size", "size"),
    ("columns", "key"),
];

/// The candidate that someone who wrote `given` may have meant.
pub(super) fn meant<'c>(given: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let given = given.to_lowercase().replace('-', "_");
    let synonym = SYNONYMS.iter().find(|(other, _)| *other == given).map(|(_, field)| *field);
    if let Some(field) = synonym.and_then(|field| candidates.iter().find(|candidate| **candidate == field)) {
        return Some(field);
    }
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&given, &candidate.to_lowercase().replace('-', "_")), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).clamp(1, 4))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_is_recognised() {
        let fields = ["name", "sql", "run_after", "step"];
        assert_eq!(meant("steps", &fields), Some("step"));
        assert_eq!(meant("run-after", &fields), Some("run_after"));
        assert_eq!(meant("SQL", &fields), Some("sql"));
        assert_eq!(meant("depends_on", &fields), Some("run_after"));
        assert_eq!(meant("colour", &fields), None);
    }
}
