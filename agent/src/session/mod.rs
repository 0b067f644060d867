//! The agent's side of the stream to a controller.
//!
//! All controllers are equal: the agent connects to whichever answers, and to another when a stream breaks. A broken stream
//! stops no work and loses no lease. On each new stream the agent says what it holds, the controller says which of it is still
//! the agent's, and everything that was not acknowledged is sent again.

mod book;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use book::{Book, Lease, LeaseId, Signal};
pub(crate) use stream::{Session, run};
