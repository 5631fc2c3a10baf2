//! The tables of the frames that were read last: who takes a frame's records a few at a time, or one
//! of many who take from its queue, does not read and check its table each time.
//!
//! Room is given to tables as it turns out that they are wanted: who reads from one end to the other
//! never comes back, and needs few. Who takes from many queues that were filled together comes back
//! to each table once for each queue, and has use for all of them. So a table that is read again
//! soon after it went makes room, and one that nobody has seen gives it back; by the ghosts of ARC
//! (Megiddo and Modha, FAST 2003).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::frame::Header;
use crate::lsn::Lsn;
use crate::segment::Segment;
use crate::tables::Table;

/// Bytes of tables that are kept whatever is read.
const BYTES_MIN: usize = 4 << 20;

/// Bytes of tables that are kept, at most.
const BYTES_MAX: usize = 32 << 20;

/// Of so many tables it is known that they went.
const GONE_MAX: usize = 1_024;

/// Tables, of which those that are not used go first.
#[derive(Debug)]
pub(crate) struct Tables(Mutex<Recent>);

/// The nonce of a table's segment, and its frame's first LSN.
type Key = ([u8; 16], Lsn);

#[derive(Debug)]
struct Recent {
    /// Each with the use that was its last.
    tables: BTreeMap<Key, (u64, Arc<Table>)>,
    by_use: BTreeMap<u64, Key>,
    /// So many uses there were.
    uses: u64,
    bytes: usize,
    /// Bytes that are kept, from `BYTES_MIN` to `BYTES_MAX`.
    room: usize,
    /// What went, oldest first.
    gone: VecDeque<Key>,
}

impl Default for Tables {
    fn default() -> Self {
        Self(Mutex::new(Recent {
            tables: BTreeMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            room: BYTES_MIN,
            gone: VecDeque::new(),
        }))
    }
}

impl Tables {
    /// The table of the frame of `segment` that this record is in, while it is here.
    pub(crate) fn of(&self, segment: &Segment, lsn: Lsn) -> Option<Arc<Table>> {
        self.0.lock().find(segment.header.nonce, lsn)
    }

    pub(crate) fn keep(&self, table: Arc<Table>) {
        self.0.lock().keep(table);
    }
}

impl Recent {
    fn find(&mut self, nonce: [u8; 16], lsn: Lsn) -> Option<Arc<Table>> {
        let (&key, (used, table)) = self.tables.range_mut(..=(nonce, lsn)).next_back()?;
        if key.0 != nonce || table.header.next_lsn() <= lsn {
            return None;
        }
        self.by_use.remove(used);
        self.uses += 1;
        *used = self.uses;
        let table = Arc::clone(table);
        self.by_use.insert(self.uses, key);
        Some(table)
    }

    fn keep(&mut self, table: Arc<Table>) {
        let Header { first_lsn, .. } = table.header;
        let (key, bytes) = ((table.nonce, first_lsn), table.bytes());
        let room = if self.gone.contains(&key) {
            self.room + bytes
        } else {
            self.room.saturating_sub(bytes)
        };
        self.room = room.clamp(BYTES_MIN, BYTES_MAX);
        self.uses += 1;
        self.bytes += bytes;
        self.by_use.insert(self.uses, key);
        if let Some((used, same)) = self.tables.insert(key, (self.uses, table)) {
            // Two have read it at once.
            self.by_use.remove(&used);
            self.bytes -= same.bytes();
        }
        while self.room < self.bytes {
            self.let_go();
        }
    }

    /// Lets go of the one that was not used for longest.
    fn let_go(&mut self) {
        let (_, key) = self.by_use.pop_first().expect("there are bytes");
        let (_, table) = self.tables.remove(&key).expect("it has a use");
        self.bytes -= table.bytes();
        if self.gone.len() == GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back(key);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::frame::Kind;

    /// The number of bytes of each table below.
    const BYTES: usize = 64 << 10;

    /// The table of a frame of ten records.
    fn table_of(nonce: [u8; 16], first_lsn: Lsn) -> Arc<Table> {
        let header = Header {
            kind: Kind::Data,
            flags: 0,
            count: 10,
            first_lsn,
            table_len: 0,
            body_len: 0,
            self_off: 0,
            durable_off: 0,
            prev_crc: 0,
            epoch: 1,
            time_ms: 0,
            table_crc: 0,
            crc: 0,
        };
        let bytes = Bytes::from_static(&[0; BYTES]);
        Arc::new(Table { nonce, offset: 0, header, bytes, known: Vec::new() })
    }

    /// How often one has to be read, where so many are asked for in turn, so many times.
    fn reads(recent: &mut Recent, tables: u64, rounds: usize) -> usize {
        let mut reads = 0;
        for at in (0..rounds).flat_map(|_| 0..tables) {
            let lsn = Lsn(1 + at * 10);
            if recent.find([7; 16], Lsn(lsn.0 + 3)).is_none() {
                recent.keep(table_of([7; 16], lsn));
                reads += 1;
            }
            assert!(recent.bytes <= recent.room, "{} of {}", recent.bytes, recent.room);
            assert_eq!(recent.by_use.len(), recent.tables.len());
        }
        reads
    }

    fn nothing() -> Recent {
        Tables::default().0.into_inner()
    }

    #[test]
    fn who_never_comes_back_needs_little_room() {
        let mut recent = nothing();
        assert_eq!(reads(&mut recent, 2_000, 1), 2_000);
        assert_eq!(recent.room, BYTES_MIN);
        assert_eq!(recent.gone.len(), GONE_MAX);
    }

    #[test]
    fn who_comes_back_for_many_finds_them_soon() {
        let mut recent = nothing();
        // Four times as many as fit, and so often each.
        let tables = 4 * BYTES_MIN / BYTES;
        let read = reads(&mut recent, tables as u64, 50);
        assert!(read < 6 * tables, "{read} reads of {tables} tables");
        assert_eq!(reads(&mut recent, tables as u64, 10), 0);
        // What nobody has seen gives the room back.
        for at in 0..2_000_u64 {
            recent.keep(table_of([9; 16], Lsn(1 + at * 10)));
        }
        assert_eq!(recent.room, BYTES_MIN);
    }

    #[test]
    fn only_the_table_that_has_a_record_is_found() {
        let mut recent = nothing();
        recent.keep(table_of([7; 16], Lsn(100)));
        recent.keep(table_of([7; 16], Lsn(100)));
        assert!(recent.bytes < 2 * BYTES, "kept twice");
        for (nonce, lsn, is_there) in [
            ([7; 16], 99, false),
            ([7; 16], 100, true),
            ([7; 16], 109, true),
            ([7; 16], 110, false),
        ] {
            assert_eq!(recent.find(nonce, Lsn(lsn)).is_some(), is_there, "{lsn}");
        }
        assert!(recent.find([6; 16], Lsn(105)).is_none());
        assert!(recent.find([8; 16], Lsn(105)).is_none());
    }
}
