//! What fuzzers call: the decoders of the format, on bytes of any kind whose checksums are made right
//! first, so that what stands behind the checksums is reached.
//!
//! Each of them may refuse its bytes, and must neither panic nor take memory that the bytes do not
//! account for.

use std::io;

use crate::checkpoint;
use crate::cold::column::Column;
use crate::disk::ReadAt;
use crate::frame::{self, COPIED_ENTRY_LEN, ENTRY_LEN, HEADER_LEN, MAGIC};
use crate::frame::{frame_len, put, seeded_crc, u32_at, u64_at};
use crate::lsn::Lsn;
use crate::scan::{Depth, Walk, next_frame};
use crate::segment::{SEGMENT_COLD, SEGMENT_HEADER_LEN, SegmentHeader};

const LOG_ID: [u8; 16] = [7; 16];
const NONCE: [u8; 16] = [9; 16];
const EPOCH: u64 = 3;

#[derive(Debug)]
struct InMemory<'a>(&'a [u8]);

impl ReadAt for InMemory<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let there = &self.0[offset..];
        let read = there.len().min(buffer.len());
        buffer[..read].copy_from_slice(&there[..read]);
        Ok(read)
    }
}

/// The frames of a segment: its first LSN in eight bytes, a byte that says whether it is a cold one,
/// then frames. Where they end or break, those behind are looked for as a survey does.
pub fn frames(bytes: &[u8]) {
    let Some((fields, frames)) = bytes.split_at_checked(9) else { return };
    let header = SegmentHeader {
        flags: if fields[8] & 1 == 0 { 0 } else { SEGMENT_COLD },
        size: 1 << 20,
        seq: 1,
        nonce: NONCE,
        log_id: LOG_ID,
        created_ms: 0,
        epoch: EPOCH,
        first_lsn: Lsn(u64_at(fields, 0)),
    };
    let mut file = Vec::new();
    header.encode(&mut file);
    file.extend_from_slice(frames);
    seal_frames(&mut file, header.seed());
    for depth in [Depth::Headers, Depth::Tables, Depth::Bodies] {
        walk(&file, header, depth);
    }
}

fn walk(bytes: &[u8], header: SegmentHeader, depth: Depth) {
    let (file, len) = (InMemory(bytes), bytes.len() as u64);
    let mut walk = Walk::new(&file, header, len);
    loop {
        let bad = match walk.next(depth) {
            None => return,
            Some(Ok(seen)) => {
                frame::entries(&seen.header, seen.table);
                continue;
            }
            Some(Err(bad)) => bad,
        };
        let due = walk.next_lsn;
        match next_frame(&file, &header, len, bad.offset, due).expect("memory can be read") {
            Some((offset, first)) => walk.resume(offset, first),
            None => return,
        }
    }
}

/// Makes each frame one that its reader believes: places, epoch, chain and checksums. Lengths, counts
/// and LSNs are left as they are.
fn seal_frames(file: &mut [u8], seed: u32) {
    let (mut at, mut prev_crc) = (SEGMENT_HEADER_LEN as usize, 0_u32);
    while let Some(bytes) = file.get_mut(at..)
        && HEADER_LEN <= bytes.len()
    {
        put(bytes, 0, &MAGIC);
        put(bytes, 28, &u32::try_from(at).expect("a fuzzer's file is small").to_le_bytes());
        put(bytes, 36, &prev_crc.to_le_bytes());
        put(bytes, 40, &EPOCH.to_le_bytes());
        let (table_len, body_len) = (u32_at(bytes, 20), u32_at(bytes, 24));
        let len = frame_len(u64::from(table_len), u64::from(body_len));
        let (header, content) = bytes.split_at_mut(HEADER_LEN);
        if let Some((table, bodies)) = content.split_at_mut_checked(table_len as usize) {
            seal_bodies(header, table, bodies);
            put(header, 56, &seeded_crc(seed, table).to_le_bytes());
        }
        prev_crc = seeded_crc(seed, &header[..60]);
        put(header, 60, &prev_crc.to_le_bytes());
        at = at.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
    }
}

