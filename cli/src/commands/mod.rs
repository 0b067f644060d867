//! The commands, one file each: its options, and what it does.

pub(crate) mod agent;
pub(crate) mod agents;
pub(crate) mod cancel;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod dev;
pub(crate) mod events;
mod execute;
mod forget;
mod grants;
pub(crate) mod list;
pub(crate) mod new;
pub(crate) mod plan;
pub(crate) mod register;
mod repeat;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod target;
pub(crate) mod targets;
pub(crate) mod version;
pub(crate) mod wait;
pub(crate) mod watch;

pub(crate) use execute::execute;
