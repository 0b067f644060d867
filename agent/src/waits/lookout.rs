//! Looks at a task that has given no sign of life for a moment: who is in its way, so that it can be told at once and when the task gives
//! up, and how far PostgreSQL is with its statement.
//!
//! It only looks: the waits of a batch end by the server's `lock_timeout`.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dunlin_proto::v1::Activity;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use super::activity::activity;
use super::look::{self, Waiting};
use crate::frame;
use crate::steps::Context;

/// How long a task may give no sign of life before it is looked at, and the time between two looks.
const QUIET: Duration = Duration::from_millis(300);

/// How long a look may take.
const LIMIT: Duration = Duration::from_secs(2);

/// The time between two looks at the progress of a statement.
const PROGRESS: Duration = Duration::from_secs(1);

/// How long a standby may take before that is told.
const STANDBY: Duration = Duration::from_secs(1);

/// What is known of a task that is looked at.
#[derive(Default)]
struct Sight {
    standby_since: Option<Instant>,
    activity: Option<Activity>,
    /// True when the session of the task was last seen to execute something, or to wait.
    works: bool,
    looked: Option<Instant>,
}

/// Looks until it is dropped.
pub(crate) async fn lookout(context: &Context) -> Infallible {
    let name = frame::application_name(&context.mark());
    let mut client = None;
    let mut sight = Sight::default();
    loop {
        let beats = context.beats.load(Ordering::Relaxed);
        sleep(QUIET).await;
        if context.beats.load(Ordering::Relaxed) != beats {
            // What it waited for it has got.
            drop(context.waits.take());
            sight = Sight::default();
            context.lease.alive();
            context.lease.state(context.waits.said(), None);
            continue;
        }
        let seen = timeout(LIMIT, async {
            if client.is_none() {
                client = context.target.session().await.ok();
            }
            match &client {
                Some(client) => look(context, client, &name, &mut sight).await,
                None => {
                    sight.works = true;
                    Ok(())
                }
            }
        })
        .await;
        if !matches!(seen, Ok(Ok(()))) {
            // It is no use any more; the next look makes another one.
            client = None;
            // What cannot be seen is not held against the task.
            sight.works = true;
        }
        if sight.works {
            context.lease.alive();
        }
        let standby = sight.standby_since.is_some_and(|since| since.elapsed() >= STANDBY);
        let standby = standby.then(|| "for a standby to confirm a commit (synchronous_standby_names)".to_owned());
        context.lease.state(context.waits.now().or(standby), sight.activity.clone());
    }
}

async fn look(context: &Context, client: &Client, name: &str, sight: &mut Sight) -> Result<(), tokio_postgres::Error> {
    let waiting = look::waiting(client, name).await?;
    match waiting {
        Some(Waiting::Standby) => drop(sight.standby_since.get_or_insert_with(Instant::now)),
        _ => sight.standby_since = None,
    }
    match waiting {
        Some(Waiting::Lock(backend)) => {
            if let Some(wait) = look::look(client, backend).await? {
                context.waits.see(&wait);
            }
        }
        _ => context.waits.over(),
    }
    if sight.looked.is_none_or(|looked| looked.elapsed() >= PROGRESS) {
        (sight.works, sight.activity) = activity(client, name).await?;
        sight.looked = Some(Instant::now());
    }
    Ok(())
}
