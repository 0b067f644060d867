//! How long a task rests before it is tried again.

use std::time::Duration;

use super::report::Retry;

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

/// The rest after an error that can pass, which was met `tries` times before: the shortest at first, twice as long each time, up
/// to the longest. Never less than the shortest: it is a multiple of the time for which the task was in the way of others.
///
/// `jitter` lies between 0 and 1.
pub(super) fn rest(retry: Retry, tries: u32, jitter: f64) -> Duration {
    let shortest = retry.pause;
    let doubled = shortest.saturating_mul(1_u32.checked_shl(tries).unwrap_or(u32::MAX));
    let full = doubled.min(retry.longest_pause).max(shortest + shortest / 2);
    let least = (full / 2).max(shortest);
    least + (full - least).mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_after_an_error_that_passes_is_never_shorter_than_the_agent_asks_for_and_grows() {
        let retry = Retry { pause: Duration::from_secs(5), ..Retry::default() };
        for jitter in [0.0, 0.5, 1.0] {
            let rests: Vec<Duration> = (0..40).map(|tries| rest(retry, tries, jitter)).collect();
            assert!(rests.iter().all(|rest| (5..=60).contains(&rest.as_secs())), "{rests:?}");
            assert!(rests.is_sorted(), "{rests:?}");
            assert!(rests[39] >= Duration::from_secs(30), "{rests:?}");
        }
        assert_ne!(rest(retry, 0, 0.0), rest(retry, 0, 1.0), "who failed together does not come back together");
        let slow = Retry { pause: Duration::from_secs(600), ..Retry::default() };
        assert!(rest(slow, 9, 0.0) >= Duration::from_secs(600), "also where that is longer than the longest");
    }

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
