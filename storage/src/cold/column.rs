//! Which records a cold segment holds: four bytes of memory each, less on disk.

use crate::frame::{u32_at, u64_at};
use crate::lsn::Lsn;

/// The LSNs of a cold segment, ascending, in blocks: each is a frame of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Column {
    blocks: Vec<Block>,
    /// Of each record, how far its LSN is from its block's first.
    deltas: Vec<u32>,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Block {
    first: u64,
    /// Where in the file its frame stands.
    offset: u32,
    /// Its first record, counted over the whole column.
    start: usize,
}

/// Bytes of a block's fields in a directory: offset, count, first LSN.
const BLOCK_LEN: usize = 16;

impl Column {
    /// Adds a block of LSNs, which ascend and follow those before, whose frame is at `offset`.
    pub(crate) fn push_block(&mut self, offset: u32, lsns: impl IntoIterator<Item = Lsn>) {
        let start = self.deltas.len();
        let mut lsns = lsns.into_iter();
        let Some(first) = lsns.next() else { return };
        debug_assert!(self.last().is_none_or(|last| last < first), "LSNs ascend");
        self.blocks.push(Block { first: first.0, offset, start });
        self.deltas.push(0);
        self.deltas.extend(lsns.map(|lsn| {
            u32::try_from(lsn.0 - first.0).expect("a block ends before its LSNs are that far apart")
        }));
    }

    /// Whether an LSN can be in a block that begins with `first`.
    pub(crate) fn reaches(first: Lsn, lsn: Lsn) -> bool {
        u32::try_from(lsn.0 - first.0).is_ok()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.deltas.len()
    }

    pub(crate) fn last(&self) -> Option<Lsn> {
        Some(Lsn(self.blocks.last()?.first + u64::from(*self.deltas.last()?)))
    }

    /// Where in the column an LSN stands, and where its frame does.
    pub(crate) fn find(&self, lsn: Lsn) -> Option<(usize, u32)> {
        let after = self.blocks.partition_point(|block| block.first <= lsn.0);
        let at = after.checked_sub(1)?;
        let block = self.blocks[at];
        let delta = u32::try_from(lsn.0 - block.first).ok()?;
        let found = self.deltas[block.start..self.end_of(at)].binary_search(&delta).ok()?;
        Some((block.start + found, block.offset))
    }

    /// Every LSN, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Lsn> {
        self.blocks.iter().enumerate().flat_map(|(at, block)| {
            let deltas = &self.deltas[block.start..self.end_of(at)];
            deltas.iter().map(|&delta| Lsn(block.first + u64::from(delta)))
        })
    }

    fn end_of(&self, block: usize) -> usize {
        self.blocks.get(block + 1).map_or(self.deltas.len(), |next| next.start)
    }

    /// A directory's payload: of each block offset, count and first LSN, then the distance of each
    /// LSN from the one before, seven bits a byte.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.blocks.len() * BLOCK_LEN + self.deltas.len() * 2);
        for (at, block) in self.blocks.iter().enumerate() {
            let deltas = &self.deltas[block.start..self.end_of(at)];
            let count = u32::try_from(deltas.len()).expect("a block is a frame");
            bytes.extend_from_slice(&block.offset.to_le_bytes());
            bytes.extend_from_slice(&count.to_le_bytes());
            bytes.extend_from_slice(&block.first.to_le_bytes());
            for pair in deltas.windows(2) {
                push_varint(&mut bytes, pair[1] - pair[0]);
            }
        }
        bytes
    }

    /// Reads a directory's payload; `None` when it is none.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut column = Self::default();
        while !bytes.is_empty() {
            let (fields, rest) = bytes.split_at_checked(BLOCK_LEN)?;
            bytes = rest;
            let (offset, count, first) =
                (u32_at(fields, 0), u32_at(fields, 4) as usize, u64_at(fields, 8));
            let follows = column.last().is_none_or(|last| last.0 < first);
            if !follows || count == 0 || bytes.len() < count - 1 {
                return None;
            }
            let mut delta = 0_u32;
            let mut lsns = Vec::with_capacity(count);
            lsns.push(Lsn(first));
            for _ in 1..count {
                delta = delta.checked_add(take_varint(&mut bytes).filter(|&step| 0 < step)?)?;
                lsns.push(Lsn(first.checked_add(u64::from(delta))?));
            }
            column.push_block(offset, lsns);
        }
        Some(column)
    }
}

fn push_varint(bytes: &mut Vec<u8>, mut value: u32) {
    while 0x7f < value {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0_u64;
    for at in 0..5 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn column(lsns: &BTreeSet<u64>, block: usize) -> Column {
        let mut column = Column::default();
        let lsns: Vec<Lsn> = lsns.iter().copied().map(Lsn).collect();
        for (at, block) in lsns.chunks(block).enumerate() {
            for block in block.chunk_by(|_, next| Column::reaches(block[0], *next)) {
                let offset = u32::try_from(at).unwrap() * 64;
                column.push_block(offset, block.iter().copied());
            }
        }
        column
    }

    proptest! {
        #[test]
        fn a_column_finds_what_it_holds_and_reads_as_it_was_written(
            lsns in prop::collection::btree_set(1..u64::from(u32::MAX), 1..200),
            block in 1..20_usize,
        ) {
            let column = column(&lsns, block);
            prop_assert!(column.iter().map(|lsn| lsn.0).eq(lsns.iter().copied()));
            for (at, &lsn) in lsns.iter().enumerate() {
                let offset = u32::try_from(at / block).unwrap() * 64;
                prop_assert_eq!(column.find(Lsn(lsn)), Some((at, offset)));
                prop_assert_eq!(column.find(Lsn(lsn + 1)).is_some(), lsns.contains(&(lsn + 1)));
            }
            prop_assert_eq!(Column::decode(&column.encode()), Some(column));
        }

        #[test]
        fn any_bytes_are_refused_without_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            if let Some(column) = Column::decode(&bytes) {
                prop_assert!(column.len() <= bytes.len());
            }
        }
    }
}
