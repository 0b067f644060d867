//! The parsed form of a definition, as controller and agent work with it and the controller stores it (as JSON).
//!
//! Values come from [`Set::parse`](super::set::Set::parse), which has refused everything that breaks a rule; the types
//! keep the rules that others rely on. The JSON form is stored: fields may be added with a default, never renamed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::checksum::{Checksum, checksum};
use super::isolation::{self, Isolation};
use super::mending::Wanted;
use crate::ids::{MigrationId, StepName, TransformName};
use crate::sql::lex;

/// A declared change of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The name of the migration in every command, message and table.
    pub id: MigrationId,
    /// A short title for people.
    pub name: String,
    /// What changes and why, for people.
    pub description: String,
    /// The schema version that a target has once this migration is applied.
    pub version: Version,
    /// The migrations that must be applied on a target before this one starts there.
    #[serde(default)]
    pub run_after: Vec<MigrationId>,
    /// What the migration touches, as documented by its author.
    #[serde(default)]
    pub impacts: Vec<String>,
    /// Checks that must hold before the first step.
    #[serde(default)]
    pub before: Vec<Check>,
    /// The steps, in the order in which they run. None: the change is made elsewhere, and is only checked and recorded.
    pub steps: Vec<Step>,
    /// Checks that must hold after the last step.
    #[serde(default)]
    pub after: Vec<Check>,
    /// The steps that undo the migration.
    #[serde(default)]
    pub rollback: Vec<Step>,
    /// The isolation of its transaction, where it is one. `None`: read committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
}

impl Definition {
    /// The checksum over everything that the definition says, its SQL included.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        checksum("definition", self)
    }

    /// The checksum over what the definition does to a database: without its name, description and impacts, and without the
    /// comments and the layout of its SQL. Two definitions that share it need not be told apart by what has one of them.
    #[must_use]
    pub fn deed(&self) -> Checksum {
        let mut deed = self.clone();
        deed.name.clear();
        deed.description.clear();
        deed.impacts.clear();
        for check in deed.before.iter_mut().chain(&mut deed.after) {
            check.sql = lex::without_layout(&check.sql);
        }
        for step in deed.steps.iter_mut().chain(&mut deed.rollback) {
            match &mut step.body {
                StepBody::Sql { sql, .. } | StepBody::Batch { sql, .. } => *sql = lex::without_layout(sql),
                StepBody::Transform { .. } => {}
            }
        }
        checksum("deed", &deed)
    }

    /// True when all steps are transactional SQL and none asks for a transaction of its own, or there are none: the migration
    /// is then one transaction with its checks
    /// and its registry row.
    #[must_use]
    pub fn is_atomic(&self) -> bool {
        isolation::atomic(&self.steps)
    }
}

/// A query that must return true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is checked, in words.
    pub name: String,
    /// A query that returns one row with one boolean.
    pub sql: String,
    /// True where it sees only the rows that policies let the agent's role see.
    #[serde(default, skip_serializing_if = "is_false")]
    pub row_security: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// One part of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The name, unique among the steps of the migration.
    pub name: StepName,
    /// The name that the step had in an earlier text of the definition: what a target has of it goes on under the new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<StepName>,
    /// True when the step may be carried out again over what it has done already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idempotent: bool,
    /// True where the step may fill unlogged tables, which a crash of the server empties.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlogged: bool,
    /// True where the step may write foreign tables, whose server commits by itself: a batch may then be applied twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
    /// True where nobody looks where `:batch` stands in its statement.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub batch_is_mine: bool,
    /// Which rows its statement changes beside those of its batch. `None`: no others of the table that is walked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
    /// What the step does.
    pub body: StepBody,
    /// The isolation of its transactions. `None`: read committed, or what the migration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// True where it sees and changes only the rows that policies let the agent's role see.
    #[serde(default, skip_serializing_if = "is_false")]
    pub row_security: bool,
    /// True where it must not share its transaction with other steps.
    #[serde(default, skip_serializing_if = "is_false")]
    pub own_transaction: bool,
}

