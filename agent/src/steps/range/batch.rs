//! One batch: the change and the advance of the checkpoint, in one transaction.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use dunlin_shared::key;
use dunlin_shared::sql::placeholder::BatchSql;
use dunlin_shared::sql::quote_ident;
use futures::FutureExt;
use futures::future::join;
use serde_json::{Map, Value};
use tokio_postgres::Client;

use super::guarded::LEFT_OUT;
use super::order::Job;
use super::{Sums, Worker, in_words};
use crate::catalog::Guard;
use crate::failpoint::{self, CODE, RANGE};
use crate::failure::{NOT_TOLD, Place};
use crate::frame::{Durability, FREE_NAMES, WHICH};
use crate::ledger::{self, Advance, Advanced, State};
use crate::limits::IDLE_LIMIT_OF_CODE;
use crate::steps::written::{self, By, Written};
use crate::steps::{Error, answer, framed, located, notices, statement};
use crate::target::Connection;
use crate::transform::{self, Batch, Outcome, Transform};

/// What changes the rows.
pub(super) enum Body {
    /// SQL with `:batch`.
    Sql(BatchSql),
    /// Code in this agent.
    Code(Arc<dyn Transform>),
}

impl Job<'_> {
    /// The last transaction of a task waits for the disk.
    pub(super) fn durability(&self) -> Durability {
        if self.last { Durability::AtCommit } else { Durability::Later }
    }
}

