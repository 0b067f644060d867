//! The controller's database: the only place with SQL. One file for each concern, one named operation for each use.

mod advancing;
pub mod agents;
mod applied;
pub mod cancelling;
pub mod claims;
mod database;
mod error;
pub mod events;
mod flush;
pub mod following;
pub mod forgetting;
pub mod half_done;
pub mod identity;
pub mod leases;
mod listening;
mod locks;
mod log;
pub mod migrations;
pub mod queueing;
pub mod rebinding;
pub mod registering;
pub mod reports;
pub mod retention;
pub mod runs;
mod schema;
mod session;
mod starting;
mod stuck;
pub mod targets;
#[cfg(test)]
mod tests;
mod wake;

pub use database::{Availability, Store};
pub use error::Error;
pub use listening::Heard;
pub use wake::Wake;
