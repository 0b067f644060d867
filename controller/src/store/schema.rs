//! The schema of the controller's database, brought up to date by the controller itself.
//!
//! The migrations lie in `controller/migrations` and are compiled in. Replicas that start at once wait for each other with
//! an advisory lock. A replica of an older version finds migrations that it does not know and leaves them alone: changes
//! only ever expand the schema (`tests/expanding.rs` has the rule), so that it can start and work beside newer ones.

use dunlin_shared::postgres::{Connector, describe};

use super::error::Error;

/// The key of the lock: "dunlin" and the number of its use.
const LOCK: i64 = 0x6475_6e6c_696e_0001;

/// Replicas of the version before are at work: a change waits for their transactions, and everybody waits behind it, so it
/// gives up soon and is tried again. A replica that stands still in the middle loses the lock, and the next one goes on.
const SETTINGS: &str = "SET lock_timeout = '2s'; SET idle_session_timeout = '30s'; \
     SET idle_in_transaction_session_timeout = '5s'";

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Applies the migrations that the database does not have.
pub(super) async fn apply(connector: &Connector) -> Result<(), Error> {
    let (mut client, connection) = connector.connect().await.map_err(|error| match error.retryable() {
        true => Error::Unavailable { reason: error.to_string() },
        false => Error::Url(error),
    })?;
    let refused = |error: tokio_postgres::Error| match Error::from_statement("schema", error) {
        Error::Refused { source, .. } => Error::Schema(describe(&source)),
        other => other,
    };
    // The lock is of the session: it goes when the connection does, whatever happens.
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.map_err(refused)?;
    client.batch_execute(SETTINGS).await.map_err(refused)?;
    client.batch_execute("CREATE SCHEMA IF NOT EXISTS dunlin_controller").await.map_err(refused)?;
    let mut runner = embedded::migrations::runner().set_abort_missing(false);
    runner.set_migration_table_name("dunlin_controller.schema_history");
    let done = runner.run_async(&mut client).await;
    drop(client);
    let _ended = connection.await;
    match done {
        Ok(report) => {
            for migration in report.applied_migrations() {
                tracing::info!(%migration, "the schema of the controller's database was brought up to date");
            }
            Ok(())
        }
        Err(error) => Err(Error::Schema(match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        })),
    }
}
