//! Repairing a cold segment: a new one of every record that can still be read.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::cold::column::Column;
use crate::cold::file::{ColdWriter, read_column};
use crate::disk::{File, ReadAt, read_up_to};
use crate::error::Lost;
use crate::frame::{self, Copied, HEADER_LEN, Header, Kind};
use crate::layout::segment_path;
use crate::lsn::{Lsn, LsnRange};
use crate::record::{Body, StoredRecord};
use crate::recovery::files::SegmentFile;
use crate::repair::plan::{Plan, Step, describe};
use crate::scan::next_header;
use crate::segment::{SEGMENT_COLD, SEGMENT_HEADER_LEN, SEGMENT_REPAIRED, SegmentHeader};
use crate::survey::{Fault, Patient, Survey, Surveyed};
use crate::verify::cold_damages;

/// Plans what a cold segment with records between `lsns` needs, if anything.
pub(super) fn mend(plan: &mut Plan, survey: &Survey, seq: u64, lsns: LsnRange, log_id: &[u8; 16]) {
    let surveyed = survey.cold.get(&seq);
    if surveyed.is_some_and(|surveyed| cold_damages(surveyed).is_empty()) {
        return;
    }
    let records = surveyed.map(|surveyed| readable(&surveyed.file)).unwrap_or_default();
    let lost = match surveyed {
        Some(surveyed) => lost(surveyed, &records, lsns),
        None => vec![Lost { lsns, heads: true }],
    };
    let header = SegmentHeader {
        flags: SEGMENT_COLD | SEGMENT_REPAIRED,
        size: 0,
        seq,
        nonce: surveyed.map_or(*log_id, |surveyed| surveyed.file.header.nonce),
        log_id: *log_id,
        created_ms: 0,
        epoch: surveyed.map_or(0, |surveyed| surveyed.file.header.epoch),
        first_lsn: lsns.first,
    };
    let bytes = rebuilt(header, records);
    let mut why = match (surveyed, survey.headless_cold.get(&seq)) {
        (Some(_), _) => "it is damaged".to_owned(),
        (None, Some(damage)) => damage.problem.clone(),
        (None, None) => "the cold segment is gone".to_owned(),
    };
    for lost in &lost {
        why = format!("{why}, {}", describe(lost));
    }
    let keep = surveyed.is_some() || survey.headless_cold.contains_key(&seq);
    plan.lost.extend(lost);
    plan.steps.push(Step::Replace { path: segment_path(seq), bytes, keep, why });
}

/// Every record whose frame still tells of it, by LSN.
fn readable(file: &SegmentFile) -> BTreeMap<Lsn, Copied> {
    let patient = Patient(Arc::clone(&file.file));
    let seed = file.header.seed();
    let mut records = BTreeMap::new();
    let mut at = u64::from(SEGMENT_HEADER_LEN);
    // Unreadable sectors come as zeros, so the search itself cannot fail.
    while let Ok(Some((offset, header))) = next_header(&patient, seed, at, file.len) {
        at = offset + 1;
        if header.kind == Kind::Copied && header.epoch == file.header.epoch {
            records.extend(of_frame(&patient, seed, offset, &header));
        }
    }
    records
}

fn of_frame(file: &dyn ReadAt, seed: u32, offset: u64, header: &Header) -> Vec<(Lsn, Copied)> {
    let mut bytes = vec![0; usize::try_from(header.frame_len()).unwrap_or_default()];
    let whole = read_up_to(file, &mut bytes, offset).is_ok_and(|read| read == bytes.len());
    let (table, bodies) = bytes[HEADER_LEN..].split_at(header.table_len as usize);
    if !whole || !header.table_matches(table, seed) {
        return Vec::new();
    }
    let entries = frame::entries(header, table).unwrap_or_default();
    let copied = |entry: &frame::Entry<'_>| {
        let body = &bodies[entry.body_start as usize..][..entry.body_len as usize];
        let body = Body::checked(Bytes::copy_from_slice(body), entry.body_crc);
        let lost = entry.lost || body.is_none();
        let head = Bytes::copy_from_slice(entry.head);
        let body = body.filter(|_| !lost).unwrap_or_default();
        (entry.lsn, Copied { lsn: entry.lsn, record: StoredRecord { head, body }, lost })
    };
    entries.iter().map(copied).collect()
}

/// What is not among the readable records. Where nothing tells any more which there were, all that
/// could have been.
fn lost(surveyed: &Surveyed, records: &BTreeMap<Lsn, Copied>, lsns: LsnRange) -> Vec<Lost> {
    let one = |lsn| LsnRange { first: lsn, last: lsn };
    let bodies = records.values().filter(|copied| copied.lost).map(|copied| copied.lsn);
    let mut lost: Vec<Lost> = bodies.map(|lsn| Lost { lsns: one(lsn), heads: false }).collect();
    if let Ok(column) = read_column(&surveyed.file) {
        let gone = column.iter().filter(|lsn| !records.contains_key(lsn));
        lost.extend(gone.map(|lsn| Lost { lsns: one(lsn), heads: true }));
        return lost;
    }
    for fault in &surveyed.faults {
        let Fault::Gap { first_lsn, next, .. } = fault else { continue };
        let end = next.map_or(lsns.last.next(), |(_, lsn)| lsn);
        if *first_lsn < end {
            let lsns = LsnRange { first: *first_lsn, last: Lsn(end.0 - 1) };
            lost.push(Lost { lsns, heads: true });
        }
    }
    lost
}

fn rebuilt(header: SegmentHeader, records: BTreeMap<Lsn, Copied>) -> Vec<u8> {
    let file = Arc::new(InMemory::default());
    let mut writer = ColdWriter::new(file.clone(), segment_path(header.seq), header);
    let written = records.into_values().try_for_each(|copied| writer.push(copied).map(drop));
    let finished = written.and_then(|()| writer.finish());
    let _: (SegmentHeader, Column) = finished.expect("memory does not fail");
    std::mem::take(&mut *file.0.lock())
}

/// A file that is only looked at once it is finished.
#[derive(Debug, Default)]
struct InMemory(Mutex<Vec<u8>>);

impl ReadAt for InMemory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let read = buffer.len().min(bytes.len() - from);
        buffer[..read].copy_from_slice(&bytes[from..from + read]);
        Ok(read)
    }
}

impl File for InMemory {
    fn read_now_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }

    fn write_all_at(&self, written: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.0.lock();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let len = bytes.len().max(from + written.len());
        bytes.resize(len, 0);
        bytes[from..from + written.len()].copy_from_slice(written);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn set_size(&self, len: u64) -> io::Result<()> {
        self.0.lock().resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
}
