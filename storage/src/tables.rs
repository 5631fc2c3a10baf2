//! The tables of the frames that were read last: who takes a frame's records a few at a time, or one
//! of many who take from its queue, does not read and check its table each time.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::frame::{self, Entry, Header};
use crate::lsn::Lsn;
use crate::segment::Segment;

/// Bytes of tables that are kept, at most.
const BYTES_MAX: usize = 4 << 20;

/// A frame's table, whose checksum was right.
#[derive(Debug)]
pub(crate) struct Table {
    /// Which segment it is of; a file that is used again has another one.
    nonce: [u8; 16],
    /// Where its frame begins.
    pub(crate) offset: u64,
    pub(crate) header: Header,
    bytes: Bytes,
    records: Vec<Found>,
}

/// An [`Entry`] without its borrow.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Found {
    pub(crate) lsn: Lsn,
    head_start: u32,
    head_len: u32,
    pub(crate) body_start: u32,
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
    pub(crate) lost: bool,
}

impl Table {
    /// The table of a frame; `None` where its lengths do not add up.
    pub(crate) fn new(
        segment: &Segment,
        offset: u64,
        header: Header,
        bytes: Bytes,
    ) -> Option<Self> {
        let entries = frame::entries(&header, &bytes)?;
        let heads: usize = entries.iter().map(|entry| entry.head.len()).sum();
        let mut head_start = u32::try_from(bytes.len() - heads).ok()?;
        let found = |entry: &Entry<'_>| {
            let head_len = u32::try_from(entry.head.len()).ok()?;
            let Entry { lsn, body_start, body_len, body_crc, lost, .. } = *entry;
            let found = Found { lsn, head_start, head_len, body_start, body_len, body_crc, lost };
            head_start += head_len;
            Some(found)
        };
        let records = entries.iter().map(found).collect::<Option<_>>()?;
        Some(Self { nonce: segment.header.nonce, offset, header, bytes, records })
    }

    pub(crate) fn find(&self, lsn: Lsn) -> Option<&Found> {
        let at = self.records.binary_search_by_key(&lsn, |found| found.lsn).ok()?;
        Some(&self.records[at])
    }

    /// The heads of its records from `lsn` on, in order; those that a repair gave up are missing.
    pub(crate) fn heads_from(&self, lsn: Lsn) -> impl Iterator<Item = (Lsn, Bytes)> {
        let after = self.records.partition_point(|found| found.lsn < lsn);
        let there = self.records[after..].iter().filter(|found| !found.lost);
        there.map(|found| (found.lsn, self.head(found)))
    }

    pub(crate) fn head(&self, found: &Found) -> Bytes {
        let start = found.head_start as usize;
        self.bytes.slice(start..start + found.head_len as usize)
    }

    fn bytes(&self) -> usize {
        self.bytes.len() + self.records.len() * size_of::<Found>()
    }
}

/// Tables, the one that was used last at the end.
#[derive(Debug, Default)]
pub(crate) struct Tables(Mutex<VecDeque<Arc<Table>>>);

impl Tables {
    /// The table of the frame of `segment` that this record is in, while it is here.
    pub(crate) fn of(&self, segment: &Segment, lsn: Lsn) -> Option<Arc<Table>> {
        let mut tables = self.0.lock();
        let has = |table: &Arc<Table>| {
            let Header { first_lsn, .. } = table.header;
            first_lsn <= lsn && lsn < table.header.next_lsn() && table.nonce == segment.header.nonce
        };
        let at = tables.iter().rposition(has)?;
        let table = tables.remove(at).expect("it was found there");
        tables.push_back(Arc::clone(&table));
        Some(table)
    }

    pub(crate) fn keep(&self, table: Arc<Table>) {
        let mut tables = self.0.lock();
        tables.push_back(table);
        let mut bytes: usize = tables.iter().map(|table| table.bytes()).sum();
        while BYTES_MAX < bytes {
            let oldest = tables.pop_front().expect("there are bytes");
            bytes -= oldest.bytes();
        }
    }
}
