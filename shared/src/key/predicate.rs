//! The predicate that selects the rows of a key range and a stripe.
//!
//! For a stripe, the last key of the range stands there twice, joined by OR, which makes the server read the table through a bitmap:
//! page by page. In the order of the key it would go to and fro between pages, since rows of earlier stripes are on others by now.

use super::comparison::{Operand, literals, operands, same, shared_columns, unordered};
use super::{KeyBound, KeyColumn, KeyRange, Stripe, is_one_integer};

/// The predicate for the rows of a range and a stripe, in parentheses.
///
/// The range is one that an index on the key serves ([`unordered`]). The literals stand in the text, cast to the types of their
/// columns. The stripe is a filter beside it.
///
/// `qualifier` names the table or its alias, quoted already where needed; empty leaves the columns unqualified.
///
/// # Panics
/// When a bound has not one value for each column: such a range would select the wrong rows.
#[must_use]
pub fn predicate(columns: &[KeyColumn], range: &KeyRange, stripe: Option<Stripe>, qualifier: &str) -> String {
    let operands = operands(columns, qualifier);
    let low = range.low.as_ref().map(|low| literals(columns, low));
    let high = literals(columns, &range.high);
    let shared = shared_columns(range.low.as_ref(), Some(&range.high));
    let within = unordered(&operands, low.as_deref(), &high, shared);
    match stripe {
        None => format!("({within})"),
        Some(stripe) => {
            let filter = stripe_filter(columns, &operands, stripe, range.low.as_ref());
            format!("(({within} OR {}) AND {filter})", same(&operands, &high))
        }
    }
}

/// Stripes deal out every key once, whatever its sign: the remainder of a division has the sign of the dividend, and
/// `abs` folds the negative half onto the other. Integers are dealt by their value, so that neighbours can be told to be in one
/// stripe or in different ones; everything else by its hash. Above a `low` that is not negative nothing is to be folded, and each
/// row that is filtered costs a call less; as it does with one comparison instead of two.
fn stripe_filter(columns: &[KeyColumn], operands: &[Operand], stripe: Stripe, low: Option<&KeyBound>) -> String {
    let Stripe { of, first, end } = stripe;
    let own = |left: &str, operator: &str, number: u32| format!("{left} OPERATOR(pg_catalog.{operator}) {number}");
    let names: Vec<&str> = operands.iter().map(|operand| operand.sql.as_str()).collect();
    let dealt = |number: &str| own(number, "%", of);
    let remainder = if !is_one_integer(columns) {
        format!("pg_catalog.abs({})", dealt(&format!("pg_catalog.hash_record_extended(ROW({}), 0)", names.join(", "))))
    } else if low.is_some_and(|low| !low.0[0].starts_with('-')) {
        format!("({})", dealt(names[0]))
    } else {
        format!("pg_catalog.abs({})", dealt(names[0]))
    };
    let is = |operator: &str, number: u32| own(&remainder, operator, number);
    if end - first == 1 {
        is("=", first)
    } else if first == 0 {
        is("<", end)
    } else if end == of {
        is(">=", first)
    } else {
        format!("{} AND {}", is(">=", first), is("<", end))
    }
}
