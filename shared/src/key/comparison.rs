//! The comparisons that select the keys of a range, in SQL.
//!
//! A key of several columns is compared column by column, as a row. As a single row comparison that is dear: the planner takes one for
//! half of the table and two for a quarter, it prunes no partitions by them, and before PostgreSQL 18 the scan of an index does not end
//! where the row says, but where its first column does. So each comparison here says what it can about the leading columns. Those that
//! are the same at both ends of a range are equal to that; the first that differs has bounds. Where one column is left, it is compared
//! by itself.
//!
//! - [`ordered`] is for walks along the index: row comparisons, since an index can be read in its order by them, with bounds beside them.
//! - [`unordered`] is for batches, in any order: the groups of the leading columns at both ends, and what lies between them. So a batch
//!   from one large group to the next reads its own rows of both, and not the rest of the group in which it ends.
//!
//! They stand in statements of others, in sessions whose `search_path` may find other operators of the same name first. So the operators
//! are written with their schema, where all types are PostgreSQL's own. Those of other types may be in any schema: they are found as the
//! statement itself finds its own.
//!
//! What must stay true: both mean the row comparison, whatever the values are. Texts that are equal are equal values; but values that
//! are equal may have different texts (numeric `1.0` and `1.00`), so the groups at both ends may be one, and each is held to both ends.

use super::{KeyBound, KeyColumn};
use crate::sql::{quote_ident, quote_literal};

/// The columns of a key as SQL names them; `qualifier` names the table or its alias, quoted where needed. Empty leaves them unqualified.
#[must_use]
pub fn names(columns: &[KeyColumn], qualifier: &str) -> Vec<String> {
    let name = |column: &KeyColumn| match qualifier {
        "" => quote_ident(&column.name),
        _ => format!("{qualifier}.{}", quote_ident(&column.name)),
    };
    columns.iter().map(name).collect()
}

/// The values of a bound as literals, cast to the types of their columns.
///
/// # Panics
/// When the bound has not one value for each column: it would select the wrong rows.
#[must_use]
pub fn literals(columns: &[KeyColumn], bound: &KeyBound) -> Vec<String> {
    assert_eq!(columns.len(), bound.0.len(), "the key {bound} does not have one value for each of its columns");
    let literal =
        |(column, value): (&KeyColumn, &String)| format!("{}::{}", quote_literal(value), column.qualified_type());
    columns.iter().zip(&bound.0).map(literal).collect()
}

/// How the operators of a comparison are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operators {
    /// With PostgreSQL's own schema.
    BuiltIn,
    /// As the session finds them.
    Found,
}

impl Operators {
    /// Those that compare the columns of a key.
    #[must_use]
    pub fn of(columns: &[KeyColumn]) -> Self {
        if columns.iter().all(KeyColumn::is_built_in) { Self::BuiltIn } else { Self::Found }
    }

    /// A comparison.
    #[must_use]
    pub fn write(self, left: &str, operator: &str, right: &str) -> String {
        match self {
            Self::BuiltIn => format!("{left} OPERATOR(pg_catalog.{operator}) {right}"),
            Self::Found => format!("{left} {operator} {right}"),
        }
    }
}

/// How many leading columns have the same value in all keys from `low` to `high`. The last column of a key is never one of them.
#[must_use]
pub fn shared_columns(low: Option<&KeyBound>, high: Option<&KeyBound>) -> usize {
    let (Some(low), Some(high)) = (low, high) else { return 0 };
    let same = low.0.iter().zip(&high.0).take_while(|(low, high)| low == high).count();
    same.min(high.0.len().saturating_sub(1))
}

/// The condition for keys above `low`, up to and with `high`, by which an index can be read in its order. Both are expressions in SQL,
/// as many as `names`; the first `shared` columns have the same value in both. `true` without either.
#[must_use]
pub fn ordered(
    operators: Operators,
    names: &[String],
    low: Option<&[String]>,
    high: Option<&[String]>,
    shared: usize,
) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(values) = high.or(low) {
        parts.extend(equal(operators, names, values, shared));
    }
    let ends = [low.map(|low| (">", ">=", low)), high.map(|high| ("<=", "<=", high))];
    let ends = || ends.iter().flatten();
    parts.extend(ends().map(|(operator, _, values)| compare(operators, names, operator, values, shared)));
    if names.len() > shared + 1 {
        parts.extend(ends().map(|(_, operator, values)| operators.write(&names[shared], operator, &values[shared])));
    }
    if parts.is_empty() { "true".to_owned() } else { parts.join(" AND ") }
}

/// The same condition, by which an index is read in parts.
#[must_use]
pub fn unordered(
    operators: Operators,
    names: &[String],
    low: Option<&[String]>,
    high: &[String],
    shared: usize,
) -> String {
    let (equal, compare) = (
        |names: &[String], values: &[String], shared| equal(operators, names, values, shared),
        |names: &[String], operator, values: &[String], shared| compare(operators, names, operator, values, shared),
    );
    if names.len() <= shared + 1 {
        return ordered(operators, names, low, Some(high), shared);
    }
    let mut groups = Vec::new();
    let mut within = Vec::new();
    if let Some(low) = low {
        let mut first = equal(&names[shared..], &low[shared..], 1);
        first.push(ordered(operators, &names[shared + 1..], Some(&low[shared + 1..]), None, 0));
        first.push(compare(names, "<=", high, shared));
        groups.push(first);
        within.push(operators.write(&names[shared], ">", &low[shared]));
    }
    within.push(operators.write(&names[shared], "<", &high[shared]));
    groups.push(within);
    for column in shared + 1..names.len() {
        let operator = if column + 1 == names.len() { "<=" } else { "<" };
        let mut last = equal(&names[shared..], &high[shared..], column - shared);
        last.push(operators.write(&names[column], operator, &high[column]));
        last.extend(low.map(|low| compare(names, ">", low, shared)));
        groups.push(last);
    }
    let groups: Vec<String> = groups.iter().map(|parts| parts.join(" AND ")).collect();
    let mut parts = equal(names, high, shared);
    parts.push(format!("({})", groups.join(" OR ")));
    parts.join(" AND ")
}

/// The first `shared` columns are what they are at both ends.
fn equal(operators: Operators, names: &[String], values: &[String], shared: usize) -> Vec<String> {
    names.iter().zip(values).take(shared).map(|(name, value)| operators.write(name, "=", value)).collect()
}

/// The columns behind the first `shared`, as a row.
fn compare(operators: Operators, names: &[String], operator: &str, values: &[String], shared: usize) -> String {
    operators.write(&row(&names[shared..]), operator, &row(&values[shared..]))
}

/// Some values as one: itself, or a row.
pub(super) fn row(values: &[String]) -> String {
    match values {
        [value] => value.clone(),
        values => format!("ROW({})", values.join(", ")),
    }
}
