//! What Dunlin's controller, agent and command agree on.

pub mod postgres;
