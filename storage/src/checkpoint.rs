//! Checkpoints: the owner's state at an LSN, written and verified with the log's care.

use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{Disk, File, Mode, read_doubtful, read_up_to};
use crate::error::{DiskError, Doing as _, WriteError};
use crate::frame::{put, seeded_crc, u32_at, u64_at};
use crate::layout::{self, CKPT, hex16};
use crate::lsn::Lsn;

const MAGIC: &[u8; 8] = b"QBRKCKP1";
const VERSION: u32 = 1;
/// Of a checkpoint that lists cold segments.
const VERSION_COLD: u32 = 2;
const HEADER_LEN: usize = 128;
const TABLE_ENTRY_LEN: usize = 48;
/// State is checksummed in pieces, so that damage can be named and memory stays small.
const CHUNK_BYTES: usize = 1 << 20;
/// A piece's length and checksum, before it.
const CHUNK_HEAD_LEN: usize = 8;
/// The file whose room the next checkpoints take when the disk is full.
const BALLAST: &str = "ckpt/ballast";
/// A segment that was still written when the checkpoint was.
pub(crate) const OPEN_END: Lsn = Lsn(u64::MAX);

pub(crate) fn path(lsn: Lsn) -> String {
    format!("{CKPT}/ckpt-{:016x}", lsn.0)
}

/// A segment as a checkpoint remembers it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub(crate) seq: u64,
    pub(crate) nonce: [u8; 16],
    pub(crate) first_lsn: Lsn,
    /// [`OPEN_END`] while it was being written.
    pub(crate) last_lsn: Lsn,
    pub(crate) epoch: u64,
}

/// What a checkpoint says apart from the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) lsn: Lsn,
    /// Epoch of the record at `lsn`: proves that the log is still the one this was taken of.
    pub(crate) epoch: u64,
    pub(crate) created_ms: u64,
    /// Every segment there was, cold ones apart.
    pub(crate) segments: Vec<SegmentEntry>,
    /// Every cold segment there was.
    pub(crate) cold: Vec<SegmentEntry>,
}

/// A checkpoint read back.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) meta: Meta,
    /// In pieces, as the file has it.
    pub(crate) state: Vec<Bytes>,
    pub(crate) bytes: u64,
}

/// Header and segment table, then the state in chunks.
fn encode_front(meta: &Meta, state_len: u64, log_id: &[u8; 16]) -> (Vec<u8>, u32) {
    let mut bytes = vec![0; HEADER_LEN];
    put(&mut bytes, 0, MAGIC);
    let version = if meta.cold.is_empty() { VERSION } else { VERSION_COLD };
    put(&mut bytes, 8, &version.to_le_bytes());
    let count = u32::try_from(meta.segments.len()).expect("fewer segments than 2^32");
    put(&mut bytes, 12, &count.to_le_bytes());
    put(&mut bytes, 16, log_id);
    put(&mut bytes, 32, &meta.lsn.0.to_le_bytes());
    put(&mut bytes, 40, &meta.epoch.to_le_bytes());
    put(&mut bytes, 48, &meta.created_ms.to_le_bytes());
    put(&mut bytes, 56, &state_len.to_le_bytes());
    let cold = u32::try_from(meta.cold.len()).expect("fewer segments than 2^32");
    put(&mut bytes, 64, &cold.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..124]);
    put(&mut bytes, 124, &crc.to_le_bytes());
    for segment in meta.segments.iter().chain(&meta.cold) {
        bytes.extend_from_slice(&segment.seq.to_le_bytes());
        bytes.extend_from_slice(&segment.nonce);
        bytes.extend_from_slice(&segment.first_lsn.0.to_le_bytes());
        bytes.extend_from_slice(&segment.last_lsn.0.to_le_bytes());
        bytes.extend_from_slice(&segment.epoch.to_le_bytes());
    }
    let table_crc = seeded_crc(crc, &bytes[HEADER_LEN..]);
    bytes.extend_from_slice(&table_crc.to_le_bytes());
    (bytes, crc)
}