impl Step {
    /// The checksum over what the step does to the database. Its name does not count, for steps are told apart by it already; nor does
    /// in how many pieces it is done, or whether it shares its transaction: those may change between two attempts at it.
    #[must_use]
    pub fn checksum(&self) -> Checksum {
        let uncut = |batch: &Batch| Batch { size: None, range: None, stripes: None, plan: None, ..batch.clone() };
        let body = match &self.body {
            StepBody::Batch { batch, sql } => StepBody::Batch { batch: uncut(batch), sql: sql.clone() },
            StepBody::Transform { batch, transform } => {
                StepBody::Transform { batch: uncut(batch), transform: transform.clone() }
            }
            body @ StepBody::Sql { .. } => body.clone(),
        };
        // With the defaults, the body alone: so it was before there were others.
        if self.isolation.is_none() && !self.row_security {
            return checksum("step", &body);
        }
        checksum("step", &(&body, self.isolation, self.row_security))
    }

    /// What is compared with a target that has the migration half done.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted {
            name: self.name.to_string(),
            was: self.was.as_ref().map(ToString::to_string),
            checksum: self.checksum().into(),
            walks: matches!(self.body, StepBody::Batch { .. } | StepBody::Transform { .. }),
            idempotent: self.idempotent,
        }
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StepBody {
    /// SQL in one transaction, or one statement outside a transaction.
    Sql {
        /// The SQL.
        sql: String,
        /// False for one statement outside a transaction.
        transaction: bool,
    },
    /// One statement over a table, in batches in key order.
    Batch {
        /// How the table is cut.
        batch: Batch,
        /// The statement, with `:batch`.
        sql: String,
    },
    /// Code in an agent over a table, in batches in key order.
    Transform {
        /// How the table is cut.
        batch: Batch,
        /// The name of the code.
        transform: TransformName,
    },
}

/// How a table is cut into ranges and batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The table as SQL writes it: quoted where needed, qualified with its schema or found through the search path.
    pub table: String,
    /// The columns of the key, as they are named in the catalog. Empty: the primary key.
    #[serde(default)]
    pub key: Vec<String>,
    /// Rows in one batch, which is one transaction. `None`: the agent decides.
    #[serde(default)]
    pub size: Option<u32>,
    /// Rows in one range, which is the unit that is leased. `None`: the agent decides.
    #[serde(default)]
    pub range: Option<u32>,
    /// Stripes in a window; 1 is plain key order. `None`: chosen by what the agent measures.
    #[serde(default)]
    pub stripes: Option<u32>,
    /// Which plans of the statement are refused. `None`: none, but one that reads the whole table for each batch is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanRule>,
}

/// Which rows of the table that is walked a statement changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changes {
    /// Others than those of its batch, too.
    Elsewhere,
}

/// Which plans of a statement are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanRule {
    /// Those that read the whole table for each batch.
    Strict,
}

/// The highest version: the highest number that every reader of JSON takes in unchanged.
const HIGHEST_VERSION: i64 = (1 << 53) - 1;

/// A schema version: 1 to 9007199254740991.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Version(i64);

impl Version {
    /// Takes a number from 1 to 9007199254740991.
    ///
    /// # Errors
    /// Any other number.
    pub fn new(number: i64) -> Result<Self, VersionError> {
        if (1..=HIGHEST_VERSION).contains(&number) { Ok(Self(number)) } else { Err(VersionError(number)) }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

/// A number that is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a version: 1 to 9007199254740991")]
pub struct VersionError(i64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl TryFrom<i64> for Version {
    type Error = VersionError;

    fn try_from(number: i64) -> Result<Self, VersionError> {
        Self::new(number)
    }
}

impl From<Version> for i64 {
    fn from(version: Version) -> Self {
        version.0
    }
}
