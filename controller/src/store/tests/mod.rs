//! The store against a real PostgreSQL.

mod cancelling;
mod claims;
mod expanding;
mod forgetting;
mod lab;
mod plans;
mod progress;
mod registering;
mod reports;
mod retention;
mod schedule;
mod schema;
mod stuck;
mod targets;
