//! Waiting for locks: who is in the way, and for how long that is allowed; and what PostgreSQL says of its progress.

mod activity;
mod look;
mod lookout;
mod seen;
mod watcher;

pub(crate) use look::{Backend, Kind, WHO, Wait, backend, cancel, look};
pub(crate) use lookout::lookout;
pub(crate) use seen::Seen;
pub(crate) use watcher::Watcher;
