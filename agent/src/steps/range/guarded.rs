//! A batch of a table whose keys could move, or whose statement could change rows outside of it: the change shows its keys, and is rolled back where they are not where they must be.
//!
//! Of the rows that it returns no more is kept than that takes: a batch may have many, and each may be large.

use dunlin_proto::v1::EventType;
use dunlin_shared::figures;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::Worker;
use super::batch::settings;
use super::order::Job;
use crate::catalog::{Guard, MATCHING};
use crate::failpoint::{self, RANGE};
use crate::failure::Place;
use crate::steps::{Error, answer, framed};
use crate::target::Connection;

/// The name of the counter of rows that matched and that triggers left out.
pub(super) const LEFT_OUT: &str = "rows_left_out_by_triggers";

/// Keys that an error names.
const NAMED: usize = 3;

/// What a change has done.
#[derive(Debug)]
pub(super) struct Shown {
    /// Rows changed.
    pub(super) rows: i64,
    /// Rows that matched and were not changed.
    pub(super) left_out: i64,
    /// The transaction.
    pub(super) transaction: String,
}

impl Worker<'_> {
    /// Begins the transaction of a batch, changes its rows and looks at their keys.
    pub(super) async fn guarded_change(
        &self,
        connection: &mut Connection,
        guard: &Guard,
        job: &Job<'_>,
        place: &Place,
    ) -> Result<Shown, Error> {
        let of_postgres = |error| Error::of_postgres(&error, place);
        let begin = self.frame.begin_entered(job.durability());
        let count = guard.matching.as_ref().map_or_else(String::new, |sql| self.render(sql, job) + "\n;");
        let change = self.render(&guard.statement, job);
        let (before, behind) = self.count.around();
        connection.opening();
        connection.lend_to_definition();
        let mut shown = Keys { columns: self.key.len(), kept: guard.recounts.then(Vec::new), ..Keys::default() };
        let sql = format!("{begin};{}{count}{before}{change}{behind}", settings(job));
        let messages = answer::with_rows(connection, &sql, |row| shown.see(row)).await.map_err(of_postgres)?;
        failpoint::at(connection, RANGE.changed).await.map_err(of_postgres)?;
        let rows = if guard.shows { shown.rows } else { self.count.rows(&messages) };
        if guard.shows {
            self.look(connection, guard, shown, place).await?;
        }
        let left_out = matching(&messages).map_or(0, |matching| (matching - rows).max(0));
        Ok(Shown { rows, left_out, transaction: framed::number(&messages) })
    }

    /// Looks at the keys that a change has returned.
    async fn look(&self, connection: &Connection, guard: &Guard, shown: Keys, place: &Place) -> Result<(), Error> {
        if !shown.moved.is_empty() {
            return Err(self.refuse_keys(guard, &shown.moved, place));
        }
        let Some(keys) = shown.kept.filter(|keys| !keys.is_empty()) else { return Ok(()) };
        // Triggers that wait for the commit would come too late to be seen.
        let recount = format!("SET CONSTRAINTS ALL IMMEDIATE;{}", Guard::recount(&self.table, &self.key, &keys));
        let messages = connection.simple_query(&recount).await.map_err(|error| Error::of_postgres(&error, place))?;
        let missing = shown.rows - matching(&messages).unwrap_or(0);
        if missing == 0 {
            return Ok(());
        }
        Err(Error::Final(place.refuse(
            format!(
                "{missing} of the {} rows that the batch has changed have no longer the key that they had: a trigger of {} ({}) has \
                 given them another or removed them; the batch was rolled back",
                shown.rows,
                self.table.quoted(),
                guard.triggers
            ),
            self.ways_out(place),
        )))
    }

    fn refuse_keys(&self, guard: &Guard, keys: &[Vec<String>], place: &Place) -> Error {
        let keys: Vec<String> = keys.iter().map(|key| format!("({})", key.join(", "))).collect();
        let (table, keys) = (self.table.quoted(), keys.join(", "));
        // Keys are values of rows.
        let (such, moved) = match place.redact {
            true => (String::new(), String::new()),
            false => (format!(", such as {keys}"), format!(", to {keys} for example")),
        };
        if guard.inserts {
            return Error::Final(place.refuse(
                format!(
                    "the batch inserts rows into {table} whose keys are not above those that the step walks{such}: \
                     they would be walked again, or never; it was rolled back"
                ),
                format!(
                    "Insert in a step without `batch`, or into another table first; then `dunlin register DIR` and `dunlin run {}`.",
                    place.migration
                ),
            ));
        }
        if guard.strays {
            return Error::Final(place.refuse(
                format!(
                    "the batch has changed rows of {table} that are not its own, such as {keys}: their keys lie outside of the batch, or \
                     have moved; it was rolled back"
                ),
                format!(
                    "Compare the whole key of the table that is changed with that of the rows of the batch, or say `changes = \
                     \"elsewhere\"` in the step if rows outside of the batch are meant; then `dunlin register DIR` and `dunlin run {}`.",
                    place.migration
                ),
            ));
        }
        Error::Final(place.refuse(
            format!(
                "the key of rows has moved while the batch changed them{moved}: a trigger of {table} ({}) has assigned \
                 it; the batch was rolled back",
                guard.triggers
            ),
            self.ways_out(place),
        ))
    }

    /// Tells of rows that triggers have left out.
    pub(super) fn tell_left_out(&self) {
        let (rows, Some(guard)) = (self.left_out, &self.guard) else { return };
        if rows > 0 {
            let sentence = format!(
                "{} of {} that match were not changed: triggers before the change left them out ({}), or others changed them meanwhile; \
                 they do not count as changed",
                figures::rows(rows),
                self.table.quoted(),
                guard.triggers
            );
            self.context.lease.note(EventType::AgentNote, sentence);
        }
    }

    fn ways_out(&self, place: &Place) -> String {
        format!(
            "Walk the table by a key that its triggers leave alone (`key = [...]`), or disable the trigger in a step before and enable it \
             behind; then `dunlin register DIR` and `dunlin run {}`.",
            place.migration
        )
    }
}

/// The keys of the rows that a change returns.
#[derive(Debug, Default)]
struct Keys {
    /// The columns of the key. They are the last of each row, behind whether the key is where it must be.
    columns: usize,
    rows: i64,
    /// Some of those that are not where they must be.
    moved: Vec<Vec<String>>,
    /// All others, where they are looked up again.
    kept: Option<Vec<Vec<String>>>,
}

impl Keys {
    fn see(&mut self, row: &SimpleQueryRow) {
        self.rows = self.rows.saturating_add(1);
        // What the statement returns by itself stands in front.
        let Some(front) = row.len().checked_sub(self.columns + 1) else { return };
        let key = || (front + 1..row.len()).map(|index| row.get(index).unwrap_or_default().to_owned()).collect();
        if row.get(front) != Some("t") {
            if self.moved.len() < NAMED {
                self.moved.push(key());
            }
        } else if let Some(kept) = &mut self.kept {
            kept.push(key());
        }
    }
}

/// The number of rows that match, in an answer that has it.
fn matching(messages: &[SimpleQueryMessage]) -> Option<i64> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get(MATCHING).ok().flatten()?.parse().ok(),
        _ => None,
    })
}
