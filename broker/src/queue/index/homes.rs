//! In which page a message is: a few bytes for each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use qbroker_storage::Lsn;

/// Births in a block.
const BLOCK: usize = 64;
/// Births whose blocks, one for each bit of a number, are made at a time when there are many.
const PART: usize = 64 * BLOCK;
/// Bytes of a change of page. A block that changes so often that this takes more names every birth's
/// page instead.
const CHANGE_BYTES: usize = size_of::<(u8, u32)>();

/// A block of so few pages is looked at anew, whether it is smaller as changes.
const FEW: usize = 8;

/// No page: the message is in memory, or finished.
const NONE: u32 = u32::MAX;
/// The same among small numbers.
const NONE_SMALL: u16 = u16::MAX;

/// Page numbers by birth. Neighbours mostly share their page, or else mostly have one.
#[derive(Debug, Default)]
pub(super) struct Homes {
    blocks: HashMap<u64, Block, FxBuildHasher>,
}

/// The pages of the births of a block.
#[derive(Debug)]
enum Block {
    /// From this birth of the block on it is this page, until the next change; none before the first.
    Changes(Box<[(u8, u32)]>),
    /// Numbers are used again, so that those of thirty million messages are small.
    EachSmall(Box<[u16; BLOCK]>),
    Each(Box<[u32; BLOCK]>),
}

fn split(birth: Lsn) -> (u64, usize) {
    let at = usize::try_from(birth.0 % BLOCK as u64).expect("below the size of a block");
    (birth.0 / BLOCK as u64, at)
}

impl Block {
    fn get(&self, at: usize) -> u32 {
        match self {
            Self::Each(pages) => pages[at],
            Self::EachSmall(pages) => large(pages[at]),
            Self::Changes(changes) => {
                let after = changes.partition_point(|&(from, _)| usize::from(from) <= at);
                after.checked_sub(1).map_or(NONE, |last| changes[last].1)
            }
        }
    }

    fn pages(&self) -> [u32; BLOCK] {
        match self {
            Self::Each(pages) => **pages,
            Self::EachSmall(pages) => pages.map(large),
            Self::Changes(_) => std::array::from_fn(|at| self.get(at)),
        }
    }

    /// Sets the page of one birth in its place; whether that could be done. It cannot where a block
    /// would take another form.
    fn set_one(&mut self, at: usize, page: u32) -> bool {
        let is_new = page != NONE;
        match self {
            Self::Changes(_) => return false,
            Self::EachSmall(pages) => {
                let filled = || pages.iter().filter(|page| **page != NONE_SMALL).count();
                match small(page) {
                    Some(page) if is_new || FEW < filled() => pages[at] = page,
                    _ => return false,
                }
            }
            Self::Each(pages) => {
                let filled = || pages.iter().filter(|page| **page != NONE).count();
                if !is_new && filled() <= FEW {
                    return false;
                }
                pages[at] = page;
            }
        }
        true
    }

    /// `None` where no birth has a page.
    fn new(pages: [u32; BLOCK]) -> Option<Self> {
        let before = std::iter::once(NONE).chain(pages);
        let changed = (0_u8..).zip(pages).zip(before).filter(|((_, page), before)| page != before);
        let changes: Vec<(u8, u32)> = changed.map(|(change, _)| change).collect();
        let are_small = pages.into_iter().all(|page| small(page).is_some());
        let each_bytes = if are_small { 2 * BLOCK } else { 4 * BLOCK };
        if changes.is_empty() {
            return None;
        }
        if changes.len() * CHANGE_BYTES <= each_bytes {
            return Some(Self::Changes(changes.into()));
        }
        Some(if are_small {
            Self::EachSmall(Box::new(pages.map(|page| small(page).expect("they all are"))))
        } else {
            Self::Each(Box::new(pages))
        })
    }
}

fn large(page: u16) -> u32 {
    if page == NONE_SMALL { NONE } else { page.into() }
}

fn small(page: u32) -> Option<u16> {
    match page {
        NONE => Some(NONE_SMALL),
        _ => u16::try_from(page).ok().filter(|page| *page != NONE_SMALL),
    }
}

impl Homes {
    /// The page of a message, if it is in one.
    pub(super) fn get(&self, birth: Lsn) -> Option<u32> {
        let (block, at) = split(birth);
        let page = self.blocks.get(&block)?.get(at);
        (page != NONE).then_some(page)
    }

    /// These births, ascending, are in this page from now on.
    pub(super) fn insert(&mut self, births: impl Iterator<Item = Lsn>, page: u32) {
        self.set(births, page);
    }

