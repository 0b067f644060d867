//! Ports to listen on.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports below those that Linux and macOS hand to outgoing connections, so that nobody takes one between two starts.
const PORTS: Range<u16> = 18_000..31_000;

/// A loopback port that nobody listens on, handed out once by this program.
///
/// # Panics
/// When none is free.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Test programs that run side by side begin at different places.
    let start = u16::try_from(std::process::id() % u32::from(count)).unwrap_or(0);
    (0..count)
        .map(|_| PORTS.start + (start + NEXT.fetch_add(1, Ordering::Relaxed) % count) % count)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
