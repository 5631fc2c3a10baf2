//! The ids that one queue remembers: 32 bytes each, and some 10 to find it.

use bytes::Bytes;
use hashbrown::HashTable;
use qbroker_storage::Lsn;

use super::line::Line;

/// An id that a message was stored with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::queue) struct SeenId {
    /// A keyed hash: nobody who does not know the key can make two ids collide.
    pub(in crate::queue) hash: u128,
    pub(in crate::queue) birth: Lsn,
    /// When the window is over, in Unix milliseconds.
    pub(in crate::queue) end_ms: u64,
}

/// Bytes of an entry: hash, birth and end, each in little endian.
pub(super) const ENTRY: usize = 32;

/// An id as it is in memory and in a checkpoint.
pub(super) type Entry = [u8; ENTRY];

impl From<SeenId> for Entry {
    fn from(seen: SeenId) -> Self {
        let mut entry = [0; ENTRY];
        entry[..16].copy_from_slice(&seen.hash.to_le_bytes());
        entry[16..24].copy_from_slice(&seen.birth.0.to_le_bytes());
        entry[24..].copy_from_slice(&seen.end_ms.to_le_bytes());
        entry
    }
}

impl From<&Entry> for SeenId {
    fn from(entry: &Entry) -> Self {
        let word = |at| u64::from_le_bytes(*entry[at..].first_chunk().expect("an entry is whole"));
        let hash = u128::from(word(0)) | u128::from(word(8)) << 64;
        Self { hash, birth: Lsn(word(16)), end_ms: word(24) }
    }
}

impl SeenId {
    /// Reads what [`Frozen::groups`] wrote; `None` where it cannot have been that.
    pub(in crate::queue) fn read(bytes: &[u8]) -> Option<impl Iterator<Item = Self>> {
        let (entries, rest) = bytes.as_chunks::<ENTRY>();
        rest.is_empty().then(|| entries.iter().map(Self::from))
    }
}

/// First in, first out. Invariant: `numbers` has of each hash the latest in the line.
#[derive(Debug, Default)]
pub(super) struct Ids {
    line: Line,
    numbers: HashTable<u32>,
}

impl Ids {
    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    pub(super) fn first(&self) -> Option<SeenId> {
        self.line.first()
    }

    pub(super) fn find(&self, hash: u128) -> Option<SeenId> {
        let found = self.numbers.find(short(hash), |number| self.line.get(*number).hash == hash);
        found.map(|number| self.line.get(*number))
    }

    pub(super) fn push(&mut self, seen: SeenId) {
        let number = self.line.push(seen);
        let is_same = |other: &u32| self.line.get(*other).hash == seen.hash;
        if let Some(older) = self.numbers.find_mut(short(seen.hash), is_same) {
            *older = number;
            return;
        }
        let hasher = |other: &u32| short(self.line.get(*other).hash);
        self.numbers.insert_unique(short(seen.hash), number, hasher);
    }

    pub(super) fn forget_first(&mut self) {
        let Some((number, seen)) = self.line.pop() else { return };
        if let Ok(found) = self.numbers.find_entry(short(seen.hash), |other| *other == number) {
            found.remove();
        }
        // Gives memory back where many have gone.
        if self.numbers.len() < self.numbers.capacity() / 8 {
            let hasher = |other: &u32| short(self.line.get(*other).hash);
            self.numbers.shrink_to(2 * self.numbers.len(), hasher);
        }
    }

    /// The ids as they are at this moment. Cheap.
    pub(super) fn frozen(&self) -> Frozen {
        Frozen(self.line.clone())
    }
}

/// The ids of a queue, as they were at some moment.
#[derive(Debug)]
pub(in crate::queue) struct Frozen(Line);

impl Frozen {
    /// The ids as bytes, in groups of some hundreds, each in two pieces. None is copied.
    pub(in crate::queue) fn groups(&self) -> impl Iterator<Item = [Bytes; 2]> {
        self.0.groups()
    }
}

/// For the table: a part of a hash is one as well.
#[expect(clippy::cast_possible_truncation, reason = "a part of a hash")]
fn short(hash: u128) -> u64 {
    hash as u64
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn read(frozen: &Frozen) -> Vec<SeenId> {
        let bytes: Vec<u8> = frozen.groups().flatten().flatten().collect();
        SeenId::read(&bytes).expect("whole entries").collect()
    }

    #[test]
    fn part_of_an_entry_is_none() {
        assert!(SeenId::read(&[0; ENTRY + 1]).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// More than a chunk comes and goes at a time, and ids come again.
        #[test]
        fn they_are_found_and_forgotten_in_their_order(
            changes in prop::collection::vec((any::<bool>(), 0..1_500_usize), 1..12),
            ids in 1..3_000_u128,
        ) {
            let (mut remembered, mut model) = (Ids::default(), VecDeque::new());
            let mut frozen = Vec::new();
            let mut birth = 0;
            for (comes, count) in changes {
                for _ in 0..count {
                    if comes {
                        birth += 1;
                        // Below, all have the same part of the hash that the table sees.
                        let hash = (u128::from(birth) * 7 % ids) << 60;
                        let seen = SeenId { hash, birth: Lsn(birth), end_ms: birth / 3 };
                        remembered.push(seen);
                        model.push_back(seen);
                    } else {
                        remembered.forget_first();
                        model.pop_front();
                    }
                }
                prop_assert_eq!(remembered.len(), model.len());
                prop_assert_eq!(remembered.first(), model.front().copied());
                for hash in (0..ids).step_by(97).map(|id| id << 60) {
                    let latest = model.iter().rfind(|seen| seen.hash == hash);
                    prop_assert_eq!(remembered.find(hash), latest.copied());
                }
                frozen.push((remembered.frozen(), model.clone()));
            }
            for (frozen, model) in frozen {
                prop_assert_eq!(read(&frozen), Vec::from(model));
            }
        }

        /// However an id came to its place, it is written the same way.
        #[test]
        fn the_same_ids_are_in_the_same_groups(gone in 0..1_200_u64, stay in 0..1_200_u64) {
            let seen = |id: u64| SeenId { hash: id.into(), birth: Lsn(id), end_ms: id };
            let (mut old, mut new) = (Ids::default(), Ids::default());
            (0..gone + stay).for_each(|id| old.push(seen(id)));
            (0..gone).for_each(|_| old.forget_first());
            (gone..gone + stay).for_each(|id| new.push(seen(id)));
            let groups = |ids: &Ids| ids.frozen().groups().map(|it| it.concat()).collect::<Vec<_>>();
            prop_assert_eq!(groups(&old), groups(&new));
        }
    }
}
