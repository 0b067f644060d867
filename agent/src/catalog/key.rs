//! The key along which a table is walked: the primary key, or the columns that the step names.
//!
//! Walking needs an order that PostgreSQL can read from an index in which every row stands exactly once: unique, of all rows,
//! of NOT NULL columns, in the columns' own order (their collation, ascending, the type's default order). The predicate of a
//! batch compares with the operators of the index's operator class, which is that order and no other. What runs with them runs as the
//! agent: so they, their functions and the class belong to a superuser, an extension or the agent's own role.

use dunlin_shared::key::KeyColumn;
use dunlin_shared::postgres::Session;
use tokio_postgres::types::Type;

use super::{Error, Table};
use crate::own;

/// The key of a table, in the order of its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// The columns with their types.
    pub(crate) columns: Vec<KeyColumn>,
}

/// One column of one index.
#[derive(Debug)]
struct IndexColumn {
    index: String,
    primary: bool,
    unique: bool,
    valid: bool,
    immediate: bool,
    partial: bool,
    method: String,
    /// `None` for an expression.
    column: Option<String>,
    type_name: String,
    not_null: bool,
    ascending: bool,
    default_order: bool,
    /// The schema of the operators `<`, `<=`, `=`, `>=` and `>` of the operator class. `None` where they are in several, or have other
    /// names.
    operators: Option<String>,
    /// What of the operator class belongs to somebody else, and to whom.
    foreign: Option<String>,
}

// Columns are counted by an array and not by generate_series, of which the planner expects a thousand: the statement would be compiled (JIT),
// which takes longer than all else that is asked before the first batch.
// From PostgreSQL 18 on, a column whose NOT NULL was never validated counts as not null and can hold NULL all the same.
// A domain is walked as the type under it, since that is what the index compares.
const INDEXES: &str = "
SELECT x.relname, i.indisprimary, i.indisunique, i.indisvalid, i.indimmediate, i.indpred IS NOT NULL, m.amname,
       a.attname, coalesce(format_type(b.oid, -1), ''),
       coalesce(a.attnotnull, false) AND NOT EXISTS (
           SELECT FROM pg_constraint c
           WHERE c.conrelid = a.attrelid AND c.contype = 'n' AND c.conkey = ARRAY[a.attnum] AND NOT c.convalidated),
       (i.indoption[s.n] & 1) = 0,
       o.opcdefault AND (a.attcollation IS NULL OR i.indcollation[s.n] = a.attcollation),
       (SELECT CASE WHEN count(*) = 5 THEN min(n.nspname) END
        FROM pg_amop p JOIN pg_operator f ON f.oid = p.amopopr JOIN pg_namespace n ON n.oid = f.oprnamespace
        WHERE p.amopfamily = o.opcfamily AND p.amoplefttype = o.opcintype AND p.amoprighttype = o.opcintype
        AND p.amoppurpose = 's' AND f.oprname = ('{<,<=,=,>=,>}'::text[])[p.amopstrategy]
        HAVING count(DISTINCT n.oid) = 1),
       (SELECT min(format('the %s %s, which belongs to the role %I', w.kind, w.what, pg_get_userbyid(w.owner)))
        FROM (SELECT 'operator class' AS kind, format('%I', o.opcname) AS what, 'pg_opclass'::regclass AS class, o.oid, o.opcowner AS owner
              UNION ALL SELECT 'operator', p.amopopr::regoperator::text, 'pg_operator'::regclass, f.oid, f.oprowner
              FROM pg_amop p JOIN pg_operator f ON f.oid = p.amopopr
              WHERE p.amopfamily = o.opcfamily AND p.amoplefttype = o.opcintype AND p.amoprighttype = o.opcintype
              UNION ALL SELECT 'function', r.oid::regprocedure::text, 'pg_proc'::regclass, r.oid, r.proowner
              FROM pg_proc r WHERE r.oid IN (
                  SELECT f.oprcode FROM pg_amop p JOIN pg_operator f ON f.oid = p.amopopr
                  WHERE p.amopfamily = o.opcfamily AND p.amoplefttype = o.opcintype AND p.amoprighttype = o.opcintype
                  UNION SELECT c.amproc FROM pg_amproc c
                  WHERE c.amprocfamily = o.opcfamily AND c.amproclefttype = o.opcintype AND c.amprocrighttype = o.opcintype)) w
        WHERE NOT EXISTS (SELECT FROM pg_roles u WHERE u.oid = w.owner AND (u.rolsuper OR u.rolname = current_user))
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = w.class AND d.objid = w.oid AND d.deptype = 'e'))
FROM pg_index i
JOIN pg_class x ON x.oid = i.indexrelid
JOIN pg_am m ON m.oid = x.relam
CROSS JOIN LATERAL unnest(i.indclass::oid[]) WITH ORDINALITY AS c(opclass, place)
CROSS JOIN LATERAL (SELECT (c.place - 1)::int AS n) AS s
LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[s.n] AND a.attnum > 0
LEFT JOIN LATERAL (
    WITH RECURSIVE base(oid, next) AS (
        SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
        UNION ALL SELECT t.oid, t.typbasetype FROM base JOIN pg_type t ON t.oid = base.next)
    SELECT base.oid FROM base WHERE base.next = 0) AS b ON true
JOIN pg_opclass o ON o.oid = i.indclass[s.n]
WHERE i.indrelid = $1
ORDER BY i.indisprimary DESC, x.relname, s.n";