/// Reads a checkpoint's bytes; on failure, what is wrong with them.
pub(crate) fn decode(bytes: &Bytes, log_id: &[u8; 16]) -> Result<(Meta, Vec<Bytes>), String> {
    let header = bytes.get(..HEADER_LEN).ok_or("it is shorter than a header")?;
    let crc = u32_at(header, 124);
    if self::log_id(header).is_none() {
        return Err("its header has a wrong checksum".into());
    }
    let version = u32_at(header, 8);
    if version != VERSION && version != VERSION_COLD {
        return Err(format!("it is of version {version}, this program reads up to {VERSION_COLD}"));
    }
    if &header[16..32] != log_id {
        return Err("it is of another log".into());
    }
    let (count, cold) = (u32_at(header, 12) as usize, u32_at(header, 64) as usize);
    let mut rest = &bytes[HEADER_LEN..];
    let table = take(&mut rest, (count + cold) * TABLE_ENTRY_LEN).ok_or("its table is cut off")?;
    let table_crc = take(&mut rest, 4).ok_or("its table is cut off")?;
    if u32_at(table_crc, 0) != seeded_crc(crc, table) {
        return Err("its segment table has a wrong checksum".into());
    }
    let (segments, cold) = table.split_at(count * TABLE_ENTRY_LEN);
    let listed = |table: &[u8]| table.chunks_exact(TABLE_ENTRY_LEN).map(decode_segment).collect();
    let meta = Meta {
        lsn: Lsn(u64_at(header, 32)),
        epoch: u64_at(header, 40),
        created_ms: u64_at(header, 48),
        segments: listed(segments),
        cold: listed(cold),
    };
    let chunks = decode_state(rest, crc, u64_at(header, 56))?;
    Ok((meta, chunks.into_iter().map(|chunk| bytes.slice_ref(chunk)).collect()))
}

/// The log that a checkpoint says to be of, where its header is whole.
pub(crate) fn log_id(bytes: &[u8]) -> Option<[u8; 16]> {
    let header = bytes.get(..HEADER_LEN)?;
    let whole = &header[..8] == MAGIC && u32_at(header, 124) == crc32fast::hash(&header[..124]);
    whole.then(|| header[16..32].try_into().expect("sixteen bytes"))
}

fn decode_segment(bytes: &[u8]) -> SegmentEntry {
    SegmentEntry {
        seq: u64_at(bytes, 0),
        nonce: bytes[8..24].try_into().expect("sixteen bytes"),
        first_lsn: Lsn(u64_at(bytes, 24)),
        last_lsn: Lsn(u64_at(bytes, 32)),
        epoch: u64_at(bytes, 40),
    }
}

fn decode_state(mut rest: &[u8], seed: u32, state_len: u64) -> Result<Vec<&[u8]>, String> {
    let (mut chunks, mut len) = (Vec::new(), 0);
    while len < state_len {
        let chunk = chunks.len();
        let cut_off = || format!("its chunk {chunk} is cut off");
        let head = take(&mut rest, CHUNK_HEAD_LEN).ok_or_else(cut_off)?;
        let bytes = take(&mut rest, u32_at(head, 0) as usize).ok_or_else(cut_off)?;
        if bytes.is_empty() || u32_at(head, 4) != seeded_crc(seed, bytes) {
            return Err(format!("its chunk {chunk} has a wrong checksum"));
        }
        len += bytes.len() as u64;
        chunks.push(bytes);
    }
    if !rest.is_empty() || len != state_len {
        return Err("its length is not the one it says".into());
    }
    Ok(chunks)
}

/// Makes the checksums of a checkpoint's bytes right, and their beginning that of one of this log.
#[cfg(feature = "sim")]
pub(crate) fn seal(bytes: &mut [u8], log_id: &[u8; 16]) {
    let Some((header, mut rest)) = bytes.split_at_mut_checked(HEADER_LEN) else { return };
    put(header, 0, MAGIC);
    put(header, 16, log_id);
    let crc = crc32fast::hash(&header[..124]);
    put(header, 124, &crc.to_le_bytes());
    let entries = u32_at(header, 12) as usize + u32_at(header, 64) as usize;
    let Some((table, behind)) = rest.split_at_mut_checked(entries * TABLE_ENTRY_LEN) else {
        return;
    };
    let Some((table_crc, behind)) = behind.split_at_mut_checked(4) else { return };
    put(table_crc, 0, &seeded_crc(crc, table).to_le_bytes());
    rest = behind;
    while let Some((head, behind)) = rest.split_at_mut_checked(CHUNK_HEAD_LEN) {
        let Some((chunk, behind)) = behind.split_at_mut_checked(u32_at(head, 0) as usize) else {
            return;
        };
        put(head, 4, &seeded_crc(crc, chunk).to_le_bytes());
        rest = behind;
    }
}

