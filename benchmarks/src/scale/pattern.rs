//! The patterns of settling that `pinned` tries.

use std::fmt;

/// Which messages stay alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pattern {
    /// Every second message stays
    EverySecond,
    /// The oldest message is never settled
    Oldest,
    /// A random tenth stays
    Tenth,
    /// Every message is nacked once, with a delay
    Once,
    /// A tenth of the messages is nacked with a delay, again and again
    Again,
}

impl Pattern {
    pub(crate) const ALL: [Self; 5] =
        [Self::EverySecond, Self::Oldest, Self::Tenth, Self::Once, Self::Again];

    /// Whether the message of this number stays.
    pub(crate) fn keeps(self, number: u64) -> bool {
        match self {
            Self::EverySecond => number % 2 == 1,
            Self::Oldest => number == 0,
            // The same tenth each time, in no order.
            Self::Tenth => scrambled(number).is_multiple_of(10),
            Self::Once | Self::Again => true,
        }
    }
}

/// A number that has nothing to do with its neighbour's (splitmix64).
fn scrambled(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EverySecond => "every second",
            Self::Oldest => "the oldest",
            Self::Tenth => "a random tenth",
            Self::Once => "each nacked once",
            Self::Again => "nacked again and again",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_a_tenth_and_has_no_pattern() {
        let kept: Vec<_> = (0..100_000).filter(|&number| Pattern::Tenth.keeps(number)).collect();
        assert!((9_700..10_300).contains(&kept.len()), "{}", kept.len());
        let neighbours = kept.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count();
        assert!((800..1_200).contains(&neighbours), "{neighbours}");
    }
}
