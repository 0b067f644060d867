//! What each query of a statement returns, as far as that is known: whether its rows come from rows of the batch, and which of its columns
//! are columns of those.

use squawk_syntax::{SyntaxKind, SyntaxNode};

use super::aim::{Aim, Origin, Pair};
use super::climb::{Why, join_kind, left_may_be_missing, refused};
use super::conditions::{bare, demanded, is_query, listed, mark, name, only_child, operator, sides};
use super::dilution;
use super::{Misplaced, Placement, outline};
use crate::sql::lex::name_parts;
use crate::sql::reading::Reference;

/// A placeholder: where it stands, and whose rows it is for.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) offset: usize,
    pub(super) called: Vec<String>,
}

/// What a query returns.
#[derive(Clone, Debug, Default)]
struct Rows {
    /// True when each of its rows comes from a row of the batch.
    bound: bool,
    /// True when it reads no table: it returns the same rows for each batch.
    constant: bool,
    columns: Vec<Column>,
}

/// A column of a query.
#[derive(Clone, Debug)]
enum Column {
    One {
        name: Option<String>,
        origin: Option<Origin>,
    },
    /// All columns of a reference that `:batch` restricts.
    AllOf(usize),
    /// Columns that are not known.
    Others,
}

impl Rows {
    fn column(&self, name: &str) -> Option<Origin> {
        let mut all = None;
        for column in &self.columns {
            match column {
                Column::One { name: Some(own), origin } if own == name => return origin.clone(),
                Column::AllOf(instance) => all = Some(*instance),
                Column::One { .. } | Column::Others => {}
            }
        }
        all.map(|instance| Origin { instance, column: name.to_owned() })
    }

    /// The columns in their order, where that is known.
    fn in_order(&self) -> Option<Vec<Option<Origin>>> {
        let one = |column: &Column| match column {
            Column::One { origin, .. } => Some(origin.clone()),
            Column::AllOf(_) | Column::Others => None,
        };
        self.columns.iter().map(one).collect()
    }

    /// The same under other names.
    fn renamed(mut self, names: &[String]) -> Self {
        if names.is_empty() {
            return self;
        }
        match self.in_order() {
            None => self.columns = vec![Column::Others],
            Some(_) => {
                for (column, new) in self.columns.iter_mut().zip(names) {
                    if let Column::One { name, .. } = column {
                        *name = Some(new.clone());
                    }
                }
            }
        }
        self
    }
}

/// A query of WITH.
struct Cte {
    name: String,
    query: SyntaxNode,
    rows: Rows,
    /// True when it changes something itself.
    writes: bool,
    /// True once it was joined to something.
    joined: bool,
}

/// Something in FROM, or the table that is changed.
struct Source {
    reference: Option<Reference>,
    alias: Option<String>,
    rows: Option<Rows>,
    /// True when its rows may be missing in those of the level.
    may_be_missing: bool,
    /// Its number, where `:batch` restricts it.
    instance: Option<usize>,
    is_target: bool,
}

impl Source {
    fn is_called(&self, qualifier: &[String]) -> bool {
        match (&self.reference, &self.alias) {
            (Some(reference), _) => reference.is_called(qualifier),
            (None, Some(alias)) => matches!(qualifier, [name] if name == alias),
            (None, None) => false,
        }
    }
}

/// A query level.
#[derive(Default)]
struct Level {
    sources: Vec<Source>,
    conditions: Vec<SyntaxNode>,
    bound: bool,
    /// The first placeholder in it.
    marked: Option<usize>,
    aim: Aim,
}

struct Walk<'a> {
    marks: &'a [Mark],
    references: &'a [Reference],
    seen: Vec<bool>,
    ctes: Vec<Cte>,
    instances: usize,
    /// True in a statement that has a placeholder.
    within: bool,
    placement: Placement,
    wrong: Option<Misplaced>,
}

