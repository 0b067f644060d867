//! PostgreSQL connections: URLs, TLS, pools, and throwaway servers.

pub mod throwaway;
