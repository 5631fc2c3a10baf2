//! A file of the simulated disk: what a program sees of it, what is certainly there, and what may be.

use std::collections::{BTreeMap, BTreeSet};

use super::Rng;

/// What is written whole or not at all.
pub(super) const SECTOR: usize = 512;
/// Where a file says what it is: a log that finds a flipped bit there refuses, synced or not.
const FRONT_SECTORS: usize = 8;

/// A file, whatever it is called.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// What a running program sees.
    pub(super) bytes: Vec<u8>,
    /// What is certainly on disk.
    pub(super) durable: Vec<u8>,
    /// Versions of a sector written since the last sync, any of which may be on disk.
    pub(super) dirty: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    /// The shortest that it has been since the last sync, where it was cut.
    cut_to: Option<usize>,
    /// Sectors that cannot be read.
    pub(super) unreadable: BTreeSet<usize>,
}

impl Node {
    fn sector(bytes: &[u8], at: usize) -> [u8; SECTOR] {
        let mut sector = [0; SECTOR];
        let from = (at * SECTOR).min(bytes.len());
        let to = ((at + 1) * SECTOR).min(bytes.len());
        sector[..to - from].copy_from_slice(&bytes[from..to]);
        sector
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        if bytes.is_empty() {
            return;
        }
        for at in offset / SECTOR..=(end - 1) / SECTOR {
            let version = Self::sector(&self.bytes, at);
            self.dirty.entry(at).or_default().push(version);
        }
    }

    pub(super) fn resize(&mut self, len: usize) {
        if len < self.bytes.len() {
            self.cut_to = Some(self.cut_to.map_or(len, |cut_to| cut_to.min(len)));
        }
        self.bytes.resize(len, 0);
    }

    /// What was written since the last sync is on disk now. What a failed sync took for clean is not.
    pub(super) fn sync(&mut self) {
        if let Some(cut_to) = self.cut_to.take() {
            self.durable.truncate(cut_to);
        }
        self.durable.resize(self.bytes.len(), 0);
        for at in std::mem::take(&mut self.dirty).into_keys() {
            let from = (at * SECTOR).min(self.bytes.len());
            let to = ((at + 1) * SECTOR).min(self.bytes.len());
            self.durable[from..to].copy_from_slice(&self.bytes[from..to]);
        }
    }

    /// The bytes are others, on disk as well.
    pub(super) fn tamper(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.bytes);
        self.durable.clone_from(&self.bytes);
        self.dirty.clear();
        self.cut_to = None;
    }

    /// After a failed sync the kernel takes the pages for clean: later syncs do not write them.
    pub(super) fn sync_failed(&mut self) {
        self.dirty.clear();
    }

    /// Each sector as it was at the last sync, or in one of its versions since; where it garbles, one
    /// with a bit of what is new in it flipped, now and then.
    pub(super) fn after_power_loss(&self, rng: &mut Rng, mut garbles: bool) -> Self {
        let mut bytes = self.durable.clone();
        if rng.below(2) == 0 {
            bytes.resize(self.bytes.len(), 0);
        }
        for (&at, versions) in &self.dirty {
            let choice = rng.below(versions.len() + 1);
            let Some(mut version) = choice.checked_sub(1).map(|at| versions[at]) else { continue };
            if garbles && FRONT_SECTORS <= at && rng.below(4) == 0 {
                garble(&mut version, &Self::sector(&self.durable, at), rng);
                garbles = false;
            }
            let from = at * SECTOR;
            let to = ((at + 1) * SECTOR).min(self.bytes.len());
            if from < to {
                let len = bytes.len().max(to);
                bytes.resize(len, 0);
                bytes[from..to].copy_from_slice(&version[..to - from]);
            }
        }
        Self {
            durable: bytes.clone(),
            bytes,
            dirty: BTreeMap::new(),
            cut_to: None,
            unreadable: self.unreadable.clone(),
        }
    }
}

/// Flips a bit of a byte that differs from the one that is certainly on disk.
fn garble(version: &mut [u8; SECTOR], durable: &[u8; SECTOR], rng: &mut Rng) {
    let new: Vec<usize> = (0..SECTOR).filter(|&at| version[at] != durable[at]).collect();
    if !new.is_empty() {
        version[new[rng.below(new.len())]] ^= 1 << rng.below(8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_sync_took_for_clean_is_on_disk_once_it_is_written_again() {
        let mut node = Node::default();
        node.write(&[1; SECTOR], 0);
        node.sync_failed();
        node.write(&[2; SECTOR], SECTOR);
        node.sync();
        assert_eq!(node.bytes, [[1; SECTOR], [2; SECTOR]].concat());
        assert_eq!(node.durable, [[0; SECTOR], [2; SECTOR]].concat());
        node.write(&[1; SECTOR], 0);
        node.sync();
        assert_eq!(node.durable, node.bytes);
    }

    #[test]
    fn what_was_cut_is_not_on_disk_after_a_sync() {
        let mut node = Node::default();
        node.write(&[1; 3 * SECTOR], 0);
        node.sync();
        node.resize(SECTOR);
        node.resize(2 * SECTOR);
        node.sync();
        assert_eq!(node.durable, [[1; SECTOR], [0; SECTOR]].concat());
    }
}
