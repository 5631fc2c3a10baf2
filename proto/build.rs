//! Generates the protocol's types with a compiler written in Rust, so that building needs no `protoc`.

use prost::Message as _;

const FILES: [&str; 6] = [
    "qbroker/v1/types.proto",
    "qbroker/v1/publisher_service.proto",
    "qbroker/v1/consumer_service.proto",
    "qbroker/v1/admin_service.proto",
    "qbroker/v1/state_service.proto",
    "qbroker/v1/schedule_service.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=qbroker");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Payloads are slices of the buffer they arrived in, not copies.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
