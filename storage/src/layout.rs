//! The names in a data folder, and the FORMAT file that says what wrote it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::checkpoint;
use crate::disk::{Disk, Held, Lock, Mode, read_doubtful, read_file, read_up_to};
use crate::error::{Damage, DiskError, Doing as _, OpenError};
use crate::frame::{put, u32_at, u64_at};
use crate::segment::{HeaderFound, SEGMENT_HEADER_LEN, SegmentHeader};

pub(crate) const LOCK: &str = "LOCK";
pub(crate) const FORMAT: &str = "FORMAT";
const FORMAT_TMP: &str = "FORMAT.tmp";
pub(crate) const FLOOR: &str = "FLOOR";
pub(crate) const LOG: &str = "log";
pub(crate) const CKPT: &str = "ckpt";
pub(crate) const FREE: &str = "free";
pub(crate) const QUARANTINE: &str = "quarantine";
const DIRS: [&str; 4] = [LOG, CKPT, FREE, QUARANTINE];

/// The newest format this program reads.
pub(crate) const FORMAT_VERSION: u32 = 2;
/// What a folder begins with: programs that know no cold segments read it.
const FORMAT_PLAIN: u32 = 1;
const FORMAT_MAGIC: &[u8; 8] = b"QBRKFMT1";
const FORMAT_LEN: usize = 40;

/// Set in the sequence numbers of cold segments, which are counted apart.
pub(crate) const COLD_BIT: u64 = 1 << 63;

pub(crate) fn segment_path(seq: u64) -> String {
    format!("{LOG}/{}", segment_name(seq))
}

pub(crate) fn segment_name(seq: u64) -> String {
    match seq & COLD_BIT {
        0 => format!("seg-{seq:016x}.qlog"),
        _ => format!("cold-{:016x}.qlog", seq ^ COLD_BIT),
    }
}

/// The sequence number in a segment's name; `None` for any other name.
pub(crate) fn segment_seq(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("seg-")?.strip_suffix(".qlog")?;
    hex16(digits)
}

/// The sequence number in a cold segment's name; `None` for any other name.
pub(crate) fn cold_seq(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("cold-")?.strip_suffix(".qlog")?;
    Some(hex16(digits)? | COLD_BIT)
}

/// A number in the form `%016x`, and in no other: two names never mean the same file.
pub(crate) fn hex16(digits: &str) -> Option<u64> {
    let value = u64::from_str_radix(digits, 16).ok()?;
    (format!("{value:016x}") == digits).then_some(value)
}

/// A data folder that is ours: locked, of a format we read, its folders in place.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) lock: Box<dyn Held>,
    pub(crate) log_id: [u8; 16],
    /// The `.tmp` files a crash left: never put in place, so nothing counts on them.
    pub(crate) unfinished: Vec<String>,
}

/// Takes the folder's lock.
pub(crate) fn lock(disk: &dyn Disk) -> Result<Box<dyn Held>, OpenError> {
    match disk.lock(LOCK).doing("lock", LOCK)? {
        Lock::Taken(held) => Ok(held),
        Lock::HeldBy(holder) => Err(OpenError::Locked { holder }),
    }
}

/// Locks the folder, making it a data folder where it is empty.
pub(crate) fn open_folder(disk: &Arc<dyn Disk>) -> Result<Folder, OpenError> {
    refuse_foreign(&**disk)?;
    let lock = lock(&**disk)?;
    let known = match identify(&**disk)? {
        Identity::Known(_) if !is_there(&**disk, LOG)? => return Err(folder_missing(LOG).into()),
        Identity::Known(log_id) => Some(log_id),
        Identity::Lost { damage, .. } => return Err(damage.into()),
        Identity::New => None,
    };
    make_folders(&**disk)?;
    // FORMAT comes last, so that a crash leaves nothing half made.
    let log_id = known.map_or_else(|| begin_format(&**disk), Ok)?;
    // What a crash left in doubt becomes durable before anything is decided by it.
    for dir in ["", LOG, CKPT, FREE, QUARANTINE] {
        disk.sync_dir(dir).doing("sync the folder", dir)?;
    }
    let mut unfinished = Vec::new();
    for dir in ["", LOG, CKPT, FREE] {
        unfinished.extend(unfinished_in(&**disk, dir)?);
    }
    Ok(Folder { lock, log_id, unfinished })
}

/// Makes every folder of a data folder that is missing.
pub(crate) fn make_folders(disk: &dyn Disk) -> Result<(), DiskError> {
    for dir in DIRS {
        disk.create_dir(dir).doing("create the folder", dir)?;
    }
    disk.sync_dir("").doing("sync the folder of", LOG)
}

/// Names in a folder of the data folder; none where it is missing.
pub(crate) fn names_in(disk: &dyn Disk, dir: &str) -> Result<Vec<String>, DiskError> {
    Ok(listed(disk, dir)?.unwrap_or_default())
}

