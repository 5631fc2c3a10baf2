//! Which pages hold messages of a key: some ten bytes for each message that has one.

use std::collections::BTreeMap;

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
    }
}
