//! Copying what lives into a cold segment beside the log. Nothing is changed that is in use.

use std::sync::Arc;

use crate::cold::ColdSegment;
use crate::cold::file::{ColdWriter, overhead_max, reads_back};
use crate::compaction::{Abandoned, Source, pace};
use crate::disk::{File, Mode};
use crate::error::{Damage, DiskError, Doing as _, ReadError, WriteError};
use crate::frame::Copied;
use crate::layout::{LOG, segment_path};
use crate::log::{Options, Shared};
use crate::lsn::Lsn;
use crate::segment::{SEGMENT_COLD, Segment, SegmentHeader, SegmentState};
use crate::stats::Counters;

/// The largest cold segment, whatever the size of the others: its directory is one frame.
const COLD_BYTES_MAX: u64 = 256 << 20;
/// Bytes between two syncs: a writer's sync never waits for more.
const SYNC_BYTES: u64 = 1 << 20;

/// Bytes of records that one cold segment takes.
pub(crate) fn room(options: &Options) -> u64 {
    let bytes = u64::from(options.segment_bytes).min(COLD_BYTES_MAX);
    bytes.saturating_sub(overhead_max(bytes))
}

/// Copies what lives in `victims`, about `bytes` of records, into a cold segment that is durable
/// in its place when this returns, and that nothing knows yet.
pub(crate) fn copy(
    shared: &Shared,
    victims: &[Source],
    seq: u64,
    bytes: u64,
) -> Result<ColdSegment, Abandoned> {
    let path = segment_path(seq);
    let tmp = format!("{path}.tmp");
    let outcome = write_tmp(shared, victims, seq, &tmp, bytes + overhead_max(bytes));
    if matches!(&outcome, Err(abandoned) if !matches!(abandoned, Abandoned::NothingLives)) {
        // Best effort: it may be what fills the disk. A start removes it otherwise.
        drop(shared.disk.remove(&tmp));
    }
    let cold = outcome?;
    shared.disk.rename(&tmp, &path).doing("rename", &tmp)?;
    shared.disk.sync_dir(LOG).doing("sync the folder", LOG)?;
    Ok(cold)
}

fn write_tmp(
    shared: &Shared,
    victims: &[Source],
    seq: u64,
    tmp: &str,
    bytes: u64,
) -> Result<ColdSegment, Abandoned> {
    let live = in_order(shared, victims);
    let first_lsn = live.first().map(|&(lsn, _)| lsn).ok_or(Abandoned::NothingLives)?;
    let file = make_file(shared, tmp, bytes)?;
    let mut nonce = [0; 16];
    shared.disk.random(&mut nonce).doing("draw randomness for", tmp)?;
    let header = SegmentHeader {
        flags: SEGMENT_COLD,
        size: 0,
        seq,
        nonce,
        log_id: shared.log_id,
        created_ms: shared.disk.now_ms(),
        epoch: shared.epoch,
        first_lsn,
    };
    let mut writer = ColdWriter::new(Arc::clone(&file), tmp.to_owned(), header);
    let mut unsynced = 0;
    for run in live.chunk_by(|a, b| a.1 == b.1) {
        let lsns: Vec<Lsn> = run.iter().map(|&(lsn, _)| lsn).collect();
        copy_run(shared, &victims[run[0].1], &lsns, &mut |copied| {
            let written = writer.push(copied)? as u64;
            unsynced += written;
            if SYNC_BYTES <= unsynced {
                file.sync_data().doing("sync", tmp)?;
                unsynced = 0;
            }
            pace::pace(shared, written)
        })?;
    }
    let (header, column) = writer.finish()?;
    if !reads_back(&*file, header, &column).doing("read back", tmp)? {
        return Err(WriteError::ReadBack { path: tmp.to_owned() }.into());
    }
    Counters::add(&shared.counters.compacted_bytes, header.size as usize);
    let state = SegmentState { sealed_last: column.last(), end: header.size, index: None };
    let segment = Arc::new(Segment::new(header, file, state));
    Ok(ColdSegment { segment, column: Arc::new(column) })
}

/// What lives, by LSN, each with the victim it is in.
fn in_order(shared: &Shared, victims: &[Source]) -> Vec<(Lsn, usize)> {
    let mut live = Vec::new();
    for (at, victim) in victims.iter().enumerate() {
        live.extend(shared.liveness.live_lsns(victim.seq()).into_iter().map(|lsn| (lsn, at)));
    }
    live.sort_unstable();
    live
}

/// Reads records of one victim, a frame at a time, every byte checked against its checksum.
fn copy_run(
    shared: &Shared,
    victim: &Source,
    lsns: &[Lsn],
    take: &mut dyn FnMut(Copied) -> Result<(), Abandoned>,
) -> Result<(), Abandoned> {
    let (seq, path) = (victim.seq(), &victim.segment().path);
    let mut rest = lsns;
    while !rest.is_empty() {
        let answers = victim.read_some(rest);
        let (found, later) = rest.split_at(answers.len());
        rest = later;
        let mut bytes = 0;
        for (&lsn, answer) in found.iter().zip(answers) {
            let record = answer.map_err(|error| match error {
                ReadError::Damaged(damage) => Abandoned::Damaged(seq, damage),
                ReadError::Lost(_) => Abandoned::GivenUp(seq),
                other @ (ReadError::NotFound(_) | ReadError::Disk(_)) => {
                    let damage = Damage::of(&**path, other.to_string());
                    Abandoned::Damaged(seq, damage.with_lsns(lsn, Some(lsn)))
                }
            })?;
            bytes += (record.head.len() + record.body.len()) as u64;
            take(Copied { lsn, record, lost: false })?;
        }
        pace::pace(shared, bytes)?;
    }
    Ok(())
}

/// A file with room for so many bytes: one made on the spot, or, on a full disk, one held back.
fn make_file(shared: &Shared, tmp: &str, bytes: u64) -> Result<Arc<dyn File>, DiskError> {
    let disk = &*shared.disk;
    let file = disk.open(tmp, Mode::Replace).doing("create", tmp)?;
    match file.allocate(bytes).doing("reserve room for", tmp) {
        Ok(()) => Ok(file),
        Err(error) if error.is_full() => {
            drop(file);
            let Some(reserved) = shared.pool.take_reserved() else { return Err(error) };
            disk.rename(&reserved, tmp).doing("rename", &reserved)?;
            disk.open(tmp, Mode::Write).doing("open", tmp)
        }
        Err(error) => Err(error),
    }
}
