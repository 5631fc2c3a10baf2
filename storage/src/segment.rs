//! One file of the log: its header, and what memory knows of it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::File;
use crate::frame::{put, u32_at, u64_at};
use crate::layout::segment_path;
use crate::lsn::Lsn;

/// Bytes before the first frame.
pub(crate) const SEGMENT_HEADER_LEN: u32 = 4096;
/// Where the header's second copy stands: rot in one sector must not cost a segment.
const COPY_AT: usize = 2048;
const HEADER_FIELDS_LEN: usize = 84;
const MAGIC: &[u8; 8] = b"QBRKSEG1";
const VERSION: u16 = 1;
/// IEEE CRC-32, the only kind there is.
const CRC_KIND: u8 = 1;
/// A repair made this file in place of one that was lost: its nonce is not the one others name.
pub(crate) const SEGMENT_REPAIRED: u8 = 1;

/// The file is a cold segment: records copied out of others, with gaps between their LSNs.
pub(crate) const SEGMENT_COLD: u8 = 2;

/// Room a segment keeps for its last frame, so that it can always be sealed.
pub(crate) const SEAL_RESERVE: u32 = 128;

/// What a segment says of itself.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) flags: u8,
    pub(crate) size: u32,
    pub(crate) seq: u64,
    /// Drawn anew whenever the file is used again, so that bytes of a former life never count.
    pub(crate) nonce: [u8; 16],
    pub(crate) log_id: [u8; 16],
    pub(crate) created_ms: u64,
    /// Every start begins a segment, so all frames of one have its epoch.
    pub(crate) epoch: u64,
    pub(crate) first_lsn: Lsn,
}

/// What stands where a segment's header should.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFound {
    Valid(SegmentHeader),
    /// Its copy is zeros: the file was prepared, and a crash or a failed write came before its first sync,
    /// which would have had both.
    Blank,
    /// Neither.
    Bad,
}

impl SegmentHeader {
    pub(crate) fn is_cold(&self) -> bool {
        self.flags & SEGMENT_COLD != 0
    }

    pub(crate) fn is_repaired(&self) -> bool {
        self.flags & SEGMENT_REPAIRED != 0
    }

    /// The seed of every checksum in the segment.
    pub(crate) fn seed(&self) -> u32 {
        crc32fast::hash(&self.nonce)
    }

    /// Appends the 4096 bytes a segment begins with.
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>) {
        let mut fields = [0; HEADER_FIELDS_LEN];
        put(&mut fields, 0, MAGIC);
        put(&mut fields, 8, &VERSION.to_le_bytes());
        fields[10] = CRC_KIND;
        fields[11] = self.flags;
        put(&mut fields, 12, &self.size.to_le_bytes());
        put(&mut fields, 16, &self.seq.to_le_bytes());
        put(&mut fields, 24, &self.nonce);
        put(&mut fields, 40, &self.log_id);
        put(&mut fields, 56, &self.created_ms.to_le_bytes());
        put(&mut fields, 64, &self.epoch.to_le_bytes());
        put(&mut fields, 72, &self.first_lsn.0.to_le_bytes());
        let crc = crc32fast::hash(&fields[..80]);
        put(&mut fields, 80, &crc.to_le_bytes());
        let start = buffer.len();
        buffer.resize(start + SEGMENT_HEADER_LEN as usize, 0);
        put(buffer, start, &fields);
        put(buffer, start + COPY_AT, &fields);
    }

    /// Looks at a segment's first 4096 bytes; either copy will do.
    pub(crate) fn decode(bytes: &[u8]) -> HeaderFound {
        let copy = bytes.get(COPY_AT..);
        let copies = [bytes, copy.unwrap_or_default()];
        if let Some(header) = copies.iter().find_map(|copy| Self::decode_copy(copy)) {
            return HeaderFound::Valid(header);
        }
        // Of what is cut, all there is.
        let is_blank = copy.unwrap_or(bytes).iter().all(|&byte| byte == 0);
        if is_blank { HeaderFound::Blank } else { HeaderFound::Bad }
    }

    /// Makes a first copy of whatever fields there are one that is believed.
    #[cfg(feature = "sim")]
    pub(crate) fn seal(bytes: &mut [u8]) {
        put(bytes, 0, MAGIC);
        put(bytes, 8, &VERSION.to_le_bytes());
        bytes[10] = CRC_KIND;
        let crc = crc32fast::hash(&bytes[..80]);
        put(bytes, 80, &crc.to_le_bytes());
    }

    fn decode_copy(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_FIELDS_LEN)?;
        let ours = &bytes[..8] == MAGIC
            && bytes[8..10] == VERSION.to_le_bytes()
            && bytes[10] == CRC_KIND
            && u32_at(bytes, 80) == crc32fast::hash(&bytes[..80]);
        ours.then(|| Self {
            flags: bytes[11],
            size: u32_at(bytes, 12),
            seq: u64_at(bytes, 16),
            nonce: bytes[24..40].try_into().expect("sixteen bytes"),
            log_id: bytes[40..56].try_into().expect("sixteen bytes"),
            created_ms: u64_at(bytes, 56),
            epoch: u64_at(bytes, 64),
            first_lsn: Lsn(u64_at(bytes, 72)),
        })
    }
}

