//! A frame's bytes: their form, decoding and checking here, encoding in `encode`. No I/O.
//!
//! `docs/internals/log-format.md` draws it. A frame is a header, a table with the heads of its
//! records, and their bodies; the header's checksum is seeded with the segment's nonce, so that
//! a length is believed only after it is known to be of this segment.

mod encode;

pub(crate) use self::encode::{
    Copied, Place, encode_control, encode_copied, encode_data, encode_lost, give_up_bodies,
};
use crate::lsn::Lsn;
use crate::record::Retention;

/// Bytes of a frame's header.
pub(crate) const HEADER_LEN: usize = 64;
/// Bytes of one entry of the table.
pub(crate) const ENTRY_LEN: usize = 12;
/// Bytes of one entry of a `Copied` frame's table: its LSN, then an ordinary entry.
pub(crate) const COPIED_ENTRY_LEN: usize = 8 + ENTRY_LEN;
/// Frames begin at multiples of this, so that a forward scan has few places to look at.
pub(crate) const ALIGN: u64 = ALIGN_LEN as u64;
pub(crate) const ALIGN_LEN: usize = 8;
/// The largest frame: bounds what a decoder allocates on the word of a header.
pub(crate) const FRAME_BYTES_MAX: u64 = 32 << 20;
/// The longest head: 24 bits, the other 8 are the record's flags.
pub(crate) const HEAD_BYTES_MAX: usize = (1 << 24) - 1;

/// What every frame begins with.
pub(crate) const MAGIC: [u8; 4] = *b"QFR1";
/// Flag of a frame: a repair rewrote it, so the next frame's `prev_crc` names the original.
pub(crate) const FLAG_REPAIRED: u8 = 1;

/// Flags of a record, in the top 8 bits of its entry's head length.
const RECORD_KEEP: u8 = 1;
const RECORD_LOST: u8 = 2;

/// What a frame is for. All but `Data` and `Copied` hold no records, and all but `Data` take no LSN.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Records.
    Data = 1,
    /// First frame of a segment; names the segment before.
    Open = 2,
    /// Last frame of a segment.
    Seal = 3,
    /// Written when idle: testifies that what stands before it was durable.
    Commit = 4,
    /// Segments that may be removed once this frame is durable.
    Drop = 5,
    /// A checkpoint was put in place.
    Checkpoint = 6,
    /// Written by a repair in place of what it gave up.
    Lost = 7,
    /// A cold segment that takes the place of others once this frame is durable.
    Adopt = 8,
    /// Records copied into a cold segment, each with the LSN it was given.
    Copied = 9,
    /// Which records a cold segment holds.
    Directory = 10,
}

impl Kind {
    fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Data,
            2 => Self::Open,
            3 => Self::Seal,
            4 => Self::Commit,
            5 => Self::Drop,
            6 => Self::Checkpoint,
            7 => Self::Lost,
            8 => Self::Adopt,
            9 => Self::Copied,
            10 => Self::Directory,
            _ => return None,
        })
    }
}

/// A decoded frame header.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) count: u32,
    /// LSN of the first record; of a frame without records, the LSN the next record gets.
    pub(crate) first_lsn: Lsn,
    pub(crate) table_len: u32,
    pub(crate) body_len: u32,
    /// Where in its segment the frame stands.
    pub(crate) self_off: u32,
    /// Everything before this offset of the segment was durable when the frame was built.
    pub(crate) durable_off: u32,
    /// `crc` of the frame before, 0 for a segment's first.
    pub(crate) prev_crc: u32,
    pub(crate) epoch: u64,
    pub(crate) time_ms: u64,
    pub(crate) table_crc: u32,
    /// The header's own checksum; filled by `encode`.
    pub(crate) crc: u32,
}

impl Header {
    /// Bytes from this frame's start to the next one's.
    pub(crate) fn frame_len(&self) -> u64 {
        frame_len(u64::from(self.table_len), u64::from(self.body_len))
    }

