//! Generates the floor's types with a compiler written in Rust, so that building needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["floor/v1/floor_service.proto"], ["proto"])?;
    // As in the broker's protocol: payloads are slices of the buffer they arrived in, and so on.
    let config = tonic_prost_build::configure().bytes(".");
    config.codec_path("qbroker_proto::codec::Codec").compile_fds(descriptors)?;
    Ok(())
}
