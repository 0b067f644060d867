//! Migrations: what a definition says, how its text is read, and how it is compared.

mod apart;
mod characters;
mod checksum;
pub(crate) mod contained;
mod definition;
mod document;
mod fields;
mod files;
mod isolation;
pub mod limits;
pub mod mending;
mod place;
mod placed;
mod position;
mod raw;
mod rules;
pub mod schema;
pub mod set;
mod together;
mod values;

pub use checksum::Checksum;
pub use definition::{Batch, Changes, Check, Definition, PlanRule, Step, StepBody, Version, VersionError};
pub use isolation::Isolation;
pub use place::{List, SqlPlace};
