//! What requests take in memory, all together.
//!
//! Each request has its limit; a thousand at once have none. So a long message is read only when there is room for it, and others wait
//! for theirs. What must stay true: with the memory of `deploy/k8s`, whatever clients send, a controller lives.

mod metered;
mod room;

pub(crate) use room::{Room, Taken, layer};
