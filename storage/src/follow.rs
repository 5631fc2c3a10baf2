//! The log as it was written, for who follows it: every record's head, in order and without a gap.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::ReadError;
use crate::log::Shared;
use crate::lsn::Lsn;
use crate::reader::{Placed, place, segment_of};
use crate::segment::Segment;

/// Heads of records that follow each other.
#[derive(Clone, Debug, Default)]
pub struct Stretch {
    /// Each with its LSN. What a repair gave up is missing.
    pub heads: Vec<(Lsn, Bytes)>,
    /// Where to go on.
    pub next: Lsn,
}

/// Why the log cannot be followed from a place.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FollowError {
    /// What is there was dropped, since nothing needs it any more.
    #[error("the log from LSN {from} on is gone; it goes back to LSN {oldest}")]
    Gone {
        /// Where somebody wanted to begin.
        from: Lsn,
        /// The first LSN from which on nothing is missing.
        oldest: Lsn,
    },
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(ReadError),
}

/// How much one stretch holds at most; at least one record.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Records.
    pub records: usize,
    /// Bytes of their heads.
    pub bytes: usize,
}

/// See [`crate::Log::follow`].
pub(crate) fn follow(shared: &Shared, from: Lsn, bound: Bound) -> Result<Stretch, FollowError> {
    let durable = shared.durable();
    if durable < from {
        return Ok(Stretch { heads: Vec::new(), next: from });
    }
    if let Some(stretch) = cached(shared, from, durable, bound) {
        return Ok(stretch);
    }
    let Some((segment, _)) = segment_of(shared, from) else { return Err(gone(shared, from)) };
    match place(&segment, &*segment.file, &shared.tables, from) {
        Ok(Placed::In(table)) => {
            let mut stretch = Stretch { heads: Vec::new(), next: table.header.next_lsn() };
            take(&mut stretch, table.heads_from(from), durable, bound);
            Ok(stretch)
        }
        Ok(Placed::Lost { next }) => Ok(Stretch { heads: Vec::new(), next }),
        // Its file was used again for something else meanwhile.
        Err(_) if !is_there(shared, &segment) => Err(gone(shared, from)),
        Err(error) => Err(FollowError::Unreadable(error)),
    }
}

/// From the tail cache.
fn cached(shared: &Shared, from: Lsn, durable: Lsn, bound: Bound) -> Option<Stretch> {
    let appended = shared.tail.lock().stretch(from, bound.records)?;
    let end = appended.last().map_or(from, |last| Lsn(last.end()));
    let mut stretch = Stretch { heads: Vec::new(), next: end };
    let heads = appended.iter().flat_map(|entry| {
        let heads = (0..).map(|at| (Lsn(entry.first.0 + at as u64), entry.batch.head(at)));
        heads.take(entry.batch.records.len())
    });
    take(&mut stretch, heads.skip_while(|(lsn, _)| *lsn < from), durable, bound);
    Some(stretch)
}

/// Takes what may be told and fits.
fn take(
    stretch: &mut Stretch,
    heads: impl Iterator<Item = (Lsn, Bytes)>,
    durable: Lsn,
    bound: Bound,
) {
    let mut bytes = 0;
    for (lsn, head) in heads {
        let is_full = bound.records <= stretch.heads.len() || bound.bytes < bytes + head.len();
        if durable < lsn || (is_full && !stretch.heads.is_empty()) {
            stretch.next = lsn;
            return;
        }
        bytes += head.len();
        stretch.heads.push((lsn, head));
    }
}

fn is_there(shared: &Shared, segment: &Arc<Segment>) -> bool {
    shared.segments.read().iter().any(|there| Arc::ptr_eq(there, segment))
}

fn gone(shared: &Shared, from: Lsn) -> FollowError {
    let segments = shared.segments.read();
    let mut oldest = match segments.last() {
        Some(last) => last.header.first_lsn,
        None => shared.durable().next(),
    };
    for segment in segments.iter().rev().skip(1) {
        match segment.sealed_last() {
            Some(last) if last.next() == oldest => oldest = segment.header.first_lsn,
            // Without a record.
            Some(last) if last < segment.header.first_lsn => {}
            _ => break,
        }
    }
    FollowError::Gone { from, oldest }
}
