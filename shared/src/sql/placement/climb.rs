//! Why a placeholder does not restrict the statement: the first thing on the way up from it that takes its force away.

use squawk_syntax::{SyntaxKind, SyntaxNode};

use super::conditions::{has_or, is_query, operator};

/// Why a `:batch` is refused where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Other rows are found, too.
    #[error("`:batch` stands under OR: rows outside of the batch are found, too")]
    Or,
    /// All other rows are found.
    #[error("`:batch` stands under NOT: all rows outside of the batch are found")]
    Not,
    /// It is part of a value.
    #[error("`:batch` stands in CASE, where it restricts nothing")]
    Case,
    /// It is part of an expression.
    #[error("`:batch` is a part of another expression, where it restricts nothing")]
    Expression,
    /// It stands in a clause that is no condition for rows.
    #[error(
        "`:batch` stands where it is no condition for the rows that are found: not in WHERE, and not in the ON of an inner join"
    )]
    Clause,
    /// It stands in a HAVING.
    #[error("`:batch` stands in HAVING, which is looked at when all rows are read")]
    Having,
    /// It stands in the condition of a conflict.
    #[error("`:batch` stands in ON CONFLICT, where it does not restrict what is inserted")]
    Conflict,
    /// It stands in the ON of an outer join.
    #[error("`:batch` stands in the ON of an outer join, which returns all rows of the other side for each batch")]
    OuterOn,
    /// Its query is on that side of an outer join that may be missing.
    #[error(
        "`:batch` stands on that side of an outer join that may be missing: all rows of the other side are found for each batch"
    )]
    OuterSide,
    /// It stands in the ON of a MERGE.
    #[error("`:batch` stands in the ON of a MERGE: all other rows are then not matched, for each batch")]
    MergeOn,
    /// It stands in a WHEN of a MERGE.
    #[error("`:batch` stands in a WHEN of a MERGE, which looks at all rows for each batch")]
    MergeWhen,
    /// A MERGE that changes what its source does not have.
    #[error("WHEN NOT MATCHED BY SOURCE changes all rows of the table that are not in the batch, for each batch")]
    NotInSource,
    /// It stands in EXISTS.
    #[error("`:batch` stands in EXISTS, which is true for all rows or for none where it is not joined by the key")]
    Exists,
    /// It stands in a query that is a value.
    #[error("`:batch` stands in a query that is a value, and does not restrict the rows that the value is for")]
    Scalar,
    /// It stands in one branch of a UNION, INTERSECT or EXCEPT.
    #[error(
        "`:batch` stands in one branch of UNION, INTERSECT or EXCEPT only: the rows of the others are found for each batch"
    )]
    Branch,
    /// Its query is not joined.
    #[error("`:batch` stands in a query of WITH that is not joined to the statement by an inner join")]
    NotJoined,
    /// What else the statement does is not restricted.
    #[error(
        "{0} is not restricted to the batch, and done for each batch: it has no `:batch`, and is not joined to what has one"
    )]
    Unbound(&'static str),
    /// The table stands elsewhere.
    #[error("`:batch` stands for rows of a table that is not in FROM where it stands, but elsewhere in the statement")]
    NotHere,
    /// IN compares something else than the key.
    #[error(
        "`:batch` stands in IN (SELECT ...) that selects no column of its table: rows are found by the key, `key IN (SELECT key ...)`"
    )]
    NoKey,
    /// The parser cannot read it.
    #[error("the statement is not understood here: {0}")]
    NotUnderstood(String),
}

