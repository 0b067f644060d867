//! Connections of clients: how many there may be, and how long one may say nothing.
//!
//! Nobody who connects is known. What must stay true, whoever comes: the connections to the database always have descriptors,
//! a single peer never takes the place of all others, and whoever says nothing is closed.

mod door;
mod opening;
mod room;
mod seldom;

pub(crate) use door::incoming;
pub(crate) use room::Error;
pub(crate) use room::Room;