/// The bytes of a small checkpoint with a segment, a cold one, and two chunks of state.
#[cfg(feature = "sim")]
pub(crate) fn sample(log_id: &[u8; 16]) -> Vec<u8> {
    let segment =
        |seq| SegmentEntry { seq, nonce: [8; 16], first_lsn: Lsn(1), last_lsn: Lsn(40), epoch: 2 };
    let meta = Meta {
        lsn: Lsn(40),
        epoch: 2,
        created_ms: 1_700_000_000_000,
        segments: vec![segment(1)],
        cold: vec![segment(2)],
    };
    let chunks = [&b"the state"[..], b"in two chunks"];
    let state_len = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    let (mut bytes, crc) = encode_front(&meta, state_len, log_id);
    for chunk in chunks {
        let len = u32::try_from(chunk.len()).expect("it is short");
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&seeded_crc(crc, chunk).to_le_bytes());
        bytes.extend_from_slice(chunk);
    }
    bytes
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

/// The checkpoints on disk, as their writer knows them. Invariant: newest first, at most two.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    pub(crate) kept: Vec<(Lsn, u64)>,
    ballast_bytes: u64,
}

impl Checkpoints {
    /// The checkpoints a start found usable, newest first, and what an earlier run held back.
    pub(crate) fn found(disk: &dyn Disk, kept: Vec<(Lsn, u64)>) -> Self {
        let ballast = disk.open(BALLAST, Mode::Read).and_then(|file| file.size());
        Self { kept, ballast_bytes: ballast.unwrap_or(0) }
    }

    /// The older of two: what is before it, both have absorbed.
    pub(crate) fn older(&self) -> Option<Lsn> {
        self.kept.get(1).map(|&(lsn, _)| lsn)
    }

    pub(crate) fn newest(&self) -> Option<Lsn> {
        self.kept.first().map(|&(lsn, _)| lsn)
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.ballast_bytes + self.kept.iter().map(|&(_, bytes)| bytes).sum::<u64>()
    }

    /// Puts a checkpoint in place. On a full disk the room held back for it is used.
    pub(crate) fn write(
        &mut self,
        disk: &dyn Disk,
        log_id: &[u8; 16],
        meta: &Meta,
        state: &[Bytes],
    ) -> Result<(), WriteError> {
        let bytes = match put_in_place(disk, log_id, meta, state) {
            Err(WriteError::Disk(error)) if error.is_full() && 0 < self.ballast_bytes => {
                self.release_ballast(disk)?;
                put_in_place(disk, log_id, meta, state)?
            }
            other => other?,
        };
        self.kept.insert(0, (meta.lsn, bytes));
        Ok(())
    }

    /// Removes all checkpoints but the newest two.
    pub(crate) fn remove_old(&mut self, disk: &dyn Disk) -> Result<(), DiskError> {
        self.kept.truncate(2);
        let kept: Vec<Lsn> = self.kept.iter().map(|&(lsn, _)| lsn).collect();
        for (lsn, path) in list(disk)? {
            if !kept.contains(&lsn) {
                disk.remove(&path).doing("remove", &path)?;
            }
        }
        // What a repair accepted, this checkpoint has absorbed.
        crate::repair::forget_acceptance(disk)
    }

    fn release_ballast(&mut self, disk: &dyn Disk) -> Result<(), DiskError> {
        disk.remove(BALLAST).doing("remove", BALLAST)?;
        self.ballast_bytes = 0;
        Ok(())
    }