/// Whether a folder of the data folder is there.
pub(crate) fn is_there(disk: &dyn Disk, dir: &str) -> Result<bool, DiskError> {
    Ok(listed(disk, dir)?.is_some())
}

/// Names in a folder of the data folder; `None` where it is missing.
fn listed(disk: &dyn Disk, dir: &str) -> Result<Option<Vec<String>>, DiskError> {
    match disk.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        listed => listed.map(Some).doing("list", dir),
    }
}

pub(crate) fn folder_missing(dir: &str) -> Box<Damage> {
    Damage::of(dir, "the folder is missing")
}

/// Whose folder it is, as far as it says so itself.
#[derive(Debug)]
pub(crate) enum Identity {
    /// Nobody has used it.
    New,
    Known([u8; 16]),
    /// It was used, and what said by whom is lost; `None` where nothing else tells, either.
    Lost {
        log_id: Option<[u8; 16]>,
        damage: Box<Damage>,
    },
}

/// Reads FORMAT; where it is lost, asks every other file.
pub(crate) fn identify(disk: &dyn Disk) -> Result<Identity, OpenError> {
    let damage = match read_format(disk) {
        Ok(Some(log_id)) => return Ok(Identity::Known(log_id)),
        Ok(None) if !is_in_use(disk)? => return Ok(Identity::New),
        Ok(None) => Damage::of(FORMAT, "the file is missing, but the folder was in use"),
        Err(OpenError::Damaged(damage)) => damage,
        Err(other) => return Err(other),
    };
    Ok(Identity::Lost { log_id: log_id_of_all(disk)?, damage })
}

/// Whether there is what only a log leaves behind.
fn is_in_use(disk: &dyn Disk) -> Result<bool, DiskError> {
    let of_log = |name: &String| segment_seq(name).is_some() || cold_seq(name).is_some();
    Ok(names_in(disk, "")?.iter().any(|name| name == FLOOR)
        || names_in(disk, LOG)?.iter().any(of_log)
        || !checkpoint::list(disk)?.is_empty())
}

/// The log that all segments and checkpoints say to be of; `None` where they say nothing, or different
/// things.
fn log_id_of_all(disk: &dyn Disk) -> Result<Option<[u8; 16]>, DiskError> {
    let mut told = BTreeSet::new();
    for name in names_in(disk, LOG)? {
        if segment_seq(&name).or_else(|| cold_seq(&name)).is_none() {
            continue;
        }
        // What cannot be read tells nothing.
        let mut front = vec![0; SEGMENT_HEADER_LEN as usize];
        let file = disk.open(&format!("{LOG}/{name}"), Mode::Read);
        let read = file.and_then(|file| read_up_to(&*file, &mut front, 0)).unwrap_or(0);
        if let HeaderFound::Valid(header) = SegmentHeader::decode(&front[..read]) {
            told.insert(header.log_id);
        }
    }
    for (_, path) in checkpoint::list(disk)? {
        told.extend(read_file(disk, &path).ok().and_then(|bytes| checkpoint::log_id(&bytes)));
    }
    Ok(told.pop_first().filter(|_| told.is_empty()))
}

/// Refuses a folder that somebody uses for something else, before a file is made in it.
pub(crate) fn refuse_foreign(disk: &dyn Disk) -> Result<(), OpenError> {
    let names = disk.list("").doing("list", "the data folder")?;
    if names.iter().any(|name| name == FORMAT) || is_in_use(disk)? {
        return Ok(());
    }
    // The last two: what a mounted volume begins with, and the broker's own files.
    let known = |name: &String| {
        [LOCK, FORMAT_TMP, LOG, CKPT, FREE, QUARANTINE, "lost+found"].contains(&name.as_str())
            || name.starts_with("qbroker")
    };
    match names.into_iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(found) => Err(OpenError::NotADataFolder { found }),
    }
}

/// The log's id; `None` when the folder was never finished.
pub(crate) fn read_format(disk: &dyn Disk) -> Result<Option<[u8; 16]>, OpenError> {
    let bytes = match read_file(disk, FORMAT) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DiskError::new("read", FORMAT, source).into()),
    };
    if bytes.len() < FORMAT_LEN || &bytes[..8] != FORMAT_MAGIC {
        return Err(Damage::of(FORMAT, "it does not begin as a FORMAT file does").into());
    }
    // The version first: a newer format may have another length and another checksum.
    let found = u32_at(&bytes, 8);
    if FORMAT_VERSION < found {
        return Err(OpenError::NewerFormat { found, supported: FORMAT_VERSION });
    }
    if u32_at(&bytes, 36) != crc32fast::hash(&bytes[..36]) {
        return Err(Damage::of(FORMAT, "its checksum is wrong").into());
    }
    Ok(Some(bytes[12..28].try_into().expect("sixteen bytes")))
}

