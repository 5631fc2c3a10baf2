//! The floor: what any durable broker over gRPC must do, and nothing of a broker.
//!
//! Publishing appends to one preallocated file and syncs it once for all that has piled up;
//! consuming reads stored messages from a file, sends them in batches and stores the acks that come
//! back. HTTP/2 windows, allocator, runtime and codec are those of the broker, so that the distance
//! between the two is the work of being a broker.

mod client;
mod log;
mod server;
mod stored;

pub(crate) use client::Floor;
pub(crate) use server::{FloorArgs, serve};

/// The generated types.
#[allow(clippy::all, missing_debug_implementations, unreachable_pub, unused_qualifications)]
mod v1 {
    tonic::include_proto!("floor.v1");
}

/// HTTP/2 windows of the broker and its client.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// HTTP/2 frames that the broker and its client take.
const FRAME_BYTES: u32 = 128 * 1024;

/// The largest request or response: the broker's limit as well.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Messages in one response of a consume stream, at most.
const DELIVERY_BATCH: usize = 100;
