//! What is fed with bytes of any kind: the decoders of the log, of its records, pages and
//! checkpoints, and every request.
//!
//! A target may refuse its bytes. It must not panic, nor take memory that the bytes do not account
//! for. The fuzzer in `fuzz/` and the tests call the same targets.

pub mod allocations;
pub mod mutate;
pub mod records;
pub mod requests;
pub mod shapes;

use qbroker_storage::fuzz as storage;

/// Something that takes bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Bytes that it accepts, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Everything there is to be fuzzed.
pub const TARGETS: [Target; 8] = [
    Target { name: "frames", run: storage::frames, seeds: || vec![storage::some_frames()] },
    Target { name: "segment_header", run: storage::segment_header, seeds: || vec![vec![0; 84]] },
    Target {
        name: "checkpoint",
        run: storage::checkpoint,
        seeds: || vec![storage::some_checkpoint()],
    },
    Target {
        name: "directory",
        run: storage::directory,
        seeds: || vec![storage::some_directory()],
    },
    Target { name: "record", run: records::record, seeds: || records::Written::new().heads },
    Target { name: "page", run: records::page, seeds: records::some_pages },
    Target {
        name: "snapshot",
        run: records::snapshot,
        seeds: || records::Written::new().snapshots,
    },
    Target { name: "requests", run: requests::run, seeds: requests::some },
];

/// The target of this name.
///
/// # Panics
/// When there is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no {name}"))
}