/// Why a placeholder is refused, looking up from its name; `None` where each step up keeps its force.
pub(super) fn refused(name: &SyntaxNode) -> Option<Why> {
    let mut below = name.clone();
    // True within an expression, false where rows are what is handed up.
    let mut condition = true;
    while let Some(node) = below.parent() {
        let kind = node.kind();
        match kind {
            SyntaxKind::PAREN_EXPR if condition && has_or(&below) => return Some(Why::Or),
            SyntaxKind::PAREN_EXPR if condition => {}
            SyntaxKind::BIN_EXPR if condition => match operator(&node) {
                Some(SyntaxKind::AND_KW) => {}
                Some(SyntaxKind::OR_KW) => return Some(Why::Or),
                _ => return Some(Why::Expression),
            },
            SyntaxKind::PREFIX_EXPR if condition => {
                let not = super::conditions::tokens(&node).any(|kind| kind == SyntaxKind::NOT_KW);
                return Some(if not { Why::Not } else { Why::Expression });
            }
            SyntaxKind::CASE_EXPR
            | SyntaxKind::WHEN_CLAUSE
            | SyntaxKind::WHEN_CLAUSE_LIST
            | SyntaxKind::ELSE_CLAUSE => return Some(Why::Case),
            SyntaxKind::WHERE_CLAUSE | SyntaxKind::ON_CLAUSE if condition => {
                if has_or(&below) {
                    return Some(Why::Or);
                }
                condition = false;
            }
            SyntaxKind::HAVING_CLAUSE => return Some(Why::Having),
            SyntaxKind::JOIN => {
                if let Some(why) = joined(&node, &below) {
                    return Some(why);
                }
            }
            SyntaxKind::JOIN_EXPR => {
                if let Some(why) = joins(&node, &below) {
                    return Some(why);
                }
            }
            SyntaxKind::USING_ON_CLAUSE if below.kind() == SyntaxKind::ON_CLAUSE => return Some(Why::MergeOn),
            SyntaxKind::MERGE_CONDITION
            | SyntaxKind::MERGE_WHEN_MATCHED
            | SyntaxKind::MERGE_WHEN_NOT_MATCHED_SOURCE
            | SyntaxKind::MERGE_WHEN_NOT_MATCHED_TARGET => return Some(Why::MergeWhen),
            SyntaxKind::EXISTS_FN => return Some(Why::Exists),
            SyntaxKind::CONFLICT_ON_INDEX | SyntaxKind::CONFLICT_DO_UPDATE_SET | SyntaxKind::CONFLICT_DO_SELECT => {
                return Some(Why::Conflict);
            }
            SyntaxKind::WITH_TABLE | SyntaxKind::SOURCE_FILE => return None,
            SyntaxKind::PAREN_EXPR | SyntaxKind::PAREN_SELECT if in_from(&node) => {}
            SyntaxKind::PAREN_EXPR | SyntaxKind::PAREN_SELECT if is_operand(&node) => {}
            SyntaxKind::PAREN_EXPR | SyntaxKind::PAREN_SELECT => {
                // A query in an expression: what IN finds is a condition again.
                let around = node.parent();
                let inside = around.as_ref().filter(|around| {
                    around.kind() == SyntaxKind::BIN_EXPR
                        && operator(around) == Some(SyntaxKind::IN_KW)
                        && around.children().nth(1).as_ref() == Some(&node)
                });
                match inside {
                    Some(r#in) => {
                        below = r#in.clone();
                        condition = true;
                        continue;
                    }
                    None => return Some(Why::Scalar),
                }
            }
            SyntaxKind::SELECT
            | SyntaxKind::SELECT_INTO
            | SyntaxKind::COMPOUND_SELECT
            | SyntaxKind::INSERT
            | SyntaxKind::UPDATE
            | SyntaxKind::DELETE
            | SyntaxKind::MERGE
            | SyntaxKind::FROM_CLAUSE
            | SyntaxKind::USING_CLAUSE
            | SyntaxKind::USING_ON_CLAUSE
            | SyntaxKind::PAREN_FROM_ITEM
                if !condition => {}
            _ if condition => return Some(clause(&node)),
            _ => return Some(Why::Scalar),
        }
        below = node;
    }
    None
}

