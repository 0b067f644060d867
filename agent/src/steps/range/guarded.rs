//! A batch of a table whose keys could move: the change shows its keys, and is rolled back where they are not where they must be.

use dunlin_proto::v1::EventType;
use tokio_postgres::SimpleQueryMessage;

use super::Worker;
use super::batch::settings;
use super::order::Job;
use crate::catalog::Guard;
use crate::failpoint::{self, RANGE};
use crate::failure::Place;
use crate::steps::{Error, framed};
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
        connection.opening();
        connection.lend_to_definition();
        let messages =
            connection.simple_query(&format!("{begin};{}{count}{change}", settings(job))).await.map_err(of_postgres)?;
        failpoint::at(connection, RANGE.changed).await.map_err(of_postgres)?;
        let mut answers = answers(&messages);
        let changed = if guard.returns { answers.pop().unwrap_or_default() } else { Answer::default() };
        let rows = if guard.shows { number(changed.rows.len()) } else { self.count.rows(&messages) };
        let matching = guard.matching.as_ref().and_then(|_| answers.pop()?.rows.first()?.first()?.parse().ok());
        if guard.shows {
            self.look(connection, guard, &changed.rows, place).await?;
        }
        let left_out = matching.map_or(0, |matching: i64| (matching - rows).max(0));
        Ok(Shown { rows, left_out, transaction: framed::number(&messages) })
    }

    /// Looks at the keys that a change has returned.
    async fn look(
        &self,
        connection: &Connection,
        guard: &Guard,
        rows: &[Vec<String>],
        place: &Place,
    ) -> Result<(), Error> {
        // What the statement returns by itself stands in front.
        let own = |row: &Vec<String>| {
            row.len().checked_sub(self.key.len() + 1).and_then(|front| row.get(front..).map(<[_]>::to_vec))
        };
        let shown: Vec<Vec<String>> = rows.iter().filter_map(own).collect();
        let moved: Vec<&[String]> = shown.iter().filter(|row| row[0] != "t").take(NAMED).map(|row| &row[1..]).collect();
        if !moved.is_empty() {
            return Err(self.refuse_keys(guard, &moved, place));
        }
        if !guard.recounts || shown.is_empty() {
            return Ok(());
        }
        let keys: Vec<Vec<String>> = shown.into_iter().map(|mut row| row.split_off(1)).collect();
        // Triggers that wait for the commit would come too late to be seen.
        let recount = format!("SET CONSTRAINTS ALL IMMEDIATE;{}", Guard::recount(&self.table, &self.key, &keys));
        let messages = connection.simple_query(&recount).await.map_err(|error| Error::of_postgres(&error, place))?;
        let found = answers(&messages).pop().and_then(|answer| answer.rows.first()?.first()?.parse::<i64>().ok());
        let missing = number(keys.len()) - found.unwrap_or(0);
        if missing == 0 {
            return Ok(());
        }
        Err(Error::Final(place.refuse(
            format!(
                "{missing} of the {} rows that the batch has changed have no longer the key that they had: a trigger of {} ({}) has \
                 given them another or removed them; the batch was rolled back",
                keys.len(),
                self.table.quoted(),
                guard.triggers
            ),
            self.ways_out(place),
        )))
    }

    fn refuse_keys(&self, guard: &Guard, keys: &[&[String]], place: &Place) -> Error {
        let keys: Vec<String> = keys.iter().map(|key| format!("({})", key.join(", "))).collect();
        let (table, keys) = (self.table.quoted(), keys.join(", "));
        if guard.inserts {
            return Error::Final(place.refuse(
                format!(
                    "the batch inserts rows into {table} whose keys are not above those that the step walks, such as {keys}: \
                     they would be walked again, or never; it was rolled back"
                ),
                format!(
                    "Insert in a step without `batch`, or into another table first; then `dunlin register DIR` and `dunlin run {}`.",
                    place.migration
                ),
            ));
        }
        Error::Final(place.refuse(
            format!(
                "the key of rows has moved while the batch changed them, to {keys} for example: a trigger of {table} ({}) has assigned \
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
                "{rows} rows of {} that match were not changed: triggers before the change left them out ({}), or others changed them \
                 meanwhile; they do not count as changed",
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

/// The rows of one statement.
#[derive(Debug, Default)]
struct Answer {
    rows: Vec<Vec<String>>,
}

/// The answers of the statements that return rows, in order.
fn answers(messages: &[SimpleQueryMessage]) -> Vec<Answer> {
    let mut answers = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(_) => answers.push(Answer::default()),
            SimpleQueryMessage::Row(row) => {
                let values = (0..row.len()).map(|index| row.get(index).unwrap_or_default().to_owned());
                if let Some(answer) = answers.last_mut() {
                    answer.rows.push(values.collect());
                }
            }
            _ => {}
        }
    }
    answers
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
