//! Connections to a target that came to a bad end, counted with the task that had them, across agents.
//!
//! A step that crashes the server would do so again and again, and each time all of the application's connections are lost. So it is
//! repeated a few times only: the crash may have been that of another. An agent whose transactions the server ends, because they stand
//! still, gets no CPU: others may do better, and if none does, trying on is of no use.
//!
//! What must stay true: progress starts the count anew, and nothing else does.

use super::run::Failure;

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server crashed while it executed a statement of the task.
    ServerCrashed,
    /// The transaction stood still, so the server ended it.
    StoodStill,
}

impl Ending {
    /// The time that is the last.
    const fn last(self) -> i32 {
        match self {
            Self::ServerCrashed => 3,
            Self::StoodStill => 5,
        }
    }
}

/// How often a task has met them since it last made progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endings {
    /// Crashes of the server.
    pub crashes: i32,
    /// Transactions that stood still.
    pub standstills: i32,
    /// The rows that the task had walked by then.
    pub rows_walked: i64,
}

impl Endings {
    /// Counts one more, of a task that has walked so many rows, and says so in its failure. True when it was the last.
    pub(super) fn count(&mut self, ending: Ending, rows_walked: i64, failure: &mut Failure) -> bool {
        if rows_walked > self.rows_walked {
            *self = Self { rows_walked, ..Self::default() };
        }
        let times = match ending {
            Ending::ServerCrashed => &mut self.crashes,
            Ending::StoodStill => &mut self.standstills,
        };
        *times = times.saturating_add(1);
        let (times, last) = (*times, ending.last());
        let over = times >= last;
        failure.message = if over {
            format!("{} ({times} times, without progress between)", failure.message)
        } else {
            format!("{} (time {times} of {last})", failure.message)
        };
        over
    }
}
