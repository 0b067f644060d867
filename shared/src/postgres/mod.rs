//! PostgreSQL connections: URLs, TLS, pools, and throwaway servers.
//!
//! URLs are those of libpq. TLS is rustls with ring. No text that this module makes, whether an error or a debug form,
//! holds a password.

mod connect;
mod pid;
pub mod throwaway;
mod tls;
mod url;

pub use connect::{Connector, Error, connect, describe, listen, pool};
pub use pid::told_pid;

#[cfg(test)]
mod live;
