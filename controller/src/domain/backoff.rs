//! How long a task rests before it is tried again.

use std::time::Duration;

/// The first rest.
const FIRST: Duration = Duration::from_millis(200);
/// The longest rest.
const LONGEST: Duration = Duration::from_secs(30);

/// The rest before try `tries + 1`: twice as long each time, at most 30 seconds, shortened by up to half.
///
/// `jitter` lies between 0 and 1 and spreads tasks that failed together.
#[must_use]
pub fn backoff(tries: u32, jitter: f64) -> Duration {
    let full = FIRST.saturating_mul(1_u32.checked_shl(tries).unwrap_or(u32::MAX)).min(LONGEST);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_doubles_and_ends_at_thirty_seconds() {
        assert_eq!(backoff(0, 0.0), Duration::from_millis(200));
        assert_eq!(backoff(1, 0.0), Duration::from_millis(400));
        assert_eq!(backoff(1, 1.0), Duration::from_millis(200));
        for tries in [10, 31, 32, 1_000_000] {
            assert_eq!(backoff(tries, 0.0), Duration::from_secs(30));
        }
    }
}
