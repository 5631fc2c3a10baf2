//! Messages, or what is known of them, by birth, in pages of neighbours: births are dense, so a page is an
//! array.

use std::sync::Arc;

use hashbrown::HashMap;
use qbroker_storage::Lsn;
use rustc_hash::FxBuildHasher;

use super::{Frozen, Message};

/// Births in a page. Larger pages waste more on the few messages that stay long.
const PAGE: u64 = 128;
/// A page of more messages than this has room for all of its births.
const FEW: usize = 48;
/// And one of so few has not: between the two it stays as it is.
const FEW_AGAIN: usize = 32;

/// Every message, found by arithmetic and one look into a small table. A clone shares its pages; a
/// page is copied when it is changed while somebody else has it.
#[derive(Clone, Debug)]
pub(in crate::queue) struct Pages<T> {
    pages: HashMap<u64, Arc<Page<T>>, FxBuildHasher>,
    len: usize,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { pages: HashMap::default(), len: 0 }
    }
}

/// Neighbours come and go together, but for those that wait for a time of their own: of ten million
/// such, those in memory are a message in each page.
#[derive(Clone, Debug)]
enum Page<T> {
    /// By slot, ascending. Never empty.
    Few(Vec<(u8, T)>),
    /// Invariant: `live` slots are filled.
    Many { slots: Box<[Option<T>]>, live: usize },
}

fn split(birth: Lsn) -> (u64, u8) {
    let slot = u8::try_from(birth.0 % PAGE).expect("below the size of a page");
    (birth.0 / PAGE, slot)
}

impl<T: Clone> Page<T> {
    fn get(&self, slot: u8) -> Option<&T> {
        match self {
            Self::Few(messages) => {
                let at = messages.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
                Some(&messages[at].1)
            }
            Self::Many { slots, .. } => slots[usize::from(slot)].as_ref(),
        }
    }

    fn get_mut(&mut self, slot: u8) -> Option<&mut T> {
        match self {
            Self::Few(messages) => {
                let at = messages.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
                Some(&mut messages[at].1)
            }
            Self::Many { slots, .. } => slots[usize::from(slot)].as_mut(),
        }
    }

    fn insert(&mut self, slot: u8, message: T) -> Option<T> {
        match self {
            Self::Few(messages) => {
                let at = match messages.binary_search_by_key(&slot, |(slot, _)| *slot) {
                    Ok(at) => return Some(std::mem::replace(&mut messages[at].1, message)),
                    Err(at) => at,
                };
                messages.insert(at, (slot, message));
                if FEW < messages.len() {
                    *self = Self::many(std::mem::take(messages));
                }
                None
            }
            Self::Many { slots, live } => {
                let before = slots[usize::from(slot)].replace(message);
                *live += usize::from(before.is_none());
                before
            }
        }
    }

    fn remove(&mut self, slot: u8) -> Option<T> {
        match self {
            Self::Few(messages) => {
                let at = messages.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
                let (_, message) = messages.remove(at);
                // The last ones of a page may stay for days.
                if messages.len() <= messages.capacity() / 2 {
                    messages.shrink_to_fit();
                }
                Some(message)
            }
            Self::Many { slots, live } => {
                let message = slots[usize::from(slot)].take()?;
                *live -= 1;
                if *live <= FEW_AGAIN {
                    let slots = (0..).zip(slots);
                    let mut few = Vec::with_capacity(*live);
                    few.extend(slots.filter_map(|(slot, message)| Some((slot, message.take()?))));
                    *self = Self::Few(few);
                }
                Some(message)
            }
        }
    }

    fn many(messages: Vec<(u8, T)>) -> Self {
        let mut slots: Box<[Option<T>]> = (0..PAGE).map(|_| None).collect();
        let live = messages.len();
        for (slot, message) in messages {
            slots[usize::from(slot)] = Some(message);
        }
        Self::Many { slots, live }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(messages) => messages.is_empty(),
            Self::Many { live, .. } => *live == 0,
        }
    }

    fn for_each(&self, visit: &mut dyn FnMut(u8, &T)) {
        match self {
            Self::Few(messages) => {
                messages.iter().for_each(|(slot, message)| visit(*slot, message))
            }
            Self::Many { slots, .. } => {
                let filled = (0..).zip(slots).filter_map(|(slot, m)| Some((slot, m.as_ref()?)));
                filled.for_each(|(slot, message)| visit(slot, message));
            }
        }
    }
}

impl<T: Clone> Pages<T> {
    pub(in crate::queue) fn len(&self) -> usize {
        self.len
    }

    pub(in crate::queue) fn get(&self, birth: Lsn) -> Option<&T> {
        let (page, slot) = split(birth);
        self.pages.get(&page)?.get(slot)
    }

    pub(in crate::queue) fn get_mut(&mut self, birth: Lsn) -> Option<&mut T> {
        let (page, slot) = split(birth);
        Arc::make_mut(self.pages.get_mut(&page)?).get_mut(slot)
    }

    /// Puts a message in; returns what was there.
    pub(in crate::queue) fn insert(&mut self, birth: Lsn, message: T) -> Option<T> {
        let (number, slot) = split(birth);
        // Many a message stays the only one of its page.
        let page = self.pages.entry(number);
        let page = page.or_insert_with(|| Arc::new(Page::Few(Vec::with_capacity(1))));
        let before = Arc::make_mut(page).insert(slot, message);
        self.len += usize::from(before.is_none());
        before
    }

    pub(in crate::queue) fn remove(&mut self, birth: Lsn) -> Option<T> {
        let (number, slot) = split(birth);
        let page = Arc::make_mut(self.pages.get_mut(&number)?);
        let message = page.remove(slot)?;
        self.len -= 1;
        if page.is_empty() {
            self.pages.remove(&number);
        }
        Some(message)
    }

    /// Visits every message, by birth.
    pub(in crate::queue) fn for_each(&self, visit: &mut dyn FnMut(Lsn, &T)) {
        let mut numbers: Vec<u64> = self.pages.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            self.pages[&number].for_each(&mut |slot, message| {
                visit(Lsn(number * PAGE + u64::from(slot)), message);
            });
        }
    }
}

impl Frozen for Pages<Message> {
    fn for_each(&self, visit: &mut dyn FnMut(Lsn, &Message)) {
        self.for_each(visit);
    }

    fn pages(&self) -> &[Arc<super::Page>] {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::queue::ids::QueueId;

    fn message(size: u32) -> Message {
        Message { place: Lsn(1), size, ..Message::unknown(QueueId(1), 0) }
    }

    proptest! {
        /// Of a few pages, by whatever comes and goes.
        #[test]
        fn pages_hold_what_a_map_holds(
            changes in prop::collection::vec((any::<bool>(), 0..2 * PAGE, 0_u32..9), 0..400),
        ) {
            let (mut pages, mut map) = (Pages::default(), BTreeMap::new());
            for (comes, birth, size) in changes {
                let birth = Lsn(birth);
                let (a, b) = if comes {
                    (pages.insert(birth, message(size)), map.insert(birth, size))
                } else {
                    (pages.remove(birth), map.remove(&birth))
                };
                prop_assert_eq!(a.map(|message| message.size), b);
                prop_assert_eq!(pages.len(), map.len());
                prop_assert_eq!(pages.get(birth).map(|m| m.size), map.get(&birth).copied());
            }
            let mut found = Vec::new();
            pages.for_each(&mut |birth, message| found.push((birth, message.size)));
            prop_assert_eq!(found, map.into_iter().collect::<Vec<_>>());
        }
    }
}
