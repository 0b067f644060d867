//! The conditions of a clause that all must hold, and the names in them.

use squawk_syntax::{SyntaxKind, SyntaxNode};

use super::outline;
use crate::sql::lex::name_parts;

/// What WHERE or ON demands: the expressions between which AND stands, out of their parentheses.
pub(super) fn demanded(clause: &SyntaxNode) -> Vec<SyntaxNode> {
    let (mut open, mut found) = (Vec::new(), Vec::new());
    open.extend(only_child(clause).filter(|expression| !has_or(expression)));
    while let Some(node) = open.pop() {
        match node.kind() {
            SyntaxKind::PAREN_EXPR => match only_child(&node) {
                Some(inner) if is_query(&inner) || has_or(&inner) => found.push(node),
                Some(inner) => open.push(inner),
                None => found.push(node),
            },
            SyntaxKind::BIN_EXPR if operator(&node) == Some(SyntaxKind::AND_KW) => match sides(&node) {
                Some((left, right)) => open.extend([right, left]),
                None => found.push(node),
            },
            _ => found.push(node),
        }
    }
    found
}

/// True when OR stands in an expression outside of all parentheses. The parser takes `a BETWEEN 1 AND 2 OR b AND c` for
/// `a BETWEEN 1 AND (2 OR b) AND c`.
pub(super) fn has_or(expression: &SyntaxNode) -> bool {
    let mut open = vec![expression.clone()];
    while let Some(node) = open.pop() {
        let spine = matches!(
            node.kind(),
            SyntaxKind::BIN_EXPR
                | SyntaxKind::BETWEEN_EXPR
                | SyntaxKind::PREFIX_EXPR
                | SyntaxKind::POSTFIX_EXPR
                | SyntaxKind::CAST_EXPR
                | SyntaxKind::COLLATE
        );
        if spine {
            if tokens(&node).any(|kind| kind == SyntaxKind::OR_KW) {
                return true;
            }
            open.extend(node.children());
        }
    }
    false
}

/// The kinds of the tokens of a node itself.
pub(super) fn tokens(node: &SyntaxNode) -> impl Iterator<Item = SyntaxKind> {
    node.children_with_tokens().filter_map(|element| element.into_token()).map(|token| token.kind())
}

/// The child of a node that has one and no more.
pub(super) fn only_child(node: &SyntaxNode) -> Option<SyntaxNode> {
    let mut children = node.children();
    children.next().filter(|_| children.next().is_none())
}

/// The operator of a binary expression, where it is one word or sign.
pub(super) fn operator(node: &SyntaxNode) -> Option<SyntaxKind> {
    let mut kinds = tokens(node).filter(|kind| !matches!(kind, SyntaxKind::WHITESPACE | SyntaxKind::COMMENT));
    kinds.next().filter(|_| kinds.next().is_none())
}

/// Both sides of a binary expression.
pub(super) fn sides(node: &SyntaxNode) -> Option<(SyntaxNode, SyntaxNode)> {
    let mut children = node.children();
    let sides = (children.next()?, children.next()?);
    children.next().is_none().then_some(sides)
}

/// True for what returns rows.
pub(super) fn is_query(node: &SyntaxNode) -> bool {
    matches!(
        node.kind(),
        SyntaxKind::SELECT
            | SyntaxKind::SELECT_INTO
            | SyntaxKind::COMPOUND_SELECT
            | SyntaxKind::PAREN_SELECT
            | SyntaxKind::VALUES
            | SyntaxKind::TABLE
    )
}

/// An expression out of its parentheses.
pub(super) fn bare(node: &SyntaxNode) -> SyntaxNode {
    let mut node = node.clone();
    while node.kind() == SyntaxKind::PAREN_EXPR
        && let Some(inner) = only_child(&node).filter(|inner| !is_query(inner))
    {
        node = inner;
    }
    node
}

/// The parts of a name that is an expression by itself, such as `u.id`.
pub(super) fn name(expression: &SyntaxNode) -> Option<Vec<String>> {
    let node = bare(expression);
    matches!(node.kind(), SyntaxKind::NAME_REF | SyntaxKind::FIELD_EXPR)
        .then(|| name_parts(node.text().to_string().trim()))
        .flatten()
}

/// The number of the placeholder that an expression is.
pub(super) fn mark(expression: &SyntaxNode) -> Option<usize> {
    let node = bare(expression);
    if node.kind() == SyntaxKind::NAME_REF { outline::mark(node.text().to_string().trim()) } else { None }
}

/// The values of a list in parentheses, or the one expression.
pub(super) fn listed(expression: &SyntaxNode) -> Vec<SyntaxNode> {
    let node = bare(expression);
    if node.kind() == SyntaxKind::TUPLE_EXPR { node.children().collect() } else { vec![node] }
}