/// Reads the statements of a text.
pub(super) fn read(root: &SyntaxNode, marks: &[Mark], references: &[Reference]) -> Result<Placement, Misplaced> {
    let mut walk = Walk {
        marks,
        references,
        seen: vec![false; marks.len()],
        ctes: Vec::new(),
        instances: 0,
        within: false,
        placement: Placement::default(),
        wrong: None,
    };
    for (number, place) in places(root) {
        if let Some(why) = refused(&place) {
            walk.refuse(number, why);
        }
    }
    if walk.wrong.is_none() {
        for statement in root.children() {
            walk.within = places(&statement).next().is_some();
            walk.statement(&statement);
        }
        for number in 0..marks.len() {
            if !walk.seen[number] {
                walk.refuse(number, Why::Expression);
            }
        }
    }
    match walk.wrong {
        Some(wrong) => Err(wrong),
        None => Ok(walk.placement),
    }
}

/// The placeholders in a node, in the order of the text, each with what it is there.
fn places(node: &SyntaxNode) -> impl Iterator<Item = (usize, SyntaxNode)> {
    let tokens = node.descendants_with_tokens().filter_map(|element| element.into_token());
    tokens.filter_map(|token| Some((outline::mark(token.text())?, token.parent()?)))
}

fn child(node: &SyntaxNode, kind: SyntaxKind) -> Option<SyntaxNode> {
    node.children().find(|child| child.kind() == kind)
}

fn parts(node: &SyntaxNode) -> Vec<String> {
    name_parts(node.text().to_string().trim()).unwrap_or_default()
}

fn writes(query: &SyntaxNode) -> bool {
    use SyntaxKind::{DELETE, INSERT, MERGE, UPDATE};
    matches!(query.kind(), INSERT | UPDATE | DELETE | MERGE)
}

