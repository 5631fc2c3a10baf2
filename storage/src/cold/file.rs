//! A cold segment's file: written aside, and read back by what stands at its end.

use std::sync::Arc;

use crate::cold::column::Column;
use crate::disk::File;
use crate::error::{Damage, DiskError, Doing as _};
use crate::frame::{self, Copied, HEADER_LEN, Header, Kind, Place, put, u64_at};
use crate::lsn::Lsn;
use crate::recovery::files::SegmentFile;
use crate::scan::{Depth, Walk};
use crate::segment::{SEGMENT_HEADER_LEN, SegmentHeader};

/// A block is a frame of about so many bytes: what a reader of one record looks through.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;
/// A cold segment's seal: last LSN, frames before it, this, and where the directory stands.
const SEAL_COLD: u64 = 3;
const SEAL_PAYLOAD_LEN: usize = 32;

/// What a cold segment is made of besides its records.
pub(crate) fn overhead_max(bytes: u64) -> u64 {
    // Headers of blocks and their places in the directory, the file's header, its end.
    u64::from(SEGMENT_HEADER_LEN) + 1024 + bytes / 64
}

/// Bytes a record takes in a cold segment: entry, head, body, and its part of the directory.
pub(crate) fn record_bytes(head_len: usize, body_len: u64) -> u64 {
    (frame::COPIED_ENTRY_LEN + head_len + 5) as u64 + body_len
}

/// Writes a cold segment, records in the order of their LSNs. The header comes last, so that the
/// file says nothing before it is whole.
#[derive(Debug)]
pub(crate) struct ColdWriter {
    file: Arc<dyn File>,
    path: String,
    header: SegmentHeader,
    column: Column,
    block: Vec<Copied>,
    block_bytes: usize,
    buffer: Vec<u8>,
    offset: u64,
    prev_crc: u32,
    frames: u64,
}

impl ColdWriter {
    /// A writer into the empty file at `path`; the header's size and first LSN are filled in later.
    pub(crate) fn new(file: Arc<dyn File>, path: String, header: SegmentHeader) -> Self {
        Self {
            file,
            path,
            header,
            column: Column::default(),
            block: Vec::new(),
            block_bytes: 0,
            buffer: Vec::new(),
            offset: u64::from(SEGMENT_HEADER_LEN),
            prev_crc: 0,
            frames: 0,
        }
    }

    /// Adds a record. The bytes that were written to the file, most often none.
    pub(crate) fn push(&mut self, copied: Copied) -> Result<usize, DiskError> {
        let bytes = copied.record.head.len() + copied.record.body.len();
        let mut written = 0;
        if let Some(first) = self.block.first() {
            let full = BLOCK_BYTES < self.block_bytes + bytes;
            if full || !Column::reaches(first.lsn, copied.lsn) {
                written = self.end_block()?;
            }
        }
        self.block_bytes += bytes + frame::COPIED_ENTRY_LEN;
        self.block.push(copied);
        Ok(written)
    }

    fn end_block(&mut self) -> Result<usize, DiskError> {
        let Some(first) = self.block.first() else { return Ok(0) };
        let place = self.place(first.lsn);
        self.column.push_block(place.self_off, self.block.iter().map(|copied| copied.lsn));
        self.buffer.clear();
        let header = frame::encode_copied(&mut self.buffer, &place, &self.block);
        self.block.clear();
        self.block_bytes = 0;
        self.write(&header)?;
        Ok(self.buffer.len())
    }

    /// Writes what is left, the directory, the seal and the header, and syncs. What the file is.
    pub(crate) fn finish(mut self) -> Result<(SegmentHeader, Column), DiskError> {
        self.end_block()?;
        let next = self.column.last().map_or(self.header.first_lsn, Lsn::next);
        let directory_at = self.offset;
        let payload = self.column.encode();
        self.control(Kind::Directory, next, &payload)?;
        let mut seal = [0; SEAL_PAYLOAD_LEN];
        put(&mut seal, 0, &(next.0 - 1).to_le_bytes());
        put(&mut seal, 8, &self.frames.to_le_bytes());
        put(&mut seal, 16, &SEAL_COLD.to_le_bytes());
        put(&mut seal, 24, &directory_at.to_le_bytes());
        self.control(Kind::Seal, next, &seal)?;
        let first_lsn = self.column.iter().next().unwrap_or(self.header.first_lsn);
        let header = SegmentHeader { size: narrow(self.offset), first_lsn, ..self.header };
        self.buffer.clear();
        header.encode(&mut self.buffer);
        self.file.write_all_at(&self.buffer, 0).doing("write", &self.path)?;
        // It may have been made in a larger file.
        self.file.set_size(self.offset).doing("cut", &self.path)?;
        self.file.sync_data().doing("sync", &self.path)?;
        Ok((header, self.column))
    }

