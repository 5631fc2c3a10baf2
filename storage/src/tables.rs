//! A frame's table, as it is kept for who reads of the frame again.

mod recent;

use bytes::Bytes;

use crate::frame::{Entries, Entry, Header, Position};
use crate::lsn::Lsn;
pub(crate) use crate::tables::recent::Tables;

/// Entries from one that is known to be where it is to the next one: few are passed to find one, and
/// little is kept of a table beside itself.
const STRIDE: u32 = 32;

/// A frame's table, whose checksum was right.
#[derive(Debug)]
pub(crate) struct Table {
    /// Which segment it is of; a file that is used again has another one.
    nonce: [u8; 16],
    /// Where its frame begins.
    pub(crate) offset: u64,
    pub(crate) header: Header,
    bytes: Bytes,
    /// Of every `STRIDE`th entry.
    known: Vec<Position>,
}

/// An [`Entry`] that holds its head.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) lsn: Lsn,
    pub(crate) head: Bytes,
    pub(crate) body_start: u32,
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
    pub(crate) lost: bool,
}

impl Table {
    /// The table of a frame; `None` where its lengths do not add up.
    pub(crate) fn new(nonce: [u8; 16], offset: u64, header: Header, bytes: Bytes) -> Option<Self> {
        let mut entries = Entries::new(&header, &bytes)?;
        let mut known = Vec::with_capacity(header.count.div_ceil(STRIDE) as usize);
        for at in 0..header.count {
            if at.is_multiple_of(STRIDE) {
                known.push(entries.position());
            }
            entries.next()?;
        }
        let adds_up = entries.add_up();
        adds_up.then_some(Self { nonce, offset, header, bytes, known })
    }

    /// The records with these LSNs, which ascend or stay the same; `None` where one is not here.
    pub(crate) fn find_all(&self, lsns: &[Lsn]) -> Option<Vec<Found>> {
        let mut all: Vec<Found> = Vec::with_capacity(lsns.len());
        let mut entries = self.entries_from(*lsns.first()?)?;
        for &lsn in lsns {
            if let Some(again) = all.last().filter(|last| last.lsn == lsn) {
                all.push(again.clone());
                continue;
            }
            if entries.position().lsn.0 + u64::from(STRIDE) < lsn.0 {
                entries = self.entries_from(lsn)?;
            }
            let entry = entries.find(|entry| lsn <= entry.lsn)?;
            all.push((entry.lsn == lsn).then(|| self.found(entry))?);
        }
        Some(all)
    }

    /// The heads of its records from `lsn` on, in order; those that a repair gave up are missing.
    pub(crate) fn heads_from(&self, lsn: Lsn) -> impl Iterator<Item = (Lsn, Bytes)> {
        let entries = self.entries_from(lsn).into_iter().flatten();
        let there = entries.filter(move |entry| lsn <= entry.lsn && !entry.lost);
        there.map(|entry| (entry.lsn, self.bytes.slice_ref(entry.head)))
    }