impl Walk<'_> {
    fn refuse(&mut self, number: usize, why: Why) {
        let offset = self.marks.get(number).map_or(0, |mark| mark.offset);
        // That a query is not joined is why what it should restrict is not restricted.
        let reason = why == Why::NotJoined && matches!(&self.wrong, Some(Misplaced { why: Why::Unbound(_), .. }));
        if reason || self.wrong.is_none() {
            self.wrong = Some(Misplaced { offset, why });
        }
    }

    /// Refuses what a node does, at its first placeholder or at the first of all.
    fn refuse_in(&mut self, node: &SyntaxNode, why: Why) {
        let number = places(node).next().map_or(0, |(number, _)| number);
        self.refuse(number, why);
    }

    fn statement(&mut self, node: &SyntaxNode) {
        let query = is_query(node);
        if !query && !writes(node) {
            return;
        }
        let before = self.placement.aims.len();
        let rows = self.rows(node);
        // What a query returns is thrown away; but it may call functions for each of its rows.
        let calls = self.placement.aims.len() == before || !rows.constant;
        if query && self.within && !rows.bound && calls {
            self.refuse_in(node, Why::Unbound("what the SELECT reads"));
        }
    }

    /// What a query or a change returns.
    fn rows(&mut self, node: &SyntaxNode) -> Rows {
        let before = self.ctes.len();
        if let Some(with) = with_of(node) {
            self.with(&with);
        }
        let rows = self.inner(node);
        for cte in self.ctes.split_off(before) {
            if cte.rows.bound && !cte.writes && !cte.joined {
                self.refuse_in(&cte.query, Why::NotJoined);
            }
        }
        rows
    }

    fn with(&mut self, with: &SyntaxNode) {
        let recursive = super::conditions::tokens(with).any(|kind| kind == SyntaxKind::RECURSIVE_KW);
        for table in with.children().filter(|child| child.kind() == SyntaxKind::WITH_TABLE) {
            let Some(query) = table.children().find(|child| is_query(child) || writes(child)) else { continue };
            let name =
                child(&table, SyntaxKind::CTE_NAME).map(|name| parts(&name)).and_then(|parts| parts.into_iter().next());
            let columns = columns_of(&table);
            let place = self.ctes.len();
            let cte = |rows| Cte {
                name: name.clone().unwrap_or_default(),
                query: query.clone(),
                rows,
                writes: writes(&query),
                joined: false,
            };
            if recursive {
                self.ctes.push(cte(Rows { columns: vec![Column::Others], ..Rows::default() }));
            }
            let rows = self.rows(&query).renamed(&columns);
            self.ctes.truncate(place);
            self.ctes.push(cte(rows));
        }
    }

    /// The same without its WITH.
    fn inner(&mut self, node: &SyntaxNode) -> Rows {
        match node.kind() {
            SyntaxKind::SELECT | SyntaxKind::SELECT_INTO => self.select(node),
            SyntaxKind::COMPOUND_SELECT => self.compound(node),
            SyntaxKind::PAREN_SELECT | SyntaxKind::PAREN_EXPR => {
                let inner = node.children().find(is_query);
                inner.map_or_else(Rows::default, |inner| self.rows(&inner))
            }
            SyntaxKind::VALUES => Rows { constant: true, columns: vec![Column::Others], ..Rows::default() },
            SyntaxKind::TABLE => {
                let mut level = Level::default();
                let name = child(node, SyntaxKind::RELATION_NAME).map(|name| self.table(&name, None, false, false));
                level.sources.extend(name);
                let bound = level.sources.iter().any(|source| source.rows.as_ref().is_some_and(|rows| rows.bound));
                Rows { bound, constant: false, columns: star(&level) }
            }
            SyntaxKind::INSERT => self.insert(node),
            SyntaxKind::UPDATE | SyntaxKind::DELETE => self.change(node),
            SyntaxKind::MERGE => self.merge(node),
            _ => Rows::default(),
        }
    }

    fn select(&mut self, node: &SyntaxNode) -> Rows {
        let mut level = Level::default();
        let from = child(node, SyntaxKind::FROM_CLAUSE);
        self.from(from.as_ref(), &mut level);
        level.conditions.extend(child(node, SyntaxKind::WHERE_CLAUSE).iter().flat_map(demanded));
        self.level(&mut level);
        if let Some(number) = level.marked {
            let offset = self.marks.get(number).map_or(0, |mark| mark.offset);
            self.placement.diluted.extend(dilution::of(node).map(|by| super::Diluted { offset, by }));
        }
        let targets = child(node, SyntaxKind::SELECT_CLAUSE);
        let columns = targets.map(|targets| returned(&targets, &level)).unwrap_or_default();
        Rows { bound: level.bound, constant: from.is_none(), columns }
    }

    fn compound(&mut self, node: &SyntaxNode) -> Rows {
        let operands: Vec<SyntaxNode> =
            node.children().filter(|child| is_query(child) || child.kind() == SyntaxKind::PAREN_EXPR).collect();
        let mut branches: Vec<Rows> = Vec::new();
        for (place, operand) in operands.iter().enumerate() {
            // The WITH of the first is that of the whole.
            let rows = if place == 0 { self.inner(operand) } else { self.rows(operand) };
            if place == 0 {
                // What a query of WITH RECURSIVE finds of itself began with its first branch.
                for cte in self.ctes.iter_mut().filter(|cte| cte.query == *node) {
                    cte.rows.bound = rows.bound;
                }
            }
            branches.push(rows);
        }
        let bound = branches.iter().all(|rows| rows.bound);
        if !bound && places(node).next().is_some() {
            self.refuse_in(node, Why::Branch);
        }
        let marked = places(node).next().map(|(number, _)| number);
        if let (Some(by), Some(number)) = (dilution::of_compound(node), marked) {
            let offset = self.marks.get(number).map_or(0, |mark| mark.offset);
            self.placement.diluted.push(super::Diluted { offset, by });
        }
        let columns = self.united(&branches);
        Rows { bound, constant: branches.iter().all(|rows| rows.constant), columns }
    }

    /// The columns of a compound query: a column of a row of the batch is one in each branch, and all those of a branch are of one row.
    fn united(&mut self, branches: &[Rows]) -> Vec<Column> {
        let orders: Option<Vec<Vec<Option<Origin>>>> = branches.iter().map(Rows::in_order).collect();
        let (Some(orders), Some(first)) = (orders, branches.first()) else { return vec![Column::Others] };
        let one_row = orders.iter().all(|order| {
            let mut instances = order.iter().flatten().map(|origin| origin.instance);
            let instance = instances.next();
            instances.all(|other| Some(other) == instance)
        });
        self.instances += 1;
        let instance = self.instances;
        let named = first.columns.iter().enumerate().map(|(place, column)| {
            let name = match column {
                Column::One { name, .. } => name.clone(),
                Column::AllOf(_) | Column::Others => None,
            };
            let mut origins = orders.iter().map(|order| order.get(place)?.as_ref().map(|origin| origin.column.clone()));
            let column = origins.next().flatten();
            let same = one_row && origins.all(|other| other == column);
            Column::One { name, origin: column.filter(|_| same).map(|column| Origin { instance, column }) }
        });
        named.collect()
    }

    fn insert(&mut self, node: &SyntaxNode) -> Rows {
        let source = node.children().find(is_query).map(|source| self.rows(&source));
        self.placement.aims.push(Aim::default());
        let Rows { bound, constant, .. } = source.unwrap_or(Rows { constant: true, ..Rows::default() });
        if self.within && !bound {
            if constant {
                let offset = self.marks.first().map_or(0, |mark| mark.offset);
                self.placement.diluted.push(super::Diluted { offset, by: "An INSERT that reads no table" });
            } else {
                self.refuse_in(node, Why::Unbound("what the INSERT inserts"));
            }
        }
        Rows { bound, constant, columns: vec![Column::Others] }
    }

    fn change(&mut self, node: &SyntaxNode) -> Rows {
        let mut level = Level::default();
        let alias = child(node, SyntaxKind::OPTIONAL_AS_ALIAS).and_then(|alias| child(&alias, SyntaxKind::TABLE_ALIAS));
        let alias = alias.and_then(|alias| parts(&alias).into_iter().next());
        if let Some(name) = child(node, SyntaxKind::RELATION_NAME) {
            let target = Source { rows: None, is_target: true, ..self.table(&name, alias, true, false) };
            level.sources.push(target);
        }
        let others =
            node.children().find(|child| matches!(child.kind(), SyntaxKind::FROM_CLAUSE | SyntaxKind::USING_CLAUSE));
        self.from(others.as_ref(), &mut level);
        level.conditions.extend(child(node, SyntaxKind::WHERE_CLAUSE).iter().flat_map(demanded));
        self.level(&mut level);
        let columns = child(node, SyntaxKind::RETURNING_CLAUSE).map(|targets| returned(&targets, &level));
        self.placement.aims.push(level.aim);
        if self.within && !level.bound {
            let what =
                if node.kind() == SyntaxKind::UPDATE { "what the UPDATE changes" } else { "what the DELETE deletes" };
            self.refuse_in(node, Why::Unbound(what));
        }
        Rows { bound: level.bound, constant: false, columns: columns.unwrap_or_default() }
    }

    fn merge(&mut self, node: &SyntaxNode) -> Rows {
        let mut level = Level::default();
        let alias = child(node, SyntaxKind::OPTIONAL_AS_ALIAS).and_then(|alias| child(&alias, SyntaxKind::TABLE_ALIAS));
        let alias = alias.and_then(|alias| parts(&alias).into_iter().next());
        if let Some(name) = child(node, SyntaxKind::TABLE_RELATION_NAME) {
            let target = Source { rows: None, is_target: true, ..self.table(&name, alias, true, false) };
            level.sources.push(target);
        }
        if let Some(using) = child(node, SyntaxKind::USING_ON_CLAUSE) {
            self.from(Some(&using), &mut level);
            level.conditions.extend(child(&using, SyntaxKind::ON_CLAUSE).iter().flat_map(demanded));
        }
        self.level(&mut level);
        self.placement.aims.push(level.aim);
        // What ON demands does not restrict what is not matched: the source must be the batch's by itself.
        let bound = level.sources.iter().any(|source| {
            !source.is_target && !source.may_be_missing && source.rows.as_ref().is_some_and(|rows| rows.bound)
        });
        if self.within && !bound {
            self.refuse_in(node, Why::Unbound("what the MERGE changes"));
        }
        let elsewhere = node.children().any(|child| {
            child.kind() == SyntaxKind::MERGE_WHEN_NOT_MATCHED_SOURCE
                && !child.descendants().any(|action| action.kind() == SyntaxKind::MERGE_DO_NOTHING)
        });
        if self.within && elsewhere {
            self.refuse_in(node, Why::NotInSource);
        }
        Rows { bound, constant: false, columns: vec![Column::Others] }
    }

    /// Takes in what stands behind FROM or USING.
    fn from(&mut self, clause: Option<&SyntaxNode>, level: &mut Level) {
        for item in clause.iter().flat_map(|clause| clause.children()) {
            self.item(&item, false, level);
        }
    }

    fn item(&mut self, item: &SyntaxNode, may_be_missing: bool, level: &mut Level) {
        match item.kind() {
            SyntaxKind::JOIN_EXPR => {
                let mut children = item.children();
                let (Some(left), Some(join)) = (children.next(), children.next()) else { return };
                let kind = join_kind(&join);
                let right_missing = matches!(kind, SyntaxKind::JOIN_LEFT | SyntaxKind::JOIN_FULL);
                self.item(&left, may_be_missing || left_may_be_missing(&join), level);
                for right in join.children() {
                    match right.kind() {
                        SyntaxKind::ON_CLAUSE if kind == SyntaxKind::JOIN_INNER && !may_be_missing => {
                            level.conditions.extend(demanded(&right));
                        }
                        _ => self.item(&right, may_be_missing || right_missing, level),
                    }
                }
            }
            SyntaxKind::RELATION_FROM_ITEM => {
                let (alias, columns) = alias_of(item);
                if let Some(name) = child(item, SyntaxKind::RELATION_NAME_REF) {
                    let mut source = self.table(&name, alias, false, may_be_missing);
                    source.rows = source.rows.map(|rows| rows.renamed(&columns));
                    level.sources.push(source);
                }
            }
            SyntaxKind::PAREN_FROM_ITEM => {
                let (alias, columns) = alias_of(item);
                let Some(bracket) = item.children().next() else { return };
                if let Some(query) = query_in(&bracket) {
                    let rows = self.rows(&query).renamed(&columns);
                    let rows = Some(rows);
                    level.sources.push(Source {
                        reference: None,
                        alias,
                        rows,
                        may_be_missing,
                        instance: None,
                        is_target: false,
                    });
                } else if let Some(inner) = only_child(&bracket) {
                    self.item(&inner, may_be_missing, level);
                }
            }
            kind if is_from_item(kind) => {
                let (alias, _) = alias_of(item);
                level.sources.push(Source {
                    reference: None,
                    alias,
                    rows: None,
                    may_be_missing,
                    instance: None,
                    is_target: false,
                });
            }
            _ => {}
        }
    }

    /// A table, or a query of WITH.
    fn table(&mut self, name: &SyntaxNode, alias: Option<String>, is_target: bool, may_be_missing: bool) -> Source {
        let path = name.descendants().find(|node| node.kind() == SyntaxKind::PATH_REF).unwrap_or_else(|| name.clone());
        let table = parts(&path);
        let cte = match table.as_slice() {
            [one] if !is_target => self.ctes.iter_mut().rev().find(|cte| cte.name == *one),
            _ => None,
        };
        let rows = cte.map(|cte| {
            cte.joined |= !may_be_missing;
            cte.rows.clone()
        });
        let reference =
            Reference { table, text: path.text().to_string(), alias: alias.clone(), alias_name: alias, only: false };
        Source { reference: Some(reference), alias: None, rows, may_be_missing, instance: None, is_target }
    }

    /// Takes in the conditions of a level.
    fn level(&mut self, level: &mut Level) {
        let conditions = std::mem::take(&mut level.conditions);
        for number in conditions.iter().filter_map(mark) {
            if let Some(seen) = self.seen.get_mut(number) {
                *seen = true;
            }
            level.bound = true;
            level.marked.get_or_insert(number);
            let Some(mark) = self.marks.get(number) else { continue };
            let source =
                level.sources.iter_mut().find(|source| source.rows.is_none() && source.is_called(&mark.called));
            if let Some(source) = source {
                self.instances += 1;
                source.instance.get_or_insert(self.instances);
                level.aim.restricted |= source.is_target;
            } else if self.references.iter().any(|reference| reference.is_called(&mark.called)) {
                self.refuse(number, Why::NotHere);
            } else {
                level.aim.unknown = true;
            }
        }
        let joined = |source: &Source| !source.may_be_missing && source.rows.as_ref().is_some_and(|rows| rows.bound);
        level.bound |= level.sources.iter().any(joined);
        for condition in conditions.iter().map(bare).filter(|condition| condition.kind() == SyntaxKind::BIN_EXPR) {
            let Some((left, right)) = sides(&condition) else { continue };
            match operator(&condition) {
                Some(SyntaxKind::EQ) => {
                    for (left, right) in listed(&left).iter().zip(&listed(&right)) {
                        compare(left, &origin(right, level), level);
                        compare(right, &origin(left, level), level);
                    }
                }
                Some(SyntaxKind::IN_KW) => self.listed(&left, &right, level),
                _ => {}
            }
        }
    }

    /// Takes in `columns IN (SELECT ...)`.
    fn listed(&mut self, left: &SyntaxNode, right: &SyntaxNode, level: &mut Level) {
        let Some(query) = query_in(right) else { return };
        let rows = self.rows(&query);
        if !rows.bound {
            return;
        }
        level.bound = true;
        let found = rows.in_order().unwrap_or_default();
        if found.is_empty() || found.iter().all(Option::is_none) {
            self.refuse_in(right, Why::NoKey);
        }
        self.placement.lists.push(found.iter().map(|origin| Some(origin.as_ref()?.column.clone())).collect());
        for (column, origin) in listed(left).iter().zip(&found) {
            compare(column, origin, level);
        }
    }
}

