//! Dunlin's agent: it works on the tasks that a controller leases, inside the target databases.
//!
//! The program `dunlin-agent` does everything that a definition can say in SQL. A program of your own embeds this library to
//! do more: it registers transforms in code, and serves them together with everything else.
//!
//! ```no_run
//! use async_trait::async_trait;
//! use dunlin_agent::transform::{self, Batch, Outcome, Transform};
//! use dunlin_agent::{Agent, tokio_postgres::Transaction};
//!
//! /// Normalises e-mail addresses with a rule that SQL cannot express.
//! struct Normalise;
//!
//! #[async_trait]
//! impl Transform for Normalise {
//!     async fn apply(&self, batch: &Batch, transaction: &Transaction<'_>) -> Result<Outcome, transform::Error> {
//!         let table = batch.table();
//!         let rows = transaction
//!             .query(&format!("SELECT id, email FROM {table} AS u WHERE {}", batch.predicate("u")), &[])
//!             .await?;
//!         let mut updated = 0;
//!         for row in rows {
//!             let (id, email): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
//!             let normal = email.trim().to_lowercase();
//!             if normal != email {
//!                 updated += transaction
//!                     .execute(&format!("UPDATE {table} SET email = $2 WHERE id = $1"), &[&id, &normal])
//!                     .await?;
//!             }
//!         }
//!         Ok(Outcome::rows(updated).count("emails_normalised", updated))
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let agent = Agent::builder()
//!     .controller("http://127.0.0.1:7440")
//!     .target("main", "postgres://app@localhost/app")
//!     .slots(2)
//!     .transform("normalise-emails", Normalise)
//!     .build()?;
//! agent.run(dunlin_agent::shutdown_signal()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A definition uses it with `transform = "normalise-emails"` and a `batch`. [`Options`] and [`serve`] are the command line and
//! the rest of `dunlin-agent`, for programs that want to look the same.

mod builder;
mod catalog;
mod failpoint;
mod failure;
mod frame;
mod health;
mod ledger;
mod limits;
mod options;
mod own;
mod session;
mod signals;
mod steps;
mod target;
#[cfg(test)]
mod testing;
pub mod transform;
mod waits;
mod watchdog;
mod worker;

pub use builder::{Agent, Builder, Error, RunError};
pub use limits::Limits;
pub use options::{Options, serve};
pub use signals::shutdown_signal;
pub use tokio_postgres;
