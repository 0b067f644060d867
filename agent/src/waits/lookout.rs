//! Looks who is in the way of a task that has given no sign of life for a moment, so that it can be told when the task gives up.
//!
//! It only looks: the waits of a batch end by the server's `lock_timeout`.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::look;
use crate::frame;
use crate::steps::Context;

/// How long a task may give no sign of life before it is looked at, and the time between two looks.
const QUIET: Duration = Duration::from_millis(300);

/// How long a look may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Looks until it is dropped.
pub(crate) async fn lookout(context: &Context) -> Infallible {
    let name = frame::application_name(&context.mark());
    let mut client = None;
    loop {
        let beats = context.beats.load(Ordering::Relaxed);
        sleep(QUIET).await;
        if context.beats.load(Ordering::Relaxed) != beats {
            // What it waited for it has got.
            drop(context.waits.take());
            continue;
        }
        let seen = timeout(LIMIT, async {
            if client.is_none() {
                client = context.target.session().await.ok();
            }
            let Some(client) = &client else { return Ok(None) };
            match look::waiting(client, &name).await? {
                Some(backend) => look::look(client, backend).await,
                None => Ok(None),
            }
        })
        .await;
        match seen {
            Ok(Ok(Some(wait))) => drop(context.waits.see(&wait)),
            Ok(Ok(None)) => {}
            // It is no use any more; the next look makes another one.
            Ok(Err(_)) | Err(_) => client = None,
        }
    }
}