    /// Holds back room for two checkpoints of the newest one's size, and for the `growth` of the state
    /// until they are written: it grows by what drains a full disk, too, and on a new one there is no
    /// checkpoint yet. Whether there was room.
    pub(crate) fn hold_ballast(&mut self, disk: &dyn Disk, growth: u64) -> Result<bool, DiskError> {
        let newest = self.kept.first().map_or(0, |&(_, bytes)| bytes);
        let wanted = (2 * newest + growth).next_multiple_of(4096);
        // Not touched for a little more or less: a state grows and shrinks all the time.
        if wanted <= self.ballast_bytes && self.ballast_bytes <= 4 * wanted {
            return Ok(true);
        }
        let file = disk.open(BALLAST, Mode::Replace).doing("create", BALLAST)?;
        match file.allocate(wanted).doing("reserve room for", BALLAST) {
            Ok(()) => {
                self.ballast_bytes = wanted;
                Ok(true)
            }
            Err(error) if error.is_full() => {
                self.ballast_bytes = 0;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Temporary file, sync, read back, rename, sync of the folder. The bytes written.
fn put_in_place(
    disk: &dyn Disk,
    log_id: &[u8; 16],
    meta: &Meta,
    state: &[Bytes],
) -> Result<u64, WriteError> {
    let path = path(meta.lsn);
    let tmp = format!("{path}.tmp");
    let written = write_tmp(disk, &tmp, log_id, meta, state);
    if written.is_err() {
        // Best effort: it may be what fills the disk. A start removes it otherwise.
        drop(disk.remove(&tmp));
    }
    let bytes = written?;
    disk.rename(&tmp, &path).doing("rename", &tmp)?;
    disk.sync_dir(CKPT).doing("sync the folder", CKPT)?;
    Ok(bytes)
}

fn write_tmp(
    disk: &dyn Disk,
    tmp: &str,
    log_id: &[u8; 16],
    meta: &Meta,
    state: &[Bytes],
) -> Result<u64, WriteError> {
    let file = disk.open(tmp, Mode::Replace).doing("create", tmp)?;
    let state_len = state.iter().map(|part| part.len() as u64).sum();
    let (front, seed) = encode_front(meta, state_len, log_id);
    let mut offset = 0;
    let mut write = |bytes: &[u8]| {
        let written = file.write_all_at(bytes, offset).doing("write", tmp);
        offset += bytes.len() as u64;
        written
    };
    write(&front)?;
    let mut whole = crc32fast::Hasher::new();
    whole.update(&front);
    let mut chunk = vec![0; CHUNK_HEAD_LEN];
    let mut write_chunk = |chunk: &mut Vec<u8>| {
        let content = &chunk[CHUNK_HEAD_LEN..];
        let len = u32::try_from(content.len()).expect("at most CHUNK_BYTES");
        let crc = seeded_crc(seed, content);
        put(chunk, 0, &len.to_le_bytes());
        put(chunk, 4, &crc.to_le_bytes());
        whole.update(chunk);
        write(chunk)?;
        chunk.truncate(CHUNK_HEAD_LEN);
        Ok::<(), DiskError>(())
    };
    for mut rest in state.iter().map(|part| &part[..]) {
        while !rest.is_empty() {
            let room = CHUNK_HEAD_LEN + CHUNK_BYTES - chunk.len();
            let (taken, left) = rest.split_at(room.min(rest.len()));
            rest = left;
            chunk.extend_from_slice(taken);
            if taken.len() == room {
                write_chunk(&mut chunk)?;
            }
        }
    }
    if CHUNK_HEAD_LEN < chunk.len() {
        write_chunk(&mut chunk)?;
    }
    file.sync_data().doing("sync", tmp)?;
    read_back(&file, tmp, offset, whole.finalize())?;
    Ok(offset)
}

/// Whether the file reads as it was written: the one before the older goes once this is in place.
fn read_back(file: &Arc<dyn File>, path: &str, len: u64, crc: u32) -> Result<(), WriteError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut hasher = crc32fast::Hasher::new();
    let mut offset = 0;
    loop {
        let read = read_up_to(&**file, &mut buffer, offset).doing("read back", path)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        offset += read as u64;
    }
    if offset == len && hasher.finalize() == crc {
        Ok(())
    } else {
        Err(WriteError::ReadBack { path: path.to_owned() })
    }
}

/// The finished checkpoints on disk, newest first.
pub(crate) fn list(disk: &dyn Disk) -> Result<Vec<(Lsn, String)>, DiskError> {
    let names = layout::names_in(disk, CKPT)?;
    let lsn = |name: &String| hex16(name.strip_prefix("ckpt-")?);
    let mut found: Vec<_> =
        names.iter().filter_map(|name| Some((Lsn(lsn(name)?), format!("{CKPT}/{name}")))).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Reads one checkpoint; on failure, what is wrong with it.
pub(crate) fn load(
    disk: &dyn Disk,
    path: &str,
    log_id: &[u8; 16],
) -> Result<Result<Loaded, String>, DiskError> {
    let read = read_doubtful(disk, path)?;
    let read = read.map(Bytes::from).map_err(|error| format!("it cannot be read: {error}"));
    Ok(read.and_then(|bytes| {
        let (meta, state) = decode(&bytes, log_id)?;
        Ok(Loaded { meta, state, bytes: bytes.len() as u64 })
    }))
}
