//! Generates the floor's types with a compiler written in Rust, so that building needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["floor/v1/floor_service.proto"], ["proto"])?;
    // Payloads are slices of the buffer they arrived in, not copies: as in the broker's protocol.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
