//! What the target holds of a range whose lease ends before the range does.
//!
//! Batches commit without waiting for the disk, and what was committed last is not told by the time that a lease ends. So its last word
//! is read from the checkpoint, once all of it is on disk: the run's rows are then those of the target.
//!
//! Where that cannot be read, what was told before stands. Where another lease has taken the range, it tells the rest.

use std::time::Duration;

use dunlin_proto::v1::grant;
use dunlin_shared::ids::StepName;
use dunlin_shared::postgres::describe;
use tokio::time::timeout;

use crate::frame::Durability;
use crate::ledger;
use crate::steps::Context;

/// How long it may take: the controller waits for the last word of a lease.
const LIMIT: Duration = Duration::from_secs(2);

/// Notes how far the target has the range of a task.
pub(super) async fn settle(context: &Context, task: &grant::Task) {
    let grant::Task::Range(task) = task else { return };
    let (Some(step), Some(range)) = (&task.step, &task.range) else { return };
    let Ok(name) = StepName::parse(step.name.as_str()) else { return };
    match timeout(LIMIT, look(context, &name, range.ordinal)).await {
        Ok(Ok(Some((rows, rows_walked)))) => context.lease.progress(rows, rows_walked),
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::warn!(error, "how far the target has a range was not seen"),
        Err(_) => tracing::warn!("how far the target has a range was not seen in time"),
    }
}

async fn look(context: &Context, step: &StepName, range: i32) -> Result<Option<(i64, i64)>, String> {
    let mut connection = context.target.lend().await.map_err(|error| error.to_string())?;
    let of_postgres = |error: tokio_postgres::Error| describe(&error);
    connection.begin(&context.frame().begin(Durability::AtCommit)).await.map_err(of_postgres)?;
    let address = context.address(Some(step), range);
    match ledger::held(&connection, &address, context.epoch).await {
        Ok(held) => {
            connection.commit().await.map_err(of_postgres)?;
            Ok(held)
        }
        Err(error) => {
            connection.rollback().await;
            Err(error.to_string())
        }
    }
}
