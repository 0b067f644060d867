//! Ready tasks to free slots: woken by events, never by a clock alone.

mod connection;
mod dispatcher;
mod hub;
mod timer;

pub(crate) use connection::{Connection, Ending, Held, Identity, OUTGOING};
pub(crate) use dispatcher::dispatch;
pub(crate) use hub::{Hub, replaced};
pub(crate) use timer::keep_time;
