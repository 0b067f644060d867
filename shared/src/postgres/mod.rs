//! PostgreSQL connections: URLs, TLS, pools, and throwaway servers.
//!
//! URLs are those of libpq. TLS is rustls with ring. No text that this module makes, whether an error or a debug form,
//! holds a password.

mod clients;
mod connect;
mod dial;
mod end;
mod error;
mod files;
mod insecure;
mod notice;
mod passfile;
mod pid;
mod reach;
mod session;
mod source;
pub mod throwaway;
mod tls;
mod url;
mod wire;

pub use clients::{Clients, LentClient, Maker, Pooled};
pub use connect::{Connector, connect, listen, pool};
pub use end::{Ending, Witness};
pub use error::{Error, describe};
pub use insecure::Insecurity;
pub use notice::{Failed, Heard, Level, Notice};
pub use pid::told_pid;
pub use session::{Cancel, Lent, Manager, Session, Sessions};
pub use url::Mode;
pub use wire::{MOST_IN_MESSAGE, OVERSIZED};

#[cfg(test)]
mod live;
#[cfg(test)]
mod live_tls;
