//! Ids in the order they came, in chunks that checkpoints share.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::ids::{ENTRY, Entry, SeenId};

/// Entries of a chunk.
const CHUNK: usize = 512;

/// Some ids in a row. It is copied when another one is added while somebody else has it.
#[derive(Clone, Debug, Default)]
struct Chunk(Arc<Vec<Entry>>);

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.0.as_flattened()
    }
}

impl Chunk {
    /// The bytes of some of its entries.
    fn bytes(&self, from: usize, to: usize) -> Bytes {
        let [from, to] = [from, to].map(|at| at.min(self.0.len()) * ENTRY);
        Bytes::from_owner(self.clone()).slice(from..to)
    }
}

/// First in, first out. An id's number is one more than that of the id before it, modulo 2^32: there are
/// never as many at a time.
///
/// Invariant: all chunks but the last are full; of the first, `gone` entries have left, but not all.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    chunks: VecDeque<Chunk>,
    gone: usize,
    /// The number of the first one.
    first: u32,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        let Some(last) = self.chunks.back() else { return 0 };
        (self.chunks.len() - 1) * CHUNK + last.0.len() - self.gone
    }

    pub(super) fn first(&self) -> Option<SeenId> {
        self.chunks.front().map(|chunk| SeenId::from(&chunk.0[self.gone]))
    }

    /// The one of this number, which is in the line.
    pub(super) fn get(&self, number: u32) -> SeenId {
        let at = self.gone + number.wrapping_sub(self.first) as usize;
        SeenId::from(&self.chunks[at / CHUNK].0[at % CHUNK])
    }

    /// Adds one; returns its number.
    pub(super) fn push(&mut self, seen: SeenId) -> u32 {
        let number = self.first.wrapping_add(u32::try_from(self.len()).expect("fewer than 2^32"));
        if self.chunks.back().is_none_or(|chunk| chunk.0.len() == CHUNK) {
            self.chunks.push_back(Chunk::default());
        }
        let last = self.chunks.back_mut().expect("there is room in it");
        Arc::make_mut(&mut last.0).push(seen.into());
        number
    }

    /// Takes the first one out; returns its number as well.
    pub(super) fn pop(&mut self) -> Option<(u32, SeenId)> {
        let seen = self.first()?;
        let number = self.first;
        self.first = number.wrapping_add(1);
        self.gone += 1;
        if self.chunks[0].0.len() == self.gone {
            self.chunks.pop_front();
            self.gone = 0;
        }
        Some((number, seen))
    }

    /// The bytes of all, by the chunk as if none had ever left: the rest of a chunk, and as much of the next
    /// one as makes it whole.
    pub(super) fn groups(&self) -> impl Iterator<Item = [Bytes; 2]> {
        let nexts = self.chunks.iter().skip(1).map(Some).chain([None]);
        let pairs = self.chunks.iter().zip(nexts);
        let groups = pairs.map(|(chunk, next)| {
            [
                chunk.bytes(self.gone, CHUNK),
                next.map_or_else(Bytes::new, |it| it.bytes(0, self.gone)),
            ]
        });
        groups.filter(|[rest, _]| !rest.is_empty())
    }
}
