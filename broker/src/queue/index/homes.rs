//! In which page a message is: a few bytes for each.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use qbroker_storage::Lsn;

/// Births in a block.
const BLOCK: usize = 64;
/// More changes of page than this within a block, and the block names every birth's page.
const CHANGES_MAX: usize = 32;

/// No page: the message is in memory, or finished.
const NONE: u32 = u32::MAX;

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
            Self::Changes(changes) => {
                let after = changes.partition_point(|&(from, _)| usize::from(from) <= at);
                after.checked_sub(1).map_or(NONE, |last| changes[last].1)
            }
        }
    }

    fn pages(&self) -> [u32; BLOCK] {
        match self {
            Self::Each(pages) => **pages,
            Self::Changes(_) => std::array::from_fn(|at| self.get(at)),
        }
    }

    /// `None` where no birth has a page.
    fn new(pages: [u32; BLOCK]) -> Option<Self> {
        let before = std::iter::once(NONE).chain(pages);
        let changed = (0_u8..).zip(pages).zip(before).filter(|((_, page), before)| page != before);
        let changes: Vec<(u8, u32)> = changed.map(|(change, _)| change).collect();
        match changes.len() {
            0 => None,
            1..=CHANGES_MAX => Some(Self::Changes(changes.into())),
            _ => Some(Self::Each(Box::new(pages))),
        }
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
        while let Some(&(number, _)) = births.peek() {
            let before = self.blocks.get(&number);
            let mut pages = before.map_or([NONE; BLOCK], Block::pages);
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
        let mut homes = Homes::default();
        let births = |step: usize| (10..300).step_by(step).map(Lsn);
        homes.insert(births(1), 1);
        homes.insert(births(2), 2);
        homes.insert(births(6), 3);
        homes.remove(births(12));
        for birth in 0..310 {
            let expected = match birth {
                ..10 | 300.. => None,
                _ if (birth - 10) % 12 == 0 => None,
                _ if (birth - 10) % 6 == 0 => Some(3),
                _ if (birth - 10) % 2 == 0 => Some(2),
                _ => Some(1),
            };
            assert_eq!(homes.get(Lsn(birth)), expected, "{birth}");
        }
        homes.remove(births(1));
        assert!(homes.blocks.is_empty());
    }
}