/// The statement behind those that begin the transaction of a batch, if any: the predicates of a stripe and of a key of several columns
/// count on bitmaps.
pub(super) fn settings(job: &Job<'_>) -> &'static str {
    let several = job.bound.0.len() > 1;
    if several || job.cursor.window.stripes.count() > 1 { "SET LOCAL enable_bitmapscan = on;" } else { "" }
}

/// The change of a batch, in a transaction that is open.
#[derive(Debug)]
pub(super) struct Changed {
    /// The rows that it has changed.
    rows: i64,
    /// The transaction.
    transaction: String,
    /// What it has written beside logged tables.
    written: Vec<Written>,
}

/// The answer to the change of a batch that was sent behind the commit of the batch before.
pub(super) type Ahead = Result<Changed, tokio_postgres::Error>;

/// A batch that was committed.
struct Committed {
    rows: i64,
    advanced: Advanced,
    ahead: Option<Ahead>,
    /// Rows that matched and that triggers left out.
    left_out: i64,
    /// The unlogged tables that it has filled.
    unlogged: Vec<u32>,
}

impl Worker<'_> {
    /// Transforms the rows of a batch, unless that was done ahead, and moves the checkpoint. May begin the `next` one.
    pub(super) async fn batch(
        &mut self,
        connection: &mut Connection,
        job: &Job<'_>,
        ahead: Option<Ahead>,
        next: Option<&Job<'_>>,
    ) -> Result<Option<Ahead>, Error> {
        if !self.prepared && matches!(self.body, Body::Sql(_)) && self.knows_its_session() {
            let begin = self.frame.begin(Durability::Later);
            let prepared = connection.prepare(&begin, ledger::PREPARED_ADVANCE, &ledger::to_prepare()).await;
            if let Err(error) = prepared {
                connection.rollback().await;
                return Err(Error::of_postgres(&error, self.place));
            }
            self.prepared = true;
        }
        let (range, _) = job.cursor.batch(job.bound);
        let place =
            Place { rows: in_words(self.key.iter().map(|column| column.name.as_str()), &range), ..self.place.clone() };
        let done = match (&self.body, &self.guard) {
            (Body::Sql(_), Some(guard)) => self.guarded_batch(connection, guard, job, &place).await,
            (Body::Sql(sql), None) => self.sql_batch(connection, sql, job, ahead, next, &place).await,
            (Body::Code(code), _) => self.code_batch(connection, &**code, job, &place).await,
        };
        let heard = connection.heard();
        notices::tell(self.context, &self.step.name, &heard);
        // What was begun ahead may have failed while the batch before it was committed.
        self.failed = self.failed.or(heard.failed);
        match done {
            Ok(Committed { rows, advanced, ahead, left_out, unlogged }) => {
                self.left_out += left_out;
                self.witnessed.extend(unlogged);
                self.hot.add(advanced.updated, advanced.hot_updated, job.cursor.stripe > 0);
                self.count(rows, advanced, job);
                Ok(ahead)
            }
            Err(error) => {
                connection.rollback().await;
                let error = self.explain(connection, error, &place).await;
                Err(self.located(error, job))
            }
        }
    }

    async fn sql_batch(
        &self,
        connection: &mut Connection,
        sql: &BatchSql,
        job: &Job<'_>,
        ahead: Option<Ahead>,
        next: Option<&Job<'_>>,
        place: &Place,
    ) -> Result<Committed, Error> {
        connection.opening();
        connection.lend_to_definition();
        let changed = match ahead {
            Some(changed) => changed,
            None => self.change(connection, sql, job).await,
        };
        let Changed { rows, written, transaction } = changed.map_err(|error| Error::of_postgres(&error, place))?;
        let unlogged = self.new_unlogged(&written, place)?;
        let (counters, mark) = (Map::new(), self.context.mark());
        // The server commits if and only if the checkpoint has moved.
        let advance = self.advance(job, rows, &counters, &mark);
        let leave = self.frame.leave(&transaction, job.durability());
        let leave = format!("{leave};{}", written::witness(&self.address, &unlogged));
        let removal = self.removal(connection, job);
        let commit = advance.commit(connection, RANGE, &leave, &removal);
        let (advanced, ahead) = match next {
            Some(next) if self.may_go_ahead() => {
                let (advanced, ahead) = join(commit, self.change(connection, sql, next)).await;
                (advanced, Some(ahead))
            }
            _ => (commit.await, None),
        };
        let advanced = advanced.map_err(|error| Error::of_ledger(error, place))?;
        if ahead.is_none() {
            connection.closed();
        }
        Ok(Committed { rows, advanced, ahead, left_out: 0, unlogged })
    }

    async fn guarded_batch(
        &self,
        connection: &mut Connection,
        guard: &Guard,
        job: &Job<'_>,
        place: &Place,
    ) -> Result<Committed, Error> {
        let changed = self.guarded_change(connection, guard, job, place).await?;
        let mark = self.context.mark();
        let left_out = (changed.left_out > 0).then(|| (LEFT_OUT.to_owned(), Value::from(changed.left_out)));
        let counters: Map<String, Value> = left_out.into_iter().collect();
        let advance = self.advance(job, changed.rows, &counters, &mark);
        let written = written::ask(connection).await.map_err(|error| Error::of_postgres(&error, place))?;
        let unlogged = self.new_unlogged(&written, place)?;
        let leave = self.frame.leave(&changed.transaction, job.durability());
        let leave = format!("{leave};{}", written::witness(&self.address, &unlogged));
        let removal = self.removal(connection, job);
        let advanced = advance
            .commit(connection, RANGE, &leave, &removal)
            .await
            .map_err(|error| Error::of_ledger(error, place))?;
        connection.closed();
        Ok(Committed { rows: changed.rows, advanced, ahead: None, left_out: changed.left_out, unlogged })
    }

    /// True behind the first batch of a lease, without a pooler: what is sent next comes to the same session, and the SQL of the
    /// step does not end its transaction by itself.
    fn knows_its_session(&self) -> bool {
        self.proven && !self.context.target.pooled()
    }

    /// True when the next batch may be sent behind a commit. Where the SQL ends its transaction by itself, what would be behind it
    /// would do so, too.
    fn may_go_ahead(&self) -> bool {
        self.knows_its_session() && !failpoint::armed(RANGE.advanced)
    }

    /// Begins the transaction of a batch and changes its rows. The transaction cannot be committed by what this sends.
    async fn change(&self, client: &Client, sql: &BatchSql, job: &Job<'_>) -> Ahead {
        let begin = self.frame.begin_entered(job.durability());
        let (before, behind) = self.count.around();
        let change = format!("{begin};{}{before}{}{behind}\n;{}", settings(job), self.render(sql, job), written::ASK);
        let messages = answer::without_rows(client, &change).await?;
        failpoint::at(client, RANGE.changed).await?;
        Ok(Changed {
            rows: self.count.rows(&messages),
            transaction: framed::number(&messages),
            written: written::of(&messages),
        })
    }

    /// What follows the commit of a batch in its message. In a session of the agent's own, what a batch leaves is there for the next one
    /// of the same step at most; behind a pooler it would be there for whoever comes next.
    fn removal(&self, connection: &Connection, job: &Job<'_>) -> String {
        if job.last || self.context.target.pooled() { connection.removal() } else { String::new() }
    }

    /// Refuses what the step may not write. Returns the unlogged tables of which this lease has left no witness yet.
    fn new_unlogged(&self, written: &[Written], place: &Place) -> Result<Vec<u32>, Error> {
        let mut unlogged = written::permitted(self.step, By::Batches, written, place)?;
        unlogged.retain(|oid| !self.witnessed.contains(oid));
        Ok(unlogged)
    }

    /// An error with its place in the SQL of the step.
    fn located(&self, error: Error, job: &Job<'_>) -> Error {
        let (Body::Sql(sql), Some(failed)) = (&self.body, self.failed) else { return error };
        let before = self.count.around().0;
        let before =
            format!("{};{}{before}", self.frame.begin_entered(job.durability()), settings(job)).chars().count();
        let rendered = self.render(sql, job);
        // A change that is guarded is sent in another form.
        let position = failed.position.filter(|_| self.guard.is_none());
        let inside = position.and_then(|position| located::byte_of(&rendered, position.checked_sub(before)?));
        let at = match inside {
            Some(at) => Some(sql.origin(at, self.step.sql.len(), |alias| self.condition(alias, job))),
            None => dunlin_shared::sql::statement_offset(&self.step.sql, 0),
        };
        located::with(error, &self.step.sql, at, Some(0))
    }

    pub(super) fn render(&self, sql: &BatchSql, job: &Job<'_>) -> String {
        sql.render(|alias| self.condition(alias, job))
    }

    fn condition(&self, alias: Option<&str>, job: &Job<'_>) -> String {
        let (range, stripe) = job.cursor.batch(job.bound);
        let qualifier = alias.map_or_else(|| quote_ident(&self.table.name), str::to_owned);
        key::predicate(&self.key, &range, stripe, &qualifier)
    }

    async fn code_batch(
        &self,
        connection: &mut Connection,
        code: &dyn Transform,
        job: &Job<'_>,
        place: &Place,
    ) -> Result<Committed, Error> {
        let of_postgres = |error| Error::of_postgres(&error, place);
        let (range, stripe) = job.cursor.batch(job.bound);
        let batch = Batch {
            schema: self.table.schema.clone(),
            table: self.table.name.clone(),
            key: self.key.clone(),
            range,
            stripe,
        };
        let pooled = self.context.target.pooled();
        if pooled {
            // What the client library prepares to look types up with, it keeps; behind a pooler in transaction mode the next
            // transaction is in another process of the server, which does not have it. So each batch has a client of its own.
            *connection = self.context.fresh(place).await?;
        }
        let mark = self.context.mark();
        let frame = self.frame.clone().with_idle(IDLE_LIMIT_OF_CODE);
        connection.opening();
        connection.lend_to_definition();
        let removal = self.removal(connection, job);
        let begin = connection.build_transaction().isolation_level(self.frame.isolation);
        let transaction = begin.start().await.map_err(of_postgres)?;
        let begin = format!("{WHICH};{};", frame.settings(job.durability()));
        let number = framed::number(&transaction.simple_query(&begin).await.map_err(of_postgres)?);
        if pooled {
            transaction.batch_execute(FREE_NAMES).await.map_err(of_postgres)?;
        }
        let enter = format!("{};{}", frame.enter(), settings(job));
        transaction.batch_execute(&enter).await.map_err(of_postgres)?;
        let outcome = AssertUnwindSafe(code.apply(&batch, &transaction)).catch_unwind().await;
        let outcome = match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(transform::Error::Postgres(error))) => return Err(of_postgres(error)),
            Ok(Err(transform::Error::Other(error))) => {
                let message = if place.redact {
                    format!("the code of the transform has failed; {NOT_TOLD}")
                } else {
                    crate::failure::chain(&*error)
                };
                return Err(Error::Final(place.refuse(message, place.mend())));
            }
            Err(panic) => {
                let why = if place.redact { NOT_TOLD } else { panic_text(&*panic) };
                let message = format!("the code of the transform panicked: {why}");
                return Err(Error::Final(place.refuse(message, place.mend())));
            }
        };
        let rows = usable(&outcome, place)?;
        let written = written::ask(transaction.client()).await.map_err(of_postgres)?;
        let unlogged = self.new_unlogged(&written, place)?;
        failpoint::at(transaction.client(), CODE.changed).await.map_err(of_postgres)?;
        let advance = self.advance(job, rows, &outcome.counters, &mark);
        let leave = frame.leave(&number, job.durability());
        let leave = format!("{leave};{}", written::witness(&self.address, &unlogged));
        let advanced = advance.execute(transaction.client(), &leave, "").await;
        let advanced = advanced.map_err(|error| Error::of_ledger(error, place))?;
        failpoint::at(transaction.client(), CODE.advanced).await.map_err(of_postgres)?;
        if removal.is_empty() {
            transaction.commit().await.map_err(of_postgres)?;
        } else {
            transaction.batch_execute(&format!("COMMIT{removal}")).await.map_err(of_postgres)?;
            // The client library would end it once more, of which the server warns. It holds nothing but the way to the client.
            std::mem::forget(transaction);
        }
        failpoint::at(connection, CODE.committed).await.map_err(of_postgres)?;
        connection.closed();
        Ok(Committed { rows, advanced, ahead: None, left_out: 0, unlogged })
    }

    fn advance<'a>(&'a self, job: &Job<'_>, rows: i64, counters: &'a Map<String, Value>, mark: &'a str) -> Advance<'a> {
        Advance {
            address: &self.address,
            epoch: self.context.epoch,
            mark,
            batches: self.checkpoint.batches,
            cursor: serde_json::to_value(&job.after).ok(),
            rows,
            rows_walked: job.walked,
            rows_total: 0,
            counters,
            state: if job.last { State::Done } else { State::Open },
            measured: (job.cursor.window.stripes.count() > 1).then_some(self.table.oid),
            prepared: self.prepared,
        }
    }

    /// Counts a batch that was committed, and notes what is on disk.
    fn count(&mut self, rows: i64, advanced: Advanced, job: &Job<'_>) {
        let before = self.sums;
        self.proven = true;
        self.checkpoint.batches += 1;
        self.sums = Sums { rows: before.rows + rows, rows_walked: before.rows_walked + job.walked };
        let durable = if job.last { Some(self.sums) } else { self.durable.saw(advanced, before) };
        if let Some(sums) = durable {
            self.context.lease.progress(sums.rows, sums.rows_walked);
        }
    }

    /// A checkpoint that did not match, and still stands where this lease left it, was not moved by anyone: SQL or code of the
    /// step has ended the transaction.
    async fn explain(&self, connection: &mut Connection, error: Error, place: &Place) -> Error {
        let Error::Moved = error else { return error };
        match ledger::look(connection, &self.address).await {
            Ok(Some(seen)) if seen.epoch == self.context.epoch.0 && seen.batches == self.checkpoint.batches => {
                statement::ended_transaction(place)
            }
            _ => Error::Moved,
        }
    }
}

fn usable(outcome: &Outcome, place: &Place) -> Result<i64, Error> {
    if let Some(name) = outcome.unusable_counter() {
        return Err(Error::Final(place.refuse(
            format!(
                "the transform counts under the name \"{name}\", which is empty, reserved, or has too large a value"
            ),
            format!(
                "Give the counter another name than success, message, rows and mended; then `dunlin run {}`.",
                place.migration
            ),
        )));
    }
    i64::try_from(outcome.rows)
        .map_err(|_| Error::Final(place.refuse("the transform reports more rows than there can be", place.mend())))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