    fn control(&mut self, kind: Kind, next: Lsn, payload: &[u8]) -> Result<(), DiskError> {
        let place = self.place(next);
        self.buffer.clear();
        let header = frame::encode_control(&mut self.buffer, &place, kind, payload);
        self.write(&header)
    }

    fn write(&mut self, header: &Header) -> Result<(), DiskError> {
        self.file.write_all_at(&self.buffer, self.offset).doing("write", &self.path)?;
        self.offset += self.buffer.len() as u64;
        self.prev_crc = header.crc;
        self.frames += 1;
        Ok(())
    }

    fn place(&self, first_lsn: Lsn) -> Place {
        Place {
            flags: 0,
            seed: self.header.seed(),
            self_off: narrow(self.offset),
            durable_off: 0,
            prev_crc: self.prev_crc,
            epoch: self.header.epoch,
            time_ms: self.header.created_ms,
            first_lsn,
        }
    }
}

/// Whether the file reads from end to end as it was meant: every checksum, every LSN.
pub(crate) fn reads_back(
    file: &dyn File,
    header: SegmentHeader,
    column: &Column,
) -> std::io::Result<bool> {
    let mut walk = Walk::new(file, header, u64::from(header.size));
    let mut due = column.iter();
    let mut directory = None;
    while let Some(seen) = walk.next(Depth::Bodies) {
        let Ok(seen) = seen else { return Ok(false) };
        match seen.header.kind {
            Kind::Copied => {
                let entries = frame::entries(&seen.header, seen.table).unwrap_or_default();
                if !entries.iter().all(|entry| due.next() == Some(entry.lsn)) {
                    return Ok(false);
                }
            }
            Kind::Directory => directory = Column::decode(seen.table),
            _ => {}
        }
    }
    Ok(due.next().is_none() && directory.as_ref() == Some(column) && file.size()? == walk.offset)
}

/// Reads which records a cold segment holds: what its seal points to.
pub(crate) fn read_column(found: &SegmentFile) -> Result<Column, Box<Damage>> {
    let header = found.header;
    let damage = |problem: &str, at: u64| Damage::of(&*found.path, problem).at(at);
    let seal_len = frame::frame_len(SEAL_PAYLOAD_LEN as u64, 0);
    let size = u64::from(header.size);
    let seal_at = size.saturating_sub(seal_len);
    if found.len != size {
        return Err(damage("it is not as long as it says", found.len.min(size)));
    }
    let seal = read_control(found, seal_at, Kind::Seal)?;
    if seal.len() != SEAL_PAYLOAD_LEN || u64_at(&seal, 16) != SEAL_COLD {
        return Err(damage("its last frame is not a cold segment's seal", seal_at));
    }
    let directory_at = u64_at(&seal, 24);
    let directory = read_control(found, directory_at, Kind::Directory)?;
    let column = Column::decode(&directory)
        .ok_or_else(|| damage("its directory does not add up", directory_at))?;
    Ok(column)
}

/// The payload of a frame without records.
fn read_control(found: &SegmentFile, at: u64, kind: Kind) -> Result<Vec<u8>, Box<Damage>> {
    let mut walk =
        Walk::new(&*found.file, found.header, found.len).starting_at(at, HEADER_LEN + 64);
    match walk.next(Depth::Tables) {
        Some(Ok(seen)) if seen.header.kind == kind => Ok(seen.table.to_vec()),
        Some(Err(bad)) => Err(Damage::of(&*found.path, bad.problem.to_string()).at(at)),
        Some(Ok(_)) | None => Err(Damage::of(&*found.path, "another frame stands here").at(at)),
    }
}

fn narrow(offset: u64) -> u32 {
    u32::try_from(offset).expect("segments are smaller than 4 GiB")
}
