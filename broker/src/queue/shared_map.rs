//! A sorted map that a checkpoint can take along: a clone shares its chunks.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::sync::Arc;

/// Entries of a chunk at most. A clone takes a step for each chunk, and the first change of each chunk
/// after it one for each of its entries.
const CHUNK: usize = 128;
/// A chunk of so few entries joins a neighbour, where both are in one of half a chunk then.
const FEW: usize = CHUNK / 4;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// Entries in the order of their keys. A clone shares its chunks; a chunk is copied when it is changed
/// while somebody else has it.
///
/// Invariant: no chunk is empty; each is under a key that none of its own is below, and the keys of the
/// chunk before are.
#[derive(Clone, Debug)]
pub(super) struct SharedMap<K, V> {
    chunks: BTreeMap<K, Chunk<K, V>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: BTreeMap::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (_, chunk) = self.chunks.range::<Q, _>((Unbounded, Included(key))).next_back()?;
        let at = place(chunk, key).ok()?;
        Some(&chunk[at].1)
    }

    pub(super) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (_, chunk) = self.chunks.range_mut::<Q, _>((Unbounded, Included(key))).next_back()?;
        let at = place(chunk, key).ok()?;
        Some(&mut Arc::make_mut(chunk)[at].1)
    }

    pub(super) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Puts an entry in; returns what was there.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.chunks.first_key_value().is_none_or(|(first, _)| key < *first) {
            // The first chunk begins with it from now on.
            let first = self.chunks.pop_first().map(|(_, chunk)| chunk).unwrap_or_default();
            self.chunks.insert(key.clone(), first);
        }
        let before = self.chunks.range_mut::<K, _>((Unbounded, Included(&key))).next_back();
        let (_, chunk) = before.expect("the first chunk begins with the key or before it");
        let chunk = Arc::make_mut(chunk);
        let at = match place(chunk, &key) {
            Ok(at) => return Some(std::mem::replace(&mut chunk[at].1, value)),
            Err(at) => at,
        };
        self.len += 1;
        if chunk.len() < CHUNK {
            chunk.insert(at, (key, value));
            return None;
        }
        // What grows at its end leaves full chunks behind.
        let half = if at == CHUNK { CHUNK } else { CHUNK / 2 };
        let mut upper = chunk.split_off(half);
        if at < half {
            chunk.insert(at, (key, value));
        } else {
            upper.insert(at - half, (key, value));
        }
        self.chunks.insert(upper[0].0.clone(), Arc::new(upper));
        None
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.remove_entry(key).map(|(_, value)| value)
    }

    pub(super) fn remove_entry<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        let before = self.chunks.range_mut::<Q, _>((Unbounded, Included(key))).next_back();
        let (first, chunk) = before?;
        let at = place(chunk, key).ok()?;
        let chunk = Arc::make_mut(chunk);
        let entry = chunk.remove(at);
        self.len -= 1;
        if chunk.len() <= FEW {
            let first = first.clone();
            self.join(&first);
        }
        Some(entry)
    }

    /// Drops a chunk that is empty, or makes one of it and a neighbour where both are small: what stays
    /// of many entries would else be a chunk each.
    fn join(&mut self, first: &K) {
        let len = self.chunks[first].len();
        if len == 0 {
            self.chunks.remove(first);
            return;
        }
        let is_small = |chunk: &Chunk<K, V>| len + chunk.len() <= CHUNK / 2;
        let below = self.chunks.range::<K, _>((Unbounded, Excluded(first))).next_back();
        let above = self.chunks.range::<K, _>((Excluded(first), Unbounded)).next();
        let (lower, upper) = match (below, above) {
            (Some((lower, chunk)), _) if is_small(chunk) => (lower.clone(), first.clone()),
            (_, Some((upper, chunk))) if is_small(chunk) => (first.clone(), upper.clone()),
            _ => return,
        };
        let upper = self.chunks.remove(&upper).expect("it was found just now");
        let lower = self.chunks.get_mut(&lower).expect("it was found just now");
        Arc::make_mut(lower).extend(Arc::unwrap_or_clone(upper));
    }

    pub(super) fn first(&self) -> Option<(&K, &V)> {
        let (_, chunk) = self.chunks.first_key_value()?;
        chunk.first().map(|(key, value)| (key, value))
    }

    pub(super) fn pop_first(&mut self) -> Option<(K, V)> {
        let key = self.first()?.0.clone();
        self.remove_entry(&key)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        let entries = self.chunks.values().flat_map(|chunk| chunk.iter());
        entries.map(|(key, value)| (key, value))
    }

    /// The entries from a bound on.
    pub(super) fn from<'a, Q: Ord + ?Sized>(
        &'a self,
        bound: Bound<&Q>,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        let begins = match bound {
            Included(key) | Excluded(key) => {
                self.chunks.range::<Q, _>((Unbounded, Included(key))).next_back()
            }
            Unbounded => None,
        };
        let chunks = match begins {
            Some((first, _)) => self.chunks.range::<K, _>(first..),
            None => self.chunks.range::<K, _>(..),
        };
        let before = begins.map_or(0, |(_, chunk)| {
            chunk.partition_point(|(key, _)| match bound {
                Included(from) => key.borrow() < from,
                Excluded(from) => key.borrow() <= from,
                Unbounded => false,
            })
        });
        let entries = chunks.flat_map(|(_, chunk)| chunk.iter()).skip(before);
        entries.map(|(key, value)| (key, value))
    }

    /// Every value, to be changed.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let chunks = self.chunks.values_mut().map(Arc::make_mut);
        chunks.flat_map(|chunk| chunk.iter_mut().map(|(_, value)| value))
    }
}

