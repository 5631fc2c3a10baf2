//! Which pages hold messages of a key: some ten bytes for each message that has one.

use std::collections::BTreeMap;

use super::page::Hash;
use crate::queue::ids::QueueId;

/// Number of a page.
pub(super) type Number = u32;

/// What messages do under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// They hold it as their unique key.
    Holds,
    /// They are the first of its line.
    Leads,
    /// They wait in its line.
    Waits,
}

/// Entries of a leaf. Larger ones move more for each that comes; smaller ones cost more memory.
const LEAF_MAX: usize = 512;
/// A leaf grows by so many: doubling would waste a third of it.
const LEAF_STEP: usize = 32;
/// Entries of a leaf that is made whole, with room for those that come.
const LEAF_FILLED: usize = 384;
/// Entries that are sorted at a time: few megabytes.
const FILLED_AT_ONCE: usize = 1 << 19;

/// Pages by queue, role and hash of the key.
///
/// A sorted list in pieces: a table would take twice the memory while it grows. Invariant: a leaf
/// holds, in order, the entries from its own key on up to the next leaf of the queue and role; all
/// of one hash are in one leaf.
#[derive(Debug, Default)]
pub(super) struct Held {
    leaves: BTreeMap<(QueueId, Role, u32), Vec<(u32, Number)>>,
}

impl Held {
    pub(super) fn insert(&mut self, queue: QueueId, role: Role, hash: u32, page: Number) {
        let first = self.leaf(queue, role, hash).unwrap_or_default();
        let leaf = self.leaves.entry((queue, role, first)).or_default();
        let Err(at) = leaf.binary_search(&(hash, page)) else { return };
        if leaf.len() == leaf.capacity() {
            leaf.reserve_exact(LEAF_STEP);
        }
        leaf.insert(at, (hash, page));
        if LEAF_MAX < leaf.len() {
            self.split(queue, role, first);
        }
    }

    /// As so many [`Self::insert`]s, at a fraction of their cost: of pages with the hashes of each in
    /// ascending order. Of this queue and role nothing was here.
    pub(super) fn fill(&mut self, queue: QueueId, role: Role, lists: &[(Number, &[Hash])]) {
        let total: usize = lists.iter().map(|(_, hashes)| hashes.len()).sum();
        let parts = (total / FILLED_AT_ONCE + 1).next_power_of_two() as u64;
        let mut rests: Vec<&[Hash]> = lists.iter().map(|&(_, hashes)| hashes).collect();
        let mut entries = Vec::new();
        for part in 1..=parts {
            let end = (part << 32) / parts;
            for (&(page, _), rest) in lists.iter().zip(&mut rests) {
                let here = rest.partition_point(|hash| u64::from(u32::from_le_bytes(*hash)) < end);
                let (taken, later) = rest.split_at(here);
                entries.extend(taken.iter().map(|hash| pack((u32::from_le_bytes(*hash), page))));
                *rest = later;
            }
            entries.sort_unstable();
            self.add_leaves(queue, role, &entries);
            entries.clear();
        }
    }

    /// Entries in order, behind all that there are of this queue and role.
    fn add_leaves(&mut self, queue: QueueId, role: Role, mut entries: &[u64]) {
        while let Some(&first) = entries.first() {
            let (last, _) = unpack(entries[LEAF_FILLED.min(entries.len()) - 1]);
            let end = entries.partition_point(|entry| unpack(*entry).0 <= last);
            let (leaf, rest) = entries.split_at(end);
            let leaf = leaf.iter().copied().map(unpack).collect();
            self.leaves.insert((queue, role, unpack(first).0), leaf);
            entries = rest;
        }
    }

    pub(super) fn remove(&mut self, queue: QueueId, role: Role, hash: u32, page: Number) {
        let Some(first) = self.leaf(queue, role, hash) else { return };
        let leaf = self.leaves.get_mut(&(queue, role, first)).expect("it was found just now");
        let Ok(at) = leaf.binary_search(&(hash, page)) else { return };
        leaf.remove(at);
        if leaf.is_empty() {
            self.leaves.remove(&(queue, role, first));
        }
    }

    /// The pages that hold messages of a key.
    pub(super) fn pages(
        &self,
        queue: QueueId,
        role: Role,
        hash: u32,
    ) -> impl Iterator<Item = Number> {
        let first = self.leaf(queue, role, hash);
        let leaf = first.map_or(&[][..], |first| &self.leaves[&(queue, role, first)]);
        let from = leaf.partition_point(|(other, _)| *other < hash);
        leaf[from..].iter().take_while(move |(other, _)| *other == hash).map(|(_, page)| *page)
    }

