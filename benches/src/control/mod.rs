//! `make bench-control`: what the control plane itself can do, with agents that do no work in a target.
//!
//! The controllers are real processes on a real PostgreSQL with `fsync` on. The agents are played by the benchmark: each
//! has a connection and a stream of its own, is granted tasks and reports them done at once, so what is left is the cost of
//! leasing. Everything runs on one machine, so figures are to be compared within one run only.

mod agent;
mod controllers;
mod crowd;
mod cycles;
mod growth;
mod idle;
mod migrations;
mod planner;
mod raw;
mod stage;
mod suite;
mod table;
mod usage;

pub(crate) use suite::{Options, run};
