//! What stands beside `:batch` and has another meaning for a batch than for the table.

use squawk_syntax::{SyntaxKind, SyntaxNode};

use super::conditions::{is_query, tokens};

/// Functions that make one value of many rows. Those that others have made are not known.
const AGGREGATES: [&str; 25] = [
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "count",
    "every",
    "json_agg",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_object_agg",
    "max",
    "min",
    "mode",
    "percentile_cont",
    "percentile_disc",
    "range_agg",
    "stddev",
    "string_agg",
    "sum",
    "variance",
    "xmlagg",
    "any_value",
];

/// What a query has of that, each once.
pub(super) fn of(select: &SyntaxNode) -> impl Iterator<Item = &'static str> {
    let mut found = Vec::new();
    let mut open: Vec<SyntaxNode> = select.children().collect();
    let mut add = |what| {
        if !found.contains(&what) {
            found.push(what);
        }
    };
    while let Some(node) = open.pop() {
        match node.kind() {
            SyntaxKind::WITH_CLAUSE | SyntaxKind::FROM_CLAUSE => continue,
            SyntaxKind::GROUP_BY_CLAUSE => add("GROUP BY"),
            SyntaxKind::DISTINCT_CLAUSE => add("DISTINCT"),
            SyntaxKind::LIMIT_CLAUSE | SyntaxKind::FETCH_CLAUSE => add("LIMIT"),
            SyntaxKind::OFFSET_CLAUSE => add("OFFSET"),
            SyntaxKind::CALL_EXPR if node.children().any(|child| child.kind() == SyntaxKind::OVER_CLAUSE) => {
                add("A window function");
            }
            SyntaxKind::CALL_EXPR => {
                let name = node.children().next().map(|name| name.text().to_string().to_ascii_lowercase());
                let name = name.as_deref().map(|name| name.trim().trim_start_matches("pg_catalog."));
                if name.is_some_and(|name| AGGREGATES.contains(&name)) {
                    add("An aggregate");
                }
            }
            _ => {}
        }
        open.extend(node.children().filter(|child| !is_query(child)));
    }
    found.sort_unstable();
    found.into_iter()
}

/// The same of UNION, INTERSECT and EXCEPT, which compare the rows of a batch alone.
pub(super) fn of_compound(compound: &SyntaxNode) -> Option<&'static str> {
    let operator = compound.children().find_map(|child| match child.kind() {
        SyntaxKind::UNION => Some((child, "UNION")),
        SyntaxKind::INTERSECT => Some((child, "INTERSECT")),
        SyntaxKind::EXCEPT => Some((child, "EXCEPT")),
        _ => None,
    });
    let (operator, name) = operator?;
    let all = operator.descendants().any(|node| tokens(&node).any(|kind| kind == SyntaxKind::ALL_KW));
    (!all || name != "UNION").then_some(name)
}