    /// From at most a few before `lsn` on.
    fn entries_from(&self, lsn: Lsn) -> Option<Entries<'_>> {
        let after = self.known.partition_point(|known| known.lsn <= lsn);
        let known = self.known.get(after.saturating_sub(1))?;
        Some(Entries::from(&self.header, &self.bytes, *known))
    }

    fn found(&self, entry: Entry<'_>) -> Found {
        let Entry { lsn, head, body_start, body_len, body_crc, lost, .. } = entry;
        let head = self.bytes.slice_ref(head);
        Found { lsn, head, body_start, body_len, body_crc, lost }
    }

    fn bytes(&self) -> usize {
        self.bytes.len() + self.known.len() * size_of::<Position>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Copied, HEADER_LEN, Place, encode_copied, encode_data, entries};
    use crate::record::{Batch, Body, Retention, StoredRecord};

    const PLACE: Place = Place {
        flags: 0,
        seed: 7,
        self_off: 4096,
        durable_off: 4096,
        prev_crc: 7,
        epoch: 1,
        time_ms: 0,
        first_lsn: Lsn(100),
    };

    /// The table of a frame of so many records, whose LSNs are so far apart where they are copies.
    fn table(steps: &[u64], copied: bool) -> (Table, Vec<Lsn>) {
        let lsn_after = |lsn: &mut u64, step: &u64| {
            let this = Lsn(*lsn);
            *lsn += if copied { *step } else { 1 };
            Some(this)
        };
        let lsns: Vec<Lsn> = steps.iter().scan(PLACE.first_lsn.0, lsn_after).collect();
        let parts = |lsn: &Lsn| {
            let head = vec![b'h'; (lsn.0 % 7) as usize];
            (head, Bytes::from(lsn.0.to_string()))
        };
        let mut bytes = Vec::new();
        let header = if copied {
            let copy = |lsn: &Lsn| {
                let (head, body) = parts(lsn);
                let body = Body::new(Bytes::new(), body);
                let record = StoredRecord { head: head.into(), body };
                Copied { lsn: *lsn, record, lost: lsn.0.is_multiple_of(5) }
            };
            encode_copied(&mut bytes, &PLACE, &lsns.iter().map(copy).collect::<Vec<_>>())
        } else {
            let mut batch = Batch::default();
            for (head, body) in lsns.iter().map(parts) {
                batch.push(Retention::Keep, Body::new(Bytes::new(), body), |buffer| {
                    buffer.extend_from_slice(&head);
                });
            }
            encode_data(&mut bytes, &PLACE, [batch.freeze()].iter())
        };
        let bytes = Bytes::from(bytes).slice(HEADER_LEN..HEADER_LEN + header.table_len as usize);
        (Table::new([0; 16], 0, header, bytes).expect("it adds up"), lsns)
    }

    proptest! {
        #[test]
        fn what_is_there_is_found_as_the_whole_table_tells_it(
            steps in prop::collection::vec(1_u64..50, 1..200),
            copied: bool,
            wanted in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
        ) {
            let (table, lsns) = table(&steps, copied);
            let all = entries(&table.header, &table.bytes).expect("it adds up");
            let mut wanted: Vec<_> = wanted.iter().map(|at| at.index(lsns.len())).collect();
            wanted.sort_unstable();
            let of = |at: &usize| lsns[*at];
            let found = table.find_all(&wanted.iter().map(of).collect::<Vec<_>>());
            for (&at, found) in wanted.iter().zip(found.expect("all are there")) {
                let Entry { lsn, head, body_start, body_len, body_crc, lost, .. } = all[at];
                prop_assert_eq!((found.lsn, &found.head[..]), (lsn, head));
                prop_assert_eq!(
                    (found.body_start, found.body_len, found.body_crc, found.lost),
                    (body_start, body_len, body_crc, lost)
                );
            }
            let from = of(&wanted[0]);
            let heads: Vec<_> = table.heads_from(from).collect();
            let there = all.iter().filter(|entry| from <= entry.lsn && !entry.lost);
            let expected: Vec<_> =
                there.map(|entry| (entry.lsn, Bytes::copy_from_slice(entry.head))).collect();
            prop_assert_eq!(heads, expected);
        }

        #[test]
        fn what_is_not_there_is_not_found(
            steps in prop::collection::vec(1_u64..50, 1..200),
            copied: bool,
            lsn in 90_u64..2_000,
        ) {
            let (table, lsns) = table(&steps, copied);
            let is_there = lsns.contains(&Lsn(lsn));
            prop_assert_eq!(table.find_all(&[Lsn(lsn)]).is_some(), is_there);
            if lsns[0] <= Lsn(lsn) {
                prop_assert_eq!(table.find_all(&[lsns[0], Lsn(lsn)]).is_some(), is_there);
            }
        }
    }
}
