//! The services: they check what they are asked, ask the store, and put the answer into messages.

mod agent;
#[cfg(test)]
mod bogus;
pub(crate) mod convert;
mod fleet;
mod page;
mod pages;
mod registry;
mod runs;
mod status;
mod watch;

pub(crate) use agent::Agents;
pub(crate) use fleet::Fleet;
pub(crate) use registry::Registry;
pub(crate) use runs::Runs;