/// Finds the key of a table: its primary key when `wanted` is empty, or a unique index over exactly these columns.
///
/// # Errors
/// There is none that can be walked; the error says why and what helps.
pub(crate) async fn resolve(client: &Session, table: &Table, wanted: &[String]) -> Result<Key, Error> {
    let rows = own::query(client, INDEXES, &[(&table.oid, Type::OID)]).await?;
    let mut indexes: Vec<Vec<IndexColumn>> = Vec::new();
    for row in &rows {
        let column = IndexColumn {
            index: row.try_get(0)?,
            primary: row.try_get(1)?,
            unique: row.try_get(2)?,
            valid: row.try_get(3)?,
            immediate: row.try_get(4)?,
            partial: row.try_get(5)?,
            method: row.try_get(6)?,
            column: row.try_get(7)?,
            type_name: row.try_get(8)?,
            not_null: row.try_get(9)?,
            ascending: row.try_get(10)?,
            default_order: row.try_get(11)?,
            operators: row.try_get(12)?,
            foreign: row.try_get(13)?,
        };
        match indexes.last_mut() {
            Some(last) if last.first().is_some_and(|first| first.index == column.index) => last.push(column),
            _ => indexes.push(vec![column]),
        }
    }
    choose(&table.quoted(), &indexes, wanted)
}

fn choose(table: &str, indexes: &[Vec<IndexColumn>], wanted: &[String]) -> Result<Key, Error> {
    if wanted.is_empty() {
        let primary = indexes.iter().find(|index| index.iter().any(|column| column.primary));
        let primary = primary.ok_or_else(|| Error::NoPrimaryKey(table.to_owned()))?;
        let columns = || primary.iter().filter_map(|column| column.column.as_deref()).collect::<Vec<_>>().join(", ");
        if let Some(why) = primary.iter().find_map(other_operators) {
            let why = format!("{why}; choose other columns with `key = [...]`");
            return Err(Error::Unusable { table: table.to_owned(), columns: columns(), why });
        }
        return key_of(primary).ok_or_else(|| Error::NoPrimaryKey(table.to_owned()))?;
    }
    let unusable = |why: String| Error::Unusable { table: table.to_owned(), columns: wanted.join(", "), why };
    let same_set = |index: &&Vec<IndexColumn>| {
        index.len() == wanted.len()
            && wanted.iter().all(|name| index.iter().any(|column| column.column.as_ref() == Some(name)))
    };
    let mut faults = Vec::new();
    for index in indexes.iter().filter(same_set) {
        match fault(index) {
            None => return key_of(index).ok_or_else(|| unusable("the index is over an expression".to_owned()))?,
            Some(why) => {
                let name = index.first().map_or("", |column| column.index.as_str());
                faults.push(format!("the index `{name}` {why}"));
            }
        }
    }
    if faults.is_empty() {
        let columns = wanted.join(", ");
        return Err(unusable(format!(
            "no index has exactly these columns; first run CREATE UNIQUE INDEX CONCURRENTLY ON {table} ({columns})"
        )));
    }
    Err(unusable(format!(
        "{}; make a plain unique index over these columns, or choose other columns",
        faults.join(", and ")
    )))
}

/// Why an index cannot be walked.
fn fault(index: &[IndexColumn]) -> Option<String> {
    let first = index.first()?;
    if first.method != "btree" {
        return Some(format!("is of the kind {}, not btree", first.method));
    }
    for (wrong, why) in [
        (!first.unique, "is not unique"),
        (!first.valid, "is not valid: an interrupted CREATE INDEX CONCURRENTLY left it behind"),
        (!first.immediate && !first.primary, "belongs to a deferrable constraint"),
        (first.partial, "covers only part of the rows (it has a WHERE)"),
    ] {
        if wrong {
            return Some(why.to_owned());
        }
    }
    for column in index {
        let Some(name) = &column.column else { return Some("is over an expression".to_owned()) };
        if !column.not_null {
            return Some(format!("has the column `{name}`, which may be NULL (ALTER COLUMN {name} SET NOT NULL)"));
        }
        if !column.ascending {
            return Some(format!("has the column `{name}` in descending order"));
        }
        if !column.default_order {
            return Some(format!("has the column `{name}` in another order or collation than the column's own"));
        }
        if let Some(why) = other_operators(column) {
            return Some(format!("cannot be compared with: {why}"));
        }
    }
    None
}

/// Why a column cannot be compared as its index does.
fn other_operators(column: &IndexColumn) -> Option<String> {
    let name = column.column.as_deref().unwrap_or_default();
    if let Some(foreign) = &column.foreign {
        return Some(format!(
            "the column `{name}` is compared by {foreign}: what that role makes of it would run as the agent; it must belong to a              superuser, an extension or the agent's role"
        ));
    }
    column.operators.is_none().then(|| {
        format!("the operators of the operator class of the column `{name}` are not `<`, `<=`, `=`, `>=` and `>` of one schema")
    })
}

/// `None` for an index over an expression.
fn key_of(index: &[IndexColumn]) -> Option<Result<Key, Error>> {
    let names = index.iter().map(|column| column.column.as_deref()).collect::<Option<Vec<_>>>()?;
    let columns = names.iter().zip(index).map(|(name, column)| {
        KeyColumn::parse(name, &column.type_name)
            .map(|parsed| KeyColumn { operators: column.operators.clone(), ..parsed })
    });
    Some(columns.collect::<Result<_, _>>().map(|columns| Key { columns }).map_err(Error::from))
}