/// A segment in use: being written, or kept for what lives in it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) seed: u32,
    pub(crate) path: String,
    pub(crate) file: Arc<dyn File>,
    pub(crate) state: Mutex<SegmentState>,
}

/// What changes while a segment is written.
#[derive(Debug)]
pub(crate) struct SegmentState {
    /// Its last LSN, known once it is sealed; `first_lsn - 1` where it holds no record.
    pub(crate) sealed_last: Option<Lsn>,
    /// Bytes of it that are written and durable.
    pub(crate) end: u32,
    /// `None` until somebody reads from a segment of an earlier start.
    pub(crate) index: Option<FrameIndex>,
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader, file: Arc<dyn File>, state: SegmentState) -> Self {
        let path = segment_path(header.seq);
        Self { seed: header.seed(), header, path, file, state: Mutex::new(state) }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.header.seq
    }

    pub(crate) fn sealed_last(&self) -> Option<Lsn> {
        self.state.lock().sealed_last
    }
}

/// Where frames begin: sparse, so that ten million small records cost little memory.
#[derive(Debug, Default)]
pub(crate) struct FrameIndex {
    first_lsn: u64,
    /// (LSN counted from the segment's first, offset), in order.
    points: Vec<(u32, u32)>,
}

/// Bytes of log between two entries: a reader hops over the headers between them.
const INDEX_STRIDE: u32 = 8 << 10;

impl FrameIndex {
    pub(crate) fn new(first_lsn: Lsn) -> Self {
        Self { first_lsn: first_lsn.0, points: Vec::new() }
    }

    /// Notes a frame, in the order of the log.
    pub(crate) fn note(&mut self, first_lsn: Lsn, offset: u32) {
        let due = self.points.last().is_none_or(|&(_, last)| last + INDEX_STRIDE <= offset);
        if due {
            self.note_behind_a_gap(first_lsn, offset);
        }
    }

    /// Notes a frame that nobody can hop to from the one before.
    pub(crate) fn note_behind_a_gap(&mut self, first_lsn: Lsn, offset: u32) {
        let delta = u32::try_from(first_lsn.0 - self.first_lsn)
            .expect("a segment holds fewer records than bytes");
        self.points.push((delta, offset));
    }

    /// An offset at or before the frame of `lsn`, where a frame begins.
    pub(crate) fn before(&self, lsn: Lsn) -> u32 {
        let after =
            self.points.partition_point(|&(delta, _)| self.first_lsn + u64::from(delta) <= lsn.0);
        after.checked_sub(1).map_or(SEGMENT_HEADER_LEN, |at| self.points[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_was_never_synced_is_told_from_one_that_is_damaged() {
        let header = SegmentHeader {
            flags: 0,
            size: 1 << 20,
            seq: 4,
            nonce: [7; 16],
            log_id: [9; 16],
            created_ms: 1,
            epoch: 2,
            first_lsn: Lsn(3),
        };
        let mut whole = Vec::new();
        header.encode(&mut whole);
        assert_eq!(SegmentHeader::decode(&whole), HeaderFound::Valid(header));
        // A write that failed after so many bytes.
        for written in [0, 1, 37, HEADER_FIELDS_LEN - 1] {
            let mut begun = whole.clone();
            begun[written..].fill(0);
            assert_eq!(SegmentHeader::decode(&begun), HeaderFound::Blank, "{written}");
        }
        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        assert_eq!(SegmentHeader::decode(&damaged), HeaderFound::Valid(header));
        damaged[COPY_AT + 20] ^= 1;
        assert_eq!(SegmentHeader::decode(&damaged), HeaderFound::Bad);
        assert_eq!(SegmentHeader::decode(&damaged[..100]), HeaderFound::Bad, "cut");
    }
}
