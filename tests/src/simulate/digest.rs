//! A number for many bytes: the same bytes, the same number.

use std::hash::{DefaultHasher, Hasher as _};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Digest(DefaultHasher);

impl Digest {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.finish()
    }
}
