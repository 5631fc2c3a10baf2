//! Messages that carry a number, so that it is known which came, and when they were meant to.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use qbroker_client::Delivery;

use crate::system::Fallible;

/// Content of so many bytes, at least eight, that begins with `number`.
pub(crate) fn payload(number: u64, bytes: u32) -> Bytes {
    let mut payload = vec![7; bytes as usize];
    payload[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
    payload.into()
}

/// The number that a delivery carries.
pub(crate) fn number(delivery: &Delivery) -> Fallible<u64> {
    let bytes = delivery.message.payload.first_chunk::<NUMBER_BYTES>();
    Ok(u64::from_le_bytes(*bytes.context("a message without a number")?))
}

const NUMBER_BYTES: usize = 8;

/// Which of the numbers below a bound have come.
#[derive(Debug)]
pub(crate) struct Seen {
    words: Vec<AtomicU64>,
    bound: u64,
}

impl Seen {
    pub(crate) fn below(bound: u64) -> Fallible<Self> {
        let words = usize::try_from(bound.div_ceil(64))?;
        Ok(Self { words: std::iter::repeat_with(AtomicU64::default).take(words).collect(), bound })
    }

    /// Marks those of these deliveries.
    ///
    /// # Errors
    ///
    /// One came before, or is none of them.
    pub(crate) fn mark(&self, batch: &[Delivery]) -> Fallible<()> {
        for delivery in batch {
            let number = number(delivery)?;
            ensure!(self.mark_one(number)?, "message {number} was delivered twice");
        }
        Ok(())
    }

    /// Whether it is new.
    fn mark_one(&self, number: u64) -> Fallible<bool> {
        ensure!(number < self.bound, "message {number} was never published");
        let word = &self.words[usize::try_from(number / 64)?];
        let bit = 1 << (number % 64);
        Ok(word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_seen_once_and_only_below_the_bound() {
        let seen = Seen::below(65).unwrap();
        assert!(seen.mark_one(64).unwrap());
        assert!(!seen.mark_one(64).unwrap());
        assert!(seen.mark_one(0).unwrap());
        seen.mark_one(65).unwrap_err();
    }

    #[test]
    fn the_number_is_at_the_begin_of_the_content() {
        let payload = payload(258, 16);
        assert_eq!(payload[..], [2, 1, 0, 0, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7]);
    }
}
