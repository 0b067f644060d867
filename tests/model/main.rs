//! The protocol of leases, model-checked: every order in which the things that can happen may happen.
//!
//! The model is of what the programs do to one step of one migration: the controller's tasks, the agents' workers, the target's
//! checkpoints and log, and the messages between them. It is checked whole, for the bounds that each test names; and variants of
//! it in which one rule is left out are each caught, so that a model which has become too kind is noticed.
//!
//! Where to look for the code that is modelled: `controller/src/domain/task.rs` and `controller/src/store/{claims,leases,reports,
//! agents}.rs` for the tasks, `agent/src/ledger/{checkpoint,advance,steps}.rs`, `agent/src/steps/range` and `agent/src/worker` for the
//! workers. Whoever changes a rule there changes it here too.

mod action;
mod broken;
mod properties;
mod rules;
mod state;
mod step;
mod whole;
