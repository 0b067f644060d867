//! What Dunlin's controller, agent and command agree on: definitions of migrations and their order, keys and ranges,
//! ids, and the way to PostgreSQL.
//!
//! Free of input and output but for [`open_files`], [`postgres`], [`telemetry`] and [`migration::set::read_dir`].

pub mod failpoint;
pub mod figures;
pub mod graph;
pub mod ids;
pub mod key;
pub mod migration;
pub mod open_files;
pub mod postgres;
pub mod sql;
pub mod telemetry;
pub mod visible;
