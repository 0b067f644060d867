//! Dunlin end to end: `dunlin`, controllers and agents as real processes on a real PostgreSQL.
//!
//! Each test has its own fleet, and reads as a story of what an operator does, or what happens to a fleet. Promises are
//! checked in the target itself, not in what the programs say about it.

#![expect(clippy::unwrap_used, reason = "a test ends where something is missing, in its helpers too")]

mod answers;
mod attaching;
mod checks;
mod command;
mod databases_away;
mod databases_pooled;
mod databases_refused;
mod databases_restored;
mod definitions;
mod dev;
mod errors;
mod examples;
mod failpoints;
mod faults;
mod fleet;
mod foreign;
mod forgetting;
mod history;
mod hostile_connections;
mod hostile_files;
mod hostile_keys;
mod hostile_memory;
mod hostile_path;
mod hostile_schema;
mod hostile_text;
mod identity;
mod indexes;
mod left_open;
mod locks;
mod logs;
mod mending;
mod passwords;
mod placement;
mod progress;
mod readme;
mod recipes;
mod redacted;
mod registering;
mod replicas;
mod scenarios;
mod tables;
mod terminal;
mod unreached;