    /// As so many [`Self::insert`]s, at a fraction of their cost where pages lie between one another: every
    /// block is made once. Of no birth a page was known.
    pub(super) fn fill<B: Iterator<Item = Lsn>>(&mut self, pages: impl Iterator<Item = (u32, B)>) {
        let mut rests: Vec<_> = pages.map(|(page, births)| (page, births.peekable())).collect();
        let firsts = rests.iter_mut().enumerate();
        let firsts = firsts.filter_map(|(at, (_, births))| Some(Reverse((*births.peek()?, at))));
        let mut nexts: BinaryHeap<_> = firsts.collect();
        let part_of = |birth: Lsn| birth.0 / PART as u64;
        let mut slots = [NONE; PART];
        while let Some(&Reverse((first, _))) = nexts.peek() {
            let part = part_of(first);
            // Which blocks of the part have any: births may be far apart.
            let mut touched = 0_u64;
            while let Some(mut next) = nexts.peek_mut()
                && part_of(next.0.0) == part
            {
                let (page, births) = &mut rests[next.0.1];
                while let Some(birth) = births.next_if(|birth| part_of(*birth) == part) {
                    let at = usize::try_from(birth.0 % PART as u64);
                    let at = at.expect("below the size of a part");
                    slots[at] = *page;
                    touched |= 1 << (at / BLOCK);
                }
                match births.peek() {
                    Some(birth) => next.0.0 = *birth,
                    None => drop(PeekMut::pop(next)),
                }
            }
            let first_block = part * (PART / BLOCK) as u64;
            while touched != 0 {
                let at = touched.trailing_zeros();
                touched &= touched - 1;
                let pages = &mut slots.as_chunks_mut::<BLOCK>().0[at as usize];
                if let Some(block) = Block::new(std::mem::replace(pages, [NONE; BLOCK])) {
                    self.blocks.insert(first_block + u64::from(at), block);
                }
            }
        }
    }

    /// These births, ascending, are in no page any more.
    pub(super) fn remove(&mut self, births: impl Iterator<Item = Lsn>) {
        self.set(births, NONE);
    }

    fn set(&mut self, births: impl Iterator<Item = Lsn>, page: u32) {
        let mut births = births.map(split).peekable();
        while let Some((number, at)) = births.next() {
            let is_alone = births.peek().is_none_or(|(other, _)| *other != number);
            let mut pages = [NONE; BLOCK];
            if let Some(block) = self.blocks.get_mut(&number) {
                if is_alone && block.set_one(at, page) {
                    continue;
                }
                pages = block.pages();
            }
            pages[at] = page;
            while let Some((_, at)) = births.next_if(|(other, _)| *other == number) {
                pages[at] = page;
            }
            match Block::new(pages) {
                Some(block) => drop(self.blocks.insert(number, block)),
                None => drop(self.blocks.remove(&number)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Near one another, far apart, and at the end of all numbers.
        #[test]
        fn filled_is_as_inserted(
            births in prop::collection::btree_map(0..40_000_u64, 0..40_u32, 0..2_000),
            step in prop_oneof![Just(1_u64), Just(700), Just(u64::MAX / 40_000)],
        ) {
            let mut pages = BTreeMap::<u32, Vec<Lsn>>::new();
            for (birth, page) in births {
                pages.entry(page).or_default().push(Lsn(birth * step));
            }
            let (mut filled, mut inserted) = (Homes::default(), Homes::default());
            filled.fill(pages.iter().map(|(page, births)| (*page, births.iter().copied())));
            for (page, births) in &pages {
                inserted.insert(births.iter().copied(), *page);
            }
            prop_assert_eq!(filled.blocks.len(), inserted.blocks.len());
            for (number, block) in &inserted.blocks {
                prop_assert_eq!(filled.blocks[number].pages(), block.pages());
            }
        }
    }

    #[test]
    fn every_birth_finds_its_page_whatever_the_neighbours_do() {
        // Small numbers, the last small one and those behind it, and large ones.
        for first in [1, u32::from(u16::MAX) - 2, 1 << 20] {
            let mut homes = Homes::default();
            let births = |step: usize| (10..300).step_by(step).map(Lsn);
            homes.insert(births(1), first);
            homes.insert(births(2), first + 1);
            homes.insert(births(6), first + 2);
            homes.remove(births(12));
            for birth in 0..310 {
                let expected = match birth {
                    ..10 | 300.. => None,
                    _ if (birth - 10) % 12 == 0 => None,
                    _ if (birth - 10) % 6 == 0 => Some(first + 2),
                    _ if (birth - 10) % 2 == 0 => Some(first + 1),
                    _ => Some(first),
                };
                assert_eq!(homes.get(Lsn(birth)), expected, "{birth}");
            }
            homes.remove(births(1));
            assert!(homes.blocks.is_empty());
        }
    }
}
