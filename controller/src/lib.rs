//! Dunlin's controller: it registers migrations, schedules their runs, leases tasks to agents, and keeps the history.
//!
//! The way of a request: `grpc` asks, `domain` decides, `store` makes it so in one transaction, an event says so. The way
//! of work: `store`, `dispatch`, an agent's stream, and back through `advance` into the store. All replicas are equal and
//! keep nothing but what stands in their common database.

mod advance;
mod config;
mod connections;
mod dispatch;
pub mod domain;
mod grpc;
mod memory;
mod replica;
mod retention;
mod serve;
mod signals;
pub mod store;

pub use config::Config;
pub use serve::{Error, serve, serve_on};
