//! Scrubbing: while nothing else is to be done, sealed segments are read, a little at a time, so
//! that rot is told before somebody needs what it took. Nothing is changed.

use std::sync::Arc;

use crate::compaction::Work;
use crate::error::Damage;
use crate::log::Shared;
use crate::scan::{Depth, Walk};
use crate::segment::{SEGMENT_HEADER_LEN, Segment};
use crate::stats::Counters;

/// How far it has come.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Position {
    /// Cold segments have the highest numbers, so they come last.
    seq: u64,
    /// Where in the segment the next frame begins; 0 before its first.
    offset: u64,
}

impl Work {
    /// Reads about so many bytes, from where it ended last; begins anew behind the last segment.
    pub(super) fn scrub(&mut self, shared: &Shared, bytes: u64) {
        let mut read = 0;
        while read < bytes {
            let Some(segment) = sealed_from(shared, self.scrubbed.seq) else {
                self.scrubbed = Position::default();
                return;
            };
            if segment.seq() != self.scrubbed.seq {
                self.scrubbed = Position { seq: segment.seq(), offset: 0 };
            }
            read += self.scrub_segment(shared, &segment, bytes - read);
        }
    }

    fn scrub_segment(&mut self, shared: &Shared, segment: &Segment, bytes: u64) -> u64 {
        let end = u64::from(segment.state.lock().end);
        let from = self.scrubbed.offset.max(u64::from(SEGMENT_HEADER_LEN));
        let read_ahead = usize::try_from(bytes.clamp(4 << 10, 1 << 20)).unwrap_or(1 << 20);
        let mut walk = Walk::new(&*segment.file, segment.header, end).starting_at(from, read_ahead);
        while walk.offset - from < bytes {
            let seen = walk.next(Depth::Bodies);
            match seen {
                Some(Ok(_)) => {}
                other => {
                    if let Some(Err(bad)) = other {
                        let damage = Damage::of(&*segment.path, bad.problem.to_string());
                        self.tell(shared, segment.seq(), &damage.at(bad.offset));
                    }
                    self.scrubbed = Position { seq: segment.seq() + 1, offset: 0 };
                    break;
                }
            }
            self.scrubbed.offset = walk.offset;
        }
        let read = walk.offset - from;
        Counters::add(&shared.counters.scrubbed_bytes, usize::try_from(read).unwrap_or(0));
        read
    }

    /// Tells of damage once, and leaves the segment as it is from now on.
    pub(super) fn tell(&mut self, shared: &Shared, seq: u64, damage: &Damage) {
        if self.left_alone.insert(seq) {
            Counters::add(&shared.counters.damages, 1);
            shared.observer.damaged(damage);
        }
    }
}

/// The sealed segment with this number, or the next one.
fn sealed_from(shared: &Shared, seq: u64) -> Option<Arc<Segment>> {
    let is_next = |segment: &&Arc<Segment>| seq <= segment.seq();
    let segments = shared.segments.read();
    let hot = segments.iter().filter(|segment| segment.sealed_last().is_some()).find(is_next);
    if let Some(hot) = hot {
        return Some(Arc::clone(hot));
    }
    drop(segments);
    let cold = shared.cold.read();
    let cold = cold.iter().map(|cold| &cold.segment).filter(is_next).min_by_key(|s| s.seq());
    cold.cloned()
}
