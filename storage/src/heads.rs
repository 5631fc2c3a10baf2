//! The heads of a stretch of the log, as far as they can be read: what is left to tell of records
//! that are damaged.

use std::sync::Arc;

use crate::cold::ColdSegment;
use crate::frame::{self, Kind};
use crate::log::Shared;
use crate::lsn::{Lsn, LsnRange};
use crate::scan::{Depth, Walk, next_frame};
use crate::segment::Segment;

/// What is done with a record's head. In no order, and twice where a record was being copied.
pub(crate) type Visit<'a> = dyn FnMut(Lsn, &[u8]) + 'a;

/// Visits the heads of every record in a stretch of the log that can be read.
pub(crate) fn visit(shared: &Shared, lsns: LsnRange, visit: &mut Visit<'_>) {
    let hot: Vec<Arc<Segment>> = shared.segments.read().clone();
    for segment in &hot {
        visit_segment(segment, lsns, visit);
    }
    // A segment leaves its table only after its copy is in the other one.
    let cold: Vec<Arc<ColdSegment>> = shared.cold.read().clone();
    for cold in &cold {
        visit_segment(&cold.segment, lsns, visit);
    }
}

/// Those of one segment. What cannot be read is passed over.
pub(crate) fn visit_segment(segment: &Segment, lsns: LsnRange, visit: &mut Visit<'_>) {
    let (end, sealed_last) = {
        let state = segment.state.lock();
        (u64::from(state.end), state.sealed_last)
    };
    let before = sealed_last.is_some_and(|last| last < lsns.first);
    if before || lsns.last < segment.header.first_lsn {
        return;
    }
    let mut walk = Walk::new(&*segment.file, segment.header, end);
    loop {
        let bad = match walk.next(Depth::Tables) {
            None => return,
            Some(Err(bad)) => bad,
            Some(Ok(seen)) if lsns.last < seen.header.first_lsn => return,
            Some(Ok(seen)) => {
                if matches!(seen.header.kind, Kind::Data | Kind::Copied) {
                    let entries = frame::entries(&seen.header, seen.table).unwrap_or_default();
                    let wanted = entries.iter().filter(|entry| lsns.contains(entry.lsn));
                    wanted.for_each(|entry| visit(entry.lsn, entry.head));
                }
                continue;
            }
        };
        let due = walk.next_lsn;
        match next_frame(&*segment.file, &segment.header, end, bad.offset, due) {
            Ok(Some((offset, lsn))) => walk.resume(offset, lsn),
            // Nothing behind it, or nothing that the disk would give.
            Ok(None) | Err(_) => return,
        }
    }
}