/// Takes in that a column equals another.
fn compare(column: &SyntaxNode, other: &Option<Origin>, level: &mut Level) {
    let Some(target) = target_column(column, level) else { return };
    if let Some(origin) = other {
        level.aim.pairs.push(Pair { target: target.clone(), origin: origin.clone() });
    }
    level.aim.compared.push(target);
}

/// The column of the changed table that an expression is. A name without a qualifier that is one of its columns is that, or ambiguous.
fn target_column(expression: &SyntaxNode, level: &Level) -> Option<String> {
    let mut parts = name(expression)?;
    let column = parts.pop()?;
    let target = level.sources.iter().find(|source| source.is_target)?;
    (parts.is_empty() || target.is_called(&parts)).then_some(column)
}

/// The column of a row of the batch that an expression is. A name without a qualifier is that of a query that lists it, and a column of
/// the walked table is that of the one reference to it, or else it is ambiguous.
fn origin(expression: &SyntaxNode, level: &Level) -> Option<Origin> {
    let mut parts = name(expression)?;
    let column = parts.pop()?;
    if !parts.is_empty() {
        let source = level.sources.iter().find(|source| source.is_called(&parts))?;
        return match (source.instance, &source.rows) {
            (Some(instance), _) => Some(Origin { instance, column }),
            (None, Some(rows)) => rows.column(&column),
            (None, None) => None,
        };
    }
    let queries = || level.sources.iter().filter_map(|source| source.rows.as_ref());
    let named = |own: &&Column| matches!(own, Column::One { name: Some(name), .. } if *name == column);
    let mut own = queries().flat_map(|rows| &rows.columns).filter(named);
    match (own.next(), own.next()) {
        (Some(Column::One { origin, .. }), None) => return origin.clone(),
        (None, _) => {}
        _ => return None,
    }
    let whole = queries().flat_map(|rows| &rows.columns).filter_map(|column| match column {
        Column::AllOf(instance) => Some(*instance),
        Column::One { .. } | Column::Others => None,
    });
    let mut instances = level.sources.iter().filter_map(|source| source.instance).chain(whole);
    instances.next().filter(|_| instances.next().is_none()).map(|instance| Origin { instance, column })
}