    /// The LSN the next record after this frame gets, `Lost` and `Copied` frames apart.
    pub(crate) fn next_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.0 + u64::from(self.count))
    }

    /// Writes the header, its checksum last.
    pub(crate) fn encode(&mut self, seed: u32) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        put(&mut bytes, 0, &MAGIC);
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags;
        put(&mut bytes, 8, &self.first_lsn.0.to_le_bytes());
        put(&mut bytes, 16, &self.count.to_le_bytes());
        put(&mut bytes, 20, &self.table_len.to_le_bytes());
        put(&mut bytes, 24, &self.body_len.to_le_bytes());
        put(&mut bytes, 28, &self.self_off.to_le_bytes());
        put(&mut bytes, 32, &self.durable_off.to_le_bytes());
        put(&mut bytes, 36, &self.prev_crc.to_le_bytes());
        put(&mut bytes, 40, &self.epoch.to_le_bytes());
        put(&mut bytes, 48, &self.time_ms.to_le_bytes());
        put(&mut bytes, 56, &self.table_crc.to_le_bytes());
        self.crc = seeded_crc(seed, &bytes[..60]);
        put(&mut bytes, 60, &self.crc.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` unless it is whole, of this segment and within bounds.
    pub(crate) fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        let bytes = bytes.get(..HEADER_LEN)?;
        if bytes[..4] != MAGIC || u32_at(bytes, 60) != seeded_crc(seed, &bytes[..60]) {
            return None;
        }
        let header = Self {
            kind: Kind::from_u8(bytes[4])?,
            flags: bytes[5],
            first_lsn: Lsn(u64_at(bytes, 8)),
            count: u32_at(bytes, 16),
            table_len: u32_at(bytes, 20),
            body_len: u32_at(bytes, 24),
            self_off: u32_at(bytes, 28),
            durable_off: u32_at(bytes, 32),
            prev_crc: u32_at(bytes, 36),
            epoch: u64_at(bytes, 40),
            time_ms: u64_at(bytes, 48),
            table_crc: u32_at(bytes, 56),
            crc: u32_at(bytes, 60),
        };
        let entries = u64::from(header.count) * ENTRY_LEN as u64;
        let sane = header.frame_len() <= FRAME_BYTES_MAX && entries <= u64::from(header.table_len);
        // There is an LSN after its last one.
        let ends = header.first_lsn.0.checked_add(u64::from(header.count)).is_some();
        (sane && ends).then_some(header)
    }

    /// Bytes of one entry of its table.
    pub(crate) fn entry_len(&self) -> usize {
        if self.kind == Kind::Copied { COPIED_ENTRY_LEN } else { ENTRY_LEN }
    }

    /// Whether `table` is the table this header was written with.
    pub(crate) fn table_matches(&self, table: &[u8], seed: u32) -> bool {
        seeded_crc(seed, table) == self.table_crc
    }
}

/// One record, as the table tells it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) head: &'a [u8],
    /// Where the body begins, counted from the end of the table.
    pub(crate) body_start: u32,
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
    pub(crate) retention: Retention,
    /// A repair gave the body up.
    pub(crate) lost: bool,
}

/// Reads the records of a table whose checksum was right.
///
/// `None` when the lengths do not add up, or copied LSNs do not ascend, which only a writer's bug
/// can cause.
pub(crate) fn entries<'a>(header: &Header, table: &'a [u8]) -> Option<Vec<Entry<'a>>> {
    let mut entries = Entries::new(header, table)?;
    let mut records = Vec::with_capacity((header.count as usize).min(table.len()));
    for _ in 0..header.count {
        records.push(entries.next()?);
    }
    entries.add_up().then_some(records)
}

/// Where in a table an entry is, and what those before it add up to.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Position {
    /// How many entries are before it.
    at: u32,
    /// Its LSN; of a copied record the least that it can be.
    pub(crate) lsn: Lsn,
    head_start: u32,
    body_start: u32,
}

/// The entries of a table, one after the other. It ends where the lengths do not add up.
pub(crate) struct Entries<'a> {
    header: Header,
    table: &'a [u8],
    next: Position,
}

impl<'a> Entries<'a> {
    /// From the first one on; `None` where they do not fit into the table.
    pub(crate) fn new(header: &Header, table: &'a [u8]) -> Option<Self> {
        let head_start = (header.count as usize).checked_mul(header.entry_len())?;
        let head_start = u32::try_from(head_start).ok()?;
        let next = Position { at: 0, lsn: header.first_lsn, head_start, body_start: 0 };
        (head_start as usize <= table.len()).then_some(Self { header: *header, table, next })
    }

    /// From one on that was passed before.
    pub(crate) fn from(header: &Header, table: &'a [u8], next: Position) -> Self {
        Self { header: *header, table, next }
    }

    /// Where the next one is.
    pub(crate) fn position(&self) -> Position {
        self.next
    }

    /// Whether the heads and bodies that were passed are all there are.
    pub(crate) fn add_up(&self) -> bool {
        let Position { head_start, body_start, .. } = self.next;
        head_start as usize == self.table.len() && body_start == self.header.body_len
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let Position { at, lsn, head_start, body_start } = self.next;
        if at == self.header.count {
            return None;
        }
        let (entry_len, start) = (self.header.entry_len(), head_start as usize);
        let entry = self.table.get(at as usize * entry_len..)?.get(..entry_len)?;
        let (own_lsn, entry) = entry.split_at(entry_len - ENTRY_LEN);
        let lsn = match own_lsn {
            [] => lsn,
            _ => {
                let copied = Lsn(u64_at(own_lsn, 0));
                let follows = if at == 0 { lsn == copied } else { lsn <= copied };
                follows.then_some(copied)?
            }
        };
        let body_len = u32_at(entry, 0);
        let head_len = u32_at(entry, 8) & 0x00ff_ffff;
        let flags = entry[11];
        self.next = Position {
            at: at + 1,
            lsn: Lsn(lsn.0.checked_add(1)?),
            head_start: head_start.checked_add(head_len)?,
            body_start: body_start.checked_add(body_len)?,
        };
        let keeps = flags & RECORD_KEEP != 0;
        Some(Entry {
            lsn,
            head: self.table.get(start..start + head_len as usize)?,
            body_start,
            body_len,
            body_crc: u32_at(entry, 4),
            retention: if keeps { Retention::Keep } else { Retention::Passing },
            lost: flags & RECORD_LOST != 0,
        })
    }
}

/// Bytes of a frame with a table and bodies of these lengths.
pub(crate) fn frame_len(table_len: u64, body_len: u64) -> u64 {
    (HEADER_LEN as u64 + table_len + body_len).next_multiple_of(ALIGN)
}

/// CRC-32 that starts from `seed`, the segment's: bytes of another life of the file never match.
pub(crate) fn seeded_crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Little-endian u32 at `at`; the caller has checked the length.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Little-endian u64 at `at`; the caller has checked the length.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::record::{Batch, Body, FrozenBatch};

    const PLACE: Place = Place {
        flags: 0,
        seed: 0x1234_5678,
        self_off: 4176,
        durable_off: 4096,
        prev_crc: 7,
        epoch: 3,
        time_ms: 1_700_000_000_000,
        first_lsn: Lsn(41),
    };

    type Content = Vec<(bool, Vec<u8>, Vec<u8>)>;

    fn batch(content: &Content) -> FrozenBatch {
        let mut batch = Batch::default();
        for (keep, head, body) in content {
            let (prefix, payload) = body.split_at(body.len() / 3);
            let parts = [prefix, payload].map(Bytes::copy_from_slice);
            let [prefix, payload] = parts;
            let retention = if *keep { Retention::Keep } else { Retention::Passing };
            batch.push(retention, Body::new(prefix, payload), |buffer| {
                buffer.extend_from_slice(head);
            });
        }
        batch.freeze()
    }

    fn encode(batches: &[FrozenBatch]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = encode_data(&mut bytes, &PLACE, batches.iter());
        assert_eq!(bytes.len() as u64, header.frame_len());
        bytes
    }

    /// What a reader makes of a frame: everything, or nothing.
    fn decode(bytes: &[u8]) -> Option<Content> {
        let header = Header::decode(bytes, PLACE.seed)?;
        let rest = bytes.get(HEADER_LEN..)?;
        let (table, bodies) = rest.split_at_checked(header.table_len as usize)?;
        if !header.table_matches(table, PLACE.seed) {
            return None;
        }
        let mut content = Vec::new();
        for entry in entries(&header, table)? {
            let body = bodies.get(entry.body_start as usize..)?.get(..entry.body_len as usize)?;
            if crc32fast::hash(body) != entry.body_crc {
                return None;
            }
            let keep = entry.retention == Retention::Keep;
            content.push((keep, entry.head.to_vec(), body.to_vec()));
        }
        Some(content)
    }

    fn contents() -> impl Strategy<Value = Content> {
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
        prop::collection::vec((any::<bool>(), bytes(40), bytes(200)), 1..12)
    }

    proptest! {
        #[test]
        fn a_frame_reads_as_it_was_written(first in contents(), second in contents()) {
            let bytes = encode(&[batch(&first), batch(&second)]);
            prop_assert_eq!(bytes.len() % 8, 0);
            prop_assert_eq!(decode(&bytes), Some([first, second].concat()));
        }

        #[test]
        fn a_changed_byte_is_noticed(
            content in contents(),
            at in any::<prop::sample::Index>(),
            change in 1..=255_u8,
        ) {
            let mut bytes = encode(&[batch(&content)]);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            // Only the padding, which nobody reads, may change.
            let found = decode(&bytes);
            prop_assert!(found.is_none() || bytes.len() - at < 8 && found == Some(content));
        }

        #[test]
        fn a_frame_of_another_life_of_the_file_is_none(content in contents(), seed: u32) {
            prop_assume!(seed != PLACE.seed);
            prop_assert!(Header::decode(&encode(&[batch(&content)]), seed).is_none());
        }

        #[test]
        fn any_bytes_are_refused_without_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            lengths: [u32; 3],
        ) {
            prop_assert!(Header::decode(&bytes, PLACE.seed).is_none());
            // With a header whose checksum is right and whose lengths are anything.
            let [count, table_len, body_len] = lengths;
            let mut header = PLACE.header(Kind::Data, 0, &[], 0);
            header = Header { count, table_len, body_len, ..header };
            let encoded = header.encode(PLACE.seed);
            if let Some(found) = Header::decode(&encoded, PLACE.seed) {
                prop_assert!(found.frame_len() <= FRAME_BYTES_MAX);
                prop_assert!(entries(&found, &bytes).is_none_or(|e| e.len() * ENTRY_LEN <= 300));
            }
        }
    }

    /// A bug: adding up what a header says could pass the last LSN there is.
    #[test]
    fn a_frame_whose_records_pass_the_last_lsn_is_none() {
        let header = |first_lsn, count| {
            let place = Place { first_lsn: Lsn(first_lsn), ..PLACE };
            let header = place.header(Kind::Data, 0, &[0; 100], 0);
            Header { count, ..header }.encode(PLACE.seed)
        };
        let found = Header::decode(&header(u64::MAX - 3, 3), PLACE.seed);
        assert_eq!(found.map(|header| header.next_lsn()), Some(Lsn(u64::MAX)));
        assert_eq!(Header::decode(&header(u64::MAX - 3, 4), PLACE.seed), None);
    }

    /// The format as released: when this fails, old logs cannot be read any more.
    #[test]
    fn the_bytes_of_a_frame_are_the_documented_ones() {
        let content = vec![(true, b"head".to_vec(), b"body!".to_vec()), (false, vec![9], vec![])];
        let bytes = encode(&[batch(&content)]);
        let hex: Vec<String> = bytes
            .chunks(16)
            .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        assert_eq!(hex, GOLDEN, "{hex:#?}");
    }

    const GOLDEN: [&str; 7] = [
        "51465231010000002900000000000000",
        "020000001d0000000500000050100000",
        "00100000070000000300000000000000",
        "0068e5cf8b010000582b05cbc1e49214",
        "050000007885dfbb0400000100000000",
        "00000000010000006865616409626f64",
        "7921000000000000",
    ];

    #[test]
    fn a_lost_frame_has_the_length_it_is_to_have() {
        for len in [72, 80, 4096] {
            let mut bytes = Vec::new();
            encode_lost(&mut bytes, &PLACE, Lsn(99), len);
            let header = Header::decode(&bytes, PLACE.seed).unwrap();
            assert_eq!(
                (bytes.len() as u64, header.frame_len(), header.kind),
                (len, len, Kind::Lost)
            );
            assert!(header.table_matches(&99_u64.to_le_bytes(), PLACE.seed));
        }
    }
}
