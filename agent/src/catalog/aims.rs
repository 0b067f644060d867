//! Which rows of the walked table a statement changes: those of its batch, or others.
//!
//! Where `:batch` stands for the very table that is changed, or its whole key is joined to that of rows of the batch, the tree of the
//! statement proves it, and nothing is asked. Where the tree cannot prove it and does not disprove it, each batch shows the keys of the
//! rows that it has changed. It is a comparison of keys and never of numbers: what others insert into the range of a batch changes nothing.

use dunlin_proto::v1::Step;
use dunlin_shared::postgres::Session;
use dunlin_shared::sql::line_of;
use dunlin_shared::sql::placement::{Misplaced, Placement};
use dunlin_shared::sql::reading::{Change, Reading};
use tokio_postgres::types::Type;

use super::moves::name;
use super::{Error, Key, Table};
use crate::own;

/// What is known of the changes of a statement, by their places in it.
#[derive(Debug, Default)]
pub(crate) struct Aims {
    /// The change that may change rows outside of the batch: it must show its keys.
    pub(super) unproven: Option<usize>,
    /// Changes that may do so, as the step says.
    pub(super) elsewhere: Vec<usize>,
}

// Rows of a table are also changed through what it is a part of, and through its parts.
const SAME_ROWS: &str = "
WITH RECURSIVE up(oid) AS (
    SELECT $2::oid UNION SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.oid
), down(oid) AS (
    SELECT $2::oid UNION SELECT i.inhrelid FROM down JOIN pg_inherits i ON i.inhparent = down.oid
)
SELECT g.place::int FROM unnest($1::oid[]) WITH ORDINALITY AS g(target, place)
WHERE g.target IN (SELECT oid FROM up UNION SELECT oid FROM down) ORDER BY g.place";

impl Aims {
    /// Looks at the statement of a step.
    ///
    /// # Errors
    /// `:batch` does not restrict the statement, or rows outside of the batch would be changed, and the step does not say that it means it.
    pub(crate) async fn of(
        client: &Session,
        table: &Table,
        key: &Key,
        reading: &Reading,
        step: &Step,
    ) -> Result<Self, Error> {
        let columns: Vec<String> = key.columns.iter().map(|column| column.name.clone()).collect();
        let placement = match Placement::of(&step.sql, &table.name) {
            Ok(placement) => placement,
            Err(_) if step.batch_is_mine => Placement::default(),
            Err(misplaced) => return Err(refused(&step.sql, misplaced)),
        };
        if !step.batch_is_mine && !placement.lists_are(&columns) {
            return Err(Error::NotByTheKey { table: table.quoted(), key: columns.join(", ") });
        }
        let known = placement.aims.len() == reading.changes.len();
        let aim = |place: usize| placement.aims.get(place).filter(|_| known);
        let changes = reading.changes.iter().enumerate();
        let mut left: Vec<(usize, &Change)> = changes
            .filter(|(_, change)| change.merges || !change.kinds.inserts)
            .filter(|(_, change)| change.kinds.updates || change.kinds.deletes)
            .filter(|(place, _)| !aim(*place).is_some_and(|aim| aim.is_within(&columns)))
            .collect();
        if left.is_empty() {
            return Ok(Self::default());
        }
        let names: Vec<String> = left.iter().map(|(_, change)| name(change)).collect();
        let targets = own::relations(client, &names).await?;
        let rows = own::query(client, SAME_ROWS, &[(&targets, Type::OID_ARRAY), (&table.oid, Type::OID)]).await?;
        let mut same = Vec::new();
        for row in &rows {
            same.extend(usize::try_from(row.try_get::<_, i32>(0)? - 1).ok());
        }
        let mut places = 0_usize..;
        left.retain(|_| places.next().is_some_and(|place| same.contains(&place)));
        let mut aims = Self::default();
        for (place, change) in left {
            if step.changes_elsewhere {
                aims.elsewhere.push(place);
                continue;
            }
            let outside = |by| Error::Outside { table: table.quoted(), key: columns.join(", "), by };
            if !step.batch_is_mine && !aim(place).is_some_and(|aim| aim.may_be_within(&columns)) {
                return Err(outside("is not joined by its key to rows of the batch"));
            }
            if change.is_main && !change.merges {
                aims.unproven = Some(place);
            } else if !step.batch_is_mine {
                return Err(outside(
                    "is changed by a MERGE, or in WITH, where batches cannot show what they have changed, and it \
                                    cannot be seen that its whole key is that of rows of the batch",
                ));
            }
        }
        Ok(aims)
    }
}

fn refused(sql: &str, misplaced: Misplaced) -> Error {
    let (line, column, _) = line_of(sql, misplaced.offset);
    Error::Misplaced { misplaced, line, column }
}
