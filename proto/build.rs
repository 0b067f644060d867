//! Compiles the protos without `protoc`, and derives protobuf JSON for the messages.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const FILES: &[&str] = &[
    "dunlin/v1/agent_service.proto",
    "dunlin/v1/fleet_service.proto",
    "dunlin/v1/migration.proto",
    "dunlin/v1/registry_service.proto",
    "dunlin/v1/run.proto",
    "dunlin/v1/run_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["."])?;
    let bytes = descriptors.encode_to_vec();
    std::fs::write(out.join("descriptors.bin"), &bytes)?;

    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds_with_config(descriptors, config)?;
    pbjson_build::Builder::new().register_descriptors(&bytes)?.emit_fields().build(&[".dunlin.v1"])?;
    Ok(())
}
