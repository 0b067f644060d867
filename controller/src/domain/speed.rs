//! How fast a step is walked: the rows of the last seconds, from samples that lie with the step.
//!
//! A sample is taken when rows are told of and the last one is old enough. It says how many rows had been walked before those: so between
//! two samples that lie far apart nothing has moved for most of the time, and what moved before a standstill is told apart from what moved
//! behind it. Rows of earlier attempts are in no figure here.

use std::time::Duration;

/// The time that a speed is about.
pub const WINDOW: Duration = Duration::from_secs(10);

/// The least time between two samples, of which the newest six are kept behind a new one: enough for the whole window. The statements
/// that take samples have the same figures.
const BETWEEN: Duration = Duration::from_secs(2);

/// A step that has just begun has no speed of its first moments alone.
const LEAST: Duration = Duration::from_millis(200);

/// How many rows were walked at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How long ago that was.
    pub ago: Duration,
    /// The rows that had been walked.
    pub walked: i64,
}

/// Rows walked in a second over the last [`WINDOW`], or since the step began where that is less. `samples` come oldest first; `began` is
/// how long ago the step did, `walked` what is walked now.
#[must_use]
pub fn rows_per_second(samples: &[Sample], began: Duration, walked: i64) -> f64 {
    let Some(first) = samples.iter().position(|sample| sample.ago < WINDOW) else { return 0.0 };
    let inside = samples[first];
    let before = first.checked_sub(1).map(|before| samples[before]);
    let (start, elapsed) = match before {
        None => (to_f64(inside.walked), began.clamp(inside.ago, WINDOW)),
        Some(before) => {
            // Behind the older sample rows moved for a moment only where the next one is far away.
            let still = before.ago.saturating_sub(BETWEEN).max(inside.ago);
            let part = match before.ago.saturating_sub(still) {
                Duration::ZERO => 1.0,
                moved => (before.ago.saturating_sub(WINDOW).as_secs_f64() / moved.as_secs_f64()).min(1.0),
            };
            let moved = to_f64(inside.walked.saturating_sub(before.walked));
            (moved.mul_add(part, to_f64(before.walked)), WINDOW)
        }
    };
    ((to_f64(walked) - start) / elapsed.max(LEAST).as_secs_f64()).max(0.0)
}

/// A count as a float, exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of rows above 2^53 may be inexact")]
pub(crate) fn to_f64(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples as the store takes them: `told` are moments in tenths of a second at which so many rows were told of.
    fn speed(told: &[(u64, i64)], now: u64) -> f64 {
        let mut samples: Vec<(u64, i64)> = Vec::new();
        let mut walked = 0;
        for (at, rows) in told {
            if samples.last().is_none_or(|(last, _)| at - last >= 20) {
                samples.push((*at, walked));
            }
            walked += rows;
        }
        let keep = samples.len().saturating_sub(7);
        let ago = |at: u64| Duration::from_millis((now - at) * 100);
        let samples: Vec<Sample> =
            samples[keep..].iter().map(|(at, walked)| Sample { ago: ago(*at), walked: *walked }).collect();
        rows_per_second(&samples, ago(0), walked)
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() <= expected * 0.05 + 1.0, "{found} instead of {expected}");
    }

    #[test]
    fn the_speed_is_that_of_the_last_seconds() {
        let steady: Vec<(u64, i64)> = (1..=600).map(|at| (at, 100)).collect();
        for now in [600, 603, 607] {
            near(speed(&steady, now), 1000.0 * (1.0 - f64::from(u32::try_from(now - 600).unwrap()) / 100.0));
        }
        let mut faster = steady;
        faster.extend((601..=750).map(|at| (at, 500)));
        near(speed(&faster, 750), 5000.0);
    }

    #[test]
    fn a_step_that_has_just_begun_has_the_speed_since_then() {
        let begun: Vec<(u64, i64)> = (1..=30).map(|at| (at, 100)).collect();
        near(speed(&begun, 30), 1000.0);
    }

    #[test]
    fn nothing_moves_and_there_is_no_speed() {
        let steady: Vec<(u64, i64)> = (1..=600).map(|at| (at, 100)).collect();
        near(speed(&steady, 650), 500.0);
        for now in [700, 720, 800, 10_000] {
            assert!(speed(&steady, now) < 1.0, "{now}");
        }
        assert!(speed(&[], 100) < 1.0);
    }

    #[test]
    fn what_moved_before_a_standstill_is_no_part_of_the_speed_behind_it() {
        let mut told: Vec<(u64, i64)> = (1..=619).map(|at| (at, 100)).collect();
        told.extend((1200..=1210).map(|at| (at, 100)));
        near(speed(&told, 1210), 110.0);
    }

    #[test]
    fn batches_that_last_long_are_not_taken_for_fast_ones() {
        let told: Vec<(u64, i64)> = (1..=20).map(|batch| (batch * 90, 9000)).collect();
        for now in [1800, 1801, 1850] {
            let speed = speed(&told, now);
            assert!((800.0..=1900.0).contains(&speed), "{speed}");
        }
    }
}
