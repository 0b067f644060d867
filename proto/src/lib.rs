//! Dunlin's protocol: the messages and services of `dunlin.v1`, generated from the protos beside this crate.
//!
//! Everything that controller, agent and command say to each other goes through these types. The crate also holds the
//! descriptors (for server reflection), the conversions between messages and what `dunlin-shared` knows, the one way to
//! connect to a controller, and the one way to make and to read errors with details.

pub mod client;
pub mod codec;
pub mod convert;
pub mod fit;
mod foreign;
pub mod measure;
pub mod status;

/// The package `dunlin.v1`.
pub mod v1 {
    #![expect(clippy::all, clippy::allow_attributes, reason = "generated code")]
    tonic::include_proto!("dunlin.v1");
    include!(concat!(env!("OUT_DIR"), "/dunlin.v1.serde.rs"));
}

/// The encoded `FileDescriptorSet` of all protos, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The longest message in bytes that clients accept: a definition with all of its SQL, and its text.
pub const MESSAGE_LIMIT: usize = 64 * 1024 * 1024;

/// The longest request with a set of definitions in bytes. A set is 16 MiB at most, paths included; the rest is room for the names of
/// migrations to amend.
pub const REGISTER_LIMIT: usize = 20 * 1024 * 1024;
