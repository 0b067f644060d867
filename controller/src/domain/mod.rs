//! What the controller decides, as pure functions: no clock, no database, no network.
//!
//! Each state machine has one total function `next`; the tables keep the same invariants as `CHECK` constraints. The
//! store loads what a decision needs under locks, asks the domain, and writes what it answered in the same transaction.

mod advance;
mod backoff;
mod cascade;
pub mod ending;
mod event;
pub mod followed;
pub mod identity;
mod last_word;
pub mod mending;
mod messages;
mod plan;
pub mod register;
pub mod report;
pub mod run;
mod setback;
pub mod speed;
pub mod step;
pub mod task;
#[cfg(test)]
mod tests;
pub mod waits;

pub use advance::{Changes, Error, Passing, Run, Task, Verdict, advance, begin};
pub use backoff::backoff;
pub use cascade::{Cancelled, Queued, cascade};
pub use event::{Event, Severity, Type as EventType};
pub use mending::Mending;
pub(crate) use plan::WHOLE;
pub use plan::{NewTask, Then, first, then};
