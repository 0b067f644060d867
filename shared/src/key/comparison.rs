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
//! are written with their schema: that of the operator class of the index that is walked. Where the columns of a key have operators in
//! different schemas, no row can be compared as a whole, and the columns are compared one behind the other.
//!
//! What must stay true: both mean the row comparison, whatever the values are. Texts that are equal are equal values; but values that
//! are equal may have different texts (numeric `1.0` and `1.00`), so the groups at both ends may be one, and each is held to both ends.

use super::{KeyBound, KeyColumn};
use crate::sql::{quote_ident, quote_literal};

/// A column of a key as SQL names it, with the operators that compare it.
#[derive(Clone, Debug)]
pub struct Operand {
    /// The expression.
    pub sql: String,
    /// The schema of the operators, quoted where needed. `None`: as the session finds them.
    operators: Option<String>,
}

impl Operand {
    /// A comparison.
    #[must_use]
    pub fn is(&self, operator: &str, value: &str) -> String {
        self.compared(&self.sql, operator, value)
    }

    fn compared(&self, left: &str, operator: &str, right: &str) -> String {
        match &self.operators {
            Some(schema) => format!("{left} OPERATOR({schema}.{operator}) {right}"),
            None => format!("{left} {operator} {right}"),
        }
    }
}

/// The columns of a key; `qualifier` names the table or its alias, quoted where needed. Empty leaves them unqualified.
#[must_use]
pub fn operands(columns: &[KeyColumn], qualifier: &str) -> Vec<Operand> {
    let operand = |column: &KeyColumn| {
        let name = quote_ident(&column.name);
        Operand {
            sql: if qualifier.is_empty() { name } else { format!("{qualifier}.{name}") },
            operators: column.operators.as_deref().map(schema),
        }
    };
    columns.iter().map(operand).collect()
}

fn schema(name: &str) -> String {
    if name == "pg_catalog" { name.to_owned() } else { quote_ident(name) }
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

/// How many leading columns have the same value in all keys from `low` to `high`. The last column of a key is never one of them.
#[must_use]
pub fn shared_columns(low: Option<&KeyBound>, high: Option<&KeyBound>) -> usize {
    let (Some(low), Some(high)) = (low, high) else { return 0 };
    let same = low.0.iter().zip(&high.0).take_while(|(low, high)| low == high).count();
    same.min(high.0.len().saturating_sub(1))
}

/// The condition for keys above `low`, up to and with `high`, by which an index can be read in its order. Both are expressions in SQL,
/// as many as `columns`; the first `shared` columns have the same value in both. `true` without either.
#[must_use]
pub fn ordered(columns: &[Operand], low: Option<&[String]>, high: Option<&[String]>, shared: usize) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(values) = high.or(low) {
        parts.extend(equal(columns, values, shared));
    }
    let ends = [low.map(|low| (">", ">=", low)), high.map(|high| ("<=", "<=", high))];
    let ends = || ends.iter().flatten();
    parts.extend(ends().map(|(operator, _, values)| compare(columns, operator, values, shared)));
    if columns.len() > shared + 1 {
        parts.extend(ends().map(|(_, operator, values)| columns[shared].is(operator, &values[shared])));
    }
    if parts.is_empty() { "true".to_owned() } else { parts.join(" AND ") }
}

/// The same condition, by which an index is read in parts.
#[must_use]
pub fn unordered(columns: &[Operand], low: Option<&[String]>, high: &[String], shared: usize) -> String {
    if columns.len() <= shared + 1 {
        return ordered(columns, low, Some(high), shared);
    }
    let mut groups = Vec::new();
    let mut within = Vec::new();
    if let Some(low) = low {
        let mut first = equal(&columns[shared..], &low[shared..], 1);
        first.push(ordered(&columns[shared + 1..], Some(&low[shared + 1..]), None, 0));
        first.push(compare(columns, "<=", high, shared));
        groups.push(first);
        within.push(columns[shared].is(">", &low[shared]));
    }
    within.push(columns[shared].is("<", &high[shared]));
    groups.push(within);
    for column in shared + 1..columns.len() {
        let operator = if column + 1 == columns.len() { "<=" } else { "<" };
        let mut last = equal(&columns[shared..], &high[shared..], column - shared);
        last.push(columns[column].is(operator, &high[column]));
        last.extend(low.map(|low| compare(columns, ">", low, shared)));
        groups.push(last);
    }
    let groups: Vec<String> = groups.iter().map(|parts| parts.join(" AND ")).collect();
    let mut parts = equal(columns, high, shared);
    parts.push(format!("({})", groups.join(" OR ")));
    parts.join(" AND ")
}

/// The whole key is these values.
pub(super) fn same(columns: &[Operand], values: &[String]) -> String {
    compare(columns, "=", values, 0)
}

/// The first `shared` columns are what they are at both ends.
fn equal(columns: &[Operand], values: &[String], shared: usize) -> Vec<String> {
    columns.iter().zip(values).take(shared).map(|(column, value)| column.is("=", value)).collect()
}

/// The columns behind the first `shared`, as a row.
fn compare(columns: &[Operand], operator: &str, values: &[String], shared: usize) -> String {
    let (columns, values) = (&columns[shared..], &values[shared..]);
    let [first, others @ ..] = columns else { return "true".to_owned() };
    if others.is_empty() {
        return first.is(operator, &values[0]);
    }
    if others.iter().all(|other| other.operators == first.operators) {
        let left: Vec<&str> = columns.iter().map(|column| column.sql.as_str()).collect();
        return first.compared(&row(&left), operator, &row(values));
    }
    let (same, further) = (first.is("=", &values[0]), compare(columns, operator, values, 1));
    match operator {
        "=" => format!("{same} AND {further}"),
        _ => format!("({} OR {same} AND {further})", first.is(operator.trim_end_matches('='), &values[0])),
    }
}

/// Some values as one: itself, or a row.
fn row<T: AsRef<str>>(values: &[T]) -> String {
    let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
    match values.as_slice() {
        [value] => (*value).to_owned(),
        values => format!("ROW({})", values.join(", ")),
    }
}
