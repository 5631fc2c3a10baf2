//! Bits that are counted.

/// One bit for each record of a segment.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits {
    pub(super) live: u64,
    pub(super) words: Vec<u64>,
}

impl Bits {
    pub(super) fn is_set(&self, at: usize) -> bool {
        self.words.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    /// Sets or clears a bit; whether that changed it.
    pub(super) fn set(&mut self, at: usize, alive: bool) -> bool {
        if self.is_set(at) == alive {
            return false;
        }
        if self.words.len() <= at / 64 {
            self.words.resize(at / 64 + 1, 0);
        }
        self.words[at / 64] ^= 1 << (at % 64);
        if alive {
            self.live += 1;
        } else {
            self.live -= 1;
        }
        true
    }

    /// The bits that are set, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        let in_word = |(at, &word): (usize, &u64)| {
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at * 64 + bit)
        };
        self.words.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(in_word)
    }
}
