//! SQL as text: quoting, and what can be told about a statement without a database.

mod changes;
mod created;
pub(crate) mod foreign;
mod index;
pub(crate) mod lex;
#[cfg(test)]
mod oracle;
pub mod placeholder;
pub mod placement;
mod quote;
pub mod reading;
pub(crate) mod statement;

pub use changes::{Change, changes};
pub use created::{Created, built_concurrently, created};
pub use index::{
    ConcurrentDetach, ConcurrentIndex, ConcurrentReindex, concurrent_detach, concurrent_index, concurrent_reindex,
};
pub use quote::{quote_ident, quote_literal};
pub use statement::{commits_by_itself, drops_index_concurrently, line_of, preparable, statement_offset};
