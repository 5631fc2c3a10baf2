//! Bounds on the fields of requests; what is beyond them is refused before anything is decided.

use std::collections::HashMap;

use crate::grpc::fault::Fault;
use crate::queue::policy::PRIORITY_MAX;

/// Most bytes of one request: 1,000 messages with everything around them.
pub(in crate::grpc) const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Settlements or extensions in one call.
pub(in crate::grpc) const SETTLEMENTS_MAX: usize = 10_000;
/// Queues of one consumer or pull.
pub(in crate::grpc) const SELECTORS_MAX: usize = 1_000;
/// Leases that a stream may name when it comes back.
pub(in crate::grpc) const HELD_MAX: usize = 100_000;
/// Messages that may be out on one stream.
pub(in crate::grpc) const WINDOW_MESSAGES_MAX: u32 = 100_000;
/// Bytes that may be out on one stream.
pub(in crate::grpc) const WINDOW_BYTES_MAX: u64 = 256 << 20;
/// Bytes that may be out where the stream does not say.
pub(in crate::grpc) const WINDOW_BYTES: u64 = 16 << 20;
/// Messages that may be out where the stream does not say.
pub(in crate::grpc) const WINDOW_MESSAGES: u32 = 1_000;
/// Messages that one call may name.
pub(in crate::grpc) const NAMES_MAX: usize = 1_000;
/// Messages of one pull.
pub(in crate::grpc) const PULL_MAX: u32 = 1_000;
/// Batches that a publishing stream may have unanswered.
pub(in crate::grpc) const UNCONFIRMED_BATCHES_MAX: i32 = 8_192;
/// Bytes that a publishing stream may have unanswered.
pub(in crate::grpc) const UNCONFIRMED_BYTES_MAX: i64 = 32 << 20;

const HEADERS_MAX: usize = 64;
const HEADERS_BYTES_MAX: usize = 16 << 10;
const HEADER_KEY_BYTES_MAX: usize = 128;

/// Refuses a text that is too long.
pub(in crate::grpc) fn text(field: &'static str, text: &str, limit: usize) -> Result<(), Fault> {
    if text.len() <= limit {
        return Ok(());
    }
    Err(Fault::FieldTooLarge { field, size: text.len(), limit })
}

/// Refuses an id that is not 1-64 characters of `[A-Za-z0-9_-]`; an empty one is none.
pub(in crate::grpc) fn id(field: &'static str, id: &str) -> Result<(), Fault> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    if id.len() <= 64 && id.bytes().all(allowed) {
        return Ok(());
    }
    Err(Fault::invalid(field, "an id has 1 to 64 characters of [A-Za-z0-9_-]"))
}

/// Refuses a priority that no queue has; the queue itself may have fewer.
pub(in crate::grpc) fn priority(priority: i32) -> Result<u8, Fault> {
    let known = u8::try_from(priority).ok().filter(|priority| *priority <= PRIORITY_MAX);
    known.ok_or_else(|| {
        let why = format!("{priority} is not within 0 to {PRIORITY_MAX}");
        Fault::invalid("priority", why)
    })
}

/// Refuses headers that are too many, too long or not named well.
pub(in crate::grpc) fn headers(headers: &HashMap<String, String>) -> Result<(), Fault> {
    if HEADERS_MAX < headers.len() {
        let why = format!("{} headers; at most {HEADERS_MAX} are allowed", headers.len());
        return Err(Fault::invalid("headers", why));
    }
    let mut size = 0;
    for (key, value) in headers {
        let allowed =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'.' | b'-');
        if key.is_empty() || HEADER_KEY_BYTES_MAX < key.len() || !key.bytes().all(allowed) {
            let shown = &key[..key.floor_char_boundary(HEADER_KEY_BYTES_MAX)];
            let why = format!("\"{shown}\" is not 1 to 128 characters of [a-z0-9_.-]");
            return Err(Fault::invalid("headers", why));
        }
        size += key.len() + value.len();
    }
    if HEADERS_BYTES_MAX < size {
        return Err(Fault::FieldTooLarge { field: "headers", size, limit: HEADERS_BYTES_MAX });
    }
    Ok(())
}

/// Refuses a list that is empty or too long.
pub(in crate::grpc) fn batch(
    field: &'static str,
    size: usize,
    limit: usize,
    unit: &'static str,
) -> Result<(), Fault> {
    match size {
        0 => Err(Fault::Empty(field)),
        size if limit < size => Err(Fault::BatchTooLarge { size, limit, unit }),
        _ => Ok(()),
    }
}
