//! What Dunlin's controller, agent and command agree on.
