//! Frames on their way to the disk: of records, of copies, of control, of what is lost.

use super::{
    ENTRY_LEN, FLAG_REPAIRED, HEADER_LEN, Header, Kind, RECORD_KEEP, RECORD_LOST, put, seeded_crc,
};
use crate::lsn::Lsn;
use crate::record::{Body, FrozenBatch, Retention, StoredRecord};

/// What the writer knows when it builds a frame.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Place {
    /// [`FLAG_REPAIRED`] or nothing.
    pub(crate) flags: u8,
    pub(crate) seed: u32,
    pub(crate) self_off: u32,
    pub(crate) durable_off: u32,
    pub(crate) prev_crc: u32,
    pub(crate) epoch: u64,
    pub(crate) time_ms: u64,
    pub(crate) first_lsn: Lsn,
}

impl Place {
    pub(super) fn header(&self, kind: Kind, count: usize, table: &[u8], body_len: usize) -> Header {
        let narrow = |n: usize| u32::try_from(n).expect("append refuses what a frame cannot hold");
        Header {
            kind,
            flags: self.flags,
            count: narrow(count),
            first_lsn: self.first_lsn,
            table_len: narrow(table.len()),
            body_len: narrow(body_len),
            self_off: self.self_off,
            durable_off: self.durable_off,
            prev_crc: self.prev_crc,
            epoch: self.epoch,
            time_ms: self.time_ms,
            table_crc: seeded_crc(self.seed, table),
            crc: 0,
        }
    }
}

/// Appends a frame of records to `buffer` and returns its header.
pub(crate) fn encode_data<'a>(
    buffer: &mut Vec<u8>,
    place: &Place,
    batches: impl Iterator<Item = &'a FrozenBatch> + Clone,
) -> Header {
    let start = buffer.len();
    buffer.resize(start + HEADER_LEN, 0);
    let mut count = 0;
    for batch in batches.clone() {
        count += batch.records.len();
        encode_entries(buffer, batch);
    }
    for batch in batches.clone() {
        buffer.extend_from_slice(&batch.heads);
    }
    let table_end = buffer.len();
    for record in batches.flat_map(|batch| &batch.records) {
        for part in record.body.parts() {
            buffer.extend_from_slice(part);
        }
    }
    let body_len = buffer.len() - table_end;
    let table = &buffer[start + HEADER_LEN..table_end];
    let header = place.header(Kind::Data, count, table, body_len);
    finish(buffer, start, header, place.seed)
}

/// One record on its way into a cold segment.
#[derive(Clone, Debug)]
pub(crate) struct Copied {
    pub(crate) lsn: Lsn,
    pub(crate) record: StoredRecord,
    /// A repair gave the body up.
    pub(crate) lost: bool,
}

/// Appends a frame of copied records, in the order of their LSNs, to `buffer` and returns its
/// header. The bodies' checksums are the ones they were first stored with.
pub(crate) fn encode_copied(buffer: &mut Vec<u8>, place: &Place, records: &[Copied]) -> Header {
    let start = buffer.len();
    buffer.resize(start + HEADER_LEN, 0);
    for Copied { lsn, record, lost } in records {
        let flags = if *lost { RECORD_KEEP | RECORD_LOST } else { RECORD_KEEP };
        buffer.extend_from_slice(&lsn.0.to_le_bytes());
        push_entry(buffer, &record.body, record.head.len(), flags);
    }
    for Copied { record, .. } in records {
        buffer.extend_from_slice(&record.head);
    }
    let table_end = buffer.len();
    for part in records.iter().flat_map(|copied| copied.record.body.parts()) {
        buffer.extend_from_slice(part);
    }
    let body_len = buffer.len() - table_end;
    let table = &buffer[start + HEADER_LEN..table_end];
    let header = place.header(Kind::Copied, records.len(), table, body_len);
    finish(buffer, start, header, place.seed)
}

fn encode_entries(buffer: &mut Vec<u8>, batch: &FrozenBatch) {
    for (index, record) in batch.records.iter().enumerate() {
        let flags = match record.retention {
            Retention::Keep => RECORD_KEEP,
            Retention::Passing => 0,
        };
        push_entry(buffer, &record.body, batch.head_len(index), flags);
    }
}

fn push_entry(buffer: &mut Vec<u8>, body: &Body, head_len: usize, flags: u8) {
    let body_len = u32::try_from(body.len()).expect("append refuses longer bodies");
    let head_len = u32::try_from(head_len).expect("append refuses longer heads");
    let mut entry = [0; ENTRY_LEN];
    put(&mut entry, 0, &body_len.to_le_bytes());
    put(&mut entry, 4, &body.crc().to_le_bytes());
    put(&mut entry, 8, &(head_len | u32::from(flags) << 24).to_le_bytes());
    buffer.extend_from_slice(&entry);
}

/// Appends a frame without records to `buffer` and returns its header.
pub(crate) fn encode_control(
    buffer: &mut Vec<u8>,
    place: &Place,
    kind: Kind,
    payload: &[u8],
) -> Header {
    let start = buffer.len();
    buffer.resize(start + HEADER_LEN, 0);
    buffer.extend_from_slice(payload);
    let header = place.header(kind, 0, payload, 0);
    finish(buffer, start, header, place.seed)
}

/// Appends a frame of exactly `len` bytes that gives up the LSNs from the place's to `last`.
pub(crate) fn encode_lost(buffer: &mut Vec<u8>, place: &Place, last: Lsn, len: u64) {
    let start = buffer.len();
    let payload = last.0.to_le_bytes();
    buffer.resize(start + HEADER_LEN, 0);
    buffer.extend_from_slice(&payload);
    let rest = usize::try_from(len).expect("within a frame") - HEADER_LEN - payload.len();
    let header = place.header(Kind::Lost, 0, &payload, rest);
    finish(buffer, start, header, place.seed);
}

/// Gives up the bodies of some records of a frame, in place.
pub(crate) fn give_up_bodies(frame: &mut [u8], header: &Header, seed: u32, records: &[usize]) {
    let table = &mut frame[HEADER_LEN..][..header.table_len as usize];
    for record in records {
        table[(record + 1) * header.entry_len() - 1] |= RECORD_LOST;
    }
    let table_crc = seeded_crc(seed, table);
    let mut repaired = Header { flags: header.flags | FLAG_REPAIRED, table_crc, ..*header };
    let bytes = repaired.encode(seed);
    put(frame, 0, &bytes);
}

/// Pads the frame that began at `start` and puts its header in place.
fn finish(buffer: &mut Vec<u8>, start: usize, mut header: Header, seed: u32) -> Header {
    let frame_len = usize::try_from(header.frame_len()).expect("at most FRAME_BYTES_MAX");
    buffer.resize(start + frame_len, 0);
    let bytes = header.encode(seed);
    put(buffer, start, &bytes);
    header
}
