//! Making sure that what was committed survives a crash of the database.
//!
//! Most transactions commit without waiting for the disk: the next task is granted while the report of the one before is
//! still on its way there. Whoever promises something to somebody outside (an acknowledgement, an event that a watcher may
//! count on) waits for the disk first. What must stay true: [`Store::flush`] returns only after a commit that began after it
//! was called and that waited for the disk, as the settings of the database say (for standbys too, where they say so); all
//! that was committed before lies before it in the log.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::database::Store;
use super::error::Error;
use super::session::Statement;

/// A commit that has something to write waits for the disk; one that has not does not.
const FLUSH: Statement =
    Statement::new("flush", "SELECT pg_logical_emit_message(true, 'dunlin', '') IS NOT NULL AS flushed");

/// Flushes that are asked for, and those that were answered: one answers all who asked before it began.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    asked: AtomicU64,
    answered: Mutex<u64>,
}

impl Store {
    /// Waits until everything that was committed before the call, by whomever, is safe from a crash.
    ///
    /// # Errors
    /// The database is not available: what was committed may be lost.
    pub async fn flush(&self) -> Result<(), Error> {
        let Flushes { asked, answered } = self.flushes();
        let mine = asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut answered = answered.lock().await;
        if *answered >= mine {
            return Ok(());
        }
        let all = asked.load(Ordering::SeqCst);
        self.session().await?.query_one(&FLUSH, &[]).await?;
        *answered = all;
        Ok(())
    }
}
