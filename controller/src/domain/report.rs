//! What agents report of the tasks that they hold.

use std::time::{Duration, SystemTime};

use dunlin_shared::ids::Epoch;
use dunlin_shared::key::KeyColumn;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ending::Ending;
use super::event;
use super::run::Failure;

/// A report about a lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Ranges that a plan task has cut, in key order.
    Ranges {
        /// The ranges.
        ranges: Vec<Range>,
        /// The columns of the key.
        key: Vec<KeyColumn>,
    },
    /// The task is finished and durable.
    Done {
        /// Rows changed and walked.
        counted: Counted,
        /// True when the target had it finished before this lease.
        already_done: bool,
        /// The registry row that was written.
        applied: Option<Box<Applied>>,
    },
    /// The task met an error.
    Failed {
        /// The error.
        failure: Box<Failure>,
        /// How the task is tried again, where the error can pass.
        retry: Option<Retry>,
        /// Rows changed and walked.
        counted: Counted,
    },
    /// The agent gives the lease back.
    Released {
        /// Why.
        reason: ReleaseReason,
        /// The reason in words.
        message: String,
        /// Rows changed and walked.
        counted: Counted,
    },
    /// The target knows a newer epoch, or has the migration applied another number of times than supposed.
    Stale {
        /// The epoch that the target has; 0 when the registry is the reason.
        stored: Epoch,
        /// How often the target's registry says that the migration was applied.
        applications: i32,
    },
    /// Something for the history.
    Note {
        /// What happened.
        event_type: event::Type,
        /// How much it matters.
        severity: event::Severity,
        /// The step that it is about; empty for the one of the task.
        step: String,
        /// In a sentence; empty where only messages that are not kept are counted.
        message: String,
        /// How many more messages of the server the agent did not keep.
        left_out: i64,
    },
}

/// How a task is tried again after an error that can pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The shortest rest.
    pub pause: Duration,
    /// What rests grow to.
    pub longest_pause: Duration,
    /// How long the task is tried again without progress, before its run fails.
    pub deadline: Duration,
    /// How the connection to the target came to its end, where that is counted.
    pub ending: Option<Ending>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(60),
            deadline: Duration::from_secs(30 * 60),
            ending: None,
        }
    }
}

/// What a task has done so far, over all its leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Rows changed.
    pub rows: i64,
    /// Rows walked.
    pub rows_walked: i64,
    /// Of these, what had been walked when the lease was taken.
    pub rows_walked_before: i64,
}

/// What a heartbeat tells of a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows changed and walked.
    pub counted: Counted,
    /// What the task waits for in the target, as the end of a sentence that begins with "waits"; empty while it does not wait.
    pub waits: String,
    /// How far PostgreSQL is with the statement.
    pub activity: Option<Activity>,
    /// A number that changes while the task gives signs of life.
    pub alive: i64,
}

impl Progress {
    /// Takes in what was told later. Figures never fall.
    pub(crate) fn follow(&mut self, later: Self) {
        let Counted { rows, rows_walked, rows_walked_before } = self.counted;
        let counted = Counted {
            rows: later.counted.rows.max(rows),
            rows_walked: later.counted.rows_walked.max(rows_walked),
            rows_walked_before: later.counted.rows_walked_before.max(rows_walked_before),
        };
        *self = Self { counted, ..later };
    }
}

impl From<Counted> for Progress {
    fn from(counted: Counted) -> Self {
        Self { counted, ..Self::default() }
    }
}

/// How far PostgreSQL is with a statement. Stored as JSON: fields may be added with a default, never renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Activity {
    /// The phase, in PostgreSQL's words.
    pub phase: String,
    /// How much of the phase is done; 0 where that is not counted.
    pub done: i64,
    /// How much there is to do in it; 0 where that is not counted.
    pub total: i64,
    /// What is counted.
    pub unit: String,
}

/// A range of keys: those above low, up to and with high.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its number in its step, from 1.
    pub ordinal: i32,
    /// The key that it lies above; `None` for the first.
    pub low: Option<Vec<String>>,
    /// Its last key.
    pub high: Vec<String>,
    /// Rows counted while planning.
    pub rows_total: i64,
    /// True when the target has it finished already.
    pub done: bool,
    /// Rows changed in it already.
    pub rows: i64,
    /// Rows walked in it already.
    pub rows_walked: i64,
}

/// Why a lease is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseReason {
    /// The agent stops.
    Stopping,
    /// The controller asked for it.
    Revoked,
    /// A plan task lets its ranges go first.
    Yielded,
    /// The target cannot be reached from this agent.
    TargetUnreachable,
    /// Another session still works on the same step outside a transaction.
    Busy,
    /// The target lacks something that comes back without the task: room on its disk, memory.
    TargetShort,
}

/// A row of the registry of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The migration's id, as the target has it.
    pub id: String,
    /// The version.
    pub version: i64,
    /// The name.
    pub name: String,
    /// The checksum of the definition that was applied.
    pub checksum: String,
    /// The revision of that definition; 0 when it is not known.
    pub revision: i32,
    /// How often it was applied.
    pub applications: i32,
    /// The run that applied it last, or 0.
    pub run_id: i64,
    /// The agent that recorded it.
    pub agent_id: String,
    /// Rows changed.
    pub rows: i64,
    /// The result.
    pub result: Map<String, Value>,
    /// When it was applied first.
    pub applied_at: Option<SystemTime>,
    /// When it was applied last.
    pub last_applied_at: Option<SystemTime>,
}
