//! What a session stands on before the agent has set anything in it: the limits that its role, its database or its server has for it,
//! and whether the server looks if the agent is still there while it executes something.
//!
//! It is asked once for each connection, in one flight. A limit is what a reset would give, since a pooler may hand over a process that
//! somebody else has set. Not every platform can look (PostgreSQL 14 does on Linux only), and PostgreSQL refuses the setting there: that is
//! remembered, and no error.
//!
//! A look at the agent sees a socket that is closed. For a host that vanished, the server's side of a connection to itself gets keepalives.

use std::time::Duration;

use futures::future::join4;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

/// How often the server looks.
pub(crate) const LOOK: &str = "SET LOCAL client_connection_check_interval = '1s'";

/// Has the server's side of a connection look after its host, from now on: it is given up half a minute after it was last heard of. On a
/// Unix socket, and on platforms without, it does nothing.
pub(crate) const KEEPALIVES: &str = "SELECT pg_catalog.set_config('tcp_keepalives_idle', '10', false) AS dunlin_setting, \
    pg_catalog.set_config('tcp_keepalives_interval', '5', false), pg_catalog.set_config('tcp_keepalives_count', '3', false), \
    pg_catalog.set_config('tcp_user_timeout', '25s', false)";

/// Takes a limit of transactions off a session, where there is one; none before PostgreSQL 17.
pub(crate) const NO_TRANSACTION_TIMEOUT: &str = "SELECT pg_catalog.set_config('transaction_timeout', '0', false) AS dunlin_setting \
    WHERE pg_catalog.current_setting('transaction_timeout', true) OPERATOR(pg_catalog.<>) '0'";

/// Asks for the limits, in milliseconds, and for the time.
const LIMITS: &str = "BEGIN ISOLATION LEVEL READ COMMITTED;SET LOCAL search_path = pg_catalog, pg_temp;\
    SET LOCAL lock_timeout TO DEFAULT;SET LOCAL statement_timeout TO DEFAULT;\
    SET LOCAL idle_in_transaction_session_timeout TO DEFAULT;\
    SELECT (extract(epoch FROM current_setting('lock_timeout')::interval) * 1000)::bigint, \
    (extract(epoch FROM current_setting('statement_timeout')::interval) * 1000)::bigint, \
    (extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval) * 1000)::bigint, \
    (extract(epoch FROM coalesce(current_setting('transaction_timeout', true), '0')::interval) * 1000)::bigint, \
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// What a session stands on. A limit of zero is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ground {
    /// `lock_timeout`.
    pub(crate) lock_timeout: Duration,
    /// `statement_timeout`.
    pub(crate) statement_timeout: Duration,
    /// `idle_in_transaction_session_timeout`.
    pub(crate) idle: Duration,
    /// `transaction_timeout`.
    pub(crate) transaction_timeout: Duration,
    /// True where the server can look whether the agent is still there.
    pub(crate) looks: bool,
    /// True without a pooler between.
    pub(crate) direct: bool,
    /// When it was asked, by the server's clock, in microseconds since 1970.
    pub(crate) asked: i64,
}

/// Asks, and has the server keep an eye on the agent. No transaction is open before.
///
/// # Errors
/// Those of PostgreSQL; a transaction may then be open.
pub(crate) async fn ask(client: &Client, direct: bool) -> Result<Ground, tokio_postgres::Error> {
    let keep = async { if direct { client.batch_execute(KEEPALIVES).await } else { Ok(()) } };
    let (kept, limits, looks, ended) =
        join4(keep, client.simple_query(LIMITS), client.batch_execute(LOOK), client.batch_execute("ROLLBACK")).await;
    kept?;
    let limits = limits?;
    let looks = match looks {
        Ok(()) => true,
        Err(error) if error.as_db_error().is_some() => false,
        Err(error) => return Err(error),
    };
    ended?;
    let row = limits.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row.map(|row| read(row, looks, direct)).unwrap_or_default())
}

fn read(row: &SimpleQueryRow, looks: bool, direct: bool) -> Ground {
    let number = |index: usize| row.get(index).and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    let limit = |index: usize| Duration::from_millis(u64::try_from(number(index)).unwrap_or(0));
    Ground {
        lock_timeout: limit(0),
        statement_timeout: limit(1),
        idle: limit(2),
        transaction_timeout: limit(3),
        looks,
        direct,
        asked: number(4),
    }
}