    /// The leaf that a hash is in, or would be.
    fn leaf(&self, queue: QueueId, role: Role, hash: u32) -> Option<u32> {
        let up_to = self.leaves.range((queue, role, 0)..=(queue, role, hash));
        up_to.map(|(&(.., first), _)| first).next_back()
    }

    fn split(&mut self, queue: QueueId, role: Role, first: u32) {
        let leaf = self.leaves.get_mut(&(queue, role, first)).expect("it is full");
        let (middle, _) = leaf[leaf.len() / 2];
        let before = leaf.partition_point(|(hash, _)| *hash < middle);
        let at =
            if before == 0 { leaf.partition_point(|(hash, _)| *hash <= middle) } else { before };
        let Some(&(begin, _)) = leaf.get(at) else { return };
        let rest = leaf.split_off(at);
        leaf.shrink_to_fit();
        self.leaves.insert((queue, role, begin), rest);
    }
}

/// An entry as a number, of the same order: numbers are sorted faster than pairs.
fn pack((hash, page): (u32, Number)) -> u64 {
    u64::from(hash) << 32 | u64::from(page)
}

#[expect(clippy::cast_possible_truncation, reason = "halves")]
fn unpack(entry: u64) -> (u32, Number) {
    ((entry >> 32) as u32, entry as u32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Hashes from few to many, so that leaves are split between and within those of one hash.
        #[test]
        fn pages_are_found_by_every_key_they_hold(
            changes in prop::collection::vec((any::<bool>(), 0..3_u32, 0..40_u32, 0..60_u32), 0..4_000),
            spread in prop_oneof![Just(1_u32), Just(7), Just(100_000_000)],
        ) {
            let (mut held, mut model) = (Held::default(), BTreeSet::new());
            for (comes, queue, hash, page) in changes {
                let (queue, hash) = (QueueId(queue), hash.wrapping_mul(spread));
                if comes || page < 40 {
                    held.insert(queue, Role::Holds, hash, page);
                    model.insert((queue, hash, page));
                } else {
                    held.remove(queue, Role::Holds, hash, page - 40);
                    model.remove(&(queue, hash, page - 40));
                }
            }
            for queue in (0..3).map(QueueId) {
                for hash in (0..41_u32).map(|hash| hash.wrapping_mul(spread)) {
                    let found: Vec<_> = held.pages(queue, Role::Holds, hash).collect();
                    let of_key = model.range((queue, hash, 0)..=(queue, hash, u32::MAX));
                    prop_assert_eq!(found, of_key.map(|(.., page)| *page).collect::<Vec<_>>());
                }
            }
            let entries: usize = held.leaves.values().map(Vec::len).sum();
            prop_assert_eq!(entries, model.len());
            prop_assert!(held.leaves.values().all(|leaf| !leaf.is_empty()));
        }

        /// Leaves that were made whole are as good as those that grew.
        #[test]
        fn filled_or_grown_all_the_same(
            pages in prop::collection::vec(prop::collection::btree_set(0..5_000_u32, 1..200), 1..60),
            more in prop::collection::vec((0..6_000_u32, 0..70_u32), 0..400),
            spread in prop_oneof![Just(1_u32), Just(800_000)],
        ) {
            let bytes = |hash: u32| (hash * spread).to_le_bytes();
            let pages: Vec<Vec<Hash>> =
                pages.into_iter().map(|page| page.into_iter().map(bytes).collect()).collect();
            let lists: Vec<(Number, &[Hash])> = (0..).zip(pages.iter().map(Vec::as_slice)).collect();
            let (mut filled, mut grown) = (Held::default(), Held::default());
            filled.fill(QueueId(1), Role::Waits, &lists);
            for &(page, hashes) in &lists {
                for hash in hashes {
                    grown.insert(QueueId(1), Role::Waits, u32::from_le_bytes(*hash), page);
                }
            }
            for (at, (hash, page)) in more.into_iter().enumerate() {
                let change = if at % 2 == 0 { Held::insert } else { Held::remove };
                for held in [&mut filled, &mut grown] {
                    change(held, QueueId(1), Role::Waits, hash.wrapping_mul(spread), page);
                }
            }
            let all = |held: &Held| held.leaves.values().flatten().copied().collect::<Vec<_>>();
            prop_assert_eq!(all(&filled), all(&grown));
            for hash in (0..6_000).map(|hash: u32| hash.wrapping_mul(spread)) {
                let of = |held: &Held| held.pages(QueueId(1), Role::Waits, hash).collect::<Vec<_>>();
                prop_assert_eq!(of(&filled), of(&grown));
            }
        }
    }
}
