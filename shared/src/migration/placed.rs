//! What `check` says of where `:batch` stands, and of the rows that a statement changes besides.
//!
//! What names mean, and a key that is not named, are the agent's to look up: it asks again, and refuses what is left over here.

use super::definition::Batch;
use super::rules::{Said, Sql};
use super::set::Problem;
use crate::sql::placement::{Placement, Why};
use crate::sql::reading::{Reading, name_parts};

/// The ways out for a `:batch` that restricts nothing.
const PLACE_IT: &str = "make it a condition of its own, such as `WHERE ... AND :batch`, of the query that has the table in FROM; or say \
                        `batch_is_mine = true` in the step: then nobody looks where it stands, and that is recorded";
const WRITE_IT: &str = "write it another way; or say `batch_is_mine = true` in the step: then nobody looks where `:batch` stands, and \
                        that is recorded";
const JOIN_IT: &str = "put `:batch` on the table that is changed, or compare its whole key with that of the rows of the batch \
                       (`t.id = b.id`); where rows outside of the batch are meant, say `changes = \"elsewhere\"` in the step";

pub(super) fn problems(sql: &Sql<'_>, batch: &Batch, said: Said, reading: &Reading) -> Vec<Problem> {
    let Some(table) = name_parts(&batch.table).filter(|_| !said.batch_is_mine) else { return Vec::new() };
    let placement = match Placement::of(&sql.text, table.last().map_or("", String::as_str)) {
        Ok(placement) => placement,
        Err(misplaced) => {
            let help = if matches!(misplaced.why, Why::NotUnderstood(_)) { WRITE_IT } else { PLACE_IT };
            return vec![sql.problem(misplaced.offset, misplaced.to_string(), Some(help))];
        }
    };
    let mut found = Vec::new();
    if !batch.key.is_empty() && !placement.lists_are(&batch.key) {
        let message = format!(
            "IN (SELECT ...) with `:batch` does not select the key ({}) and nothing else",
            batch.key.join(", ")
        );
        found.push(sql.problem(
            0,
            message,
            Some("find rows by the whole key: `(a, b) IN (SELECT a, b ...)`, or by a join"),
        ));
    }
    let aims = reading.changes.iter().zip(&placement.aims).filter(|_| !said.elsewhere);
    let outside = aims.filter(|(change, aim)| {
        let changes = change.kinds.updates || change.kinds.deletes;
        changes && !change.kinds.inserts && change.table == table && !aim.may_be_within(&batch.key)
    });
    found.extend(outside.map(|(change, _)| {
        let message = format!("the statement changes rows of `{}` that are not those of its batch", change.called);
        sql.problem(0, message, Some(JOIN_IT))
    }));
    found.extend(placement.diluted.iter().map(|diluted| {
        let message = format!("{} beside `:batch` is for each batch, and not for the table", diluted.by);
        let help = "that is right where what belongs together lies in one batch, or is put together by the statement (ON CONFLICT ... \
                    DO UPDATE)";
        sql.warning(diluted.offset, message, help)
    }));
    found
}