/// Where a key is in a chunk, or would be.
fn place<K: Borrow<Q>, V, Q: Ord + ?Sized>(chunk: &[(K, V)], key: &Q) -> Result<usize, usize> {
    chunk.binary_search_by(|(other, _)| other.borrow().cmp(key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl SharedMap<u16, u32> {
        fn check(&self) {
            let entries: usize = self.chunks.values().map(|chunk| chunk.len()).sum();
            assert_eq!(entries, self.len());
            let mut last = None;
            for (first, chunk) in &self.chunks {
                assert!(!chunk.is_empty() && chunk.len() <= CHUNK);
                assert!(last < Some(*first) && *first <= chunk[0].0);
                assert!(chunk.is_sorted_by(|(one, _), (other, _)| one < other));
                last = chunk.last().map(|(key, _)| *key);
            }
        }
    }

    fn map_of(map: &mut SharedMap<u16, u32>, count: u16) {
        for key in 0..count {
            assert_eq!(map.insert(key, 0), None);
        }
    }

    #[test]
    fn what_grows_at_its_end_fills_its_chunks() {
        let mut map = SharedMap::default();
        map_of(&mut map, 1_000);
        assert_eq!(map.chunks.len(), 1_000_usize.div_ceil(CHUNK));
    }

    #[test]
    fn what_stays_of_many_is_in_few_chunks() {
        let mut map = SharedMap::default();
        map_of(&mut map, 20_000);
        for key in (0..20_000).filter(|key| key % 100 != 0) {
            assert_eq!(map.remove(&key), Some(0));
        }
        map.check();
        assert!(map.chunks.len() <= 200 / (FEW / 2), "{} chunks", map.chunks.len());
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds_and_a_clone_what_it_was_made_of(
            changes in prop::collection::vec((0..4_u8, 0..600_u16, 0..400_u16), 0..200),
        ) {
            let (mut shared, mut map) = (SharedMap::default(), BTreeMap::new());
            let mut clones = Vec::new();
            for (number, (kind, key, count)) in (0_u32..).zip(changes) {
                for key in key..key + count {
                    match kind {
                        0 | 1 => prop_assert_eq!(shared.insert(key, number), map.insert(key, number)),
                        2 => prop_assert_eq!(shared.remove(&key), map.remove(&key)),
                        _ => {
                            let (one, other) = (shared.get_mut(&key), map.get_mut(&key));
                            prop_assert_eq!(one.as_deref(), other.as_deref());
                            one.into_iter().chain(other).for_each(|value| *value += 1);
                        }
                    }
                }
                shared.check();
                prop_assert_eq!(shared.get(&key), map.get(&key));
                prop_assert_eq!(shared.first(), map.first_key_value());
                prop_assert!(shared.from(Included(&key)).eq(map.range(key..)));
                let behind = (Excluded(key), Unbounded);
                prop_assert!(shared.from(Excluded(&key)).eq(map.range(behind)));
                if number % 8 == 0 {
                    clones.push((shared.clone(), map.clone()));
                }
            }
            clones.push((shared, map));
            for (mut shared, mut map) in clones {
                prop_assert!(shared.iter().eq(map.iter()));
                prop_assert!(shared.iter().rev().eq(map.iter().rev()));
                shared.values_mut().chain(map.values_mut()).for_each(|value| *value /= 2);
                prop_assert!(shared.iter().eq(map.iter()));
                prop_assert_eq!(shared.pop_first(), map.pop_first());
            }
        }
    }
}