/// The columns that `SELECT` or `RETURNING` lists.
fn returned(clause: &SyntaxNode, level: &Level) -> Vec<Column> {
    let Some(list) = child(clause, SyntaxKind::TARGET_LIST) else { return Vec::new() };
    let mut columns = Vec::new();
    for target in list.children().filter(|child| child.kind() == SyntaxKind::TARGET) {
        let Some(expression) = target.children().find(|child| child.kind() != SyntaxKind::AS_NAME) else {
            columns.extend(star(level));
            continue;
        };
        let stars = super::conditions::tokens(&expression).any(|kind| kind == SyntaxKind::STAR);
        if expression.kind() == SyntaxKind::FIELD_EXPR && stars {
            let qualifier = expression.children().next().and_then(|base| name(&base)).unwrap_or_default();
            match level.sources.iter().find(|source| source.is_called(&qualifier)) {
                Some(source) => columns.extend(all_of(source)),
                None => columns.push(Column::Others),
            }
            continue;
        }
        let own = child(&target, SyntaxKind::AS_NAME).and_then(|name| child(&name, SyntaxKind::COLUMN_NAME));
        let own = own.map(|name| parts(&name)).or_else(|| name(&expression));
        let own = own.and_then(|parts| parts.into_iter().next_back());
        columns.push(Column::One { name: own, origin: origin(&expression, level) });
    }
    columns
}

