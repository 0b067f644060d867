//! Whether the key that a table is walked along moves with what a statement changes.
//!
//! A row that gets another key while its table is worked through is done twice or never. Besides columns that a statement assigns,
//! these move: columns that are generated from assigned ones, and columns that a foreign key writes when what it refers to changes. Both
//! are followed through the catalog, however many steps it takes. Views and rules make another statement of one, so nothing can be said
//! of it. What triggers do is seen when they have done it, batch by batch.

use dunlin_shared::postgres::Session;
use dunlin_shared::sql::quote_ident;
use dunlin_shared::sql::reading::{Change, Reading};
use tokio_postgres::types::Type;

use super::{Error, Key, Table};
use crate::own;

// A column is written in all tables of a family of partitions, under its name. No column stands for rows that are deleted.
const WRITTEN: &str = r#"
WITH RECURSIVE given AS (
    SELECT g.target::regclass AS rel, g.col::name AS col, g.deletes
    FROM unnest($1::oid[], $2::text[], $3::bool[]) AS g(target, col, deletes)
), written(rel, col, how) AS (
    SELECT g.rel, CASE WHEN NOT g.deletes THEN g.col END, NULL::text COLLATE "C" FROM given g WHERE g.rel IS NOT NULL
    UNION
    SELECT more.rel, more.col, more.how COLLATE "C" FROM written w CROSS JOIN LATERAL (
        SELECT f.relid AS rel, w.col, w.how FROM pg_partition_tree(pg_partition_root(w.rel)) f
        UNION ALL
        SELECT c.conrelid::regclass, a.attname, format('the foreign key %I of %s', c.conname, c.conrelid::regclass)
        FROM pg_constraint c CROSS JOIN LATERAL unnest(c.conkey, c.confkey) AS k(own, referred)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own
        WHERE c.contype = 'f' AND c.confrelid = w.rel AND w.col IS NOT NULL
          AND EXISTS (SELECT FROM pg_attribute r WHERE r.attrelid = w.rel AND r.attname = w.col
                      AND (c.confupdtype = 'c' AND r.attnum = k.referred
                           OR c.confupdtype IN ('n', 'd') AND r.attnum = ANY (c.confkey)))
        UNION ALL
        SELECT c.conrelid::regclass, CASE WHEN c.confdeltype <> 'c' THEN a.attname END,
               format('the foreign key %I of %s', c.conname, c.conrelid::regclass)
        FROM pg_constraint c CROSS JOIN LATERAL unnest(c.conkey) AS k(own)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.own
        WHERE c.contype = 'f' AND c.confrelid = w.rel AND w.col IS NULL AND c.confdeltype IN ('c', 'n', 'd')
        UNION ALL
        SELECT w.rel, g.attname, format('the column %I is generated from %I', g.attname, b.attname)
        FROM pg_attribute b
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = w.rel AND d.refobjsubid = b.attnum
        LEFT JOIN pg_attrdef e ON d.classid = 'pg_attrdef'::regclass AND e.oid = d.objid
        JOIN pg_attribute g ON g.attrelid = w.rel AND g.attgenerated <> ''
          AND g.attnum = CASE WHEN e.oid IS NOT NULL THEN e.adnum WHEN d.classid = 'pg_class'::regclass AND d.objid = w.rel THEN d.objsubid END
        WHERE b.attrelid = w.rel AND b.attname = w.col AND b.attnum <> g.attnum
    ) AS more
)
SELECT w.col::text, w.how FROM written w WHERE w.rel = $4 AND w.col::text = ANY ($5) ORDER BY w.how NULLS FIRST LIMIT 1"#;

const REWRITTEN: &str = "
SELECT g.place::int, c.relkind = 'v', (SELECT min(r.rulename::text) FROM pg_rewrite r
       WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN' AND r.ev_enabled <> 'D')
FROM unnest($1::oid[]) WITH ORDINALITY AS g(target, place) JOIN pg_class c ON c.oid = g.target
WHERE c.relkind = 'v' OR c.relhasrules ORDER BY 1 LIMIT 1";

/// Makes sure that nothing that a statement assigns or deletes moves the key.
///
/// # Errors
/// It does, or that cannot be told.
pub(crate) async fn refuse_moves(client: &Session, table: &Table, key: &Key, reading: &Reading) -> Result<(), Error> {
    let mut names: Vec<String> = reading.changes.iter().map(name).collect();
    names.push(table.quoted());
    let relations = own::relations(client, &names).await?;
    let rewritten = own::query(client, REWRITTEN, &[(&relations, Type::OID_ARRAY)]).await?;
    for row in &rewritten {
        let (place, view, rule): (i32, bool, Option<String>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let changed = usize::try_from(place - 1).ok().and_then(|place| names.get(place)).cloned().unwrap_or_default();
        if view {
            return Err(Error::Through(changed));
        }
        if let Some(rule) = rule {
            return Err(Error::Rewritten { table: changed, rule });
        }
    }
    let (mut targets, mut columns, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
    for (change, relation) in reading.changes.iter().zip(&relations) {
        let assigned = change.columns.iter().map(|column| (column.as_str(), false));
        for (column, deleted) in assigned.chain(change.kinds.deletes.then_some(("", true))) {
            targets.push(*relation);
            columns.push(column);
            deletes.push(deleted);
        }
    }
    if targets.is_empty() {
        return Ok(());
    }
    let of_key: Vec<&str> = key.columns.iter().map(|column| column.name.as_str()).collect();
    let moved = own::query(
        client,
        WRITTEN,
        &[
            (&targets, Type::OID_ARRAY),
            (&columns, Type::TEXT_ARRAY),
            (&deletes, Type::BOOL_ARRAY),
            (&table.oid, Type::OID),
            (&of_key, Type::TEXT_ARRAY),
        ],
    )
    .await?;
    let Some(row) = moved.first() else { return Ok(()) };
    let (column, how): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
    let table = table.quoted();
    Err(match how {
        None => Error::AssignsKey { table, column },
        Some(how) => Error::KeyFollows { table, column, how },
    })
}

/// The name of the table that is changed, quoted.
pub(super) fn name(change: &Change) -> String {
    change.table.iter().map(|part| quote_ident(part)).collect::<Vec<_>>().join(".")
}
