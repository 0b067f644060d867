//! How the transactions of a step are isolated, and which steps share one.
//!
//! PostgreSQL lets a transaction choose its isolation before its first query, and an agent's own statements come first. So the level
//! cannot be SQL of a step: it is a field, of the step where the step has a transaction of its own, of the migration where all its
//! steps share one. What must stay true: no step works under another level than the one that its definition shows.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::definition::{Step, StepBody};
use super::fields::{At, Fields, Reader};
use super::set::Problem;

/// An isolation level other than PostgreSQL's and Dunlin's default, read committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// `REPEATABLE READ`.
    RepeatableRead,
    /// `SERIALIZABLE`.
    Serializable,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RepeatableRead => "repeatable read",
            Self::Serializable => "serializable",
        })
    }
}

/// Reads the field `isolation`.
pub(super) fn read(reader: &mut Reader<'_>, fields: &mut Fields<'_>) -> Option<At<Isolation>> {
    let text = fields.string(reader, "isolation")?;
    let value = match &*text.value {
        "serializable" => Isolation::Serializable,
        "repeatable read" => Isolation::RepeatableRead,
        other => {
            let help = "write \"serializable\" or \"repeatable read\", or leave it out for \"read committed\"";
            reader.tell_with_help(text.at, format!("\"{other}\" is not an isolation level to choose"), help);
            return None;
        }
    };
    Some(At { value, at: text.at })
}

/// In which transaction a step is executed, as its definition says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transaction {
    /// One that it may share with the other steps.
    Any,
    /// One of its own.
    Own,
    /// None.
    Outside,
}

/// What is known of a step beside itself, until all steps of its list are known.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// Where it says its isolation.
    pub(super) isolation_at: Option<usize>,
    /// What is wrong with its SQL where other steps share its transaction.
    pub(super) when_shared: Vec<Problem>,
}

/// What is wrong with steps for sharing a transaction, or for having several. `isolation` is the migration's.
pub(super) fn together(reader: &mut Reader<'_>, isolation: Option<&At<Isolation>>, steps: &[Step], noted: Vec<Noted>) {
    if !atomic(steps) {
        if let Some(isolation) = isolation {
            let message = "`isolation` of a migration is that of its one transaction, and this one has several";
            reader.tell_with_help(isolation.at, message, "move it to the steps that need it");
        }
        return;
    }
    let several = noted.len() > 1;
    for noted in noted {
        if let Some(at) = noted.isolation_at.filter(|_| several || isolation.is_some()) {
            let message = "the steps of this migration share one transaction, and so they share its isolation";
            let help = "put `isolation` on the migration instead, or give the step `transaction = \"own\"`";
            reader.tell_with_help(at, message, help);
        }
        if several {
            reader.tell_all(|_| noted.when_shared);
        }
    }
}

/// True when steps share one transaction.
pub(super) fn atomic(steps: &[Step]) -> bool {
    steps.iter().all(|step| !step.own_transaction && matches!(step.body, StepBody::Sql { transaction: true, .. }))
}