fn star(level: &Level) -> Vec<Column> {
    level.sources.iter().flat_map(all_of).collect()
}

fn all_of(source: &Source) -> Vec<Column> {
    match (source.instance, &source.rows) {
        (Some(instance), _) => vec![Column::AllOf(instance)],
        (None, Some(rows)) => rows.columns.clone(),
        (None, None) => vec![Column::Others],
    }
}

/// The WITH of a query or a change: that of a compound query stands in its first branch.
fn with_of(node: &SyntaxNode) -> Option<SyntaxNode> {
    let mut node = node.clone();
    while node.kind() == SyntaxKind::COMPOUND_SELECT {
        node = node.children().next()?;
        if node.kind() == SyntaxKind::PAREN_SELECT {
            return child(&node, SyntaxKind::WITH_CLAUSE);
        }
    }
    child(&node, SyntaxKind::WITH_CLAUSE)
}

/// The query that a bracket is around, if it is around one.
fn query_in(bracket: &SyntaxNode) -> Option<SyntaxNode> {
    match bracket.kind() {
        SyntaxKind::PAREN_SELECT => Some(bracket.clone()),
        SyntaxKind::PAREN_EXPR => bracket.children().find(is_query),
        _ => None,
    }
}

fn is_from_item(kind: SyntaxKind) -> bool {
    use SyntaxKind::{
        EXPR_FROM_ITEM, FUNCTION_FROM_ITEM, GRAPH_TABLE_FROM_ITEM, JSON_TABLE_FROM_ITEM, ROWS_FROM_ITEM,
        XML_TABLE_FROM_ITEM,
    };
    matches!(
        kind,
        EXPR_FROM_ITEM
            | FUNCTION_FROM_ITEM
            | GRAPH_TABLE_FROM_ITEM
            | JSON_TABLE_FROM_ITEM
            | ROWS_FROM_ITEM
            | XML_TABLE_FROM_ITEM
    )
}

/// The alias of something in FROM, and the names that it gives to columns.
fn alias_of(item: &SyntaxNode) -> (Option<String>, Vec<String>) {
    let Some(alias) = child(item, SyntaxKind::FROM_ALIAS) else { return (None, Vec::new()) };
    let name = child(&alias, SyntaxKind::TABLE_ALIAS).and_then(|name| parts(&name).into_iter().next());
    (name, columns_of(&alias))
}

/// The names of a list of columns.
fn columns_of(node: &SyntaxNode) -> Vec<String> {
    let Some(list) = child(node, SyntaxKind::COLUMN_LIST) else { return Vec::new() };
    list.descendants()
        .filter(|node| node.kind() == SyntaxKind::COLUMN_NAME)
        .filter_map(|name| parts(&name).into_iter().next())
        .collect()
}
