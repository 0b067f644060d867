//! Dunlin's protocol: the messages and services of `dunlin.v1`, generated from the protos beside this crate.
//!
//! Everything that controller, agent and command say to each other goes through these types. The crate also holds the
//! descriptors (for server reflection) and the conversions between messages and what `dunlin-shared` knows.

/// The package `dunlin.v1`.
pub mod v1 {
    #![expect(
        clippy::all,
        clippy::unwrap_used,
        clippy::allow_attributes,
        reason = "generated code"
    )]
    tonic::include_proto!("dunlin.v1");
    include!(concat!(env!("OUT_DIR"), "/dunlin.v1.serde.rs"));
}

/// The encoded `FileDescriptorSet` of all protos, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