/// What an expression stands in that is neither WHERE nor ON.
fn clause(node: &SyntaxNode) -> Why {
    let clauses = [
        SyntaxKind::TARGET,
        SyntaxKind::TARGET_LIST,
        SyntaxKind::SET_EXPR,
        SyntaxKind::SET_SINGLE_COLUMN,
        SyntaxKind::ROW,
        SyntaxKind::FILTER_CLAUSE,
        SyntaxKind::GROUPING_EXPR,
        SyntaxKind::SORT_BY,
    ];
    if clauses.contains(&node.kind()) { Why::Clause } else { Why::Expression }
}

/// A join that a placeholder is handed up through, from its ON or from the table that is joined.
fn joined(join: &SyntaxNode, below: &SyntaxNode) -> Option<Why> {
    let kind = join_kind(join);
    if below.kind() == SyntaxKind::ON_CLAUSE {
        return (kind != SyntaxKind::JOIN_INNER).then_some(Why::OuterOn);
    }
    matches!(kind, SyntaxKind::JOIN_LEFT | SyntaxKind::JOIN_FULL).then_some(Why::OuterSide)
}

/// The same from the left side of a join.
fn joins(expression: &SyntaxNode, below: &SyntaxNode) -> Option<Why> {
    let join = expression.children().find(|child| child.kind() == SyntaxKind::JOIN)?;
    (join != *below && left_may_be_missing(&join)).then_some(Why::OuterSide)
}

/// True when rows of what stands on the left of a join may be missing in its rows.
pub(super) fn left_may_be_missing(join: &SyntaxNode) -> bool {
    let outer = |kind| matches!(kind, SyntaxKind::JOIN_RIGHT | SyntaxKind::JOIN_FULL);
    if outer(join_kind(join)) {
        return true;
    }
    // The parser takes what follows CROSS JOIN and NATURAL JOIN for their right side: `a CROSS JOIN (b RIGHT JOIN c)`.
    let conditional =
        join.children().any(|child| matches!(child.kind(), SyntaxKind::ON_CLAUSE | SyntaxKind::JOIN_USING_CLAUSE));
    let mut right = join.children().find(|child| child.kind() == SyntaxKind::JOIN_EXPR).filter(|_| !conditional);
    while let Some(expression) = right {
        if expression.children().any(|child| child.kind() == SyntaxKind::JOIN && left_may_be_missing(&child)) {
            return true;
        }
        right = expression.children().find(|child| child.kind() == SyntaxKind::JOIN_EXPR);
    }
    false
}

/// What kind of join it is.
pub(super) fn join_kind(join: &SyntaxNode) -> SyntaxKind {
    let kinds = [
        SyntaxKind::JOIN_INNER,
        SyntaxKind::JOIN_CROSS,
        SyntaxKind::JOIN_LEFT,
        SyntaxKind::JOIN_RIGHT,
        SyntaxKind::JOIN_FULL,
    ];
    // One that is not known keeps nothing.
    join.children().map(|child| child.kind()).find(|kind| kinds.contains(kind)).unwrap_or(SyntaxKind::JOIN_FULL)
}

/// True for a bracket in FROM: around a query, or around joins.
fn in_from(bracket: &SyntaxNode) -> bool {
    bracket
        .parent()
        .is_some_and(|parent| parent.kind() == SyntaxKind::PAREN_FROM_ITEM || is_bracket(&parent) && in_from(&parent))
}

fn is_bracket(node: &SyntaxNode) -> bool {
    matches!(node.kind(), SyntaxKind::PAREN_EXPR | SyntaxKind::PAREN_SELECT)
}

/// True for a query in brackets that is a statement, the source of an INSERT, or a branch of another query.
fn is_operand(bracket: &SyntaxNode) -> bool {
    bracket.parent().is_some_and(|parent| match parent.kind() {
        SyntaxKind::SOURCE_FILE | SyntaxKind::INSERT | SyntaxKind::WITH_TABLE | SyntaxKind::COMPOUND_SELECT => true,
        _ if is_bracket(&parent) => bracket.children().any(|child| is_query(&child)) && is_operand(&parent),
        _ => false,
    })
}
