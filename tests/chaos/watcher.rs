//! Whoever follows a target over all faults, at whichever controller, from where it stopped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_proto::client;
use dunlin_proto::v1::WatchRunsRequest;
use tokio::time::{sleep, timeout};

use crate::api::{Api, passes};
use crate::history::Told;
use crate::violations::Violations;

/// How long a controller may take to begin.
const LIMIT: Duration = Duration::from_secs(10);

/// What a watcher was told so far.
pub(crate) type Story = Arc<Mutex<Vec<Told>>>;

/// Follows every run of a target behind a number in its history, until it is dropped.
pub(crate) async fn watch(api: Api, target: &'static str, mut sequence: i64, story: Story, violations: Violations) {
    loop {
        if let Some(channel) = api.connect().await {
            let request = WatchRunsRequest {
                all: true,
                target: target.to_owned(),
                after_sequence: sequence,
                ..WatchRunsRequest::default()
            };
            let mut runs = client::runs(channel);
            let status = match timeout(LIMIT, runs.watch_runs(request)).await {
                Err(_) => None,
                Ok(Err(status)) => Some(status),
                Ok(Ok(response)) => {
                    let mut stream = response.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(response)) => {
                                sequence = response.sequence;
                                if let Some(event) = response.event {
                                    let told = Told {
                                        sequence: event.sequence,
                                        id: event.id,
                                        run: event.run_id,
                                        message: event.message,
                                    };
                                    story.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                                }
                            }
                            Ok(None) => break None,
                            Err(status) => break Some(status),
                        }
                    }
                }
            };
            if let Some(status) = status.filter(|status| !passes(status)) {
                violations.add(format!("the watcher of {target} was refused: {}: {}", status.code(), status.message()));
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}
