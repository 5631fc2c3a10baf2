//! In which page a message is: a few bytes for each.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use qbroker_storage::Lsn;

/// Births in a block.
const BLOCK: usize = 64;
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

    /// These births, ascending, are in no page any more.
    pub(super) fn remove(&mut self, births: impl Iterator<Item = Lsn>) {
        self.set(births, NONE);
    }

    fn set(&mut self, births: impl Iterator<Item = Lsn>, page: u32) {
        let mut births = births.map(split).peekable();
        while let Some((number, at)) = births.next() {
            let is_alone = births.peek().is_none_or(|(other, _)| *other != number);
            let before = self.blocks.get_mut(&number);
            if is_alone && before.is_some_and(|block| block.set_one(at, page)) {
                continue;
            }
            let before = self.blocks.get(&number);
            let mut pages = before.map_or([NONE; BLOCK], Block::pages);
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
    use super::*;

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
