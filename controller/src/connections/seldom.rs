//! Lines of the log that would come a thousand times a second: one in ten seconds tells of all.

use std::time::Duration;

use tokio::time::Instant;

/// The time between two lines.
const REST: Duration = Duration::from_secs(10);

/// When the last line was, and what has happened since.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    last: Option<Instant>,
    untold: u64,
}

impl Seldom {
    /// It has happened once more. Tells how often since the last line, where it is time for one.
    pub(super) fn again(&mut self) -> Option<u64> {
        self.untold += 1;
        if self.last.is_some_and(|last| last.elapsed() < REST) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_tells_of_all_that_happened_since_the_last() {
        let mut seldom = Seldom::default();
        assert_eq!(seldom.again(), Some(1));
        assert_eq!((0..1000).filter_map(|_| seldom.again()).count(), 0);
        tokio::time::advance(REST).await;
        assert_eq!(seldom.again(), Some(1001));
    }
}
