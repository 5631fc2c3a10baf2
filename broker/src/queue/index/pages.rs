//! Messages by birth, in pages of neighbours: births are dense, so a page is an array.

use std::sync::Arc;

use hashbrown::HashMap;
use qbroker_storage::Lsn;
use rustc_hash::FxBuildHasher;

use super::{Frozen, Message};

/// Births in a page. Larger pages waste more on the few messages that stay long.
const PAGE: u64 = 128;

/// Every message, found by arithmetic and one look into a small table. A clone shares its pages; a
/// page is copied when it is changed while somebody else has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    pages: HashMap<u64, Arc<Page>, FxBuildHasher>,
    len: usize,
}

/// Invariant: `live` slots are filled; a page without any is not kept.
#[derive(Clone, Debug)]
struct Page {
    slots: Box<[Option<Message>]>,
    live: usize,
}

fn split(birth: Lsn) -> (u64, usize) {
    let slot = usize::try_from(birth.0 % PAGE).expect("below the size of a page");
    (birth.0 / PAGE, slot)
}

impl Pages {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, birth: Lsn) -> Option<&Message> {
        let (page, slot) = split(birth);
        self.pages.get(&page)?.slots[slot].as_ref()
    }

    pub(super) fn get_mut(&mut self, birth: Lsn) -> Option<&mut Message> {
        let (page, slot) = split(birth);
        Arc::make_mut(self.pages.get_mut(&page)?).slots[slot].as_mut()
    }

    /// Puts a message in; returns what was there.
    pub(super) fn insert(&mut self, birth: Lsn, message: Message) -> Option<Message> {
        let (page, slot) = split(birth);
        let page = self.pages.entry(page).or_insert_with(|| {
            let slots = (0..PAGE).map(|_| None).collect();
            Arc::new(Page { slots, live: 0 })
        });
        let page = Arc::make_mut(page);
        let before = page.slots[slot].replace(message);
        let is_new = usize::from(before.is_none());
        page.live += is_new;
        self.len += is_new;
        before
    }

    pub(super) fn remove(&mut self, birth: Lsn) -> Option<Message> {
        let (number, slot) = split(birth);
        let page = Arc::make_mut(self.pages.get_mut(&number)?);
        let message = page.slots[slot].take()?;
        page.live -= 1;
        self.len -= 1;
        if page.live == 0 {
            self.pages.remove(&number);
        }
        Some(message)
    }
}

impl Frozen for Pages {
    fn for_each(&self, visit: &mut dyn FnMut(Lsn, &Message)) {
        let mut numbers: Vec<u64> = self.pages.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            for (birth, slot) in (number * PAGE..).zip(&self.pages[&number].slots) {
                if let Some(message) = slot {
                    visit(Lsn(birth), message);
                }
            }
        }
    }

    fn pages(&self) -> &[Arc<super::Page>] {
        &[]
    }
}
