//! Generates the protocol's types with a compiler written in Rust, so that building needs no `protoc`.

use std::path::PathBuf;

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

const FILES: [&str; 6] = [
    "qbroker/v1/types.proto",
    "qbroker/v1/publisher_service.proto",
    "qbroker/v1/consumer_service.proto",
    "qbroker/v1/admin_service.proto",
    "qbroker/v1/state_service.proto",
    "qbroker/v1/schedule_service.proto",
];

/// Fields that `raw` leaves encoded: what there may be thousands of in one message.
const ENCODED: [(&str, &str); 3] = [
    ("PublishRequest", "messages"),
    ("DeliveryBatch", "deliveries"),
    ("SettleRequest", "settlements"),
];
/// The messages of `raw`: those with such a field and those that hold them.
const RAW: [&str; 8] = [
    "PublishRequest",
    "PublishBatch",
    "PublishStreamRequest",
    "SettleRequest",
    "ConsumeRequest",
    "DeliveryBatch",
    "ConsumeResponse",
    "PullResponse",
];
const RAW_SERVICES: [&str; 2] = ["PublisherService", "ConsumerService"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=qbroker");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    generate_raw(descriptors.clone(), out.join("raw"))?;
    configure().compile_fds(descriptors)?;
    Ok(())
}

fn configure() -> tonic_prost_build::Builder {
    // Payloads are slices of the buffer they arrived in, not copies.
    tonic_prost_build::configure().bytes(".").codec_path("crate::codec::Codec")
}

/// Generates the services of messages with the types of `raw`, and these; all others are `v1`'s.
fn generate_raw(mut descriptors: FileDescriptorSet, out: PathBuf) -> std::io::Result<()> {
    let mut config = configure().build_client(false).out_dir(&out);
    for file in &mut descriptors.file {
        // Its places are counted in what is taken away here.
        file.source_code_info = None;
        file.service.retain(|service| RAW_SERVICES.contains(&service.name()));
        if file.package() != "qbroker.v1" {
            continue;
        }
        for message in &mut file.message_type {
            leave_encoded(message);
        }
        let messages = file.message_type.iter().map(DescriptorProto::name);
        let enums = file.enum_type.iter().map(prost_types::EnumDescriptorProto::name);
        for name in messages.chain(enums).filter(|name| !RAW.contains(name)) {
            config =
                config.extern_path(format!(".qbroker.v1.{name}"), format!("crate::v1::{name}"));
        }
    }
    std::fs::create_dir_all(&out)?;
    config.compile_fds(descriptors)
}

/// An embedded message and its encoded bytes are the same on the wire.
fn leave_encoded(message: &mut DescriptorProto) {
    let name = message.name().to_owned();
    for field in &mut message.field {
        if ENCODED.contains(&(name.as_str(), field.name())) {
            field.set_type(Type::Bytes);
            field.type_name = None;
        }
    }
}
