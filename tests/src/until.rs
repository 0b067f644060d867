//! Waiting for something to be so, without ever waiting for a fixed time.

use std::time::Duration;

use tokio::time::Instant;

/// How long anything may take. Far more than it takes: it only ends a test that would never end.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// How often to look.
const PAUSE: Duration = Duration::from_millis(10);

/// Calls `probe` until it returns something, and returns that.
///
/// # Panics
/// When [`DEADLINE`] passes first; `what` says what was waited for.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain: {what}", DEADLINE.as_secs());
        tokio::time::sleep(PAUSE).await;
    }
}
