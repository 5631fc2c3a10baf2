//! Putting a cold segment in the place of those it was copied from, with one frame.

use std::sync::Arc;

use crate::cold::ColdSegment;
use crate::compaction::{Abandoned, Source};
use crate::error::Doing as _;
use crate::frame::{Kind, u64_at};
use crate::layout::raise_format;
use crate::log::Shared;
use crate::lsn::Lsn;
use crate::retention::{dropped, named, remove_from_tables};
use crate::segment::Segment;
use crate::stats::Counters;
use crate::tail::Control;

/// Bytes of an `Adopt` frame before the segments it replaces.
const FIELDS_LEN: usize = 40;

/// Has the `Adopt` frame written, and lets the victims go once it is durable.
pub(super) fn install(
    shared: &Shared,
    cold: ColdSegment,
    victims: &[Source],
) -> Result<(), Abandoned> {
    // No checkpoint writes its table, and nothing is dropped, while this changes hands.
    let held = shared.checkpoints.lock();
    let victims = still_there(shared, victims);
    if victims.is_empty() {
        let path = &cold.segment.path;
        return Ok(shared.disk.remove(path).doing("remove", path)?);
    }
    // What was not copied because it was settled is settled in the log, too.
    shared.wait_for_retirements()?;
    if let Err(error) = raise_format(&*shared.disk) {
        // Best effort: nothing names it, and it may be what fills the disk.
        drop(shared.disk.remove(&cold.segment.path));
        return Err(error.into());
    }
    let payload = payload(&cold, &victims);
    shared.write_control(Control { kind: Kind::Adopt, payload })?;
    let seqs: Vec<u64> = victims.iter().map(|segment| segment.seq()).collect();
    shared.liveness.adopt(cold.seq(), &cold.column, &seqs);
    // In this order: a reader looks into the cold ones last.
    shared.cold.write().push(Arc::new(cold));
    remove_from_tables(shared, &victims);
    Counters::add(&shared.counters.compactions, 1);
    Counters::add(&shared.counters.segments_compacted, victims.len());
    shared.pool.recycle(victims);
    drop(held);
    if !shared.threaded {
        shared.maintain();
    }
    Ok(())
}

/// A checkpoint may have dropped some meanwhile: nothing lived in them any more.
fn still_there(shared: &Shared, victims: &[Source]) -> Vec<Arc<Segment>> {
    let (segments, cold) = (shared.segments.read(), shared.cold.read());
    let there = |segment: &&Arc<Segment>| {
        segments.iter().any(|other| Arc::ptr_eq(other, segment))
            || cold.iter().any(|other| Arc::ptr_eq(&other.segment, segment))
    };
    victims.iter().map(Source::segment).filter(there).cloned().collect()
}

fn payload(cold: &ColdSegment, victims: &[Arc<Segment>]) -> Vec<u8> {
    let last = cold.column.last().unwrap_or(Lsn::NONE);
    let mut payload = named(&[Arc::clone(&cold.segment)]);
    payload.extend_from_slice(&cold.segment.header.first_lsn.0.to_le_bytes());
    payload.extend_from_slice(&last.0.to_le_bytes());
    payload.extend_from_slice(&named(victims));
    payload
}

/// What an `Adopt` frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Adopted {
    pub(crate) seq: u64,
    pub(crate) nonce: [u8; 16],
    pub(crate) first_lsn: Lsn,
    pub(crate) last_lsn: Lsn,
    /// The segments it takes the place of.
    pub(crate) victims: Vec<u64>,
}

impl Adopted {
    /// Reads a payload whose checksum was right; `None` when it is too short for one.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let (fields, victims) = payload.split_at_checked(FIELDS_LEN)?;
        let (seq, nonce) = dropped(&fields[..24]).next()?;
        Some(Self {
            seq,
            nonce,
            first_lsn: Lsn(u64_at(fields, 24)),
            last_lsn: Lsn(u64_at(fields, 32)),
            victims: dropped(victims).map(|(seq, _)| seq).collect(),
        })
    }
}
