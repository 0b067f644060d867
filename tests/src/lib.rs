//! The harness of the end-to-end tests: a fleet of real processes on a real PostgreSQL, put together by a builder.
//!
//! Each [`fleet::Fleet`] has databases, ports and a directory of its own, so tests run side by side on the one throwaway
//! server of the test program. Its processes are killed when it is dropped; when the test failed, the ends of their logs
//! are printed first.
//!
//! Nothing here waits for a fixed time: [`until::until`] looks again until something is so, or its deadline passes, and a
//! [`gate::Gate`] stops a batch at a chosen row, so that "in the middle" is a place and not a moment.
//!
//! A harness has nobody to report to but the test: what cannot be is a panic with a sentence.

pub mod command;
pub mod database;
pub mod fleet;
pub mod gate;
pub mod numbers;
pub mod pooler;
pub mod ports;
pub mod process;
pub mod programs;
pub mod until;
pub mod way;
