//! Bounds in bytes: at them, and one byte beyond.

use bytes::Bytes;
use qbroker_storage::Body;

use super::stage::{BOOT_MS, WALL_MS};
use super::state::member;
use crate::queue::index::memory::MemoryIndex;
use crate::queue::refused::Refused;
use crate::queue::state::{BARRIER_BYTES_MAX, CreateBarrier};
use crate::queue::time::Now;
use crate::queue::{Core, Limits, NewMessage, Output, Stop};

const NOW: Now = Now { wall_ms: WALL_MS, boot_ms: BOOT_MS, begun: false };

/// A barrier whose message has so many bytes.
fn barrier(bytes: usize, collect: bool) -> CreateBarrier {
    let body = Body::new(Bytes::from(vec![0; bytes]), Bytes::new());
    let message = NewMessage { queue: "done".into(), body, ..NewMessage::default() };
    let (on_complete, on_expire) = (vec![message], Vec::new());
    CreateBarrier { key: "k".into(), parties: 9, ttl_ms: 1_000, on_complete, on_expire, collect }
}

fn is_full<T: std::fmt::Debug>(answer: Result<T, Stop>) -> bool {
    match answer {
        Ok(_) => false,
        Err(Stop::Refused(Refused::Limit { what: "barrier_bytes", .. })) => true,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn the_messages_of_a_barrier_take_so_many_bytes_with_what_each_takes_beside_its_own() {
    let mut core = Core::new(MemoryIndex::default(), Limits::default());
    let mut out = Output::default();
    let mut create = |bytes| core.create_barrier(&barrier(bytes, false), NOW, &mut out);
    // Its queue and its lengths take a few.
    let largest = BARRIER_BYTES_MAX - 128 - 4 - 12;
    let first = (largest..=BARRIER_BYTES_MAX).rev().find(|bytes| !is_full(create(*bytes)));
    assert!(first.is_some(), "{largest} bytes fit");
}

#[test]
fn what_members_bring_to_a_barrier_is_bounded_with_its_messages() {
    let mut core = Core::new(MemoryIndex::default(), Limits::default());
    let mut out = Output::default();
    core.create_barrier(&barrier(0, true), NOW, &mut out).unwrap();
    let mut arrive = |name: &str, bytes: usize| {
        let value = "v".repeat(bytes);
        is_full(core.arrive(&member("k".into(), name, &value, false), NOW, &mut out))
    };
    assert!(!arrive("a", 100_000));
    assert!(arrive("b", BARRIER_BYTES_MAX - 100_000));
    // Each takes 64 bytes and its name beside.
    let left = BARRIER_BYTES_MAX - 100_000 - 2 * (64 + 1);
    let taken = (left - 300..left).rev().find(|bytes| !arrive("b", *bytes));
    let taken = taken.expect("as much as is left fits");
    assert!(!arrive("b", BARRIER_BYTES_MAX), "it has arrived, and brings nothing more");
    assert!(left - 300 < taken && arrive("c", 0), "there is no room for another name");
}
