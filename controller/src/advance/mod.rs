//! Runs forward: what agents report is stored, acknowledged, and its consequences are looked at.

mod heartbeats;
mod lanes;

pub(crate) use heartbeats::Heartbeats;
pub(crate) use lanes::{Filing, Lanes};