/// Writes the first FORMAT of a folder, with a new log's id.
fn begin_format(disk: &dyn Disk) -> Result<[u8; 16], DiskError> {
    let mut log_id = [0; 16];
    disk.random(&mut log_id).doing("draw randomness for", FORMAT)?;
    write_format(disk, &mut format_bytes(disk, FORMAT_PLAIN, &log_id))?;
    Ok(log_id)
}

/// Writes a FORMAT that was lost. Which version it was, nothing tells: the newest reads everything.
pub(crate) fn restore_format(disk: &dyn Disk, log_id: &[u8; 16]) -> Result<(), DiskError> {
    write_format(disk, &mut format_bytes(disk, FORMAT_VERSION, log_id))
}

fn format_bytes(disk: &dyn Disk, version: u32, log_id: &[u8; 16]) -> [u8; FORMAT_LEN] {
    let mut bytes = [0; FORMAT_LEN];
    put(&mut bytes, 0, FORMAT_MAGIC);
    put(&mut bytes, 8, &version.to_le_bytes());
    put(&mut bytes, 12, log_id);
    put(&mut bytes, 28, &disk.now_ms().to_le_bytes());
    bytes
}

/// Says that cold segments may follow, so that a program that knows none refuses the folder.
pub(crate) fn raise_format(disk: &dyn Disk) -> Result<(), DiskError> {
    let mut bytes = read_file(disk, FORMAT).doing("read", FORMAT)?;
    if FORMAT_LEN <= bytes.len() && u32_at(&bytes, 8) < FORMAT_VERSION {
        put(&mut bytes, 8, &FORMAT_VERSION.to_le_bytes());
        write_format(disk, &mut bytes)?;
    }
    Ok(())
}

fn write_format(disk: &dyn Disk, bytes: &mut [u8]) -> Result<(), DiskError> {
    let crc = crc32fast::hash(&bytes[..36]);
    put(bytes, 36, &crc.to_le_bytes());
    let file = disk.open(FORMAT_TMP, Mode::Replace).doing("create", FORMAT_TMP)?;
    file.write_all_at(bytes, 0).doing("write", FORMAT_TMP)?;
    file.sync_data().doing("sync", FORMAT_TMP)?;
    disk.sync_dir("").doing("sync the folder of", FORMAT)?;
    disk.rename(FORMAT_TMP, FORMAT).doing("rename", FORMAT_TMP)?;
    disk.sync_dir("").doing("sync the folder of", FORMAT)
}

fn unfinished_in(disk: &dyn Disk, dir: &str) -> Result<Vec<String>, OpenError> {
    let mut names = disk.list(dir).doing("list", dir)?;
    names.retain(|name| name.ends_with(".tmp"));
    let path = |name| if dir.is_empty() { name } else { format!("{dir}/{name}") };
    Ok(names.into_iter().map(path).collect())
}

/// What the FLOOR file says: a hint that outlives the process, though not always the machine.
///
/// It is rewritten, unsynced, after each sync of the log. Whatever version of it is on disk is
/// true, since it was written after the sync it tells of.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(crate) seq: u64,
    pub(crate) offset: u32,
    pub(crate) lsn: u64,
    pub(crate) epoch: u64,
}

/// One sector, so that a crash leaves the old or the new, never a mixture.
pub(crate) const FLOOR_LEN: usize = 512;
const FLOOR_MAGIC: &[u8; 8] = b"QBRKFLR1";

impl Floor {
    pub(crate) fn encode(&self, log_id: &[u8; 16]) -> [u8; FLOOR_LEN] {
        let mut bytes = [0; FLOOR_LEN];
        put(&mut bytes, 0, FLOOR_MAGIC);
        put(&mut bytes, 8, log_id);
        put(&mut bytes, 24, &self.seq.to_le_bytes());
        put(&mut bytes, 32, &self.lsn.to_le_bytes());
        put(&mut bytes, 40, &self.epoch.to_le_bytes());
        put(&mut bytes, 48, &self.offset.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..52]);
        put(&mut bytes, 52, &crc.to_le_bytes());
        bytes
    }

    /// The file's word, or `None` when it is missing, torn or another log's.
    pub(crate) fn read(disk: &dyn Disk, log_id: &[u8; 16]) -> Result<Option<Self>, DiskError> {
        let read = read_doubtful(disk, FLOOR)?;
        Ok(read.ok().and_then(|bytes| Self::decode(&bytes, log_id)))
    }

    fn decode(bytes: &[u8], log_id: &[u8; 16]) -> Option<Self> {
        let ours = bytes.len() == FLOOR_LEN
            && &bytes[..8] == FLOOR_MAGIC
            && &bytes[8..24] == log_id
            && u32_at(bytes, 52) == crc32fast::hash(&bytes[..52]);
        ours.then(|| Self {
            seq: u64_at(bytes, 24),
            lsn: u64_at(bytes, 32),
            epoch: u64_at(bytes, 40),
            offset: u32_at(bytes, 48),
        })
    }
}
