//! Everything on one machine: PostgreSQL, a controller and agents, as children of this process.
//!
//! What must stay true: nothing is left behind, however this process ends. Each child has a small shell above it that
//! waits for the end of its standard input, which the kernel closes with this process, killed or not.

mod child;
mod database;
mod programs;
mod stack;

pub(crate) use stack::{Settings, Stack};
