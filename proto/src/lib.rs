//! The qbroker protocol, package `qbroker.v1`.
//!
//! The `.proto` files beside this crate are the protocol's reference: every field and every error is
//! documented there. This crate is generated from them at build time; the codec is all that it adds.

pub mod codec;

/// Package `qbroker.v1`: messages, service clients and service servers.
pub mod v1 {
    #![allow(missing_debug_implementations, clippy::all, clippy::pedantic, unreachable_pub)]
    #![allow(clippy::str_to_string, clippy::large_futures, clippy::use_self, unused_qualifications)]
    tonic::include_proto!("qbroker.v1");
}

/// What carries messages, deliveries and settlements, with each of them still encoded: the same on
/// the wire as in [`v1`].
///
/// Who handles very many of them decodes and encodes each where it is needed, and looks at how many
/// there are before anything is made of them.
pub mod raw {
    #![allow(missing_debug_implementations, clippy::all, clippy::pedantic, unreachable_pub)]
    #![allow(clippy::str_to_string, clippy::large_futures, clippy::use_self, unused_qualifications)]
    include!(concat!(env!("OUT_DIR"), "/raw/qbroker.v1.rs"));
}

/// The compiled `FileDescriptorSet`, as gRPC reflection serves it.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
