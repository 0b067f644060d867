//! PostgreSQL connections: URLs, TLS, pools, and throwaway servers.
//!
//! URLs are those of libpq. TLS is rustls with ring. No text that this module makes, whether an error or a debug form,
//! holds a password.

mod connect;
mod dial;
mod end;
mod notice;
mod pid;
mod session;
pub mod throwaway;
mod tls;
mod url;
mod wire;

pub use connect::{Connector, Error, connect, describe, listen, pool};
pub use end::{Ending, Witness};
pub use notice::{Failed, Heard, Level, Notice};
pub use pid::told_pid;
pub use session::{Cancel, Lent, Manager, Session, Sessions};
pub use wire::{MOST_IN_MESSAGE, OVERSIZED};

#[cfg(test)]
mod live;
