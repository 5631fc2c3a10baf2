//! What goes when: a checkpoint comes, the third oldest and the segments nothing needs leave.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use crate::checkpoint::{Checkpoints, Meta, OPEN_END, SegmentEntry};
use crate::error::{Doing as _, WriteError};
use crate::frame::Kind;
use crate::layout::CKPT;
use crate::log::Shared;
use crate::lsn::Lsn;
use crate::segment::Segment;
use crate::stats::Counters;
use crate::tail::Control;

/// Bytes of one segment in a `Drop` frame.
const DROP_ENTRY_LEN: usize = 24;
/// Most segments of one `Drop` or `Adopt` frame.
pub(crate) const DROP_ENTRIES_MAX: usize = 64;

/// See [`crate::Log::write_checkpoint`].
pub(crate) fn write_checkpoint(
    shared: &Shared,
    lsn: Lsn,
    state: &[Bytes],
) -> Result<(), WriteError> {
    // One at a time; readers of figures use the copies beside it.
    let mut checkpoints = shared.checkpoints.lock();
    let outcome = checkpoint_and_drop(shared, &mut checkpoints, lsn, state);
    shared.checkpoint_disk_bytes.store(checkpoints.disk_bytes(), Relaxed);
    drop(checkpoints);
    match &outcome {
        Ok(()) if !shared.threaded => shared.maintain(),
        Ok(()) => shared.compaction.wake(),
        Err(WriteError::Disk(error)) if error.is_full() => shared.pool.note_full(),
        // Closing: nothing failed.
        Err(WriteError::Stopped) => {}
        Err(error) => shared.stop(error),
    }
    outcome
}

fn checkpoint_and_drop(
    shared: &Shared,
    checkpoints: &mut Checkpoints,
    lsn: Lsn,
    state: &[Bytes],
) -> Result<(), WriteError> {
    let next_lsn = shared.tail.lock().next_lsn;
    assert!(lsn < next_lsn, "a checkpoint at LSN {lsn}, which was not given yet");
    assert!(checkpoints.newest() <= Some(lsn), "a checkpoint at LSN {lsn}, before the newest");
    let appended_bytes = shared.appended_bytes();
    // What it tells of must be on disk first: it may not know more than the log.
    shared.wait_until(|_| lsn <= shared.durable())?;
    if checkpoints.newest() != Some(lsn) {
        let meta = meta(shared, lsn);
        checkpoints.write(&*shared.disk, &shared.log_id, &meta, state)?;
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&lsn.0.to_le_bytes());
        payload[8..].copy_from_slice(&meta.epoch.to_le_bytes());
        shared.write_control(Control { kind: Kind::Checkpoint, payload: payload.into() })?;
        Counters::add(&shared.counters.checkpoints, 1);
        let bytes = checkpoints.kept[0].1;
        shared.counters.checkpoint_bytes.store(bytes, Relaxed);
    }
    checkpoints.remove_old(&*shared.disk)?;
    shared.checkpointed_bytes.store(appended_bytes, Relaxed);
    if !checkpoints.hold_ballast(&*shared.disk, shared.options.checkpoint_growth_bytes())? {
        shared.pool.note_full();
    }
    shared.disk.sync_dir(CKPT).doing("sync the folder", CKPT)?;
    match checkpoints.older() {
        Some(older) => drop_segments(shared, older),
        None => Ok(()),
    }
}

fn meta(shared: &Shared, lsn: Lsn) -> Meta {
    let segments: Vec<SegmentEntry> =
        shared.segments.read().iter().map(|segment| entry(segment)).collect();
    // The last that begins at or before it: those without records precede the one that has it.
    let at = segments.partition_point(|segment| segment.first_lsn <= lsn);
    let epoch = at.checked_sub(1).map_or(0, |at| segments[at].epoch);
    // Whoever installs a cold segment holds the lock of the checkpoints, so the two fit.
    let cold = shared.cold.read().iter().map(|cold| entry(&cold.segment)).collect();
    Meta { lsn, epoch, created_ms: shared.disk.now_ms(), segments, cold }
}

fn entry(segment: &Segment) -> SegmentEntry {
    SegmentEntry {
        seq: segment.seq(),
        nonce: segment.header.nonce,
        first_lsn: segment.header.first_lsn,
        last_lsn: segment.sealed_last().unwrap_or(OPEN_END),
        epoch: segment.header.epoch,
    }
}

/// Drops every sealed segment in which nothing lives and that both checkpoints have absorbed, and
/// every cold one in which nothing lives. The caller holds the lock of the checkpoints.
///
/// The segment with the record that proves the older checkpoint stays. Files are touched only
/// once the `Drop` frame is durable.
pub(crate) fn drop_segments(shared: &Shared, older: Lsn) -> Result<(), WriteError> {
    let is_dead = |seq: u64| shared.liveness.live(seq) == 0;
    let mut dead: Vec<Arc<Segment>> = {
        let segments = shared.segments.read();
        let absorbed =
            |segment: &&Arc<Segment>| segment.sealed_last().is_some_and(|last| last < older);
        segments.iter().filter(absorbed).filter(|segment| is_dead(segment.seq())).cloned().collect()
    };
    let cold = shared.cold.read();
    dead.extend(cold.iter().filter(|cold| is_dead(cold.seq())).map(|c| Arc::clone(&c.segment)));
    drop(cold);
    if dead.is_empty() {
        return Ok(());
    }
    shared.wait_for_retirements()?;
    for dead in dead.chunks(DROP_ENTRIES_MAX) {
        let payload = named(dead);
        shared.write_control(Control { kind: Kind::Drop, payload })?;
        remove_from_tables(shared, dead);
        for segment in dead {
            shared.liveness.forget(segment.seq());
        }
        Counters::add(&shared.counters.segments_dropped, dead.len());
    }
    shared.pool.recycle(dead);
    Ok(())
}

/// No reader finds these any more; who has found one goes on with it.
pub(crate) fn remove_from_tables(shared: &Shared, gone: &[Arc<Segment>]) {
    let gone = |segment: &Arc<Segment>| gone.iter().any(|gone| Arc::ptr_eq(gone, segment));
    shared.segments.write().retain(|segment| !gone(segment));
    shared.cold.write().retain(|cold| !gone(&cold.segment));
}

/// Segments by sequence number and nonce, as `Drop` and `Adopt` frames name them.
pub(crate) fn named(dead: &[Arc<Segment>]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(dead.len() * DROP_ENTRY_LEN);
    for segment in dead {
        payload.extend_from_slice(&segment.seq().to_le_bytes());
        payload.extend_from_slice(&segment.header.nonce);
    }
    payload
}

/// The segments a `Drop` frame names: sequence number and nonce.
pub(crate) fn dropped(payload: &[u8]) -> impl Iterator<Item = (u64, [u8; 16])> {
    payload.as_chunks::<DROP_ENTRY_LEN>().0.iter().map(|entry| {
        let (seq, nonce) = entry.split_at(8);
        let seq = u64::from_le_bytes(seq.try_into().expect("eight bytes"));
        (seq, nonce.try_into().expect("sixteen bytes"))
    })
}
