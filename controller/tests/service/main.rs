//! The services over loopback, with agents that do as they are told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod answers;
mod crashes;
mod faults;
mod fleet;
mod forgetting;
mod hostile;
mod lab;
mod malformed;
mod raw;
mod runs;
mod watching;