/// Puts the checksum of each record's body into its entry, as far as they are all there.
fn seal_bodies(header: &[u8], table: &mut [u8], bodies: &[u8]) {
    const COPIED: u8 = 9;
    let entry_len = if header[4] == COPIED { COPIED_ENTRY_LEN } else { ENTRY_LEN };
    let (count, mut start) = (u32_at(header, 16) as usize, 0_usize);
    for entry in table.chunks_exact_mut(entry_len).take(count) {
        let entry = &mut entry[entry_len - ENTRY_LEN..];
        let body = bodies.get(start..).and_then(|rest| rest.get(..u32_at(entry, 0) as usize));
        let Some(body) = body else { return };
        put(entry, 4, &crc32fast::hash(body).to_le_bytes());
        start += body.len();
    }
}

/// A frame of records that reads well, as [`frames`] takes it, to begin with.
#[must_use]
pub fn some_frames() -> Vec<u8> {
    use crate::record::{Batch, Body, Retention};
    use bytes::Bytes;

    let place = frame::Place {
        flags: 0,
        seed: 0,
        self_off: SEGMENT_HEADER_LEN,
        durable_off: 0,
        prev_crc: 0,
        epoch: EPOCH,
        time_ms: 0,
        first_lsn: Lsn(41),
    };
    let mut batch = Batch::default();
    for (head, body) in [(&b"head"[..], &b"body"[..]), (b"", b"alone"), (b"only a head", b"")] {
        let body = Body::new(Bytes::from_static(body), Bytes::new());
        batch.push(Retention::Keep, body, |buffer| buffer.extend_from_slice(head));
    }
    let mut bytes = [&41_u64.to_le_bytes()[..], &[0]].concat();
    let frozen = batch.freeze();
    frame::encode_data(&mut bytes, &place, std::iter::once(&frozen));
    let next = frame::Place { first_lsn: Lsn(44), ..place };
    frame::encode_data(&mut bytes, &next, std::iter::once(&frozen));
    frame::encode_control(&mut bytes, &next, frame::Kind::Lost, &50_u64.to_le_bytes());
    frame::encode_control(&mut bytes, &next, frame::Kind::Seal, &[0; 16]);
    bytes
}

/// A checkpoint's file. What it was made of is found again, where it is accepted.
pub fn checkpoint(bytes: &[u8]) {
    let mut file = bytes.to_vec();
    checkpoint::seal(&mut file, &LOG_ID);
    if let Ok((meta, state)) = checkpoint::decode(&file.into(), &LOG_ID) {
        let segments = meta.segments.len() + meta.cold.len();
        let state: usize = state.iter().map(bytes::Bytes::len).sum();
        assert!(segments <= bytes.len() && state <= bytes.len(), "more than there was");
    }
}

/// A checkpoint that reads well, to begin with.
#[must_use]
pub fn some_checkpoint() -> Vec<u8> {
    checkpoint::sample(&LOG_ID)
}

/// The directory of a cold segment: its payload, and everything that is asked of it.
pub fn directory(bytes: &[u8]) {
    let Some(column) = Column::decode(bytes) else { return };
    assert_eq!(Column::decode(&column.encode()).as_ref(), Some(&column), "it reads as it writes");
    for lsn in column.iter() {
        assert!(column.find(lsn).is_some(), "{lsn} is in it and not found");
    }
    for lsn in [Lsn::NONE, Lsn(1), Lsn(u64::MAX)] {
        column.find(lsn);
    }
}

/// A directory that reads well, to begin with.
#[must_use]
pub fn some_directory() -> Vec<u8> {
    let mut column = Column::default();
    column.push_block(4_096, [5, 6, 9, 300].map(Lsn));
    column.push_block(8_192, [1_000, 70_000, 5_000_000].map(Lsn));
    column.encode()
}

/// A segment's first bytes.
pub fn segment_header(bytes: &[u8]) {
    let mut file = bytes.to_vec();
    file.resize(SEGMENT_HEADER_LEN as usize, 0);
    SegmentHeader::seal(&mut file);
    SegmentHeader::decode(&file);
}
